// From a checked request to a job to be stored: instants from the store's clock, and the
// request's hash.

import { createHash } from 'node:crypto'
import { AppError } from '../src/errors.ts'
import type { NewJob, TraceContext } from '../src/job/job.ts'
import { MAX_AHEAD_MS } from '../src/job/job.ts'
import { newJobId } from '../src/job/job-id.ts'
import type { RetryOverride } from '../src/job/retry-policy.ts'
import type { RetryWire, TemplateBody } from '../src/wire/fields.ts'
import type { JobBody } from '../src/wire/jobs.ts'

/** What a request tells about itself beside its body. */
export interface RequestOrigin {
  trace: TraceContext | null
  /** How many deliveries led to it. */
  hops: number
}

/**
 * @param now epoch milliseconds by the store's clock
 * @throws AppError invalid_request for a runAt too far ahead
 */
export function newJobFrom(
  body: JobBody,
  idempotencyKey: string | undefined,
  { trace, hops }: RequestOrigin,
  now: number,
): NewJob {
  const runAt = dueTimeOf(body, now)
  return {
    ...templateFrom(body, runAt),
    id: newJobId(now),
    endpoint: body.endpoint,
    payload: body.payload.bytes,
    createdAt: now,
    runAt,
    idempotency:
      idempotencyKey === undefined ? null : { key: idempotencyKey, requestHash: requestHash(body) },
    dedupe: body.dedupe ?? null,
    dependsOn: [...new Set(body.dependsOn)],
    scheduleName: null,
    originKey: null,
    trace,
    hops,
  }
}

/** When a job is due that says so by one of these. A past instant means now. */
export function dueTimeOf({ runAt, delay }: Pick<JobBody, 'runAt' | 'delay'>, now: number): number {
  const dueAt = Math.max(now, runAt ?? now + (delay ?? 0))
  if (dueAt <= now + MAX_AHEAD_MS) return dueAt
  const message = 'expected an instant at most a year ahead'
  throw new AppError('invalid_request', `/runAt: ${message}`, {
    errors: [{ path: '/runAt', message }],
  })
}

/** The fields that a job takes from a client wherever it is written. */
export function templateFrom(body: TemplateBody, runAt: number) {
  return {
    priority: body.priority,
    maxAttempts: body.retry?.maxAttempts ?? null,
    timeoutMs: body.timeout ?? null,
    retry: body.retry === undefined ? null : retryOverrideFrom(body.retry),
    expiresAt: body.expiresIn ? runAt + body.expiresIn : null,
    orderingKey: body.orderingKey ?? null,
    tags: body.tags,
    metadata: body.metadata,
    headers: body.headers,
    onFinish: body.onFinish ?? null,
  } satisfies Partial<NewJob>
}

export function retryOverrideFrom(wire: RetryWire): RetryOverride {
  const { maxAttempts, backoff, maxAge } = wire
  return {
    ...(maxAttempts === undefined ? {} : { maxAttempts }),
    ...(backoff === undefined ? {} : { backoff: backoffFrom(backoff) }),
    ...(maxAge === undefined ? {} : { maxAgeMs: maxAge }),
  }
}

function backoffFrom(wire: NonNullable<RetryWire['backoff']>) {
  if (wire.type === 'schedule') {
    return { type: wire.type, delaysMs: wire.delays, jitter: wire.jitter }
  }
  const { type, delay, factor, maxDelay, jitter } = wire
  return { type, delayMs: delay, factor, maxDelayMs: maxDelay, jitter }
}

/**
 * The same for a repeat of a request, another for another one: the checked envelope with its keys
 * in order, then the payload's bytes. A `delay` counts as it was written, not as the instant it
 * means.
 */
function requestHash(body: JobBody): string {
  const { payload, dependsOn, ...rest } = body
  // A list that is always there would make another request of what a client of before had sent.
  const envelope = dependsOn.length === 0 ? rest : { ...rest, dependsOn }
  return createHash('sha256')
    .update(JSON.stringify(envelope, sortKeys))
    .update('\n')
    .update(payload.bytes)
    .digest('base64')
}

function sortKeys(_key: string, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
}
