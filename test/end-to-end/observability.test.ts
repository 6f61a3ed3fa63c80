import { writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterEach, describe, expect, it } from 'vitest'
import { type Deployment, deploy, ENGINES } from '../support/deployment.ts'
import type { Process } from '../support/process.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'

const KEY = 'a-key-of-twenty-four-characters'
const TRACE_ID = '4bf92f3577b34da6a3ce929d0e0e4736'
const TRACEPARENT = `00-${TRACE_ID}-00f067aa0ba902b7-01`

let deployment: Deployment
let receiver: Receiver
let folder: string | null = null
afterEach(async () => {
  await deployment.close()
  await receiver.close()
  if (folder !== null) await rm(folder, { recursive: true })
  folder = null
})

const WORKER_PORT = { WORKER_PORT: '0' }
const portOf = async (worker: Process) =>
  (await worker.logged('worker_port.listening')).url as string

/** The value of one sample: all given labels, in whatever order they stand. */
function sample(text: string, name: string, labels: Record<string, string> = {}): number | null {
  const line = text.split('\n').find((one) => {
    const isNamed = one.startsWith(`${name}{`) || one.startsWith(`${name} `)
    return (
      isNamed && Object.entries(labels).every(([key, value]) => one.includes(`${key}="${value}"`))
    )
  })
  return line === undefined ? null : Number(line.split(' ').at(-1))
}

describe.each(ENGINES)('on %s', (engine) => {
  it('the metrics show a job from its enqueue to its end', async () => {
    receiver = await startReceiver()
    deployment = deploy(engine)
    await deployment.startApi()
    await deployment.endpoint('invoices', receiver.url)
    const made = await deployment.request('POST', '/jobs', { endpoint: 'invoices', payload: 1 })
    const metrics = async () => (await deployment.request('GET', '/metrics')).body as string

    const before = await metrics()
    expect(sample(before, 'posthorn_enqueued_jobs_total', { result: 'inserted' })).toBe(1)
    expect(sample(before, 'posthorn_enqueue_duration_seconds_count')).toBe(1)
    expect(sample(before, 'posthorn_batch_size_sum', { kind: 'enqueue' })).toBe(1)
    const queued = { endpoint: 'invoices', state: 'queued' }
    expect(sample(before, 'posthorn_jobs', queued)).toBe(1)
    expect(sample(before, 'posthorn_due_jobs', { endpoint: 'invoices' })).toBe(1)
    expect(sample(before, 'posthorn_live_workers')).toBe(0)
    expect(sample(before, 'posthorn_store_up')).toBe(1)
    const post = { method: 'POST', route: '/jobs', status: '201' }
    expect(sample(before, 'posthorn_http_requests_total', post)).toBe(1)

    const worker = await deployment.startWorker(WORKER_PORT)
    await deployment.job(made.body.id, 'succeeded')
    const ofWorker = await (await fetch(`${await portOf(worker)}/metrics`)).text()
    const succeeded = { endpoint: 'invoices', outcome: 'succeeded' }
    expect(sample(ofWorker, 'posthorn_attempts_total', succeeded)).toBe(1)
    expect(sample(ofWorker, 'posthorn_attempt_duration_seconds_count')).toBe(1)
    expect(sample(ofWorker, 'posthorn_start_delay_seconds_count')).toBe(1)
    expect(sample(ofWorker, 'posthorn_batch_size_count', { kind: 'settle' })).toBe(1)

    // A look at the store is at most 5 s old.
    await until(async () => {
      const now = await metrics()
      return (
        sample(now, 'posthorn_jobs', queued) === 0 && sample(now, 'posthorn_live_workers') === 1
      )
    })
  })

  it('a delivery carries the trace context of its enqueue request, byte for byte', async () => {
    receiver = await startReceiver()
    deployment = deploy(engine)
    await deployment.startApi()
    await deployment.startWorker()
    await deployment.endpoint('invoices', receiver.url)
    const job = { endpoint: 'invoices', payload: 1 }
    const headers = { traceparent: TRACEPARENT, tracestate: 'vendor=a:b, other=2' }
    await deployment.request('POST', '/jobs', job, headers)
    await receiver.waitFor((requests) => requests.length === 1)
    expect(receiver.requests[0]?.headers).toMatchObject(headers)
    await deployment.request('POST', '/jobs/batch', { jobs: [job] }, headers)
    await receiver.waitFor((requests) => requests.length === 2)
    expect(receiver.requests[1]?.headers).toMatchObject(headers)
    await deployment.request('POST', '/jobs', job, { traceparent: 'not-one', tracestate: 'a=1' })
    await receiver.waitFor((requests) => requests.length === 3)
    expect(receiver.requests[2]?.headers).not.toHaveProperty('traceparent')
    expect(receiver.requests[2]?.headers).not.toHaveProperty('tracestate')
  })
})

