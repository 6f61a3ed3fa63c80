// The package that `npm pack` creates: its command runs on the Node.js version that it requires,
// and prints an error on an older one.
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { installedNodes } from '../support/nodes.ts'
import { until } from '../support/until.ts'

const ROOT = join(import.meta.dirname, '../..')
const MANIFEST = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
const NEEDED_MAJOR = Number(/\d+/.exec(MANIFEST.engines.node)?.[0])
const SLOW = { timeout: 120_000 }
const older = installedNodes().filter(({ major }) => major < NEEDED_MAJOR)

let folder: string
let clone: string
let command: string

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'posthorn-package-'))
  // The tests use a copy, because the build writes a folder into it.
  clone = join(folder, 'clone')
  mkdirSync(clone)
  const tracked = execFileSync('git', ['ls-files', '-co', '--exclude-standard'], { cwd: ROOT })
  const needed = /^(src|routes|workers|cli|bin|dashboard|openapi)\/|^[^/]+$/
  for (const file of tracked
    .toString()
    .split('\n')
    .filter((name) => needed.test(name))) {
    cpSync(join(ROOT, file), join(clone, file))
  }
  symlinkSync(join(ROOT, 'node_modules'), join(clone, 'node_modules'))
  execFileSync('npm', ['pack', '--pack-destination', folder], { cwd: clone, stdio: 'pipe' })
  const home = join(folder, 'node_modules/posthorn')
  mkdirSync(home, { recursive: true })
  const tarball = join(folder, `posthorn-${MANIFEST.version}.tgz`)
  execFileSync('tar', ['-xzf', tarball, '--strip-components=1', '-C', home])
  symlinkSync(join(ROOT, 'node_modules'), join(home, 'node_modules'))
  command = join(home, MANIFEST.bin.posthorn)
}, SLOW.timeout)
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function run(node: string, words: string[]) {
  const { status, stdout, stderr } = spawnSync(node, words, { cwd: folder, encoding: 'utf8' })
  return { status, stdout, stderr }
}

describe('the packed command', () => {
  it('runs, and starts an API and a worker', SLOW, async () => {
    expect(run(process.execPath, [command, '--version'])).toEqual({
      status: 0,
      stdout: `${MANIFEST.version}\n`,
      stderr: '',
    })
    const server = spawn(process.execPath, [command, 'start'], {
      cwd: folder,
      env: { PATH: process.env.PATH, PORT: '0' },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let printed = ''
    for (const stream of [server.stdout, server.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        printed += text
      })
    }
    await until(() => /api\.listening/.test(printed) && /worker\.started/.test(printed), 60_000)
    const url = /"url":"(http[^"]+)"/.exec(printed)?.[1] as string
    expect(await (await fetch(`${url}/dashboard`)).text()).toContain('<title>Posthorn</title>')
    server.kill('SIGTERM')
    await once(server, 'close')
    expect(printed).not.toMatch(/\n\s+at /)
  })

  it.skipIf(older.length === 0).each(older)(
    'says on Node $version which Node it needs',
    ({ version, path }) => {
      for (const words of [['--version'], ['start'], []]) {
        expect(run(path, [command, ...words])).toEqual({
          status: 2,
          stdout: '',
          stderr: `Posthorn needs Node ${NEEDED_MAJOR}, this is ${version}.\n`,
        })
      }
    },
  )

  it('says so on any older Node: its first file has no syntax of later than 2009', () => {
    const text = readFileSync(command, 'utf8').replace(/^\s*\/\/.*$/gm, '')
    expect(text).not.toMatch(/\b(import|export|const|let|class|async)\b|=>|`|\?\?|\?\./)
    const claim = `Object.defineProperty(process, 'versions', { value: { node: '9.11.2' } })`
    const old = run(process.execPath, ['-e', `${claim}; require(${JSON.stringify(command)})`])
    expect(old).toMatchObject({ status: 2, stderr: 'Posthorn needs Node 24, this is v9.11.2.\n' })
  })
})

describe('npx posthorn in a clone', () => {
  function runInClone() {
    const { status, stdout, stderr } = spawnSync('npx', ['posthorn', '--version'], {
      cwd: clone,
      encoding: 'utf8',
    })
    return { status, stdout, stderr }
  }
  const version = { status: 0, stdout: `${MANIFEST.version}\n`, stderr: '' }

  it('runs the source when there is a build, which may be old', SLOW, () => {
    writeFileSync(join(clone, 'dist/cli/posthorn.js'), 'throw new Error("an old build")')
    expect(runInClone()).toEqual(version)
  })

  it('needs no build', SLOW, () => {
    rmSync(join(clone, 'dist'), { recursive: true })
    expect(runInClone()).toEqual(version)
  })
})

describe('the docs', () => {
  const pages = execFileSync('git', ['ls-files', '-co', '--exclude-standard', '*.md', '*.ts'], {
    cwd: ROOT,
  })
    .toString()
    .split('\n')
    .filter((page) => /^(README|docs|examples)/.test(page))

  it('install nothing from npm under our name, where it is not published', () => {
    const naming = pages.filter((page) =>
      /npm (install|i|exec) posthorn\b/.test(readFileSync(join(ROOT, page), 'utf8')),
    )
    expect(naming).toEqual([])
    expect(pages.length).toBeGreaterThan(30)
  })

  it('name the file that npm pack makes, and the Node that it needs', () => {
    for (const page of ['docs/command-line.md', 'docs/client.md']) {
      const text = readFileSync(join(ROOT, page), 'utf8')
      expect(text).toContain(`posthorn-${MANIFEST.version}.tgz`)
      expect(text).toContain(`Node.js ${NEEDED_MAJOR}`)
    }
  })
})
