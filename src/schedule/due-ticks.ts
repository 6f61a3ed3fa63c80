// What a schedule whose tick has come owes: which ticks become jobs now, and which one is next.
import type { Misfire } from './schedule.ts'
import { nextTick, type Timing } from './timing.ts'

/** A tick that nobody acted on for this long was missed; until then it is only late. */
export const MISSED_AFTER_MS = 60_000

export interface DueTicks {
  /** Those that become jobs, earliest first. */
  ticks: number[]
  /** The first tick was missed: its job, if it gets one, stands for all up to now. */
  isMissed: boolean
  /** null: none is to come. May be due itself, when `limit` cut the list. */
  nextRunAt: number | null
}

/**
 * @param firstTick the tick that has come and was not acted on yet
 * @param limit of ticks, at least 1
 */
export function dueTicks(
  { timing, misfire }: { timing: Timing; misfire: Misfire },
  firstTick: number,
  now: number,
  limit: number,
): DueTicks {
  if (now - firstTick > MISSED_AFTER_MS) {
    const ticks = misfire === 'once' ? [firstTick] : []
    return { ticks, isMissed: true, nextRunAt: nextTick(timing, now) }
  }
  const ticks = [firstTick]
  let tick = nextTick(timing, firstTick)
  while (tick !== null && tick <= now && ticks.length < limit) {
    ticks.push(tick)
    tick = nextTick(timing, tick)
  }
  return { ticks, isMissed: false, nextRunAt: tick }
}

/**
 * The next tick of a schedule whose stored one may have been written by a clock that was ahead: no
 * schedule waits for a later tick than the next one from now, nor for none while one is to come.
 */
export function tickAfterSetBack(
  timing: Timing,
  stored: number | null,
  now: number,
): number | null {
  const next = nextTick(timing, now)
  if (next === null) return stored
  return stored === null ? next : Math.min(stored, next)
}
