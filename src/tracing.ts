// OpenTelemetry spans, and the W3C trace context of requests. The only importer of
// @opentelemetry/api.
//
// Posthorn contains no SDK. Unless the user loads one (`node --import`), there are no spans, and a
// delivery carries the trace context of its enqueue request unchanged. The API stays at an older
// minor version on purpose: it can use the globals of a newer version, but not of an older one, so
// 1.9 works with every SDK in use.
import {
  type Attributes,
  type Context,
  context,
  createTraceState,
  ProxyTracerProvider,
  type Span,
  type SpanContext,
  SpanKind,
  SpanStatusCode,
  TraceFlags,
  type Tracer,
  trace,
} from '@opentelemetry/api'
import { AppError } from './errors.ts'
import type { ClaimedJob, Outcome, TraceContext } from './job/job.ts'
import { VERSION } from './version.ts'

/** Version, trace id, parent id and flags. Versions after 00 may have more after a hyphen. */
const TRACEPARENT_SHAPE =
  /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]*)?$/
const MAX_TRACEPARENT_LENGTH = 256
const NO_TRACE_ID = '0'.repeat(32)
const NO_SPAN_ID = '0'.repeat(16)

/** w3.org/TR/trace-context, 3.3.1: vendors must propagate this length. At most 32 members. */
const MAX_TRACESTATE_LENGTH = 512
const MAX_TRACESTATE_MEMBERS = 32
const TRACESTATE_MEMBER = /^[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256}$/

/**
 * The trace context of a request; null: absent or invalid. An invalid tracestate is dropped alone
 * (w3.org/TR/trace-context, 4.3).
 */
export function traceContextOf(headers: {
  [name: string]: string | string[] | undefined
}): TraceContext | null {
  const { traceparent, tracestate } = headers
  if (typeof traceparent !== 'string' || parentOf(traceparent) === null) return null
  const isValid = typeof tracestate === 'string' && isTracestate(tracestate)
  return { traceparent, tracestate: isValid ? tracestate : null }
}

function isTracestate(text: string): boolean {
  if (text.length > MAX_TRACESTATE_LENGTH) return false
  const members = text.split(',').map((member) => member.replace(/^[ \t]+|[ \t]+$/g, ''))
  const given = members.filter((member) => member !== '')
  const isInRange = given.length > 0 && given.length <= MAX_TRACESTATE_MEMBERS
  return isInRange && given.every((member) => TRACESTATE_MEMBER.test(member))
}

function parentOf(traceparent: string): SpanContext | null {
  if (traceparent.length > MAX_TRACEPARENT_LENGTH) return null
  const [, version, traceId, spanId, flags, more] = TRACEPARENT_SHAPE.exec(traceparent) ?? []
  if (traceId === undefined || spanId === undefined || flags === undefined) return null
  if (version === 'ff' || (version === '00' && more !== undefined)) return null
  if (traceId === NO_TRACE_ID || spanId === NO_SPAN_ID) return null
  const traceFlags = Number.parseInt(flags, 16) & TraceFlags.SAMPLED
  return { traceId, spanId, traceFlags, isRemote: true }
}

const NO_SPAN = { setAttributes(_: Attributes) {} }
type OpenSpan = typeof NO_SPAN

/**
 * Runs one enqueue in a span of the caller's trace.
 *
 * @param asked endpoint null: a batch for several endpoints; jobCount null: not a batch
 * @param work gets the trace context to store with the jobs
 */
export async function traceEnqueue<T>(
  caller: TraceContext | null,
  asked: { endpoint: string | null; jobCount: number | null },
  work: (trace: TraceContext | null, span: OpenSpan) => Promise<T>,
): Promise<T> {
  const tracer = tracerInUse()
  if (tracer === null) return work(caller, NO_SPAN)
  const { parent } = parentInUse(caller)
  const attributes = {
    ...messaging('enqueue', 'send', asked.endpoint),
    ...(asked.jobCount === null ? {} : { 'messaging.batch.message_count': asked.jobCount }),
  }
  const span = tracer.startSpan('enqueue', { kind: SpanKind.PRODUCER, attributes }, parent)
  return inside(span, parent, () => work(traceAfter(span, caller), span))
}

