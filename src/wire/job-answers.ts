// A job as the API shows it. Payload and result go out as the JSON text they are, never
// re-serialised.
import { hintOf } from '../endpoint/endpoint.ts'
import { formatDuration } from '../job/duration.ts'
import { type Attempt, dueAt, type Job, type JobSummary } from '../job/job.ts'
import type { Backoff, RetryOverride } from '../job/retry-policy.ts'

/** The JSON text of a job; `more` are fields that only one answer has. */
export function jobJson(job: Job, more: object = {}): string {
  const head = JSON.stringify({
    ...summary(job),
    ...more,
    attempts: job.attempts.map(attempt),
    resultTruncated: job.resultTruncated,
  })
  return `${head.slice(0, -1)},"result":${job.result ?? 'null'},"payload":${utf8(job.payload)}}`
}

/** The JSON text of a page of jobs. */
export function jobListJson(jobs: JobSummary[], nextCursor: string | null): string {
  return JSON.stringify({ items: jobs.map(summary), nextCursor })
}

export function instantText(instant: number | null): string | null {
  return instant === null ? null : new Date(instant).toISOString()
}

/** Header values are shown by their last characters only, and short ones not at all. */
export function maskedHeaders(headers: Record<string, string> | null): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers ?? {}).map(([name, value]) => [
      name,
      `***${value.length >= 8 ? hintOf(value) : ''}`,
    ]),
  )
}

export function retryAnswer(retry: RetryOverride): Record<string, unknown> {
  const { maxAttempts, backoff, maxAgeMs } = retry
  return {
    ...(maxAttempts === undefined ? {} : { maxAttempts }),
    ...(backoff === undefined ? {} : { backoff: backoffAnswer(backoff) }),
    ...(maxAgeMs === undefined
      ? {}
      : { maxAge: maxAgeMs === null ? null : formatDuration(maxAgeMs) }),
  }
}

function backoffAnswer(backoff: Backoff): Record<string, unknown> {
  const { type, jitter } = backoff
  if (backoff.type === 'schedule')
    return { type, delays: backoff.delaysMs.map(formatDuration), jitter }
  return {
    type,
    delay: formatDuration(backoff.delayMs),
    factor: backoff.factor,
    maxDelay: formatDuration(backoff.maxDelayMs),
    jitter,
  }
}

function summary(job: JobSummary) {
  return {
    id: job.id,
    endpoint: job.endpoint,
    state: job.state,
    phase: job.phase,
    priority: job.priority,
    runAt: instantText(job.runAt),
    dueAt: job.state === 'queued' && !job.isHeld ? instantText(dueAt(job)) : null,
    createdAt: instantText(job.createdAt),
    startedAt: instantText(job.startedAt),
    finishedAt: instantText(job.finishedAt),
    expiresAt: instantText(job.expiresAt),
    attemptCount: job.attemptCount,
    maxAttempts: job.maxAttempts,
    fence: job.fence,
    lease: job.lease && {
      workerId: job.lease.workerId,
      expiresAt: instantText(job.lease.expiresAt),
    },
    progress: job.progress && { ...job.progress, at: instantText(job.progress.at) },
    failure: job.failure,
    payloadBytes: job.payloadBytes,
    timeout: job.timeoutMs === null ? null : formatDuration(job.timeoutMs),
    retry: job.retry && retryAnswer(job.retry),
    headers: maskedHeaders(job.headers),
    tags: job.tags,
    metadata: job.metadata,
    idempotencyKey: job.idempotencyKey,
    dedupeKey: job.dedupeKey,
    orderingKey: job.orderingKey,
    scheduleName: job.scheduleName,
    dependsOn: job.dependsOn,
    onFinish: job.onFinish,
    version: job.version,
  }
}

function attempt(one: Attempt) {
  return { ...one, startedAt: instantText(one.startedAt), finishedAt: instantText(one.finishedAt) }
}

function utf8(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8')
}
