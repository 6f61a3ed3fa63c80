// The document of an attempt that the store ends: a sweep, or a command.
import { attemptEndedByStore, type StoreEnd } from '../../job/attempt.ts'
import { type AttemptDocument, attemptDocument } from './attempt-documents.ts'
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

export function endedAttempt(
  seen: SeenLease,
  now: Date,
  end: StoreEnd,
  writer: Pick<AttemptDocument, 'event' | 'writeId'>,
): AttemptDocument {
  const running = {
    number: seen.attemptCount,
    startedAt: (seen.claimedAt ?? now).getTime(),
    workerId: seen.leaseWorkerId ?? '',
  }
  const attempt = attemptEndedByStore(running, end, now.getTime())
  return attemptDocument(attempt, { ...writer, fence: seen.fence, leaseId: seen.leaseId ?? '' })
}

/** The lease as a guard names it. */
export function leaseOf(seen: SeenLease) {
  return {
    fence: seen.fence,
    leaseId: seen.leaseId ?? '',
    ...(seen.leaseExpiresAt === null ? {} : { leaseExpiresAt: seen.leaseExpiresAt }),
  }
}
