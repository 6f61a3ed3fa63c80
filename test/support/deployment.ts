// Posthorn as a user runs it: an API process and workers on a store of their own, for one test.
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, inject } from 'vitest'
import type { Engine } from './engines.ts'
import { type Process, runPosthorn } from './process.ts'
import { describedApi } from './recorded-answers.ts'
import { type Answer, requestTo, type SendRequest } from './request.ts'
import { until } from './until.ts'

export interface Deployment {
  env: Record<string, string>
  url: () => string
  startApi(env?: Record<string, string>): Promise<Process>
  startWorker(env?: Record<string, string>): Promise<Process>
  /** Fails the test if openapi.json does not describe the response. */
  request: SendRequest
  /** Registers an endpoint. The response contains its secret. */
  endpoint(name: string, url: string, settings?: object): Promise<Answer>
  /** Resolves with the job once it is in one of these states. */
  job(id: string, ...states: string[]): Promise<Answer['body']>
  /** Ends every process and removes the store. */
  close(): Promise<void>
}

/** Creates a store, and starts nothing: the test starts the processes that it needs. */
export function deploy(engine: Engine, settings: Record<string, string> = {}): Deployment {
  const directory = mkdtempSync(join(tmpdir(), 'posthorn-test-'))
  const env = {
    STORE_URL: engine === 'sqlite' ? `sqlite:${directory}/posthorn.db` : mongoDatabaseUrl(),
    ENCRYPTION_KEY: randomBytes(32).toString('base64'),
    PORT: '0',
    ...settings,
  }
  const processes: Process[] = []
  let url = ''

  async function start(command: string, ready: string, more: Record<string, string>) {
    const one = runPosthorn([command], { ...env, ...more })
    processes.push(one)
    return { one, line: await one.logged(ready) }
  }

  const request = requestTo(
    () => url,
    (answer) => expect(describedApi().check.problemsOf(answer)).toEqual([]),
  )

  return {
    env,
    url: () => url,
    async startApi(more = {}) {
      const { one, line } = await start('api', 'api.listening', more)
      url = line.url as string
      return one
    },
    startWorker: async (more = {}) => (await start('worker', 'worker.started', more)).one,
    request,
    endpoint: (name, target, more = {}) =>
      request('PUT', `/endpoints/${name}`, { url: target, ...more }),
    async job(id, ...states) {
      let found: Answer | undefined
      await until(async () => {
        found = await request('GET', `/jobs/${id}`)
        return states.includes(found.body.state)
      })
      return found?.body
    },
    async close() {
      await Promise.all(processes.map((one) => one.stop('SIGKILL')))
      rmSync(directory, { recursive: true, force: true })
    },
  }
}

/** A database of its own on the server that the whole test run shares. */
function mongoDatabaseUrl(): string {
  const url = new URL(inject('mongoUrl'))
  url.pathname = `/test-${randomBytes(6).toString('hex')}`
  return url.href
}
