// Decides which due ticks of a schedule become jobs now, and which tick is next.
import type { Misfire } from './schedule.ts'
import { nextTick, type Timing } from './timing.ts'

/** A tick that nothing processed for this long is missed; before that it is only late. */
export const MISSED_AFTER_MS = 60_000

export interface DueTicks {
  /** The ticks that become jobs, earliest first. */
  ticks: number[]
  /** The first tick was missed. Its job, if there is one, stands for all missed ticks. */
  isMissed: boolean
  /** null: no tick is left. If `limit` cut the list, this tick may be due as well. */
  nextRunAt: number | null
}

/**
 * @param firstTick the earliest due tick that was not processed yet
 * @param limit the most ticks to return, at least 1
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
 * The next tick of a schedule after the clock was set back: the stored tick may have been written
 * while the clock was ahead. No schedule waits for a later tick than the first one from now, and a
 * stored null does not hide a tick that is still to come.
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
