// I5: each recorded attempt is a claim, each delivery is an attempt, and no job uses more attempts
// than it has.
import type { JobRecord } from '../history.ts'
import {
  called,
  effectOf,
  type Facts,
  type JobFacts,
  monotonic,
  type Report,
  retriesOf,
} from './facts.ts'

/** A record has at most this many attempts. */
const ATTEMPTS_KEPT = 20
/**
 * Up to a hundred attempts with these outcomes are free (docs/retries.md); each further one uses an
 * attempt.
 */
const FREE_OUTCOMES = new Set(['throttled', 'interrupted'])
const MOST_FREE_ATTEMPTS = 100
/** The failure reasons of a job without attempts left. */
const BUDGET_REASONS = new Set(['attempts_exhausted', 'lease_lost'])

export function checkAttempts(facts: Facts, report: Report): void {
  for (const job of facts.jobs.values()) {
    if (job.record === null) continue
    checkNumbers(job.record, report)
    checkBudget(facts, job, job.record, report)
    checkDeliveries(facts, job, job.record, report)
  }
}

/** How many claims were released before a request was sent: they raised the fence, but no count. */
export function givenBackCount({ history }: Facts, { fence, attemptCount }: JobRecord): number {
  // A power cut raises the fences, too.
  if (history.faults.some(({ kind }) => kind === 'power_cut')) return 0
  return fence - attemptCount
}

function checkNumbers(record: JobRecord, report: Report): void {
  const { id, fence, attemptCount, attempts } = record
  if (attemptCount > fence) report(`${id} counts ${attemptCount} attempts in ${fence} claims`)
  // The last attempt of a running job is not recorded yet. I1 reports that the job still runs.
  const endedCount = attemptCount - (record.hasLease ? 1 : 0)
  const keptCount = Math.min(endedCount, ATTEMPTS_KEPT)
  const firstNumber = endedCount - keptCount + 1
  const isComplete = attempts.every(({ number }, i) => number === firstNumber + i)
  if (attempts.length !== keptCount || !isComplete) {
    const listed = attempts.map(({ number }) => number).join(', ') || 'none'
    report(`${id} counts ${attemptCount} attempts and lists ${listed}`)
  }
}

function checkBudget(facts: Facts, job: JobFacts, record: JobRecord, report: Report): void {
  const { id, maxAttempts, attemptCount, failureReason } = record
  const retryCount = retriesOf(job).length
  const costing = costingAttempts(facts, job)
  const budget = maxAttempts * costing.budgets
  if (costing.count > budget) {
    report(`${id} used ${costing.count} attempts that cost, of at most ${budget}`)
  } else if (attemptCount > (maxAttempts + MOST_FREE_ATTEMPTS) * (1 + retryCount)) {
    report(`${id} was attempted ${attemptCount} times, with ${maxAttempts} that may cost`)
  }
  const isUsedUp = record.state === 'dead' && BUDGET_REASONS.has(failureReason ?? '')
  const isAllKnown = retryCount === 0 && attemptCount <= ATTEMPTS_KEPT
  if (isUsedUp && isAllKnown && costing.count < maxAttempts) {
    report(`${id} died of ${failureReason} after ${costing.count} of ${maxAttempts} attempts`)
  }
}

/**
 * How many of the recorded attempts were used since the last retry by hand. If the outcome or time
 * of a retry is unknown, returns all of them, and as many budgets as there may have been.
 */
export function costingAttempts(facts: Facts, job: JobFacts): { count: number; budgets: number } {
  const costing = (job.record?.attempts ?? []).filter(({ outcome }) => !FREE_OUTCOMES.has(outcome))
  const retries = retriesOf(job)
  const areKnown = retries.every((call) => effectOf(call) === 'done')
  if (!facts.isStoreClockTrue || !areKnown) {
    return { count: costing.length, budgets: 1 + retries.length }
  }
  const lastMs = Math.max(...retries.map(({ endedAtMs }) => endedAtMs), Number.NEGATIVE_INFINITY)
  const since = costing.filter(({ startedAt }) => monotonic(facts, startedAt) > lastMs)
  return { count: since.length, budgets: 1 }
}

function checkDeliveries(
  { faults }: Facts,
  { deliveries }: JobFacts,
  record: JobRecord,
  report: Report,
): void {
  let fenceCount = 0
  let lastFence = 0
  let lastAttempt = 0
  for (const delivery of deliveries) {
    const { fence, attempt } = delivery
    if (fence > record.fence) {
      report(`${called(delivery)} was sent, but its record knows only ${record.fence} claims`)
    }
    // The store does not know an attempt whose claim was undone, and gives its number again.
    if (faults.mayBeUndone(delivery.beganAtMs)) continue
    if (attempt > record.attemptCount) {
      report(`${called(delivery)} was sent, but its record counts ${record.attemptCount} attempts`)
    }
    if (fence === lastFence) continue
    // An attempt that was released before its request was sent leaves its number to the next
    // attempt, so the receiver never saw it.
    if (attempt <= lastAttempt) report(`${called(delivery)} did not raise the attempt`)
    fenceCount += 1
    lastFence = fence
    lastAttempt = attempt
  }
  if (fenceCount > record.attemptCount) {
    report(`${record.id} was sent ${fenceCount} times and counts ${record.attemptCount} attempts`)
  }
}
