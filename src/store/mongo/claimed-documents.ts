// What a claim reads of the jobs that it took, and makes of it.
import type { ClaimedJob } from '../../job/job.ts'
import type { SecretBox } from '../secret-box.ts'
import { type JobDocument, openHeaders, ownBytes } from './documents.ts'

/** What a claim reads of the jobs that it took. */
export const AS_TAKEN = {
  attempts: 0,
  result: 0,
  metadata: 0,
  tags: 0,
  keys: 0,
  dependsOn: 0,
  waitingFor: 0,
} as const
export type TakenDocument = Omit<JobDocument, keyof typeof AS_TAKEN>

export function claimedJobOf(document: TakenDocument, leaseId: string, box: SecretBox): ClaimedJob {
  return {
    jobId: document._id,
    fence: document.fence,
    leaseId,
    endpoint: document.endpoint,
    payload: ownBytes(document.payload),
    attemptNumber: document.attemptCount,
    attemptsLeft: document.attemptsLeft,
    maxAttempts: document.maxAttempts,
    freeAttempts: document.freeAttempts,
    runAt: document.runAt.getTime(),
    firstRunAt: document.firstRunAt.getTime(),
    promotedAt: document.promotedAt?.getTime() ?? null,
    expiresAt: document.expiresAt?.getTime() ?? null,
    timeoutMs: document.timeoutMs,
    retry: document.retry,
    headers: openHeaders(document.headers, document._id, box),
    scheduleName: document.scheduleName ?? null,
    trace: document.trace ?? null,
    hops: document.hops ?? 0,
    claimedAt: document.claimedAt?.getTime() ?? document.runAt.getTime(),
  }
}
