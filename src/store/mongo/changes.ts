// What the events of a job's life change, as update operators shared by those who write them.
import { randomBytes } from 'node:crypto'
import { type Failure, MAX_ATTEMPTS_KEPT } from '../../job/job.ts'
import type { FinalState } from '../../job/retention.ts'
import type { AttemptDocument } from './attempt-documents.ts'

const WITHOUT_LEASE = {
  phase: null,
  leaseId: null,
  leaseWorkerId: null,
  leaseExpiresAt: null,
  claimedAt: null,
  pulledLeaseMs: null,
} as const

/** Random enough to tell two writes of one job apart, and a lease from any other. */
export function randomId(): string {
  return randomBytes(12).toString('base64url')
}

/** Back to queued, without a lease; a turn that it has, it keeps. */
export function toQueued(runAt: Date | null, counts: { attemptsLeft?: 1; freeAttempts?: 1 } = {}) {
  return {
    $set: { state: 'queued' as const, ...WITHOUT_LEASE, ...(runAt === null ? {} : { runAt }) },
    $inc: { version: 1, ...counts },
  }
}

/** To a final state; `fields` are set with it. Others may have its dedupe key and turn from here. */
export function toFinal<T extends object>(state: FinalState, finishedAt: Date, fields: T) {
  return {
    $set: { state, finishedAt, ...WITHOUT_LEASE, ...fields },
    $unset: { dedupeHolder: '' as const, turn: '' as const },
    $inc: { version: 1, finishes: 1 },
  }
}

export function failureFields(failure: Failure) {
  return { failureReason: failure.reason, failureMessage: failure.message }
}

export function pushAttempt(attempt: AttemptDocument) {
  return { $push: { attempts: { $each: [attempt], $slice: -MAX_ATTEMPTS_KEPT } } }
}
