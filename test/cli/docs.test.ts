// The shell blocks of docs/command-line.md, unchanged, do what the page states.
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { COMMAND_GROUPS } from '../../cli/command-table.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { openShell, type Shell } from './command-line.ts'

const DEADLINE = { timeout: 60_000 }
const PAGE = readFileSync(join(import.meta.dirname, '../../docs/command-line.md'), 'utf8')
const blocks = [...PAGE.matchAll(/```sh\n(.*?)```/gs)].map((match) => match[1] as string)
const blockOf = (word: string) => blocks.find((block) => block.includes(word)) as string

let posthorn: Deployment
let receiver: Receiver
let shell: Shell
beforeAll(async () => {
  receiver = await startReceiver({ body: '{"pages":3}' })
  shell = openShell()
  mkdirSync(join(shell.folder, 'data'))
  posthorn = deploy('sqlite', {
    STORE_URL: `sqlite:${shell.folder}/data/posthorn.db`,
    ENCRYPTION_KEY: '',
  })
  await posthorn.startApi()
  await posthorn.startWorker()
})
afterAll(async () => {
  await shell.close()
  await posthorn.close()
  await receiver.close()
})

/** Returns the output of a block, which must not fail. */
async function run(block: string): Promise<string> {
  const text = block.replaceAll('http://localhost:3000', receiver.url)
  const typed = shell.script(text, { POSTHORN_URL: posthorn.url() })
  expect(await typed.ended(), typed.stderr()).toBe(0)
  return typed.stdout()
}

it('names every command', () => {
  const table = PAGE.slice(PAGE.indexOf('| command |'), PAGE.indexOf('Results go to'))
  for (const name of Object.values(COMMAND_GROUPS).flatMap((group) => Object.keys(group))) {
    expect(table).toMatch(new RegExp(`\`${name}\\b`))
  }
})

it('the first: an endpoint, a job, its end', DEADLINE, async () => {
  const printed = await run(blockOf('posthorn wait'))
  expect(printed).toContain('succeeded')
  expect(printed).toContain('{"pages":3}')
  expect(printed).toContain('0 would be cancelled.')
})

it('apply: the last run has nothing to do', DEADLINE, async () => {
  const printed = await run(blockOf('posthorn apply'))
  expect(printed).toContain('+ schedule nightly-report')
  expect(printed.endsWith('no change\n')).toBe(true)
})

it('backup: both files are there', DEADLINE, async () => {
  await run(blockOf('posthorn backup'))
  for (const file of ['posthorn-backup.db', 'posthorn-backup.db.key']) {
    expect(existsSync(join(shell.folder, file))).toBe(true)
  }
})

it('listen: makes the endpoint and delivers its jobs', DEADLINE, async () => {
  const line = blockOf('posthorn listen').trim().replace('http://localhost:3000', receiver.url)
  const typed = shell.line(line, { POSTHORN_URL: posthorn.url() })
  await typed.printed('Ctrl-C ends this')
  await posthorn.request('POST', '/jobs', { endpoint: 'thumbnails', payload: 1 })
  await typed.printed(/^\d\d:\d\d:\d\d job_\w+ 1\/10 succeeded 200 \d+ ms/m)
  typed.signal('SIGINT')
  expect(await typed.ended()).toBe(0)
})
