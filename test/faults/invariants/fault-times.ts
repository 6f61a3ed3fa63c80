// When something was broken, and how long that may still be felt.
import type { Fault, History } from '../history.ts'

/**
 * All processes of a run share two cores, so any of them may stand still for some hundred
 * milliseconds. It is added wherever a promise names a time.
 */
export const NOISE_MS = 500
/** What the promise of a dead worker's jobs adds to lease and sweep (lifecycle.md). */
const RECOVERY_MS = 1_000

export interface FaultTimes {
  /** A fault that may explain a second delivery was there, or was still felt. */
  isFelt(fromMs: number, toMs: number): boolean
  /** The same as `isFelt`, and which; slow. */
  felt(fromMs: number, toMs: number): Fault[]
  /** The last instant at which this fault may be felt. */
  feltUntilMs(fault: Fault): number
  /**
   * For how long this worker was frozen between the two.
   *
   * @param worker null: it is not known which; then the one that was frozen for longest
   */
  frozenMs(worker: string | null, fromMs: number, toMs: number): number
  /** Something stood still between a worker and the receiver. */
  isHeldUp(fromMs: number, toMs: number): boolean
}

export interface Span {
  fromMs: number
  toMs: number
}

export function faultTimesOf({ faults, settings, engine }: History): FaultTimes {
  const afterEffectsMs = settings.leaseMs + settings.sweepMs + RECOVERY_MS + NOISE_MS
  const feltUntilMs = (fault: Fault) => fault.endedAtMs + afterEffectsMs
  const explaining = faults.filter((fault) => mayDouble(fault, engine))
  const isFelt = overlapOf(
    explaining.map((fault) => ({ fromMs: fault.beganAtMs, toMs: feltUntilMs(fault) })),
  )
  const freezes = faults.filter(({ kind, target }) => kind === 'freeze' && target !== 'api')
  const isHeldUp = overlapOf(
    faults
      .filter(({ kind }) => kind === 'freeze' || kind === 'receiver')
      .map(({ beganAtMs, endedAtMs }) => ({ fromMs: beganAtMs, toMs: endedAtMs + NOISE_MS })),
  )
  return {
    isFelt,
    felt: (fromMs, toMs) =>
      explaining.filter((fault) => fault.beganAtMs <= toMs && feltUntilMs(fault) >= fromMs),
    feltUntilMs,
    frozenMs: (worker, fromMs, toMs) => longestOf(freezes, worker, fromMs, toMs),
    isHeldUp,
  }
}

function longestOf(freezes: Fault[], worker: string | null, fromMs: number, toMs: number): number {
  const msByWorker = new Map<string, number>()
  for (const { target, beganAtMs, endedAtMs } of freezes) {
    if (worker !== null && target !== worker) continue
    const overlapMs = Math.min(endedAtMs, toMs) - Math.max(beganAtMs, fromMs)
    if (overlapMs > 0) msByWorker.set(target, (msByWorker.get(target) ?? 0) + overlapMs)
  }
  return Math.max(0, ...msByWorker.values())
}

/**
 * A wrong clock explains nothing: that is what is promised of clocks. The API delivers nothing, so
 * its end explains nothing; standing still it may hold the one write lock of an SQLite file. A
 * store that is slow to write explains nothing either: workers take on no more than it can keep.
 */
function mayDouble({ kind, target }: Fault, engine: History['engine']): boolean {
  if (kind === 'clock' || kind === 'slow_writes') return false
  return target !== 'api' || (kind === 'freeze' && engine === 'sqlite')
}

/** Tells in logarithmic time whether any of the spans touches the one asked for. */
export function overlapOf(spans: Span[]): (fromMs: number, toMs: number) => boolean {
  const sorted = spans.toSorted((a, b) => a.fromMs - b.fromMs)
  const starts = Float64Array.from(sorted, ({ fromMs }) => fromMs)
  const latestEnds = new Float64Array(sorted.length)
  let latest = Number.NEGATIVE_INFINITY
  for (const [i, { toMs }] of sorted.entries()) {
    latest = Math.max(latest, toMs)
    latestEnds[i] = latest
  }
  return (fromMs, toMs) => {
    const count = countUpTo(starts, toMs)
    return count > 0 && (latestEnds[count - 1] as number) >= fromMs
  }
}

/** How many of the ascending numbers are not above `limit`. */
export function countUpTo(ascending: Float64Array, limit: number): number {
  let low = 0
  let high = ascending.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((ascending[middle] as number) <= limit) low = middle + 1
    else high = middle
  }
  return low
}
