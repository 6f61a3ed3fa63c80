// What holders of leases and the sweeper do to the jobs of the model, and which results they get.

import type { Attempt, Lease } from '../../src/job/job.ts'
import type { HeartbeatResult, RenewResult, SettleResult } from '../../src/store/store.ts'
import {
  finish,
  jobIn,
  lookAtHeld,
  type ModelJob,
  pushAttempt,
  toQueued,
  type World,
} from './job-model.ts'

/** How an attempt ends. The sequences stay far from the limit of 100 free attempts. */
export type AttemptEnd =
  | { event: 'await'; isPast: boolean }
  | { event: 'succeed'; outcome: Attempt['outcome']; result: string }
  | { event: 'reschedule' | 'postpone'; outcome: Attempt['outcome']; runAt: number }
  | { event: 'bury'; outcome: Attempt['outcome'] }

export function startAttempt(job: ModelJob, lease: Lease, hasExpired: boolean): void {
  job.state = 'running'
  job.phase = 'sending'
  job.fence++
  job.attemptCount++
  job.attemptsLeft--
  job.progress = null
  job.version++
  job.lease = { fence: lease.fence, leaseId: lease.leaseId, hasExpired }
}

function holds({ lease }: ModelJob, { fence, leaseId }: Lease): boolean {
  return lease?.fence === fence && lease.leaseId === leaseId
}

export function settle(world: World, lease: Lease, end: AttemptEnd): SettleResult {
  const job = jobIn(world, lease.jobId)
  if (!holds(job, lease)) return wasReportedBefore(job, lease, end)
  if (end.event === 'await') {
    if (job.phase !== 'sending') return 'already_applied'
    job.phase = 'awaiting_completion'
    if (!end.isPast && job.lease) job.lease.hasExpired = false
    job.version++
    return 'applied'
  }
  const { event, outcome } = end
  const isKept = event === 'reschedule' || event === 'postpone'
  if (event === 'reschedule' && !job.isSuperseded && job.attemptsLeft === 0) {
    return wasReportedBefore(job, lease, end)
  }
  pushAttempt(job, lease, event, outcome)
  if (isKept && job.isSuperseded) {
    finish(world, job, 'cancelled')
  } else if (isKept) {
    if (event === 'postpone') {
      job.attemptsLeft++
      job.freeAttempts++
    }
    toQueued(job, end.runAt)
  } else if (event === 'succeed') {
    job.result = end.result
    finish(world, job, 'succeeded')
  } else {
    finish(world, job, 'dead', 'rejected')
  }
  return 'applied'
}

/**
 * Whether a report is a repeat: the same event with the same outcome. If a handler reported a
 * failure, the event may be reschedule or bury.
 */
function wasReportedBefore(
  job: ModelJob,
  { fence, leaseId }: Lease,
  end: AttemptEnd,
): SettleResult {
  if (end.event === 'await') return 'lease_lost'
  const isVerdict = (event: string) => event === 'reschedule' || event === 'bury'
  const known = job.attempts.some(
    (one) =>
      one.fence === fence &&
      one.leaseId === leaseId &&
      one.outcome === end.outcome &&
      (one.event === end.event ||
        (one.outcome === 'failed' && isVerdict(one.event) && isVerdict(end.event))),
  )
  return known ? 'already_applied' : 'lease_lost'
}

/** Renews a lease for longer than any sequence lasts. */
export function renew(world: World, lease: Lease): RenewResult {
  const job = jobIn(world, lease.jobId)
  if (!holds(job, lease) || job.phase !== 'sending' || job.lease === null) return 'lease_lost'
  job.lease.hasExpired = false
  return 'applied'
}

export function heartbeat(world: World, lease: Lease, progress: number): HeartbeatResult['kind'] {
  const job = jobIn(world, lease.jobId)
  if (!holds(job, lease) || job.lease === null) {
    const last = job.attempts.at(-1)
    const isByPeople =
      last?.outcome === 'cancelled' && last.fence === lease.fence && last.leaseId === lease.leaseId
    if (isByPeople && job.state === 'cancelled') return 'cancelled'
    return isByPeople && job.state === 'dead' ? 'evicted' : 'lease_lost'
  }
  if (job.phase === 'awaiting_completion') job.lease.hasExpired = false
  job.progress = progress
  job.version++
  return 'applied'
}

export function release(world: World, lease: Lease): RenewResult {
  const job = jobIn(world, lease.jobId)
  if (!holds(job, lease)) return 'lease_lost'
  job.attemptCount--
  job.attemptsLeft++
  if (job.isSuperseded) finish(world, job, 'cancelled')
  else toQueued(job, job.runAt)
  return 'applied'
}

export type OverdueEnding = { event: 'time_out'; runAt: number } | { event: 'bury_timed_out' }

export function endOverdue(world: World, lease: Lease, end: OverdueEnding): SettleResult {
  const job = jobIn(world, lease.jobId)
  const isOverdue =
    holds(job, lease) && job.phase === 'awaiting_completion' && job.lease?.hasExpired === true
  const isAllowed = job.isSuperseded || end.event === 'bury_timed_out' || job.attemptsLeft > 0
  if (!isOverdue || !isAllowed) {
    const known = job.attempts.some(
      ({ event, fence, leaseId }) =>
        event === end.event && fence === lease.fence && leaseId === lease.leaseId,
    )
    return known ? 'already_applied' : 'lease_lost'
  }
  pushAttempt(job, lease, end.event, 'timeout')
  if (job.isSuperseded) finish(world, job, 'cancelled')
  else if (end.event === 'time_out') toQueued(job, end.runAt)
  else finish(world, job, 'dead', 'attempts_exhausted')
  return 'applied'
}

/**
 * The state after sweeps that find everything there is to do.
 *
 * @param now the instant at which the sweeps began; a reclaimed job gets a slightly later runAt
 */
export function sweepClean(world: World, now: number): void {
  const jobs = [...world.jobs.values()]
  const expired = jobs.filter((job) => job.state === 'queued' && hasExpired(job, now))
  for (const job of jobs) if (job.isBlocked) lookAtHeld(world, job)
  for (const job of jobs) {
    if (job.phase === 'sending' && job.lease?.hasExpired) endExpired(world, job, now)
  }
  for (const job of jobs) {
    if (job.state === 'queued' && hasExpired(job, now)) finish(world, job, 'dead', 'expired')
  }
  for (const job of jobs) if (job.isBlocked) lookAtHeld(world, job)
  for (const job of expired) job.hadExpired = job.state === 'dead'
}

const hasExpired = ({ expiresAt }: ModelJob, now: number) => expiresAt !== null && expiresAt <= now

function endExpired(world: World, job: ModelJob, now: number): void {
  if (job.lease === null) return
  pushAttempt(job, job.lease, 'lost', 'lost')
  if (job.isSuperseded) finish(world, job, 'cancelled')
  else if (job.attemptsLeft > 0) {
    toQueued(job, now)
    job.isSinceNow = true
  } else finish(world, job, 'dead', 'lease_lost')
}
