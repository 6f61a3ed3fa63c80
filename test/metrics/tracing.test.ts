import { context, SpanKind, trace } from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  SimpleSpanProcessor,
} from '@opentelemetry/sdk-trace-base'
import fc from 'fast-check'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { AppError } from '../../src/errors.ts'
import type { TraceContext } from '../../src/job/job.ts'
import { StoreUnavailable } from '../../src/store/store-errors.ts'
import {
  hideQuery,
  startAttemptSpan,
  traceClaim,
  traceContextOf,
  traceEnqueue,
  traceReport,
} from '../../src/tracing.ts'
import { until } from '../support/until.ts'

const TRACE_ID = '4bf92f3577b34da6a3ce929d0e0e4736'
const SPAN_ID = '00f067aa0ba902b7'
const TRACEPARENT = `00-${TRACE_ID}-${SPAN_ID}-01`
const CALLER: TraceContext = { traceparent: TRACEPARENT, tracestate: 'vendor=a:b,other@x=1' }
const SUCCEEDED = { outcome: 'succeeded', statusCode: 200, errorCode: null } as const

const jobWith = (trace: TraceContext | null) => ({
  jobId: 'job_1',
  endpoint: 'invoices',
  attemptNumber: 2,
  trace,
})
const ONE = { endpoint: 'invoices', jobCount: null }
const enqueue = (caller: TraceContext | null) => traceEnqueue(caller, ONE, async (stored) => stored)

describe('the trace context of a request', () => {
  it('is kept as it came', () => {
    const { traceparent, tracestate } = CALLER
    expect(traceContextOf({ traceparent, tracestate: tracestate ?? undefined })).toEqual(CALLER)
    expect(traceContextOf({ traceparent: TRACEPARENT })).toEqual({
      traceparent: TRACEPARENT,
      tracestate: null,
    })
  })

  it('is kept when its version is one of the future', () => {
    for (const traceparent of [`01-${TRACE_ID}-${SPAN_ID}-01`, `cc${TRACEPARENT.slice(2)}-more`])
      expect(traceContextOf({ traceparent })?.traceparent).toBe(traceparent)
  })

  it.each([
    undefined,
    '',
    'x',
    TRACEPARENT.toUpperCase(),
    `${TRACEPARENT}-more`,
    `${TRACEPARENT} `,
    `ff${TRACEPARENT.slice(2)}`,
    `00-${'0'.repeat(32)}-${SPAN_ID}-01`,
    `00-${TRACE_ID}-${'0'.repeat(16)}-01`,
    `${TRACEPARENT}, ${TRACEPARENT}`,
    `01-${TRACE_ID}-${SPAN_ID}-01-\r\nx: y`,
    `01-${TRACE_ID}-${SPAN_ID}-01-${'a'.repeat(300)}`,
  ])('is none when the traceparent is %j', (traceparent) => {
    expect(traceContextOf({ traceparent, tracestate: 'a=1' })).toBeNull()
  })

  it.each([
    '',
    ',',
    'novalue',
    'A=1',
    'a=1\n',
    'a=é',
    `a=${'x'.repeat(257)}`,
    Array.from({ length: 33 }, (_, i) => `k${i}=1`).join(','),
  ])('loses a tracestate that is not valid, and nothing else: %j', (tracestate) => {
    expect(traceContextOf({ traceparent: TRACEPARENT, tracestate })).toEqual({
      traceparent: TRACEPARENT,
      tracestate: null,
    })
  })

  it('is always text that may stand in a header', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.string(), (more, tracestate) => {
        const found = traceContextOf({
          traceparent: `01${TRACEPARENT.slice(2)}-${more}`,
          tracestate,
        })
        const printable = /^[\x20-\x7e]*$/
        if (found !== null) {
          expect(found.traceparent).toMatch(printable)
          expect(found.tracestate ?? '').toMatch(printable)
        }
      }),
    )
  })
})

