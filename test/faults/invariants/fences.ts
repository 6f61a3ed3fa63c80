// I4: the receiver sees no (job, fence) twice, later requests have greater fences, and no request
// is written after its lease has expired.
import type { Delivery } from '../history.ts'
import {
  called,
  type Facts,
  type JobFacts,
  monotonic,
  type Report,
  workerOf,
  writtenByMs,
} from './facts.ts'
import { NOISE_MS } from './fault-times.ts'

/**
 * How late a worker that was frozen may be. It stops sending a tenth of a lease before the end, so
 * this only covers the difference between the two clocks.
 */
const AFTER_LEASE_MS = 50

export function checkFences(facts: Facts, report: Report): void {
  for (const job of facts.jobs.values()) {
    for (const { delivery, isResend } of doublesOf(job)) {
      if (!isResend) report(`${called(delivery)} reached the receiver twice`)
    }
    for (const delivery of disorderedOf(facts, job)) {
      report(`${called(delivery)} came after a delivery with a greater fence`)
    }
    for (const { delivery, lateMs } of afterLeaseOf(facts, job)) {
      report(`${called(delivery)} began ${lateMs} ms after its lease was found expired`)
    }
  }
}

/**
 * Deliveries whose fence the receiver had seen before. A resend is correct: the connection had been
 * used before, and it broke before any byte of a response.
 */
export function doublesOf({ deliveries }: JobFacts): { delivery: Delivery; isResend: boolean }[] {
  const doubles: { delivery: Delivery; isResend: boolean }[] = []
  for (const [i, delivery] of deliveries.entries()) {
    const before = deliveries[i - 1]
    if (before === undefined || before.fence !== delivery.fence) continue
    const isSecond = deliveries[i - 2]?.fence !== delivery.fence
    doubles.push({ delivery, isResend: isSecond && isResendOf(before, delivery) })
  }
  return doubles
}

function isResendOf(first: Delivery, second: Delivery): boolean {
  return (
    first.requestOnConnection > 1 &&
    first.status === null &&
    first.brokenOffAtMs !== null &&
    first.brokenOffAtMs <= second.beganAtMs &&
    second.requestOnConnection === 1
  )
}

/** Deliveries whose requests were written after one with a greater fence had begun. */
function disorderedOf(facts: Facts, job: JobFacts): Delivery[] {
  const { deliveries } = job
  const disordered: Delivery[] = []
  let earliestAfterMs = Number.POSITIVE_INFINITY
  let greaterFence = Number.POSITIVE_INFINITY
  let nextEarliestMs = earliestAfterMs
  for (let i = deliveries.length - 1; i >= 0; i--) {
    const delivery = deliveries[i] as Delivery
    // Deliveries with the same fence are reported as duplicates, not here.
    if (delivery.fence < greaterFence) earliestAfterMs = nextEarliestMs
    greaterFence = delivery.fence
    nextEarliestMs = Math.min(nextEarliestMs, delivery.beganAtMs)
    if (writtenByMs(facts, job, delivery) > earliestAfterMs) disordered.push(delivery)
  }
  return disordered
}

/**
 * Deliveries whose requests were written after the lease had expired, of attempts that a sweeper
 * recorded as lost.
 */
function afterLeaseOf(facts: Facts, job: JobFacts): { delivery: Delivery; lateMs: number }[] {
  const late: { delivery: Delivery; lateMs: number }[] = []
  if (!facts.isStoreClockTrue) return late
  for (const attempt of job.record?.attempts ?? []) {
    if (attempt.outcome !== 'lost') continue
    const foundAtMs = monotonic(facts, attempt.finishedAt)
    for (const delivery of job.deliveries) {
      if (delivery.attempt !== attempt.number) continue
      const worker = workerOf(job, delivery)
      const startedAtMs = monotonic(facts, attempt.startedAt)
      const isFrozen = facts.faults.frozenMs(worker, startedAtMs, delivery.beganAtMs) > 0
      const lateMs = Math.round(writtenByMs(facts, job, delivery) - foundAtMs)
      if (lateMs > (isFrozen ? AFTER_LEASE_MS : NOISE_MS)) late.push({ delivery, lateMs })
    }
  }
  return late
}
