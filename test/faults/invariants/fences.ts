// I4: no (job, fence) twice at the receiver, and a later delivery has a greater fence.
import type { Delivery } from '../history.ts'
import { called, type Facts, type JobFacts, type Report } from './facts.ts'

export function judgeFences(facts: Facts, report: Report): void {
  for (const job of facts.jobs.values()) {
    for (const delivery of doublesOf(job)) report(`${called(delivery)} reached the receiver twice`)
    for (const { delivery, isExcused } of lateSendsOf(facts, job)) {
      if (!isExcused) report(`${called(delivery)} came after a delivery with a greater fence`)
    }
  }
}

/** Those whose fence the receiver had seen before. */
export function doublesOf({ deliveries }: JobFacts): Delivery[] {
  return deliveries.filter((delivery, i) => i > 0 && deliveries[i - 1]?.fence === delivery.fence)
}

/**
 * Those that began after one with a greater fence. No guard in the store can stop a worker that was
 * frozen between its last look at its lease and its first byte; handlers refuse the smaller fence.
 * So within the second in which a claimed job may leave after its worker was let go on, that is
 * counted and not held against it.
 */
export function lateSendsOf(
  { faults }: Facts,
  { deliveries }: JobFacts,
): { delivery: Delivery; isExcused: boolean }[] {
  const late: { delivery: Delivery; isExcused: boolean }[] = []
  let earliestAfterMs = Number.POSITIVE_INFINITY
  let greaterFence = Number.POSITIVE_INFINITY
  let nextEarliestMs = earliestAfterMs
  for (let i = deliveries.length - 1; i >= 0; i--) {
    const delivery = deliveries[i] as Delivery
    // Deliveries of one fence are no order among themselves: doubles are told apart.
    if (delivery.fence < greaterFence) earliestAfterMs = nextEarliestMs
    greaterFence = delivery.fence
    nextEarliestMs = Math.min(nextEarliestMs, delivery.beganAtMs)
    if (delivery.beganAtMs > earliestAfterMs) {
      late.push({ delivery, isExcused: faults.isJustThawed(delivery.beganAtMs) })
    }
  }
  return late
}
