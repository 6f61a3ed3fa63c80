// The log on a terminal: what others have said reaches it harmless.
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'

/** Clears the screen, twice; turns the writing round; sets the title. */
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
  // util-linux: gives the program a terminal.
  const words = ['-qec', `${process.execPath} ${file}`, '/dev/null']
  const env = { PATH: process.env.PATH, NO_COLOR: '1' }
  const { stdout } = await promisify(execFile)('script', words, { env })
  rmSync(folder, { recursive: true })
  expect(stdout).toContain('request.failed')
  expect(stdout).toContain('title')
  expect(stdout).not.toMatch(/(?![\r\n])\p{Cc}|[\p{Cf}\p{Zl}\p{Zp}]/u)
})
