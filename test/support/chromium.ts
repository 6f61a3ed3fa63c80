// Finds a browser for the tests of the dashboard: CHROMIUM, or a browser on the PATH.
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import { type Browser, chromium } from 'playwright-core'

const NAMES = ['chromium', 'chromium-browser', 'google-chrome']
const START_DEADLINE_MS = 30_000

/** null: there is no browser; the reason is printed. */
export function findChromium(): string | null {
  const { CHROMIUM, PATH = '' } = process.env
  const onPath = NAMES.flatMap((name) => PATH.split(delimiter).map((folder) => join(folder, name)))
  const found = [CHROMIUM ?? '', ...onPath].find(isExecutable) ?? null
  if (found === null) {
    console.warn(
      'There is no Chromium, so the dashboard is not tested: apt-get install chromium, or set CHROMIUM.',
    )
  }
  return found
}

export function startChromium(executablePath: string): Promise<Browser> {
  // Containers and root have no sandbox. The browser opens only pages of Posthorn.
  return chromium.launch({ executablePath, args: ['--no-sandbox'], timeout: START_DEADLINE_MS })
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return path !== ''
  } catch {
    return false
  }
}
