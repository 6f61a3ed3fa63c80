// The client in a program that has installed the package. It is built, and alone in a node_modules
// folder of its own, so that anything else that it needed would be missing.
import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const ROOT = join(import.meta.dirname, '../..')
const TSC = join(ROOT, 'node_modules/.bin/tsc')
const BUILD_DEADLINE_MS = 60_000

/** A program's folder with its own source files. */
export interface Installed {
  folder: string
  /** Writes a source file and returns its path. */
  write(name: string, text: string): string
  /** The messages of a strict type checker about the source files and the client's own types. */
  typeErrors(): string
  remove(): void
}

export function installClient(): Installed {
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-client-'))
  const home = join(folder, 'node_modules/posthorn')
  mkdirSync(home, { recursive: true })
  copyFileSync(join(ROOT, 'package.json'), join(home, 'package.json'))
  const write = (name: string, text: string) => {
    const path = join(folder, name)
    writeFileSync(path, text)
    return path
  }
  const typeRoots = [join(ROOT, 'node_modules/@types')]
  const build = {
    extends: join(ROOT, 'tsconfig.build.json'),
    compilerOptions: { rootDir: ROOT, outDir: join(home, 'dist'), typeRoots },
    include: [join(ROOT, 'src/client')],
  }
  compile(write('build.json', JSON.stringify(build)))
  write('package.json', '{"type":"module"}')
  const check = {
    compilerOptions: {
      target: 'es2022',
      module: 'nodenext',
      strict: true,
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
      noEmit: true,
      types: ['node'],
      typeRoots,
    },
    include: ['*.ts'],
  }
  write('tsconfig.json', JSON.stringify(check))
  return {
    folder,
    write,
    typeErrors: () => compile(join(folder, 'tsconfig.json')),
    remove: () => rmSync(folder, { recursive: true }),
  }
}

/** The output of the compiler: empty if there is no error. */
function compile(project: string): string {
  try {
    execFileSync(process.execPath, [TSC, '--singleThreaded', '-p', project], {
      timeout: BUILD_DEADLINE_MS,
    })
    return ''
  } catch (error) {
    const { stdout, stderr } = error as { stdout: Buffer; stderr: Buffer }
    const printed = `${stdout}${stderr}`
    if (printed === '') throw error
    return printed
  }
}
