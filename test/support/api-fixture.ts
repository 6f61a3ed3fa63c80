// The fixture of tests that use the API as a client does: one deployment for all tests of a block,
// and endpoints with receivers of their own.
import { afterAll, beforeAll, expect } from 'vitest'
import { type Deployment, deploy } from './deployment.ts'
import type { Engine } from './engines.ts'
import type { Process } from './process.ts'
import { type Receiver, type Reply, type Script, startReceiver } from './receiver.ts'
import type { Answer, PendingAnswer } from './request.ts'
import { until } from './until.ts'

/** Short intervals: tests wait for polls, sweeps and expired leases. */
const FAST = { POLL_INTERVAL: '20ms', SWEEP_INTERVAL: '50ms', LEASE_DURATION: '3s' }
/** For blocks whose tests share no endpoint: the tests can wait at the same time. */
export const CONCURRENT = { concurrent: true }
/** Three attempts, one right after the other. */
export const QUICK_RETRY = { maxAttempts: 3, backoff: { type: 'fixed', delay: '20ms', jitter: 0 } }
export const DAY_MS = 86_400_000
/** A URL that no test delivers to. */
export const HOOK = 'http://127.0.0.1:8099/hook'
/** An id with the right shape that no job ever gets. */
export const NO_JOB = 'job_00000000000000000000000000'

// biome-ignore lint/suspicious/noExplicitAny: a test reads any field of a response
export type Body = any

/** A registered endpoint with a new name and without a receiver: its jobs are pulled. */
export interface TestEndpoint {
  name: string
  /** Sends POST /jobs for it; `fields` replace the default endpoint and payload. */
  post(fields?: object, headers?: object): PendingAnswer
  /** Does the same for a job that must be stored. Resolves with its id. */
  enqueue(fields?: object): Promise<string>
  read(): Promise<Body>
}

interface ReceivingEndpoint extends TestEndpoint {
  receiver: Receiver
}

export interface ApiFixture {
  posthorn: Deployment
  api: Process
  workers: Process[]
  request: Deployment['request']
  job: Deployment['job']
  /** Returns the body of a GET, which must succeed. */
  get(path: string): Promise<Body>
  readJob(id: string): Promise<Body>
  /** Starts a receiver, which is closed with the fixture. */
  receive(script?: Script): Promise<Receiver>
  /** Registers an endpoint with a receiver of its own. */
  endpoint(script?: Script, settings?: object): Promise<ReceivingEndpoint>
  pulledEndpoint(settings?: object): Promise<TestEndpoint>
  /** Sends PUT /endpoints/:name; `settings` replace the default URL. */
  putEndpoint(settings: object, name?: string): PendingAnswer
  /** POST /jobs with each of these is refused with an error at `path`, and nothing is stored. */
  expectJobRefused(path: string, ...all: object[]): Promise<void>
  /** PUT /endpoints/:name with each of these is refused with an error at `path`. */
  expectEndpointRefused(path: string, ...all: object[]): Promise<void>
}

/** @param workers how many workers are started */
export function useApi(
  engine: Engine,
  settings: Record<string, string> = {},
  workers = 1,
): ApiFixture {
  const receivers: Receiver[] = []
  let count = 0
  const fixture = {} as ApiFixture
  const request: Deployment['request'] = (...all) => fixture.posthorn.request(...all)

  beforeAll(async () => {
    fixture.posthorn = deploy(engine, { ...FAST, ...settings })
    fixture.api = await fixture.posthorn.startApi()
    fixture.workers = await Promise.all(
      Array.from({ length: workers }, () => fixture.posthorn.startWorker()),
    )
  })
  afterAll(async () => {
    await fixture.posthorn.close()
    for (const receiver of receivers) await receiver.close()
  })

  async function register(url: string | null, more: object): Promise<TestEndpoint> {
    const name = `endpoint-${++count}`
    const put = await request('PUT', `/endpoints/${name}`, { url, ...more })
    expect(put.body).toMatchObject({ name })
    const post = (fields: object = {}, headers: object = {}) =>
      request('POST', '/jobs', { endpoint: name, payload: {}, ...fields }, headers)
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
    request,
    job: (...all) => fixture.posthorn.job(...all),
    async get(path) {
      const answer = await request('GET', path)
      expect(answer.status).toBe(200)
      return answer.body
    },
    readJob: (id) => fixture.get(`/jobs/${id}`),
    async receive(script) {
      const receiver = await startReceiver(script)
      receivers.push(receiver)
      return receiver
    },
    async endpoint(script, more = {}) {
      const receiver = await fixture.receive(script)
      return { ...(await register(receiver.url, { retry: QUICK_RETRY, ...more })), receiver }
    },
    pulledEndpoint: (more = {}) => register(null, more),
    putEndpoint: (more, name = 'probe') =>
      request('PUT', `/endpoints/${name}`, { url: HOOK, ...more }),
    async expectJobRefused(path, ...all) {
      const endpoint = await fixture.pulledEndpoint()
      for (const fields of all) expectInvalid(path, fields, await endpoint.post(fields))
      expect((await endpoint.read()).counts.queued).toBe(0)
    },
    async expectEndpointRefused(path, ...all) {
      for (const more of all) expectInvalid(path, more, await fixture.putEndpoint(more))
    },
  } satisfies Omit<ApiFixture, 'posthorn' | 'api' | 'workers'>)
}

/** Expects a 400 with an error that names the field. */
function expectInvalid(path: string, sent: object, { status, body }: Answer): void {
  expect([sent, status]).toEqual([sent, 400])
  expect(body.code).toBe('invalid_request')
  expect(body.errors.map((error: { path: string }) => error.path)).toContain(path)
}

/** A script in which all requests wait for the reply that release() gives. */
export function heldReplies(): { script: () => Promise<Reply>; release: (reply: Reply) => void } {
  const { promise, resolve } = Promise.withResolvers<Reply>()
  return { script: () => promise, release: resolve }
}

/** Repeats a check of expect() until it passes. */
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

/** Waits for 1 s: by then every worker knows a change of an endpoint. */
export async function changeIsKnown(): Promise<void> {
  const knownAtMs = performance.now() + 1_000
  await until(() => performance.now() >= knownAtMs)
}

/** Epoch milliseconds of an instant in a response. */
export function at(instant: string): number {
  return Date.parse(instant)
}

/** Checks all fields that every problem has. */
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
