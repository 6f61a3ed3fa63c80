// The packages of the examples. The first test that needs them installs them, once.
import { execFile } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
} from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { ROOT } from './program.ts'

const FOLDER = join(ROOT, 'examples')
const INSTALL_DEADLINE_MS = 240_000
/** The deadline of the hook that installs. */
export const INSTALLED_WITHIN_MS = INSTALL_DEADLINE_MS + 60_000

/** Does what `npm ci --prefix examples` does. Two test files may do it at once. */
export async function installExamples(): Promise<void> {
  if (!existsSync(join(FOLDER, 'node_modules'))) await install()
  const read = (path: string) => JSON.parse(readFileSync(join(FOLDER, path), 'utf8'))
  const wanted = Object.entries(read('package.json').dependencies)
  const wrong = wanted.filter(([name, version]) => {
    const path = `node_modules/${name}/package.json`
    return !existsSync(join(FOLDER, path)) || read(path).version !== version
  })
  if (wrong.length > 0) {
    const names = wrong.map(([name, version]) => `${name} ${version}`).join(', ')
    throw new Error(`examples/node_modules lacks ${names}: run npm ci --prefix examples`)
  }
}

/**
 * Builds the folder beside its place and then moves it there, so that no process sees a part of it.
 */
async function install(): Promise<void> {
  mkdirSync(join(ROOT, 'node_modules'), { recursive: true })
  const beside = mkdtempSync(join(ROOT, 'node_modules/.examples-'))
  try {
    for (const file of ['package.json', 'package-lock.json']) {
      copyFileSync(join(FOLDER, file), join(beside, file))
    }
    const words = ['ci', '--no-audit', '--no-fund', '--prefix', beside]
    await promisify(execFile)('npm', words, { cwd: beside, timeout: INSTALL_DEADLINE_MS })
    renameSync(join(beside, 'node_modules'), join(FOLDER, 'node_modules'))
  } catch (error) {
    // Another test file was faster.
    if (['EEXIST', 'ENOTEMPTY'].includes((error as NodeJS.ErrnoException).code ?? '')) return
    throw new Error('the examples need their packages, and npm ci --prefix examples failed', {
      cause: error,
    })
  } finally {
    rmSync(beside, { recursive: true, force: true })
  }
}
