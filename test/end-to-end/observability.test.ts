import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { SpanKind } from '@opentelemetry/api'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { heldReplies, useApi } from '../support/api-fixture.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'
import type { Process } from '../support/process.ts'
import { until } from '../support/until.ts'

const KEY = 'a-key-of-twenty-four-characters'
const TRACE_ID = '4bf92f3577b34da6a3ce929d0e0e4736'
const TRACEPARENT = `00-${TRACE_ID}-00f067aa0ba902b7-01`

const WORKER_PORT = { WORKER_PORT: '0' }
const portOf = async (worker: Process) =>
  (await worker.logged('worker_port.listening')).url as string

/** The value of the sample that has all given labels, in any order. */
function sample(text: string, name: string, labels: Record<string, string> = {}): number | null {
  const line = text.split('\n').find((one) => {
    const isNamed = one.startsWith(`${name}{`) || one.startsWith(`${name} `)
    return (
      isNamed && Object.entries(labels).every(([key, value]) => one.includes(`${key}="${value}"`))
    )
  })
  return line === undefined ? null : Number(line.split(' ').at(-1))
}

describe.each(SQLITE_UNLESS_LONG)('on %s', (engine) => {
  const fixture = useApi(engine, {}, 0)
  const { request } = fixture

  // This test is the first: it counts from zero, and starts the worker.
  it('the metrics show a job from its enqueue to its end', async () => {
    const endpoint = await fixture.endpoint()
    const id = await endpoint.enqueue({ fairnessKey: 'tenant-7' })
    const metrics = async () => (await request('GET', '/metrics')).text

    const before = await metrics()
    expect(sample(before, 'posthorn_enqueued_jobs_total', { result: 'inserted' })).toBe(1)
    expect(sample(before, 'posthorn_enqueue_duration_seconds_count')).toBe(1)
    expect(sample(before, 'posthorn_batch_size_sum', { kind: 'enqueue' })).toBe(1)
    const queued = { endpoint: endpoint.name, state: 'queued' }
    expect(sample(before, 'posthorn_jobs', queued)).toBe(1)
    expect(sample(before, 'posthorn_due_jobs', { endpoint: endpoint.name })).toBe(1)
    expect(sample(before, 'posthorn_keys_due', { endpoint: endpoint.name })).toBe(1)
    expect(sample(before, 'posthorn_live_workers')).toBe(0)
    expect(sample(before, 'posthorn_store_up')).toBe(1)
    const post = { method: 'POST', route: '/jobs', status: '201' }
    expect(sample(before, 'posthorn_http_requests_total', post)).toBe(1)

    const worker = await fixture.posthorn.startWorker(WORKER_PORT)
    await fixture.job(id, 'succeeded')
    const ofWorker = await (await fetch(`${await portOf(worker)}/metrics`)).text()
    const succeeded = { endpoint: endpoint.name, outcome: 'succeeded' }
    expect(sample(ofWorker, 'posthorn_attempts_total', succeeded)).toBe(1)
    expect(sample(ofWorker, 'posthorn_attempt_duration_seconds_count')).toBe(1)
    expect(sample(ofWorker, 'posthorn_start_delay_seconds_count')).toBe(1)
    expect(sample(ofWorker, 'posthorn_batch_size_count', { kind: 'settle' })).toBe(1)

    // The snapshot of the store is at most 5 s old.
    await until(async () => {
      const now = await metrics()
      return (
        sample(now, 'posthorn_jobs', queued) === 0 && sample(now, 'posthorn_live_workers') === 1
      )
    })
  })

  it('a delivery carries the trace context of its enqueue request, byte for byte', async () => {
    const { name, receiver, post } = await fixture.endpoint()
    const headers = { traceparent: TRACEPARENT, tracestate: 'vendor=a:b, other=2' }
    await post({}, headers).expect(201)
    await receiver.waitFor((requests) => requests.length === 1)
    expect(receiver.requests[0]?.headers).toMatchObject(headers)
    await request('POST', '/jobs/batch', { jobs: [{ endpoint: name, payload: 1 }] }, headers)
    await receiver.waitFor((requests) => requests.length === 2)
    expect(receiver.requests[1]?.headers).toMatchObject(headers)
    await post({}, { traceparent: 'not-one', tracestate: 'a=1' }).expect(201)
    await receiver.waitFor((requests) => requests.length === 3)
    expect(receiver.requests[2]?.headers).not.toHaveProperty('traceparent')
    expect(receiver.requests[2]?.headers).not.toHaveProperty('tracestate')
  })

  it('so does the job of a copy and of a schedule run by hand, and a pulled job', async () => {
    const { name, receiver, enqueue } = await fixture.endpoint()
    const headers = { traceparent: TRACEPARENT, tracestate: 'vendor=a:b, other=2' }
    const id = await enqueue()
    await receiver.waitFor((requests) => requests.length === 1)
    await request('POST', `/jobs/${id}/copy`, undefined, headers)
    await receiver.waitFor((requests) => requests.length === 2)
    expect(receiver.requests[1]?.headers).toMatchObject(headers)
    await request('PUT', '/schedules/monthly', { endpoint: name, payload: 1, every: '30d' })
    await request('POST', '/schedules/monthly/run', undefined, headers)
    await receiver.waitFor((requests) => requests.length === 3)
    expect(receiver.requests[2]?.headers).toMatchObject(headers)

    const pulled = await fixture.pulledEndpoint()
    await pulled.post({}, headers)
    await pulled.post()
    const { body } = await request('POST', `/endpoints/${pulled.name}/claim`, { limit: 2 })
    expect(body.jobs).toMatchObject([headers, { traceparent: null, tracestate: null }])
  })
})

