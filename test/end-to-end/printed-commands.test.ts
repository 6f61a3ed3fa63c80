// Runs the commands of the pages unchanged, page by page, against an API and a worker on free
// ports. A block that cannot run here is named below, with the reason.
import { execFile, execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Process, posthornScript, runPosthorn } from '../support/process.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'

const ROOT = join(import.meta.dirname, '../..')
const PAGE_DEADLINE_MS = 60_000
/** The endpoint of README's first minute, which every page may use. */
const ENDPOINT = 'invoice-pdf'

/**
 * The blocks that are not run, by their beginnings. The blocks of the examples have tests of their
 * own.
 */
const NOT_RUN: Record<string, Record<string, string>> = {
  'README.md': {
    'npm ci && npm start': 'what readme.test.ts starts, and CI begins with',
    'node -e': 'the receiver of readme.test.ts',
    'export API_KEY=': 'listens on every address of the machine',
    'docker build': 'needs Docker',
    'export POSTHORN_API_KEY': 'needs Docker',
    'export STORE_URL': 'needs a replica set; other tests start on one',
    'npm ci && npm test': 'is running',
  },
  'CONTRIBUTING.md': { 'python3 -m venv': 'installs a program of others, and takes minutes' },
  'docs/async-work.md': { 'PUBLIC_URL=': 'a setting, not a command' },
  'docs/benchmarks.md': { 'npm --prefix bench ci': 'takes an hour; CI counts, and times nothing' },
  'docs/client.md': { 'npm install ../posthorn': 'test/cli/package.test.ts packs' },
  'docs/command-line.md': {
    'npm ci && npm pack': 'test/cli/package.test.ts packs',
    'npm install ../posthorn': 'test/cli/package.test.ts packs',
    'posthorn listen': 'runs until Ctrl-C; test/cli runs it',
  },
  'docs/keys-and-secrets.md': {
    'export ADMIN_KEY=': 'listens on every address of the machine',
    'ENCRYPTION_KEY=': 'two settings, not commands',
  },
  'docs/mongodb.md': {
    "export STORE_URL='mongodb://": 'needs a server; test/store/mongo-doctor.test.ts has one',
  },
  'docs/observability.md': { 'npm install @opentelemetry': 'installs packages' },
  'docs/reliability.md': { 'npm run test:faults': 'CI runs the short form by itself' },
}
const TESTED_ELSEWHERE = /^examples\//

const pages = execFileSync('git', ['ls-files', '-co', '--exclude-standard', '*.md'], { cwd: ROOT })
  .toString()
  .split('\n')
  .filter((page) => page !== '' && blocksOf(page).length > 0)

let directory: string
let posthorn: Process
let receiver: Receiver
let apiUrl: string
let adminKey: string

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'posthorn-test-'))
  receiver = await startReceiver({ body: '{"pages":3}' })
  posthorn = runPosthorn(['start'], { PORT: '0' }, directory)
  apiUrl = (await posthorn.logged('api.listening')).url as string
  await posthorn.logged('worker.started')
  await ask('PUT', `/endpoints/${ENDPOINT}`, { url: `${receiver.url}/` })
  adminKey = (await ask('POST', '/keys', { name: 'of the pages', scope: 'admin' })).key as string
})
afterAll(async () => {
  await posthorn.stop()
  await receiver.close()
  rmSync(directory, { recursive: true })
})

describe.each(pages)('%s', (page) => {
  const blocks = blocksOf(page)
  const exceptions = Object.keys(NOT_RUN[page] ?? {})
  const isRun = (block: string) => !exceptions.some((start) => block.startsWith(start))

  it('names only scripts that there are, and only exceptions that are needed', () => {
    const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
    const named = blocks.flatMap((block) => [...block.matchAll(/^npm run ([\w:]+)/gm)])
    expect(named.map(([, script]) => script).filter((script) => !scripts[script ?? ''])).toEqual([])
    const stale = exceptions.filter((start) => !blocks.some((block) => block.startsWith(start)))
    expect(stale).toEqual([])
  })

  const works = it.skipIf(TESTED_ELSEWHERE.test(page))
  works('gives commands that work', { timeout: PAGE_DEADLINE_MS + 10_000 }, async () => {
    const script = blocks.filter(isRun).map(asReachable).join('\n')
    const ended = await runScript(script)
    expect(ended.code, ended.output).toBe(0)
  })
})

function blocksOf(page: string): string[] {
  const text = readFileSync(join(ROOT, page), 'utf8')
  return [...text.matchAll(/^```sh\n(.*?)^```/gms)].map(([, block]) => block as string)
}

const asReachable = (block: string) =>
  block
    .replaceAll(/(http:\/\/)?(localhost|127\.0\.0\.1):8080/g, apiUrl)
    .replaceAll(/http:\/\/(localhost|127\.0\.0\.1):3000/g, receiver.url)

/** Runs a script. Any response other than a 2xx ends it, and so does any command that fails. */
async function runScript(script: string): Promise<{ code: number; output: string }> {
  const { cli, cache } = posthornScript()
  const head = `set -eo pipefail
curl() { command curl --fail-with-body --max-time 30 "$@"; }
posthorn() { ${process.execPath} ${cli} "$@"; }
npx() { (cd ${ROOT} && command npx "$@"); }
set -x
`
  const env = {
    PATH: process.env.PATH as string,
    HOME: directory,
    NODE_COMPILE_CACHE: cache,
    ADMIN_KEY: adminKey,
    POSTHORN_URL: apiUrl,
  }
  const options = { cwd: directory, env, timeout: PAGE_DEADLINE_MS }
  try {
    const { stdout, stderr } = await promisify(execFile)('bash', ['-c', head + script], options)
    return { code: 0, output: stdout + stderr }
  } catch (error) {
    const { code, stdout, stderr } = error as { code?: number; stdout?: string; stderr?: string }
    return { code: code ?? -1, output: `${stdout}${stderr}` }
  }
}

async function ask(method: string, path: string, body: object): Promise<Record<string, unknown>> {
  const headers = { 'content-type': 'application/json' }
  const answer = await fetch(apiUrl + path, { method, headers, body: JSON.stringify(body) })
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`)
  return answer.json() as Promise<Record<string, unknown>>
}
