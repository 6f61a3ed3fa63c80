// How holders and sweepers tell the store what became of attempts, and what it answers.
import type { Attempt, ClaimedJob, Failure, Lease, Progress } from '../job/job.ts'
import type { SettlingEvent } from '../job/lifecycle.ts'

/**
 * How a holder tells the end of its attempt, or that its handler goes on and reports later.
 * Instants by the store's clock. Of a superseded job reschedule and postpone apply as `withdraw`.
 */
export type Settlement = Lease &
  (
    | { event: Extract<SettlingEvent, 'await'>; leaseExpiresAt: number }
    | ({ attempt: Attempt } & (
        | {
            event: Extract<SettlingEvent, 'succeed'>
            result: string | null
            resultTruncated: boolean
          }
        | { event: Extract<SettlingEvent, 'reschedule' | 'postpone'>; runAt: number }
        | { event: Extract<SettlingEvent, 'bury'>; failure: Failure }
      ))
  )

export interface Heartbeat {
  /** null: what was said before stays. */
  progress: Omit<Progress, 'at'> | null
  /** null: completionTimeoutMs of one that awaits completion, its own lease of a pulled one. */
  extendMs: number | null
  completionTimeoutMs: number
}

export type HeartbeatResult =
  | { kind: 'applied'; leaseExpiresAt: number }
  /** The job was cancelled while this lease held it. */
  | { kind: 'cancelled' }
  /** The endpoint of the job was deleted while this lease held it. */
  | { kind: 'evicted' }
  | { kind: 'lease_lost' }

/** A job whose deadline of completion has passed, with what decides about it. */
export interface OverdueJob extends Lease {
  endpoint: string
  /** As it was seen: the guard of what follows. */
  leaseExpiresAt: number
  claimedAt: number
  workerId: string
  attemptNumber: number
  attemptsLeft: number
  maxAttempts: number
  freeAttempts: number
  firstRunAt: number
  promotedAt: number | null
  expiresAt: number | null
  retry: ClaimedJob['retry']
}

/** Of a superseded job either applies as `withdraw_lost`. */
export type OverdueEnd = Lease & { endpoint: string; leaseExpiresAt: number; attempt: Attempt } & (
    | { event: 'time_out'; runAt: number }
    | { event: 'bury_timed_out'; failure: Failure }
  )

/**
 * `already_applied`: this very settlement was stored before, and its answer was lost. Known by
 * fence, lease id and outcome of an attempt among the last; the event must be the same too, but
 * that handlers' failures (outcome `failed`) may have led to reschedule or bury.
 */
export type SettleResult = 'applied' | 'already_applied' | 'lease_lost'
export type RenewResult = 'applied' | 'lease_lost'
