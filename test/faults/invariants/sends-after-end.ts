// I7: no request is written after the recorded success or after an acknowledged cancel.
import type { Call, Delivery } from '../history.ts'
import {
  called,
  effectOf,
  type Facts,
  type JobFacts,
  mayBeRetried,
  monotonic,
  type Report,
  workerOf,
  writtenByMs,
} from './facts.ts'
import { NOISE_MS } from './fault-times.ts'

/** An instant of the store is a whole millisecond, read from the same clock by another process. */
const CLOCKS_APART_MS = 50
/**
 * The request of an attempt that was claimed before the cancel is sent at most this long after the
 * cancel.
 */
const SEND_AFTER_CANCEL_MS = 1_000

export function checkSendsAfterEnd(facts: Facts, report: Report): void {
  for (const job of facts.jobs.values()) {
    checkAfterSuccess(facts, job, report)
    checkAfterCancel(facts, job, report)
  }
}

function checkAfterSuccess(facts: Facts, job: JobFacts, report: Report): void {
  const knownAtMs = successKnownAtMs(facts, job)
  for (const delivery of job.deliveries) {
    const writtenAtMs = writtenByMs(facts, job, delivery)
    if (writtenAtMs <= knownAtMs + CLOCKS_APART_MS) continue
    const lateMs = Math.round(writtenAtMs - knownAtMs)
    report(`${called(delivery)} began ${lateMs} ms after the job was known to have succeeded`)
  }
}

/** When it was known that the job had succeeded. Infinity: no success is known. */
function successKnownAtMs(facts: Facts, { sightings, record }: JobFacts): number {
  let knownAtMs = Number.POSITIVE_INFINITY
  for (const { state, endedAtMs } of sightings) {
    if (state === 'succeeded') knownAtMs = Math.min(knownAtMs, endedAtMs)
  }
  if (!facts.isStoreClockTrue || record?.state !== 'succeeded' || record.finishedAt === null) {
    return knownAtMs
  }
  return Math.min(knownAtMs, monotonic(facts, record.finishedAt))
}

function checkAfterCancel(facts: Facts, job: JobFacts, report: Report): void {
  for (const call of job.commands) {
    if (call.kind !== 'cancel' || effectOf(call) !== 'done') continue
    const limitMs = call.endedAtMs + SEND_AFTER_CANCEL_MS + NOISE_MS
    for (const delivery of job.deliveries) {
      const writtenAtMs = writtenByMs(facts, job, delivery)
      if (writtenAtMs <= limitMs + frozenUnderLeaseMs(facts, job, call, delivery)) continue
      if (mayBeRetried(job, call.sentAtMs, delivery.beganAtMs)) continue
      const lateMs = Math.round(writtenAtMs - call.endedAtMs)
      report(`${called(delivery)} began ${lateMs} ms after its cancel was acknowledged`)
    }
  }
}

/**
 * How long the worker was frozen under a valid lease. After less than a lease it continues its
 * request; after more it sends nothing.
 */
function frozenUnderLeaseMs(
  { faults, history }: Facts,
  job: JobFacts,
  { endedAtMs }: Call,
  delivery: Delivery,
): number {
  const frozenMs = faults.frozenMs(workerOf(job, delivery), endedAtMs, delivery.beganAtMs)
  return frozenMs < history.settings.leaseMs ? frozenMs : 0
}
