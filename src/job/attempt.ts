// Attempts and jobs that the store ends itself: nobody else reports an end for them. What such an
// attempt's record says, and why such a job is dead. Both stores write these words and no others.
import type { Attempt, Failure } from './job.ts'

/** Why the store ends an attempt in place of its holder. */
export type StoreEnd = 'lease_expired' | 'job_cancelled' | 'endpoint_deleted'

const ENDS = {
  lease_expired: {
    outcome: 'lost',
    message: 'its lease expired: the worker exited, hung, or lost the store',
  },
  job_cancelled: { outcome: 'cancelled', message: 'the job was cancelled' },
  endpoint_deleted: { outcome: 'cancelled', message: 'the endpoint was deleted' },
} as const satisfies Record<StoreEnd, Pick<Attempt, 'outcome' | 'message'>>

/** What is stored of an attempt that is under way. */
export interface RunningAttempt {
  number: number
  startedAt: number
  workerId: string
}

/** @param now epoch milliseconds by the store's clock */
export function attemptEndedByStore(
  { number, startedAt, workerId }: RunningAttempt,
  end: StoreEnd,
  now: number,
): Attempt {
  const { outcome, message } = ENDS[end]
  return {
    number,
    startedAt,
    finishedAt: now,
    durationMs: Math.max(0, now - startedAt),
    outcome,
    statusCode: null,
    errorCode: null,
    message,
    responseBody: null,
    workerId,
  }
}

export const LEASE_LOST = {
  reason: 'lease_lost',
  message: 'the lease of its last attempt expired: the worker exited, hung, or lost the store',
} as const satisfies Failure

/** Attempts may have failed before. */
export const EXPIRED = {
  reason: 'expired',
  message: 'it expired before an attempt succeeded',
} as const satisfies Failure

export const ENDPOINT_GONE = {
  reason: 'endpoint_gone',
  message: 'its endpoint was deleted',
} as const satisfies Failure

/** @param dependency one that succeeded may be gone, too: then nobody knows that it did */
export function dependencyFailed(dependency: string): Failure {
  const message = `it depends on ${dependency}, which is dead, cancelled or no longer stored`
  return { reason: 'dependency_failed', message }
}
