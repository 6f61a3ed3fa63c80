// What a sweep gets and returns, and the jobs whose completion is overdue. Types of the port.
import type { Attempt, ClaimedJob, Failure, Lease } from '../job/job.ts'

export interface SweepOptions {
  /** Limit of jobs for each kind of finding. */
  limit: number
  /** false: keeps expired leases, because their holders may not have been able to renew. */
  reclaim: boolean
}

export interface SweepCounts {
  reclaimed: number
  buriedLost: number
  expired: number
  abandoned: number
  evicted: number
  /** Blocked jobs that became claimable. */
  promoted: number
  dependentsFailed: number
  /** Final jobs whose finish effects were pending and are done now. */
  effectsDone: number
  /** Groups that it closed, finished, or purged, or whose adds it settled. */
  groups: number
  /** Members that it visited for a cancel or a retry of their group. */
  membersVisited: number
  purged: number
  /** 1: jobs await completion past their deadline, and `overdue` lists them; 0: none does. */
  overdue: 0 | 1
}

/** A job whose deadline of completion has passed, with the fields that decide what follows. */
export interface OverdueJob extends Lease {
  /** The value that was read; the write that ends the attempt has it as its guard. */
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

/** For a superseded job, both become `withdraw_lost`. */
export type OverdueEnd = Lease & { leaseExpiresAt: number; attempt: Attempt } & (
    | { event: 'time_out'; runAt: number }
    | { event: 'bury_timed_out'; failure: Failure }
  )
