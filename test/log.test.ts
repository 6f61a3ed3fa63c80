// The log: its last lines reach a slow reader, and a terminal does not interpret text from outside.
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, it, onTestFinished } from 'vitest'
import { until } from './support/until.ts'

/** These characters clear the screen twice, reverse the text, and set the title. */
const WORDS = 'a\u001b[2J\u009b2J\u202eb\u001b]0;title\u0007'
const LOG = join(import.meta.dirname, '../src/log.ts')
const PROGRAM = `
import { createLogger, flushLog } from ${JSON.stringify(LOG)}
const log = createLogger('api', 'info')
const words = ${JSON.stringify(WORDS)}
log.error({ err: new Error(words), detail: words, list: [words] }, 'request.failed')
await flushLog(log)
`

it('holds no character that a terminal obeys', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-log-'))
  const file = join(folder, 'log.mjs')
  writeFileSync(file, PROGRAM)
  // `script` of util-linux gives the program a terminal.
  const words = ['-qec', `${process.execPath} ${file}`, '/dev/null']
  const env = { PATH: process.env.PATH, NO_COLOR: '1' }
  const { stdout } = await promisify(execFile)('script', words, { env })
  rmSync(folder, { recursive: true })
  expect(stdout).toContain('request.failed')
  expect(stdout).toContain('title')
  expect(stdout).not.toMatch(/(?![\r\n])\p{Cc}|[\p{Cf}\p{Zl}\p{Zp}]/u)
})

/** Fills the pipe of its reader, logs one more line, and reports that on stderr. */
const SLOWLY_READ = (end: string) => `
import { createLogger, flushLog } from ${JSON.stringify(LOG)}
const log = createLogger('api', 'info')
log.info({ filler: 'x'.repeat(300_000) }, 'first')
setTimeout(() => {
  log.info('last')
  setTimeout(async () => { process.stderr.write('logged'); ${end} }, 100)
}, 100)
`

it.each([
  ['that goes on without a further line', 'setTimeout(() => {}, 60_000)'],
  ['that ends', 'await flushLog(log); process.exit()'],
])('reaches a reader that was slow whole, of a process %s', async (_, end) => {
  const words = ['--input-type=module', '-e', SLOWLY_READ(end)]
  const child = spawn(process.execPath, words, { stdio: ['ignore', 'pipe', 'pipe'] })
  onTestFinished(() => void child.kill())
  await once(child.stderr, 'data')
  let log = ''
  child.stdout.on('data', (chunk: Buffer) => {
    log += chunk.toString()
  })
  await until(() => log.includes('"msg":"last"'))
})