describe('the port of a worker', () => {
  const authorization = `Bearer ${KEY}`
  const fixture = useApi('sqlite', {
    ...{ API_KEYS: KEY, ALLOWED_TARGETS: '127.0.0.0/8', SHUTDOWN_GRACE: '30s' },
    ...WORKER_PORT,
  })
  let url: string
  beforeAll(async () => {
    url = await portOf(fixture.workers[0] as Process)
  })

  it('wants a key for its metrics, as the API does, and none for its health', async () => {
    for (const base of [fixture.posthorn.url(), url]) {
      expect((await fetch(`${base}/metrics`)).status).toBe(401)
      expect((await fetch(`${base}/metrics`, { headers: { authorization } })).status).toBe(200)
      expect((await fetch(`${base}/health/live`)).status).toBe(200)
      expect((await fetch(`${base}/health/ready`)).status).toBe(200)
    }
    expect((await fetch(`${fixture.posthorn.url()}/docs`)).status).toBe(200)
  })

  // This test is the last: it stops the worker.
  it('says that a stopping worker is not ready, but alive, until its last attempt ended', async () => {
    const receiver = await fixture.receive('hang')
    const { request } = fixture
    await request('PUT', '/endpoints/slow', { url: receiver.url }, { authorization }).expect(201)
    await request('POST', '/jobs', { endpoint: 'slow', payload: 1 }, { authorization }).expect(201)
    await receiver.waitFor((requests) => requests.length === 1)
    expect((await fetch(`${url}/health/ready`)).status).toBe(200)
    const [worker] = fixture.workers as [Process]
    worker.kill('SIGTERM')
    await worker.logged('worker.stopping')
    const ready = await fetch(`${url}/health/ready`)
    expect(ready.status).toBe(503)
    expect(await ready.json()).toMatchObject({ checks: { worker: 'is stopping' } })
    expect((await fetch(`${url}/health/live`)).status).toBe(200)
  })
})