/** Runs the report of a handler about the end of an attempt, in a span of the handler's trace. */
export async function traceReport<T>(
  caller: TraceContext | null,
  verb: 'complete' | 'fail',
  jobId: string,
  work: (span: OpenSpan) => Promise<T>,
): Promise<T> {
  const tracer = tracerInUse()
  if (tracer === null) return work(NO_SPAN)
  const { parent, isLocal } = parentInUse(caller)
  const attributes = { ...messaging(verb, 'settle', null), 'messaging.message.id': jobId }
  const kind = isLocal ? SpanKind.INTERNAL : SpanKind.SERVER
  const span = tracer.startSpan(verb, { kind, attributes }, parent)
  return inside(span, parent, () => work(span))
}

/** Runs a claim of a worker in a span of its own trace, because a claim serves many jobs. */
export async function traceClaim<T>(
  endpointCount: number,
  work: (span: OpenSpan) => Promise<T>,
): Promise<T> {
  const tracer = tracerInUse()
  if (tracer === null) return work(NO_SPAN)
  const attributes = { ...messaging('claim', 'receive', null), 'posthorn.lanes': endpointCount }
  const span = tracer.startSpan('claim', { kind: SpanKind.CLIENT, attributes })
  return inside(span, context.active(), () => work(span))
}

export interface AttemptSpan {
  /**
   * The trace context of the delivery: that of this span, or that of the job if there are no spans.
   */
  trace: TraceContext | null
  /** The request is over. The time to store its outcome is not part of the span. */
  requestEnded(): void
  end(end: { outcome: Outcome; statusCode: number | null; errorCode: string | null }): void
}

/**
 * Starts the span of one attempt, in the trace in which the job was enqueued.
 *
 * @param url the span shows its host and port, and nothing that may contain a secret
 */
export function startAttemptSpan(
  job: Pick<ClaimedJob, 'jobId' | 'endpoint' | 'attemptNumber' | 'trace'>,
  url: string | null,
): AttemptSpan {
  const tracer = tracerInUse()
  if (tracer === null) return { trace: job.trace, requestEnded() {}, end() {} }
  const attributes = {
    ...messaging('attempt', 'process', job.endpoint),
    ...serverAt(url),
    'messaging.message.id': job.jobId,
    'http.request.method': 'POST',
    'posthorn.attempt': job.attemptNumber,
  }
  const options = { kind: SpanKind.CLIENT, attributes }
  const span = tracer.startSpan('attempt', options, contextOf(job.trace))
  let endedAtMs: number | undefined
  return {
    trace: traceAfter(span, job.trace),
    requestEnded() {
      endedAtMs = performance.now()
    },
    end({ outcome, statusCode, errorCode }) {
      span.setAttribute('posthorn.outcome', outcome)
      if (statusCode !== null) span.setAttribute('http.response.status_code', statusCode)
      if (outcome !== 'succeeded' && outcome !== 'accepted') {
        span.setAttribute('error.type', errorCode ?? statusCode?.toString() ?? outcome)
        span.setStatus({ code: SpanStatusCode.ERROR, message: outcome })
      }
      span.end(endedAtMs)
    },
  }
}

/**
 * Removes the query of a request from the span of an instrumented HTTP server: it may contain the
 * token of an attempt. Every attribute is checked, because names differ between instrumentations.
 *
 * @param url as in the request line
 */
export function hideQuery(url: string): void {
  const query = url.slice(url.indexOf('?') + 1)
  if (query === url || query === '') return
  const span = trace.getSpan(context.active())
  if (span === undefined) return
  // `attributes` is a property of the SDK's spans: the API alone cannot read a span.
  const { attributes = {} } = span as { attributes?: Attributes }
  span.setAttribute('url.query', HIDDEN)
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value !== 'string' || !value.includes(query)) continue
    span.setAttribute(name, value.replaceAll(query, HIDDEN))
  }
}