describe('with keys', () => {
  it('the metrics of API and worker want one, health does not', async () => {
    receiver = await startReceiver()
    deployment = deploy('sqlite', { API_KEYS: KEY })
    await deployment.startApi()
    const url = await portOf(await deployment.startWorker(WORKER_PORT))
    const authorization = `Bearer ${KEY}`
    for (const base of [deployment.url(), url]) {
      expect((await fetch(`${base}/metrics`)).status).toBe(401)
      expect((await fetch(`${base}/metrics`, { headers: { authorization } })).status).toBe(200)
      expect((await fetch(`${base}/health/live`)).status).toBe(200)
      expect((await fetch(`${base}/health/ready`)).status).toBe(200)
    }
    expect((await fetch(`${deployment.url()}/docs`)).status).toBe(200)
  })
})

describe('a worker that is asked to stop', () => {
  it('is not ready any more, though it lives, until its last attempt is over', async () => {
    receiver = await startReceiver('hang')
    deployment = deploy('sqlite', { SHUTDOWN_GRACE: '30s' })
    await deployment.startApi()
    const worker = await deployment.startWorker(WORKER_PORT)
    const url = await portOf(worker)
    await deployment.endpoint('slow', receiver.url)
    await deployment.request('POST', '/jobs', { endpoint: 'slow', payload: 1 })
    await receiver.waitFor((requests) => requests.length === 1)
    expect((await fetch(`${url}/health/ready`)).status).toBe(200)
    worker.kill('SIGTERM')
    await worker.logged('worker.stopping')
    const ready = await fetch(`${url}/health/ready`)
    expect(ready.status).toBe(503)
    expect(await ready.json()).toMatchObject({ checks: { worker: 'is stopping' } })
    expect((await fetch(`${url}/health/live`)).status).toBe(200)
  })
})

/** An SDK as a user would load it with --import: it prints each span that ends on stderr. */
function sdkScript(): string {
  const from = (name: string) => JSON.stringify(import.meta.resolve(name))
  return `
import { context, trace } from ${from('@opentelemetry/api')}
import { AsyncLocalStorageContextManager } from ${from('@opentelemetry/context-async-hooks')}
import { BasicTracerProvider, SimpleSpanProcessor } from ${from('@opentelemetry/sdk-trace-base')}
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
const exporter = {
  export(spans, done) {
    for (const span of spans) {
      const { traceId, spanId } = span.spanContext()
      const { name, kind, attributes } = span
      const parent = span.parentSpanContext?.spanId
      const told = { name, kind, traceId, spanId, parent, attributes }
      process.stderr.write('span ' + JSON.stringify(told) + '\\n')
    }
    done({ code: 0 })
  },
  shutdown: async () => {},
}
trace.setGlobalTracerProvider(
  new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }),
)
`
}

interface Told {
  name: string
  kind: number
  traceId: string
  spanId: string
  parent?: string
  attributes: Record<string, unknown>
}

const spansOf = (stderr: string): Told[] =>
  [...stderr.matchAll(/^span (.*)$/gm)].map((match) => JSON.parse(match[1] as string))

describe('with an SDK that the user loads', () => {
  it('one trace leads from the caller through both processes into the handler', async () => {
    folder = await mkdtemp(join(tmpdir(), 'posthorn-sdk-'))
    const script = join(folder, 'sdk.mjs')
    writeFileSync(script, sdkScript())
    receiver = await startReceiver([500, 200])
    const NODE_OPTIONS = `--import ${pathToFileURL(script).href}`
    deployment = deploy('sqlite', { NODE_OPTIONS })
    const api = await deployment.startApi()
    const worker = await deployment.startWorker()
    await deployment.endpoint('invoices', receiver.url, {
      retry: { backoff: { type: 'fixed', delay: '10ms' } },
    })
    const headers = { traceparent: TRACEPARENT }
    const job = { endpoint: 'invoices', payload: 1 }
    const made = await deployment.request('POST', '/jobs', job, headers)
    await deployment.job(made.body.id, 'succeeded')
    await until(
      () => spansOf(worker.stderr()).filter(({ name }) => name === 'attempt').length === 2,
    )

    const [enqueue] = spansOf(api.stderr()).filter(({ name }) => name === 'enqueue')
    expect(enqueue).toMatchObject({ traceId: TRACE_ID, parent: '00f067aa0ba902b7' })
    const attempts = spansOf(worker.stderr()).filter(({ name }) => name === 'attempt')
    for (const attempt of attempts)
      expect(attempt).toMatchObject({ traceId: TRACE_ID, parent: enqueue?.spanId })
    expect(attempts.map(({ attributes }) => attributes['posthorn.outcome'])).toEqual([
      'http_error',
      'succeeded',
    ])
    expect(receiver.requests.map(({ headers: { traceparent } }) => traceparent)).toEqual(
      attempts.map(({ spanId }) => `00-${TRACE_ID}-${spanId}-01`),
    )
    expect(spansOf(worker.stderr()).some(({ name }) => name === 'claim')).toBe(true)
  })
})