/**
 * An SDK as a user would load it with --import: it prints each finished span on stderr, creates a
 * span for each HTTP request, and shuts down at SIGTERM, like the documented one.
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
      const ended = { name, kind, traceId, spanId, parent, attributes, status, events }
      process.stderr.write('span ' + JSON.stringify(ended) + '\\n')
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

interface EndedSpan {
  name: string
  kind: number
  traceId: string
  spanId: string
  parent?: string
  attributes: Record<string, unknown>
  status: { code: number }
}

const spansOf = (stderr: string): EndedSpan[] =>
  [...stderr.matchAll(/^span (.*)$/gm)].map((match) => JSON.parse(match[1] as string))

describe('with an SDK that the user loads', () => {
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-sdk-'))
  const file = join(folder, 'sdk.mjs')
  writeFileSync(file, sdkScript())
  const NODE_OPTIONS = `--import ${pathToFileURL(file).href}`
  const fixture = useApi('sqlite', { NODE_OPTIONS })
  const { request } = fixture
  afterAll(() => rmSync(folder, { recursive: true }))

  const apiSpans = () => spansOf(fixture.api.stderr())
  const workerSpans = () => spansOf((fixture.workers[0] as Process).stderr())
  const attemptsOf = (job: string) =>
    workerSpans().filter(
      ({ name, attributes }) => name === 'attempt' && attributes['messaging.message.id'] === job,
    )

  it('one trace leads from the caller through both processes into the handler', async () => {
    const { receiver, post } = await fixture.endpoint([500, 200])
    const { body } = await post({}, { traceparent: TRACEPARENT }).expect(201)
    await fixture.job(body.id, 'succeeded')
    const attempts = () => attemptsOf(body.id)
    await until(() => attempts().length === 2)

    const ofTrace = apiSpans().filter(({ traceId }) => traceId === TRACE_ID)
    const [enqueue, server] = ofTrace
    expect(server).toMatchObject({ name: 'POST', parent: '00f067aa0ba902b7' })
    expect(enqueue).toMatchObject({ name: 'enqueue', parent: server?.spanId })
    expect(enqueue?.attributes['messaging.message.id']).toBe(body.id)
    for (const attempt of attempts())
      expect(attempt).toMatchObject({ traceId: TRACE_ID, parent: enqueue?.spanId })
    expect(attempts().map(({ attributes }) => attributes['posthorn.outcome'])).toEqual([
      'http_error',
      'succeeded',
    ])
    expect(receiver.requests.map(({ headers: { traceparent } }) => traceparent)).toEqual(
      attempts().map(({ spanId }) => `00-${TRACE_ID}-${spanId}-01`),
    )
    expect(workerSpans().some(({ name }) => name === 'claim')).toBe(true)

    await request('POST', '/jobs', { endpoint: 'nowhere', payload: 1 }).expect(422)
    const enqueues = () => apiSpans().filter(({ name }) => name === 'enqueue')
    await until(() => enqueues().length === 2)
    expect(enqueues()[1]).toMatchObject({ status: { code: 0 }, events: [] })
  })

  it('the report of a handler is a span, and its token is in none', async () => {
    const { receiver, enqueue } = await fixture.endpoint(202, { completion: 'async' })
    const id = await enqueue()
    await receiver.waitFor(({ length }) => length === 1, 15_000)
    const header = (name: string) => receiver.requests[0]?.headers[name] as string
    const { pathname, search, searchParams } = new URL(header('posthorn-complete-url'))
    const token = searchParams.get('token') as string
    expect(token.length).toBeGreaterThan(40)
    const wrong = await request('GET', pathname + search).expect(405)
    const traceparent = header('traceparent')
    const heartbeat = pathname.replace('complete', 'heartbeat') + search
    await request('POST', heartbeat, {}, { traceparent }).expect(200)
    const report = { result: 1 }
    const done = await request('POST', pathname + search, report, { traceparent }).expect(200)

    const [, traceId] = traceparent.split('-')
    await until(() => apiSpans().some(({ name }) => name === 'complete'))
    const complete = apiSpans().find(({ name }) => name === 'complete')
    expect(complete).toMatchObject({
      traceId,
      kind: SpanKind.INTERNAL,
      attributes: { 'messaging.message.id': id, 'posthorn.outcome': 'succeeded' },
    })
    const queries = () => apiSpans().flatMap(({ attributes }) => attributes['url.query'] ?? [])
    await until(() => queries().length === 3)
    expect(queries()).toEqual(Array(3).fill('REDACTED'))
    for (const one of [fixture.api, ...fixture.workers]) {
      expect(one.stderr() + JSON.stringify(one.log)).not.toContain(token)
    }
    expect(JSON.stringify([wrong.body, done.body])).not.toContain(token)
  })

  // This test is the last: it stops the worker.
  it('an attempt that ends while the worker stops has its span', async () => {
    const held = heldReplies()
    const { receiver, enqueue } = await fixture.endpoint(held.script)
    const id = await enqueue()
    await receiver.waitFor(({ length }) => length === 1, 15_000)
    const [worker] = fixture.workers as [Process]
    worker.kill('SIGTERM')
    await worker.logged('worker.stopping')
    held.release(200)
    await worker.logged('worker.stopped')
    await until(() => worker.child.exitCode !== null)
    expect(attemptsOf(id)).toMatchObject([{ attributes: { 'posthorn.outcome': 'succeeded' } }])
  })
})