/** The replacement that the semantic conventions for URLs require. */
const HIDDEN = 'REDACTED'

/** Resolves when the ended spans are exported, or the exporter gives up. */
export async function flushSpans(): Promise<void> {
  const provider = trace.getTracerProvider()
  const inUse = provider instanceof ProxyTracerProvider ? provider.getDelegate() : provider
  // forceFlush is a method of the SDK; the API does not have it.
  await (inUse as { forceFlush?: () => Promise<void> }).forceFlush?.()
}

/** Whether an SDK is loaded, so that requests have spans. */
export const isTracing = (): boolean => tracerInUse() !== null

/**
 * Returns null if no SDK is loaded. Not cached: an SDK may be registered after this module was
 * loaded.
 */
function tracerInUse(): Tracer | null {
  const provider = trace.getTracerProvider()
  if (!(provider instanceof ProxyTracerProvider)) return provider.getTracer('posthorn', VERSION)
  return provider.getDelegateTracer('posthorn', VERSION) ?? null
}

/** Attributes as in opentelemetry.io/docs/specs/semconv/messaging/messaging-spans. */
function messaging(operation: string, type: string, endpoint: string | null): Attributes {
  return {
    'messaging.system': 'posthorn',
    'messaging.operation.name': operation,
    'messaging.operation.type': type,
    ...(endpoint === null ? {} : { 'messaging.destination.name': endpoint }),
  }
}

/** Attributes as in opentelemetry.io/docs/specs/semconv/http/http-spans. */
function serverAt(url: string | null): Attributes {
  if (url === null) return {}
  const { protocol, hostname, port } = new URL(url)
  const usual = protocol === 'https:' ? 443 : 80
  return { 'server.address': hostname, 'server.port': port === '' ? usual : Number(port) }
}

/**
 * Returns the parent of a span. An instrumented HTTP server has a span that is a child of the
 * caller's span already; otherwise the caller's span is the parent.
 */
function parentInUse(caller: TraceContext | null): { parent: Context; isLocal: boolean } {
  const active = context.active()
  const isLocal = trace.getSpan(active) !== undefined
  return { parent: isLocal ? active : contextOf(caller), isLocal }
}

/** A context with the remote span; without one, a root context. */
function contextOf(remote: TraceContext | null): Context {
  const root = trace.deleteSpan(context.active())
  const parent = remote === null ? null : parentOf(remote.traceparent)
  if (remote === null || parent === null) return root
  return trace.setSpanContext(root, {
    ...parent,
    ...(remote.tracestate === null ? {} : { traceState: createTraceState(remote.tracestate) }),
  })
}

/**
 * Runs the work with the span active. An error is recorded in the span and thrown again. A 4xx is
 * not recorded: it is a mistake of the caller, not an error of the server.
 */
async function inside<T>(span: Span, parent: Context, work: () => Promise<T>): Promise<T> {
  try {
    return await context.with(trace.setSpan(parent, span), work)
  } catch (error) {
    const isOurs = !(error instanceof AppError) || error.status >= 500
    if (isOurs) noteError(span, error as Error)
    throw error
  } finally {
    span.end()
  }
}

function noteError(span: Span, error: Error): void {
  const type = error instanceof AppError ? error.code : error.name
  span.recordException(error)
  span.setAttribute('error.type', type)
  span.setStatus({ code: SpanStatusCode.ERROR, message: type })
}

/**
 * The trace context to pass on from a span whose parent is `before`. Without an SDK a span has no
 * id, or repeats the id of its parent. Then `before` is passed on byte for byte.
 */
function traceAfter(span: Span, before: TraceContext | null): TraceContext | null {
  const own = span.spanContext()
  if (own.traceId === NO_TRACE_ID || spanIdOf(before) === own.spanId) return before
  const flags = own.traceFlags.toString(16).padStart(2, '0')
  return {
    traceparent: `00-${own.traceId}-${own.spanId}-${flags}`,
    tracestate: own.traceState?.serialize() || null,
  }
}

function spanIdOf(context: TraceContext | null): string | undefined {
  return context?.traceparent.split('-')[2]
}
