// D4, which is a figure and no invariant: how soon the jobs of a worker that died or froze are sent
// again.
import type { AttemptRecord, Delivery, Fault } from '../history.ts'
import { type Facts, type JobFacts, monotonic } from './facts.ts'

export interface Redelivery {
  lostCount: number
  /** Attempts that were lost although their worker was neither killed nor frozen during them. */
  lostByOthersCount: number
  /**
   * Lost attempts whose job was sent again, and the longest time from the kill or freeze to the new
   * delivery.
   */
  sentAgainCount: number
  longestMs: number | null
  /**
   * The same figures, without attempts during which another fault was present: only these are in
   * the promise D4.
   */
  undisturbedCount: number
  longestUndisturbedMs: number | null
}

export function redeliveryOf(facts: Facts): Redelivery {
  const figures: Redelivery = {
    ...{ lostCount: 0, lostByOthersCount: 0, sentAgainCount: 0, longestMs: null },
    ...{ undisturbedCount: 0, longestUndisturbedMs: null },
  }
  const stopsOf = stopsByWorker(facts)
  for (const job of facts.jobs.values()) {
    for (const attempt of job.record?.attempts ?? []) {
      if (attempt.outcome !== 'lost') continue
      figures.lostCount += 1
      const stop = stopThatLost(facts, job, attempt, stopsOf.get(attempt.workerId) ?? [])
      if (stop === null) figures.lostByOthersCount += 1
      else takeStop(facts, job, attempt, stop, figures)
    }
  }
  return figures
}

function stopsByWorker({ history }: Facts): Map<string, Fault[]> {
  const stops = history.faults.filter(({ kind }) => kind === 'kill' || kind === 'freeze')
  stops.sort((a, b) => a.beganAtMs - b.beganAtMs)
  return Map.groupBy(stops, ({ target }) => target)
}

/**
 * When the worker of the attempt was first stopped after the attempt had begun, unless the job had
 * been sent again before.
 */
function stopThatLost(
  facts: Facts,
  { deliveries }: JobFacts,
  attempt: AttemptRecord,
  stops: Fault[],
): Fault | null {
  const own = deliveries.find((delivery) => delivery.attempt === attempt.number)
  const claimedAtMs = facts.isStoreClockTrue ? monotonic(facts, attempt.startedAt) : Infinity
  // The attempt was claimed before, but may have been sent only after its worker continued.
  const heldFromMs = Math.min(own?.beganAtMs ?? Infinity, claimedAtMs)
  const stop = stops.find(({ endedAtMs }) => endedAtMs >= heldFromMs)
  if (stop === undefined) return null
  const next = nextOf(deliveries, attempt)
  return next !== undefined && next.beganAtMs < stop.beganAtMs ? null : stop
}

/**
 * The delivery after an attempt. Deliveries are in the order of their fences, and so of their
 * attempts.
 */
function nextOf(deliveries: Delivery[], attempt: AttemptRecord): Delivery | undefined {
  return deliveries.find((delivery) => delivery.attempt > attempt.number)
}

function takeStop(
  { history }: Facts,
  { deliveries }: JobFacts,
  attempt: AttemptRecord,
  stop: Fault,
  figures: Redelivery,
): void {
  const next = nextOf(deliveries, attempt)
  if (next === undefined) return
  const tookMs = Math.ceil(next.beganAtMs - stop.beganAtMs)
  figures.sentAgainCount += 1
  figures.longestMs = Math.max(figures.longestMs ?? 0, tookMs)
  const isDisturbed = history.faults.some(
    (other) =>
      other !== stop && other.beganAtMs <= next.beganAtMs && other.endedAtMs >= stop.beganAtMs,
  )
  if (isDisturbed) return
  figures.undisturbedCount += 1
  figures.longestUndisturbedMs = Math.max(figures.longestUndisturbedMs ?? 0, tookMs)
}

/**
 * The longest time that two attempts of a job were at the receiver at the same time. The time
 * before the worker of the earlier one continued does not count: a worker that lost a lease aborts
 * its request.
 */
export function longestOverlapMs({ history, jobs }: Facts): number {
  const thaws = history.faults.filter(({ kind }) => kind === 'freeze')
  let longestMs = 0
  for (const { deliveries } of jobs.values()) {
    for (const [i, next] of deliveries.entries()) {
      const before = deliveries[i - 1]
      const endedAtMs = before && (before.answeredAtMs ?? before.brokenOffAtMs)
      if (!before || !endedAtMs || endedAtMs <= next.beganAtMs) continue
      const thawedAtMs = thaws
        .filter((one) => one.beganAtMs <= endedAtMs && one.endedAtMs >= before.beganAtMs)
        .reduce((latest, one) => Math.max(latest, one.endedAtMs), next.beganAtMs)
      longestMs = Math.max(longestMs, Math.round(endedAtMs - thawedAtMs))
    }
  }
  return longestMs
}
