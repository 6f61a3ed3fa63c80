// I13: a job whose claim got no response is released before its lease ends, without the loss of an
// attempt. So an attempt is lost without a request only if a fault kept its worker from releasing
// it.
import type { AttemptRecord, Fault } from '../history.ts'
import { type Facts, type JobFacts, monotonic, type Report } from './facts.ts'
import { NOISE_MS } from './fault-times.ts'

/**
 * After an election, a worker releases the jobs of a claim whose result it did not learn within
 * this time.
 */
const RELEASE = { ms: 2_500, part: 1 / 3 }

export function checkUnsentAttempts(facts: Facts, report: Report): void {
  if (!facts.isStoreClockTrue) return
  for (const job of facts.jobs.values()) {
    for (const attempt of job.record?.attempts ?? []) {
      if (attempt.outcome !== 'lost' || isSent(job, attempt)) continue
      if (facts.history.faults.some((fault) => explains(facts, fault, attempt))) continue
      if (!couldBeReleased(facts, attempt)) continue
      report(`${job.id} lost attempt ${attempt.number}, which was not sent`)
    }
  }
}

function isSent({ deliveries }: JobFacts, { number }: AttemptRecord): boolean {
  return deliveries.some(({ attempt }) => attempt === number)
}

/** Whether a fault other than an election explains the loss. */
function explains(facts: Facts, fault: Fault, { startedAt, finishedAt }: AttemptRecord): boolean {
  if (fault.kind === 'election') return false
  const beganAtMs = monotonic(facts, startedAt) - NOISE_MS
  const endedAtMs = Math.max(
    beganAtMs + facts.history.settings.leaseMs,
    monotonic(facts, finishedAt),
  )
  return fault.beganAtMs <= endedAtMs && facts.faults.feltUntilMs(fault) >= beganAtMs
}

/** Whether the lease had a time without elections that was long enough to release the job. */
function couldBeReleased(facts: Facts, { startedAt }: AttemptRecord): boolean {
  const { faults, settings } = facts.history
  const releaseMs = Math.min(RELEASE.ms, settings.leaseMs * RELEASE.part)
  let freeFromMs = monotonic(facts, startedAt) - NOISE_MS
  const leaseEndsAtMs = freeFromMs + settings.leaseMs
  const elections = faults
    .filter(({ kind }) => kind === 'election')
    .toSorted((a, b) => a.beganAtMs - b.beganAtMs)
  for (const { beganAtMs, endedAtMs } of elections) {
    if (Math.min(beganAtMs, leaseEndsAtMs) - freeFromMs >= releaseMs) return true
    freeFromMs = Math.max(freeFromMs, endedAtMs)
  }
  return leaseEndsAtMs - freeFromMs >= releaseMs
}