describe('without an SDK', () => {
  it.each([
    [CALLER],
    [{ traceparent: `cc${TRACEPARENT.slice(2)}-more`, tracestate: null }],
    [null],
  ])('a delivery carries exactly what the enqueue request came with: %j', async (caller) => {
    const stored = await enqueue(caller)
    expect(stored).toEqual(caller)
    const span = startAttemptSpan(jobWith(stored), null)
    span.requestEnded()
    expect(span.trace).toEqual(caller)
    span.end(SUCCEEDED)
  })

  it('work gives what it gives, and throws what it throws', async () => {
    expect(await traceClaim(1, async () => 7)).toBe(7)
    const failing = traceReport(null, 'fail', 'job_1', async () => {
      throw new RangeError('as it is')
    })
    await expect(failing).rejects.toThrow(new RangeError('as it is'))
  })
})

describe('with an SDK', () => {
  const exporter = new InMemorySpanExporter()
  const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] })
  beforeAll(() => {
    context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
    trace.setGlobalTracerProvider(provider)
  })
  beforeEach(() => exporter.reset())
  afterAll(async () => {
    trace.disable()
    context.disable()
    await provider.shutdown()
  })
  const spans = () => Object.fromEntries(exporter.getFinishedSpans().map((one) => [one.name, one]))

  it('enqueue and attempt are spans of the caller’s trace, each the child of the one before', async () => {
    const stored = await enqueue(CALLER)
    const attempt = startAttemptSpan(jobWith(stored), null)
    attempt.end(SUCCEEDED)
    const { enqueue: first, attempt: second } = spans()
    expect(first?.spanContext().traceId).toBe(TRACE_ID)
    expect(first?.parentSpanContext?.spanId).toBe(SPAN_ID)
    expect(second?.spanContext().traceId).toBe(TRACE_ID)
    expect(second?.parentSpanContext?.spanId).toBe(first?.spanContext().spanId)
  })

  it('a delivery carries its own span, and the tracestate goes on', () => {
    const attempt = startAttemptSpan(jobWith(CALLER), null)
    attempt.end(SUCCEEDED)
    const spanId = spans().attempt?.spanContext().spanId
    expect(attempt.trace).toEqual({
      traceparent: `00-${TRACE_ID}-${spanId}-01`,
      tracestate: CALLER.tracestate,
    })
  })

  it('a job without a trace begins one', async () => {
    const stored = await enqueue(null)
    expect(stored?.traceparent).toMatch(/^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/)
    expect(spans().enqueue?.parentSpanContext).toBeUndefined()
  })

  it('a caller that did not sample is not sampled here', async () => {
    const unsampled = { traceparent: `00-${TRACE_ID}-${SPAN_ID}-00`, tracestate: null }
    const stored = await enqueue(unsampled)
    expect(stored?.traceparent).toMatch(new RegExp(`^00-${TRACE_ID}-[0-9a-f]{16}-00$`))
    expect(exporter.getFinishedSpans()).toEqual([])
  })

  it('an instrumented server’s span is the parent of ours', async () => {
    await trace.getTracer('http').startActiveSpan('POST', async (server) => {
      await enqueue(CALLER)
      server.end()
    })
    expect(spans().enqueue?.parentSpanContext?.spanId).toBe(spans().POST?.spanContext().spanId)
  })

  it('an attempt that failed says how', () => {
    const attempt = startAttemptSpan(jobWith(null), 'https://user:secret@a.example/x?token=1')
    attempt.end({ outcome: 'connect_error', statusCode: null, errorCode: 'ECONNREFUSED' })
    expect(spans().attempt).toMatchObject({
      status: { code: 2, message: 'connect_error' },
      attributes: {
        'messaging.system': 'posthorn',
        'messaging.operation.name': 'attempt',
        'messaging.operation.type': 'process',
        'messaging.destination.name': 'invoices',
        'messaging.message.id': 'job_1',
        'http.request.method': 'POST',
        'server.address': 'a.example',
        'server.port': 443,
        'posthorn.attempt': 2,
        'posthorn.outcome': 'connect_error',
        'error.type': 'ECONNREFUSED',
      },
    })
  })

  it('an attempt that got a response with an error has the status as its type', () => {
    const attempt = startAttemptSpan(jobWith(null), null)
    attempt.end({ outcome: 'http_error', statusCode: 503, errorCode: null })
    expect(spans().attempt?.attributes).toMatchObject({
      'http.response.status_code': 503,
      'error.type': '503',
    })
  })

  it('an attempt is as long as its request, however long its outcome takes to be stored', async () => {
    const attempt = startAttemptSpan(jobWith(null), null)
    attempt.requestEnded()
    const endedAt = performance.timeOrigin + performance.now()
    await until(() => performance.timeOrigin + performance.now() > endedAt + 200)
    attempt.end(SUCCEEDED)
    const [seconds = 0, nanoseconds = 0] = spans().attempt?.endTime ?? []
    expect(seconds * 1_000 + nanoseconds / 1e6 - endedAt).toBeLessThan(100)
  })

  it('an enqueue that the caller got wrong is no error of the span', async () => {
    const refused = traceEnqueue(null, ONE, async () => {
      throw new AppError('endpoint_not_found', 'no endpoint "invoices"')
    })
    await expect(refused).rejects.toThrow('no endpoint')
    expect(spans().enqueue).toMatchObject({ status: { code: 0 }, events: [] })
  })

  it.each([
    [new AppError('store_unavailable', 'the store is away'), 'store_unavailable'],
    [new StoreUnavailable('the store is away'), 'StoreUnavailable'],
  ])('an enqueue that failed here says how: %s', async (error, type) => {
    await expect(traceEnqueue(null, ONE, () => Promise.reject(error))).rejects.toThrow(error)
    expect(spans().enqueue).toMatchObject({
      status: { code: 2 },
      attributes: { 'error.type': type },
    })
  })

  it('there is one server span, and messages have their own kinds', async () => {
    await enqueue(CALLER)
    await traceReport(CALLER, 'complete', 'job_1', async () => {})
    await trace.getTracer('http').startActiveSpan('POST', async (server) => {
      await traceReport(CALLER, 'fail', 'job_1', async () => {})
      server.end()
    })
    const { enqueue: first, complete, fail, POST } = spans()
    expect([first?.kind, complete?.kind, fail?.kind]).toEqual([
      SpanKind.PRODUCER,
      SpanKind.SERVER,
      SpanKind.INTERNAL,
    ])
    expect(complete?.parentSpanContext?.spanId).toBe(SPAN_ID)
    expect(fail?.parentSpanContext?.spanId).toBe(POST?.spanContext().spanId)
    expect(first?.attributes).toEqual({
      'messaging.system': 'posthorn',
      'messaging.operation.name': 'enqueue',
      'messaging.operation.type': 'send',
      'messaging.destination.name': 'invoices',
    })
  })

  it('the query of a request is taken out of whatever attribute it stands in', () => {
    const attributes = {
      'url.path': '/jobs/job_1/complete',
      'url.query': 'token=canary',
      'http.target': '/jobs/job_1/complete?token=canary',
      'http.request.method': 'POST',
    }
    trace.getTracer('http').startActiveSpan('POST', { attributes }, (server) => {
      hideQuery('/jobs/job_1/complete?token=canary')
      server.end()
    })
    expect(spans().POST?.attributes).toEqual({
      ...attributes,
      'url.query': 'REDACTED',
      'http.target': '/jobs/job_1/complete?REDACTED',
    })
  })

  it('a claim is a span of its own trace', async () => {
    await traceClaim(3, async (span) => {
      span.setAttributes({ 'messaging.batch.message_count': 2 })
    })
    expect(spans().claim?.attributes).toEqual({
      'messaging.system': 'posthorn',
      'messaging.operation.name': 'claim',
      'messaging.operation.type': 'receive',
      'posthorn.lanes': 3,
      'messaging.batch.message_count': 2,
    })
  })
})
