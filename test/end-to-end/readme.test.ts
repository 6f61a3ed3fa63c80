// README's first minute: the printed lines unchanged, on free ports.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { type Process, runPosthorn } from '../support/process.ts'
import { until } from '../support/until.ts'

const README = readFileSync(join(import.meta.dirname, '../../README.md'), 'utf8')
const blocks = (language: string) =>
  [...README.matchAll(new RegExp(`\`\`\`${language}\n(.*?)\`\`\``, 'gs'))].map(
    ([, text]) => text as string,
  )
const [, receiver = '', session = ''] = blocks('sh')
const [printed = ''] = blocks('json')

let directory: string
let posthorn: Process
let listening: ChildProcess
let ports: { api: number; receiver: number }
const onFreePorts = (text: string) =>
  text.replaceAll('8080', String(ports.api)).replaceAll('3000', String(ports.receiver))

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'posthorn-test-'))
  ports = { api: await freePort(), receiver: await freePort() }
  posthorn = runPosthorn(['start'], { PORT: String(ports.api) }, directory)
  listening = spawn('bash', ['-c', `exec ${onFreePorts(receiver)}`], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await until(() => posthorn.stderr().includes('curl'))
  await until(() => accepts(ports.receiver))
})
afterAll(async () => {
  listening.kill()
  await posthorn.stop()
  rmSync(directory, { recursive: true })
})

it('the lines that README gives lead to the job that README shows', () => {
  const output = execFileSync('bash', ['-c', onFreePorts(session)]).toString()
  const job = JSON.parse(output.trim().split('\n').at(-1) ?? '')
  const shown = JSON.parse(printed)
  expect(Object.keys(shown)).toEqual(Object.keys(job))
  const { endpoint, state, attemptCount, result, payload } = shown
  expect(job).toMatchObject({ endpoint, state, attemptCount, result, payload })
  expect(Object.keys(shown.attempts[0])).toEqual(Object.keys(job.attempts[0]))
})

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await until(() => server.listening)
  const { port } = server.address() as { port: number }
  await new Promise((resolve) => server.close(resolve))
  return port
}

async function accepts(port: number): Promise<boolean> {
  return fetch(`http://127.0.0.1:${port}/`, { method: 'POST', body: '{}' }).then(
    () => true,
    () => false,
  )
}
