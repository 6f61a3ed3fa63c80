// The record of an attempt that somebody else than its holder ends: a sweeper, or who cancels.
import type { Outcome } from '../../job/job.ts'
import type { AttemptDocument } from './attempt-documents.ts'
import type { JobDocument } from './documents.ts'

/** What must have been seen of a running job to take it from its holder. */
export type SeenLease = Pick<
  JobDocument,
  | '_id'
  | 'endpoint'
  | 'fence'
  | 'leaseId'
  | 'leaseWorkerId'
  | 'leaseExpiresAt'
  | 'claimedAt'
  | 'attemptCount'
>

export const SEEN_LEASE = {
  endpoint: 1,
  fence: 1,
  leaseId: 1,
  leaseWorkerId: 1,
  leaseExpiresAt: 1,
  claimedAt: 1,
  attemptCount: 1,
} as const

const MESSAGES: Partial<Record<Outcome, string>> = {
  lost: 'its lease ran out: the worker ended, hung or lost the store',
  cancelled: 'the job ended while this attempt was under way',
}

export function lostAttempt(
  seen: SeenLease,
  finishedAt: Date,
  outcome: Extract<Outcome, 'lost' | 'cancelled'>,
  writer: Pick<AttemptDocument, 'event' | 'writeId'>,
): AttemptDocument {
  const startedAt = seen.claimedAt ?? finishedAt
  return {
    number: seen.attemptCount,
    startedAt,
    finishedAt,
    durationMs: Math.max(0, finishedAt.getTime() - startedAt.getTime()),
    outcome,
    statusCode: null,
    errorCode: null,
    message: MESSAGES[outcome] ?? null,
    responseBody: null,
    workerId: seen.leaseWorkerId ?? '',
    fence: seen.fence,
    leaseId: seen.leaseId ?? '',
    ...writer,
  }
}

/** The lease as a guard names it. */
export function leaseOf(seen: SeenLease) {
  return {
    fence: seen.fence,
    leaseId: seen.leaseId ?? '',
    ...(seen.leaseExpiresAt === null ? {} : { leaseExpiresAt: seen.leaseExpiresAt }),
  }
}
