// When each fault was injected, and how long it may have effects.
import type { Fault, History } from '../history.ts'

/**
 * All processes of a run share two cores, so any of them may pause for some hundred milliseconds.
 * This time is added to each time in a promise.
 */
export const NOISE_MS = 500
/**
 * The time that the promise about jobs of a dead worker adds to lease and sweep
 * (docs/reliability.md).
 */
const RECOVERY_MS = 1_000

export interface FaultTimes {
  /** Whether a fault that can explain a second delivery was present or still had effects. */
  isFelt(fromMs: number, toMs: number): boolean
  /** Like `isFelt`, but returns the fault; slow. */
  felt(fromMs: number, toMs: number): Fault[]
  /** The last instant at which this fault may have effects. */
  feltUntilMs(fault: Fault): number
  /**
   * How long this worker was frozen between the two instants.
   * @param worker null: unknown; then the worker that was frozen for longest counts
   */
  frozenMs(worker: string | null, fromMs: number, toMs: number): number
  /** When this worker was killed and gone. Infinity: it was not killed, or is unknown (null). */
  diedAtMs(worker: string | null): number
  /**
   * Whether a power cut may have undone the claim of a request that began then. A claim comes
   * before its request, so only requests after the last flush can have had such a claim.
   */
  mayBeUndone(beganAtMs: number): boolean
  /** Whether a process between the worker and the receiver stood still. */
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
  const deaths = new Map(
    faults.filter(({ kind }) => kind === 'kill').map((fault) => [fault.target, fault.endedAtMs]),
  )
  const isCut = overlapOf(
    faults
      .filter(({ kind }) => kind === 'power_cut')
      .map(({ beganAtMs, endedAtMs }) => ({ fromMs: beganAtMs, toMs: endedAtMs })),
  )
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
    diedAtMs: (worker) => deaths.get(worker ?? '') ?? Number.POSITIVE_INFINITY,
    mayBeUndone: (beganAtMs) => isCut(beganAtMs, beganAtMs),
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
 * Whether a fault explains a second delivery. A wrong clock does not: Posthorn promises that. The
 * API delivers nothing, so its end does not explain one; but while it is frozen it may hold the
 * write lock of an SQLite file. A store that is slow to write does not explain one either: workers
 * claim no more jobs than it can settle. Nor does an election, which is shorter than a lease.
 */
function mayDouble({ kind, target }: Fault, engine: History['engine']): boolean {
  if (kind === 'clock' || kind === 'slow_writes' || kind === 'election') return false
  return target !== 'api' || (kind === 'freeze' && engine === 'sqlite')
}

/** Finds in logarithmic time whether any of the spans overlaps the given one. */
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

/** How many of the ascending numbers are not greater than `limit`. */
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
