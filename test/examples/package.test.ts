// The package of the examples: its dependencies are pinned, and its programs pass the type check.
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { beforeAll, expect, it } from 'vitest'
import { INSTALLED_WITHIN_MS, installExamples } from './installed.ts'
import { ROOT } from './program.ts'

const SLOW_MS = 90_000
const read = (name: string) => JSON.parse(readFileSync(join(ROOT, 'examples', name), 'utf8'))

interface LockedPackage {
  version: string
  integrity?: string
  resolved?: string
  link?: boolean
  hasInstallScript?: boolean
}

beforeAll(installExamples, INSTALLED_WITHIN_MS)

it('its lock file pins every package by its content, and none runs a script at install', () => {
  const locked = Object.entries<LockedPackage>(read('package-lock.json').packages)
  const loose = locked.filter(
    ([path, { integrity, resolved, link, hasInstallScript }]) =>
      path !== '' &&
      (!/^sha512-[\w+/]{86}==$/.test(integrity ?? '') || resolved || link || hasInstallScript),
  )
  expect(loose.map(([path]) => path)).toEqual([])
  expect(locked.length).toBeGreaterThan(50)
})

it('its package.json names versions to the digit', () => {
  const { dependencies, devDependencies, overrides } = read('package.json')
  for (const version of Object.values({ ...dependencies, ...devDependencies, ...overrides })) {
    expect(version).toMatch(/^\d+\.\d+\.\d+$/)
  }
})

it(
  'every example holds before the type checker',
  async () => {
    const tsc = [join(ROOT, 'node_modules/.bin/tsc'), '--singleThreaded', '-p', 'examples']
    const check = promisify(execFile)(process.execPath, tsc, {
      cwd: ROOT,
      timeout: SLOW_MS - 5_000,
    })
    expect((await check.catch((error) => error)).stdout).toBe('')
  },
  SLOW_MS,
)
