// I1: every accepted job is stored and final at the end, and every succeeded job was delivered.
import {
  type Facts,
  isFinal,
  isFullSuccess,
  type JobFacts,
  mayBeDeleted,
  monotonic,
  type Report,
} from './facts.ts'
import { NOISE_MS } from './fault-times.ts'

export function checkAccepted(facts: Facts, report: Report): void {
  for (const call of facts.history.calls) {
    const isAccepted = call.kind === 'enqueue' && (call.status === 200 || call.status === 201)
    if (isAccepted && call.jobId === null) {
      report(`work ${call.workNumber} was accepted, but the answer named no job`)
    }
  }
  for (const job of facts.jobs.values()) {
    if (isLost(job)) {
      const how = job.isAccepted ? 'accepted' : 'delivered'
      report(`${job.id} was ${how}, but the store has no record of it`)
    }
    if (job.record !== null) checkRecord(facts, job, report)
  }
}

/**
 * Whether the job is missing at the end. A delivered job was stored, so it counts even if its
 * client got no 201.
 */
export function isLost(job: JobFacts): boolean {
  const wasThere = job.isAccepted || job.deliveries.length > 0
  return wasThere && job.record === null && !mayBeDeleted(job)
}

function checkRecord(facts: Facts, job: JobFacts, report: Report): void {
  const { record, id } = job
  if (record === null) return
  const { state, hasLease, finishedAt, failureReason } = record
  if (!isFinal(state)) report(`${id} is ${state} at the end`)
  if (hasLease) report(`${id} is ${state} and still has a lease`)
  if (isFinal(state) && finishedAt === null) report(`${id} is ${state} without finishedAt`)
  if (state === 'dead' && failureReason === null) report(`${id} is dead and no reason is given`)
  if (state === 'cancelled' && !job.commands.some(({ kind }) => kind === 'cancel')) {
    report(`${id} is cancelled, and nobody asked for that`)
  }
  if (state === 'succeeded') checkSuccess(facts, job, report)
}

/**
 * The recorded attempt itself must have got the 2xx, before the job was finished. Otherwise the
 * stale result of another attempt was used. Another test checks responses of hostile receivers.
 */
function checkSuccess(facts: Facts, job: JobFacts, report: Report): void {
  const { id, record, deliveries } = job
  if (record === null) return
  const successes = deliveries.filter((delivery) => delivery.isHostile || isFullSuccess(delivery))
  const own = successes.filter(({ attempt }) => attempt === record.attemptCount)
  if (successes.length === 0) {
    report(`${id} succeeded, but no delivery of it was answered with a full 2xx`)
  } else if (own.length === 0) {
    report(`${id} succeeded in attempt ${record.attemptCount}, which got no full 2xx`)
  } else if (facts.isStoreClockTrue && record.finishedAt !== null) {
    const finishedAtMs = monotonic(facts, record.finishedAt) + NOISE_MS
    const isAnswered = own.some(
      ({ isHostile, answeredAtMs }) =>
        isHostile || (answeredAtMs !== null && answeredAtMs <= finishedAtMs),
    )
    if (!isAnswered) report(`${id} was recorded as succeeded before its answer was given`)
  }
}
