// The fixture of the tests of the HTTP contract: one deployment for each file, and receivers for
// its endpoints.
import { afterAll, beforeAll, expect } from 'vitest'
import { type Answer, type Deployment, deploy, type Engine } from '../support/deployment.ts'
import type { Process } from '../support/process.ts'
import { type Receiver, type Reply, type Script, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'

/** Short, so that what a test waits for comes soon. */
export const FAST = { POLL_INTERVAL: '20ms', SWEEP_INTERVAL: '50ms', LEASE_DURATION: '3s' }
/** For files whose tests use endpoints of their own: what they wait for goes on at once. */
export const CONCURRENT = { concurrent: true }
/** Three attempts, one right after the other. */
export const QUICK_RETRY = { maxAttempts: 3, backoff: { type: 'fixed', delay: '20ms', jitter: 0 } }
export const DAY_MS = 86_400_000
/** Well-formed, and never given to a job. */
export const NO_JOB = 'job_00000000000000000000000000'

// biome-ignore lint/suspicious/noExplicitAny: a test reads any field of an answer
export type Body = any

/** An endpoint of a new name, with the receiver it is delivered to. */
export interface Site {
  name: string
  receiver: Receiver
  /** POST /jobs to it; `fields` are laid over endpoint and payload. */
  post(fields?: object, headers?: object): Promise<Answer>
  /** The same, which must be stored; answers the id. */
  enqueue(fields?: object): Promise<string>
  read(): Promise<Body>
}

export interface Fixture {
  posthorn: Deployment
  api: Process
  workers: Process[]
  /** A receiver that is closed with all else. */
  receive(script?: Script): Promise<Receiver>
  /** Registers an endpoint with a receiver of its own. */
  site(script?: Script, settings?: object): Promise<Site>
  /** One of this state, with no receiver: its jobs are pulled. */
  pulled(settings?: object): Promise<Omit<Site, 'receiver'>>
  /** The body of GET. */
  get(path: string): Promise<Body>
}

/** @param workers how many are started */
export function useFixture(
  engine: Engine,
  settings: Record<string, string> = {},
  workers = 1,
): Fixture {
  const receivers: Receiver[] = []
  let count = 0
  const fixture = {} as Fixture

  beforeAll(async () => {
    fixture.posthorn = deploy(engine, { ...FAST, ...settings })
    fixture.api = await fixture.posthorn.startApi()
    fixture.workers = []
    for (let i = 0; i < workers; i++) fixture.workers.push(await fixture.posthorn.startWorker())
  })
  afterAll(async () => {
    await fixture.posthorn.close()
    for (const receiver of receivers) await receiver.close()
  })

  async function register(url: string | null, more: object): Promise<Omit<Site, 'receiver'>> {
    const name = `site-${++count}`
    const put = await fixture.posthorn.request('PUT', `/endpoints/${name}`, { url, ...more })
    expect(put.body).toMatchObject({ name })
    const post = (fields: object = {}, headers: object = {}) =>
      fixture.posthorn.request('POST', '/jobs', { endpoint: name, payload: {}, ...fields }, headers)
    return {
      name,
      post,
      async enqueue(fields = {}) {
        const answer = await post(fields)
        expect(answer).toMatchObject({ status: 201 })
        return answer.body.id
      },
      read: () => fixture.get(`/endpoints/${name}`),
    }
  }

  return Object.assign(fixture, {
    async receive(script) {
      const receiver = await startReceiver(script)
      receivers.push(receiver)
      return receiver
    },
    async site(script, more = {}) {
      const receiver = await fixture.receive(script)
      return { ...(await register(receiver.url, { retry: QUICK_RETRY, ...more })), receiver }
    },
    pulled: (more = {}) => register(null, more),
    async get(path) {
      const answer = await fixture.posthorn.request('GET', path)
      expect(answer.status).toBe(200)
      return answer.body
    },
  } satisfies Omit<Fixture, 'posthorn' | 'api' | 'workers'>)
}

/** A script that answers nothing before it is told what. */
export function heldReplies(): { script: () => Promise<Reply>; release: (reply: Reply) => void } {
  const { promise, resolve } = Promise.withResolvers<Reply>()
  return { script: () => promise, release: resolve }
}

/** Until a check of expect() passes. */
export async function soon(check: () => Promise<void> | void, deadlineMs?: number): Promise<void> {
  let failure: unknown
  try {
    await until(async () => {
      try {
        await check()
        return true
      } catch (error) {
        failure = error
        return false
      }
    }, deadlineMs)
  } catch {
    throw failure
  }
}

/** A change of an endpoint reaches every worker within 1 s: once this resolves it has. */
export async function changeIsKnown(): Promise<void> {
  const knownAtMs = performance.now() + 1_000
  await until(() => performance.now() >= knownAtMs)
}

/** Epoch milliseconds of an instant in an answer. */
export function at(instant: string): number {
  return Date.parse(instant)
}

/** Every problem says the same things in the same way. */
export function expectProblem(
  answer: Answer,
  status: number,
  code: string,
  more: object = {},
): void {
  expect(answer.headers.get('content-type')).toMatch(/^application\/problem\+json/)
  expect(answer.body).toMatchObject({
    type: `urn:posthorn:error:${code}`,
    title: expect.stringMatching(/./),
    status,
    code,
    detail: expect.stringMatching(/./),
    requestId: answer.headers.get('x-request-id'),
    ...more,
  })
  expect(answer.status).toBe(status)
  expect(JSON.stringify(answer.body)).not.toMatch(
    /node_modules|\.ts\b|at \w+ \(|whsec_|SQLITE|Mongo/,
  )
}
