// From a checked request to a job to be stored: instants from the store's clock, and the
// request's hash.
import { createHash } from 'node:crypto'
import { AppError } from '../src/errors.ts'
import { type NewJob, newJobId } from '../src/job/job.ts'
import type { RetryOverride } from '../src/job/retry-policy.ts'
import { type JobBody, MAX_AHEAD_MS, type RetryWire } from './schemas.ts'

/**
 * @param now epoch milliseconds by the store's clock
 * @throws AppError invalid_request for a runAt too far ahead
 */
export function newJobFrom(body: JobBody, idempotencyKey: string | undefined, now: number): NewJob {
  const runAt = Math.max(now, body.runAt ?? now + (body.delay ?? 0))
  if (runAt > now + MAX_AHEAD_MS) {
    const message = 'expected an instant at most a year ahead'
    throw new AppError('invalid_request', `/runAt: ${message}`, {
      errors: [{ path: '/runAt', message }],
    })
  }
  return {
    id: newJobId(now),
    endpoint: body.endpoint,
    payload: body.payload.bytes,
    createdAt: now,
    runAt,
    priority: body.priority,
    maxAttempts: body.retry?.maxAttempts ?? null,
    timeoutMs: body.timeout ?? null,
    retry: body.retry === undefined ? null : retryOverrideFrom(body.retry),
    expiresAt: body.expiresIn === undefined ? null : runAt + body.expiresIn,
    tags: body.tags,
    metadata: body.metadata,
    headers: body.headers,
    idempotency:
      idempotencyKey === undefined ? null : { key: idempotencyKey, requestHash: requestHash(body) },
  }
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
  const { payload, ...envelope } = body
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
