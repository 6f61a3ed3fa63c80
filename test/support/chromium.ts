// Where the tests of the dashboard find a browser: CHROMIUM, or what the PATH has.
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import { type Browser, chromium } from 'playwright-core'

const NAMES = ['chromium', 'chromium-browser', 'google-chrome']
const START_DEADLINE_MS = 30_000

/** null: there is none, and why is printed. */
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
  // Containers and root have no sandbox; what is opened is our own page.
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
