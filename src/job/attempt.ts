// Attempts and jobs that the store ends itself, because no worker or handler reports their end: the
// record of such an attempt, and the failure of such a job. Both stores write these messages and no
// others.

import type { Attempt, Failure } from './job.ts'
import { isGroupId } from './job-id.ts'

/** Why the store, not the holder, ends an attempt. */
export type StoreEnd = 'lease_expired' | 'job_cancelled' | 'endpoint_deleted'

const ENDS = {
  lease_expired: {
    outcome: 'lost',
    message: 'its lease expired: the worker exited, hung, or lost the store',
  },
  job_cancelled: { outcome: 'cancelled', message: 'the job was cancelled' },
  endpoint_deleted: { outcome: 'cancelled', message: 'the endpoint was deleted' },
} as const satisfies Record<StoreEnd, Pick<Attempt, 'outcome' | 'message'>>

/** The stored fields of an attempt in progress. */
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

/** Attempts may have failed before the job expired. */
export const EXPIRED = {
  reason: 'expired',
  message: 'it expired before an attempt succeeded',
} as const satisfies Failure

export const ENDPOINT_GONE = {
  reason: 'endpoint_gone',
  message: 'its endpoint was deleted',
} as const satisfies Failure

/**
 * @param dependency a job or a group. It may have succeeded and been deleted: its success is then
 * unknown
 */
export function dependencyFailed(dependency: string): Failure {
  const isGroup = isGroupId(dependency)
  const how = isGroup
    ? 'has failed or is no longer stored'
    : 'is dead, cancelled or no longer stored'
  const message = `it depends on ${isGroup ? 'group ' : ''}${dependency}, which ${how}`
  return { reason: 'dependency_failed', message, jobId: dependency }
}
