// Spans of OpenTelemetry, and the W3C trace context of requests. The only importer of
// @opentelemetry/api.
//
// No SDK of ours: without one that the user loads (`node --import`), spans are nothing and a
// delivery carries the very trace context its enqueue request came with. The API is held at the
// older minor on purpose: a copy of it may use the globals of a newer one, never of an older one,
// so 1.9 meets every SDK in use.
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
import type { ClaimedJob, Outcome, TraceContext } from './job/job.ts'
import { VERSION } from './version.ts'

/** Version, trace id, parent id, flags; a version after 00 may go on behind a hyphen. */
const TRACEPARENT_SHAPE =
  /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]*)?$/
const MAX_TRACEPARENT_LENGTH = 256
const NO_TRACE_ID = '0'.repeat(32)
const NO_SPAN_ID = '0'.repeat(16)

/** w3.org/TR/trace-context, 3.3.1: what vendors must let through at least, and 32 members. */
const MAX_TRACESTATE_LENGTH = 512
const MAX_TRACESTATE_MEMBERS = 32
const TRACESTATE_MEMBER = /^[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256}$/

/**
 * The trace context of a request, or null when it has none that is valid. A tracestate that is not
 * valid is dropped alone (w3.org/TR/trace-context, 4.3).
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

/**
 * The work of one enqueue, as a span of the caller's trace.
 *
 * @param asked endpoint null: a batch for several
 * @param work is given the trace context to store with the jobs
 */
export async function traceEnqueue<T>(
  caller: TraceContext | null,
  asked: { endpoint: string | null; jobCount: number },
  work: (trace: TraceContext | null) => Promise<T>,
): Promise<T> {
  const tracer = tracerInUse()
  if (tracer === null) return work(caller)
  // An instrumented HTTP server has made a span of the caller's already: then it is the parent.
  const active = context.active()
  const parent = trace.getSpan(active) === undefined ? contextOf(caller) : active
  const attributes = {
    ...(asked.endpoint === null ? {} : messaging(asked.endpoint)),
    'messaging.operation.type': 'send',
    'messaging.batch.message_count': asked.jobCount,
  }
  const span = tracer.startSpan('enqueue', { kind: SpanKind.SERVER, attributes }, parent)
  return inside(span, parent, () => work(traceAfter(span, caller)))
}

const NO_SPAN = { setAttributes() {} }

/** A span of its own trace around some work that serves many jobs. */
export async function withSpan<T>(
  name: string,
  attributes: Attributes,
  work: (span: { setAttributes(attributes: Attributes): void }) => Promise<T>,
): Promise<T> {
  const tracer = tracerInUse()
  if (tracer === null) return work(NO_SPAN)
  const span = tracer.startSpan(name, { kind: SpanKind.INTERNAL, attributes })
  return inside(span, context.active(), () => work(span))
}

export interface AttemptSpan {
  /** What the delivery carries: this span, or what the job came with when nobody makes spans. */
  trace: TraceContext | null
  end(end: { outcome: Outcome; statusCode: number | null; errorCode: string | null }): void
}

/** One attempt, as a span of the trace in which the job was enqueued. */
export function startAttemptSpan(
  job: Pick<ClaimedJob, 'jobId' | 'endpoint' | 'attemptNumber' | 'trace'>,
): AttemptSpan {
  const tracer = tracerInUse()
  if (tracer === null) return { trace: job.trace, end() {} }
  const attributes = {
    ...messaging(job.endpoint),
    'messaging.operation.type': 'process',
    'messaging.message.id': job.jobId,
    'posthorn.attempt': job.attemptNumber,
  }
  const options = { kind: SpanKind.CLIENT, attributes }
  const span = tracer.startSpan('attempt', options, contextOf(job.trace))
  return {
    trace: traceAfter(span, job.trace),
    end({ outcome, statusCode, errorCode }) {
      span.setAttribute('posthorn.outcome', outcome)
      if (statusCode !== null) span.setAttribute('http.response.status_code', statusCode)
      if (outcome !== 'succeeded' && outcome !== 'accepted') {
        span.setAttribute('error.type', errorCode ?? outcome)
        span.setStatus({ code: SpanStatusCode.ERROR, message: outcome })
      }
      span.end()
    },
  }
}

/**
 * null: no SDK is loaded. Asked for anew each time, for one may be registered after this module was
 * loaded.
 */
function tracerInUse(): Tracer | null {
  const provider = trace.getTracerProvider()
  if (!(provider instanceof ProxyTracerProvider)) return provider.getTracer('posthorn', VERSION)
  return provider.getDelegateTracer('posthorn', VERSION) ?? null
}

/** Words of the semantic conventions for messaging. */
function messaging(endpoint: string): Attributes {
  return { 'messaging.system': 'posthorn', 'messaging.destination.name': endpoint }
}

/** A context whose span is the remote one; without one a root. */
function contextOf(remote: TraceContext | null): Context {
  const root = trace.deleteSpan(context.active())
  const parent = remote === null ? null : parentOf(remote.traceparent)
  if (remote === null || parent === null) return root
  return trace.setSpanContext(root, {
    ...parent,
    ...(remote.tracestate === null ? {} : { traceState: createTraceState(remote.tracestate) }),
  })
}

/** Runs the work with the span active; what it throws is recorded, and thrown on. */
async function inside<T>(span: Span, parent: Context, work: () => Promise<T>): Promise<T> {
  try {
    return await context.with(trace.setSpan(parent, span), work)
  } catch (error) {
    span.recordException(error as Error)
    span.setStatus({ code: SpanStatusCode.ERROR, message: (error as Error).name })
    throw error
  } finally {
    span.end()
  }
}

/**
 * What to pass on after a span that should have become a child of `before`. Without an SDK a span
 * has no identity of its own (it repeats its parent's): then what came goes on, byte for byte.
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
