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

export function judgeUnsentAttempts(facts: Facts, report: Report): void {
  if (!facts.isStoreClockTrue) return
  for (const job of facts.jobs.values()) {
    for (const attempt of job.record?.attempts ?? []) {
      if (attempt.outcome !== 'lost' || isSent(job, attempt)) continue
      if (facts.history.faults.some((fault) => explains(facts, fault, attempt))) continue
      report(`${job.id} lost attempt ${attempt.number}, which was not sent`)
    }
  }
}

function isSent({ deliveries }: JobFacts, { number }: AttemptRecord): boolean {
  return deliveries.some(({ attempt }) => attempt === number)
}

/**
 * Whether a fault explains the loss. An election does so only if it leaves too little of the lease.
 */
function explains(facts: Facts, fault: Fault, { startedAt, finishedAt }: AttemptRecord): boolean {
  const beganAtMs = monotonic(facts, startedAt) - NOISE_MS
  const { leaseMs } = facts.history.settings
  const leaseEndsAtMs = beganAtMs + leaseMs
  if (fault.kind === 'election') {
    const releasedAtMs = fault.endedAtMs + Math.min(RELEASE.ms, leaseMs * RELEASE.part)
    return fault.beganAtMs <= leaseEndsAtMs && releasedAtMs > leaseEndsAtMs
  }
  const endedAtMs = Math.max(leaseEndsAtMs, monotonic(facts, finishedAt))
  return fault.beganAtMs <= endedAtMs && facts.faults.feltUntilMs(fault) >= beganAtMs
}
