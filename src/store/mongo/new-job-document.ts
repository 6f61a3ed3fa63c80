// The document of a job that is enqueued.
import type { Acceptance } from '../../job/acceptance.ts'
import type { NewJob } from '../../job/job.ts'
import { hasKey } from '../../job/retention.ts'
import type { SecretBox } from '../secret-box.ts'
import { dateOrNull, type JobDocument, sealHeaders } from './documents.ts'

/** Origins of jobs that documents have become begin so. */
export const ORIGIN_PREFIX = 'outbox:'

export function newJobDocument(job: NewJob, acceptance: Acceptance, box: SecretBox): JobDocument {
  const runAt = new Date(job.runAt)
  const { maxAttempts, onFinish, waitingFor, isHeld } = acceptance
  const owes = onFinish !== null || job.orderingKey !== null || isFromOutbox(job.originKey)
  return {
    _id: job.id,
    endpoint: job.endpoint,
    state: isHeld ? 'held' : 'queued',
    phase: null,
    priority: job.priority,
    runAt,
    firstRunAt: runAt,
    createdAt: new Date(job.createdAt),
    expiresAt: dateOrNull(job.expiresAt),
    attemptCount: 0,
    attemptsLeft: maxAttempts,
    maxAttempts,
    freeAttempts: 0,
    fence: 0,
    leaseId: null,
    leaseWorkerId: null,
    leaseExpiresAt: null,
    claimedAt: null,
    releaseId: null,
    failureReason: null,
    failureMessage: null,
    payload: job.payload,
    payloadBytes: job.payload.byteLength,
    timeoutMs: job.timeoutMs,
    retry: job.retry,
    headers: sealHeaders(job.headers, job.id, box),
    metadata: JSON.stringify(job.metadata),
    hasKey: hasKey(job),
    ...keyFields(job),
    ...(job.tags.length > 0 ? { tags: job.tags } : {}),
    ...(job.dependsOn.length > 0 ? { dependsOn: job.dependsOn, waitingFor } : {}),
    ...(isHeld ? { checkedAt: new Date(0) } : {}),
    ...(job.scheduleName === null ? {} : { scheduleName: job.scheduleName }),
    ...(onFinish === null ? {} : { onFinish }),
    ...(job.trace === null ? {} : { trace: job.trace }),
    ...(job.hops === 0 ? {} : { hops: job.hops }),
    ...(owes ? { owes } : {}),
    result: null,
    resultTruncated: false,
    attempts: [],
    version: 1,
  }
}

function keyFields(job: NewJob): Partial<JobDocument> {
  const { idempotency, dedupe, orderingKey, originKey, originHash } = job
  return {
    ...(idempotency === null
      ? {}
      : {
          idempotencyKey: idempotency.key,
          requestHash: idempotency.requestHash,
          keys: [{ key: idempotency.key, hash: idempotency.requestHash }],
        }),
    ...(dedupe === null ? {} : { dedupeKey: dedupe.key, dedupeHolder: dedupe.key }),
    ...(orderingKey === null ? {} : { orderingKey }),
    ...(originKey === null ? {} : { originKey }),
    ...(originHash === undefined ? {} : { originHash }),
  }
}

export function isFromOutbox(originKey: string | null | undefined): originKey is string {
  return originKey?.startsWith(ORIGIN_PREFIX) ?? false
}
