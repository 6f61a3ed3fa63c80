import { writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { SpanKind } from '@opentelemetry/api'
import { afterEach, describe, expect, it } from 'vitest'
import { type Deployment, deploy, ENGINES } from '../support/deployment.ts'
import type { Process } from '../support/process.ts'
import { type Receiver, type Script, startReceiver } from '../support/receiver.ts'
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

  it('so does the job of a copy and of a schedule run by hand, and a pulled job', async () => {
    receiver = await startReceiver()
    deployment = deploy(engine)
    await deployment.startApi()
    await deployment.startWorker()
    await deployment.endpoint('invoices', receiver.url)
    const job = { endpoint: 'invoices', payload: 1 }
    const headers = { traceparent: TRACEPARENT, tracestate: 'vendor=a:b, other=2' }
    const { body: made } = await deployment.request('POST', '/jobs', job)
    await receiver.waitFor((requests) => requests.length === 1)
    await deployment.request('POST', `/jobs/${made.id}/copy`, undefined, headers)
    await receiver.waitFor((requests) => requests.length === 2)
    expect(receiver.requests[1]?.headers).toMatchObject(headers)
    await deployment.request('PUT', '/schedules/monthly', { ...job, every: '30d' })
    await deployment.request('POST', '/schedules/monthly/run', undefined, headers)
    await receiver.waitFor((requests) => requests.length === 3)
    expect(receiver.requests[2]?.headers).toMatchObject(headers)

    await deployment.request('PUT', '/endpoints/pulled', { url: null })
    const pulled = { endpoint: 'pulled', payload: 1 }
    await deployment.request('POST', '/jobs', pulled, headers)
    await deployment.request('POST', '/jobs', pulled)
    const { body } = await deployment.request('POST', '/endpoints/pulled/claim', { limit: 2 })
    expect(body.jobs).toMatchObject([headers, { traceparent: null, tracestate: null }])
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

/**
 * An SDK as a user would load it with --import: it prints each span that ends on stderr, makes a
 * span of each HTTP request, and shuts down at SIGTERM, as the documented one does.
 */
function sdkScript(): string {
  const from = (name: string) => JSON.stringify(import.meta.resolve(name))
  return `
import { Server } from 'node:http'
import { context, SpanKind, trace } from ${from('@opentelemetry/api')}
import { AsyncLocalStorageContextManager } from ${from('@opentelemetry/context-async-hooks')}
import { BasicTracerProvider, SimpleSpanProcessor } from ${from('@opentelemetry/sdk-trace-base')}
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
const exporter = {
  export(spans, done) {
    for (const span of spans) {
      const { traceId, spanId } = span.spanContext()
      const { name, kind, attributes, status, events } = span
      const parent = span.parentSpanContext?.spanId
      const told = { name, kind, traceId, spanId, parent, attributes, status, events }
      process.stderr.write('span ' + JSON.stringify(told) + '\\n')
    }
    done({ code: 0 })
  },
  shutdown: async () => {},
}
const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] })
trace.setGlobalTracerProvider(provider)
process.on('SIGTERM', () => provider.shutdown())
const emit = Server.prototype.emit
Server.prototype.emit = function (event, request, response) {
  if (event !== 'request') return emit.apply(this, arguments)
  const [path, query] = request.url.split('?')
  const [, traceId, spanId] = (request.headers.traceparent ?? '').split('-')
  const caller = { traceId, spanId, traceFlags: 1, isRemote: true }
  const parent = spanId ? trace.setSpanContext(context.active(), caller) : context.active()
  const attributes = { 'url.path': path, 'http.target': request.url }
  if (query !== undefined) attributes['url.query'] = query
  const span = trace
    .getTracer('http')
    .startSpan(request.method, { kind: SpanKind.SERVER, attributes }, parent)
  response.on('close', () => span.end())
  return context.with(trace.setSpan(parent, span), () => emit.apply(this, arguments))
}
`
}

interface Told {
  name: string
  kind: number
  traceId: string
  spanId: string
  parent?: string
  attributes: Record<string, unknown>
  status: { code: number }
}

const spansOf = (stderr: string): Told[] =>
  [...stderr.matchAll(/^span (.*)$/gm)].map((match) => JSON.parse(match[1] as string))

describe('with an SDK that the user loads', () => {
  let api: Process
  let worker: Process
  const attempts = () => spansOf(worker.stderr()).filter(({ name }) => name === 'attempt')

  async function start(script: Script): Promise<void> {
    folder = await mkdtemp(join(tmpdir(), 'posthorn-sdk-'))
    const file = join(folder, 'sdk.mjs')
    writeFileSync(file, sdkScript())
    receiver = await startReceiver(script)
    const NODE_OPTIONS = `--import ${pathToFileURL(file).href}`
    deployment = deploy('sqlite', { NODE_OPTIONS })
    api = await deployment.startApi()
    worker = await deployment.startWorker()
  }

  it('one trace leads from the caller through both processes into the handler', async () => {
    await start([500, 200])
    await deployment.endpoint('invoices', receiver.url, {
      retry: { backoff: { type: 'fixed', delay: '10ms' } },
    })
    const headers = { traceparent: TRACEPARENT }
    const job = { endpoint: 'invoices', payload: 1 }
    const made = await deployment.request('POST', '/jobs', job, headers)
    await deployment.job(made.body.id, 'succeeded')
    await until(() => attempts().length === 2)

    const ofTrace = spansOf(api.stderr()).filter(({ traceId }) => traceId === TRACE_ID)
    const [enqueue, server] = ofTrace
    expect(server).toMatchObject({ name: 'POST', parent: '00f067aa0ba902b7' })
    expect(enqueue).toMatchObject({ name: 'enqueue', parent: server?.spanId })
    expect(enqueue?.attributes['messaging.message.id']).toBe(made.body.id)
    for (const attempt of attempts())
      expect(attempt).toMatchObject({ traceId: TRACE_ID, parent: enqueue?.spanId })
    expect(attempts().map(({ attributes }) => attributes['posthorn.outcome'])).toEqual([
      'http_error',
      'succeeded',
    ])
    expect(receiver.requests.map(({ headers: { traceparent } }) => traceparent)).toEqual(
      attempts().map(({ spanId }) => `00-${TRACE_ID}-${spanId}-01`),
    )
    expect(spansOf(worker.stderr()).some(({ name }) => name === 'claim')).toBe(true)

    const refused = { endpoint: 'nowhere', payload: 1 }
    expect((await deployment.request('POST', '/jobs', refused)).status).toBe(422)
    const enqueues = () => spansOf(api.stderr()).filter(({ name }) => name === 'enqueue')
    await until(() => enqueues().length === 2)
    expect(enqueues()[1]).toMatchObject({ status: { code: 0 }, events: [] })
  })

  it('the report of a handler is a span, and its token is in none', async () => {
    await start(202)
    await deployment.endpoint('async', receiver.url, { completion: 'async' })
    const { body } = await deployment.request('POST', '/jobs', { endpoint: 'async', payload: 1 })
    await receiver.waitFor(({ length }) => length === 1, 15_000)
    const header = (name: string) => receiver.requests[0]?.headers[name] as string
    const { pathname, search, searchParams } = new URL(header('posthorn-complete-url'))
    const token = searchParams.get('token') as string
    expect(token.length).toBeGreaterThan(40)
    const wrong = await deployment.request('GET', pathname + search)
    expect(wrong.status).toBe(405)
    const traceparent = header('traceparent')
    const beat = pathname.replace('complete', 'heartbeat') + search
    expect((await deployment.request('POST', beat, {}, { traceparent })).status).toBe(200)
    const report = { result: 1 }
    const done = await deployment.request('POST', pathname + search, report, { traceparent })
    expect(done.status).toBe(200)

    const [, traceId] = traceparent.split('-')
    await until(() => spansOf(api.stderr()).some(({ name }) => name === 'complete'))
    const complete = spansOf(api.stderr()).find(({ name }) => name === 'complete')
    expect(complete).toMatchObject({
      traceId,
      kind: SpanKind.INTERNAL,
      attributes: { 'messaging.message.id': body.id, 'posthorn.outcome': 'succeeded' },
    })
    const queries = () =>
      spansOf(api.stderr()).flatMap(({ attributes }) => attributes['url.query'] ?? [])
    await until(() => queries().length === 3)
    expect(queries()).toEqual(Array(3).fill('REDACTED'))
    for (const one of [api, worker]) {
      expect(one.stderr() + JSON.stringify(one.log)).not.toContain(token)
    }
    expect(JSON.stringify([wrong.body, done.body])).not.toContain(token)
  })

  it('an attempt that ends while the worker stops has its span', async () => {
    const answer = Promise.withResolvers<number>()
    await start(() => answer.promise)
    await deployment.endpoint('slow', receiver.url)
    await deployment.request('POST', '/jobs', { endpoint: 'slow', payload: 1 })
    await receiver.waitFor(({ length }) => length === 1, 15_000)
    worker.kill('SIGTERM')
    await worker.logged('worker.stopping')
    answer.resolve(200)
    await worker.logged('worker.stopped')
    await until(() => worker.child.exitCode !== null)
    expect(attempts()).toMatchObject([{ attributes: { 'posthorn.outcome': 'succeeded' } }])
  })
})
