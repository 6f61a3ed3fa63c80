// Computes the ticks of a schedule. Pure: instants are epoch milliseconds by the store's clock.
import { AHEAD_TOLERANCE_MS } from '../job/set-back.ts'
import { nextCronTick } from './cron.ts'

/**
 * The fields that decide the ticks: either cron or everyMs, from startAt (inclusive) to endAt
 * (exclusive).
 */
export interface Timing {
  cron: string | null
  everyMs: number | null
  /** The time zone of the cron line. */
  timezone: string
  startAt: number | null
  endAt: number | null
  /** When the schedule was created. everyMs counts from here unless there is a startAt. */
  anchorAt: number
}

export const MIN_EVERY_MS = 1_000
export const MAX_EVERY_MS = 366 * 86_400_000

/** The first tick after an instant; null: no tick is left. */
export function nextTick(timing: Timing, after: number): number | null {
  const { startAt, endAt } = timing
  const tick = unendingTick(timing, startAt === null ? after : Math.max(after, startAt - 1))
  return tick === null || (endAt !== null && tick >= endAt) ? null : tick
}

/** The first ticks after an instant, at most `count`. */
export function nextTicks(timing: Timing, after: number, count: number): number[] {
  const ticks: number[] = []
  let tick = nextTick(timing, after)
  while (tick !== null && ticks.length < count) {
    ticks.push(tick)
    tick = nextTick(timing, tick)
  }
  return ticks
}

/** Whether both have the same ticks by their settings, regardless of when they were created. */
export function isSameTiming(one: Timing, other: Timing): boolean {
  return (['cron', 'everyMs', 'timezone', 'startAt', 'endAt'] as const).every(
    (field) => one[field] === other[field],
  )
}

/** A field that contradicts the others, or null. `path` is its JSON Pointer in the request. */
export function timingProblem(timing: Timing): { path: string; message: string } | null {
  const { cron, timezone, startAt, endAt, anchorAt } = timing
  if (startAt !== null && endAt !== null && endAt <= startAt) {
    return { path: '/endAt', message: 'expected an instant after startAt' }
  }
  if (cron === null) return null
  if (nextCronTick(cron, timezone, anchorAt) === null) {
    return { path: '/cron', message: `"${cron}" names a day that never comes` }
  }
  if (startAt !== null && nextCronTick(cron, timezone, startAt - 1) === null) {
    const message =
      'expected an instant from which the cron expression has a tick before the year 3000'
    return { path: '/startAt', message }
  }
  return null
}

function unendingTick(timing: Timing, after: number): number | null {
  const { cron, everyMs, timezone, startAt, anchorAt } = timing
  if (cron !== null) return nextCronTick(cron, timezone, after)
  if (everyMs === null) throw new Error('a timing without cron and everyMs')
  // An anchor in the future was written while the clock was ahead. Ticks before the anchor are also
  // at whole intervals from it: no tick is more than one interval away, and all processes agree on
  // them.
  const from = startAt ?? anchorAt
  const tick = from + (Math.floor((after - from) / everyMs) + 1) * everyMs
  // The instant of creation is not a tick, not even for a process whose clock is slightly behind.
  const isCreation = startAt === null && tick === anchorAt && tick - after < AHEAD_TOLERANCE_MS
  return isCreation ? tick + everyMs : tick
}
