// The token bucket of a rate limit, stored as one instant: when it is full again. Pure. A bucket of
// `count` tokens refills evenly within `perMs`, so one token takes perMs / count. An attempt takes as
// many tokens as its job costs. If that is more than `count`, it starts when the bucket is full and
// leaves it in debt: in any stretch of L ms at most max(count, cost) + count × L / perMs are taken.
import { MAX_COST } from '../job/job.ts'
import type { RateLimit } from './endpoint.ts'

/**
 * Absorbs rounding: a double stores a current instant to a quarter of a thousandth of a
 * millisecond.
 */
const ROUNDING_MS = 1e-3

/**
 * How many attempts may start now, if each costs 1.
 *
 * @param fullAt null: the bucket is full
 */
export function wholeTokens(limit: RateLimit, fullAt: number | null, now: number): number {
  return Math.max(0, Math.floor(tokensAt(limit, fullAt, now) + rounding(limit)))
}

/** Whether an attempt of this cost may start now. */
export function hasTokens(
  limit: RateLimit,
  fullAt: number | null,
  now: number,
  cost: number,
): boolean {
  return tokensAt(limit, fullAt, now) + rounding(limit) >= Math.min(cost, limit.count)
}

function rounding({ count, perMs }: RateLimit): number {
  return (ROUNDING_MS * count) / perMs
}

/**
 * When the bucket is full again if `taken` tokens are taken now, with fractions of milliseconds. If
 * the clock was set back, 0 tokens change it, too.
 */
export function fullAfterTaking(
  limit: RateLimit,
  fullAt: number | null,
  now: number,
  taken: number,
): number {
  const missingMs = missing(limit, fullAt, now) + (taken * limit.perMs) / limit.count
  return now + missingMs
}

/** When an attempt of this cost may start; null: now. */
export function freeAt(
  limit: RateLimit,
  fullAt: number | null,
  now: number,
  cost = 1,
): number | null {
  if (hasTokens(limit, fullAt, now, cost)) return null
  const spareMs = ((limit.count - Math.min(cost, limit.count)) * limit.perMs) / limit.count
  const full = now + missing(limit, fullAt, now)
  // The instant and the tokens at it are rounded apart: the tokens decide, in at most two steps.
  let at = Math.floor(full - spareMs - ROUNDING_MS)
  while (!hasTokens(limit, full, at, cost)) at += 1
  return at
}

/**
 * The bucket after a change of the limit: it keeps its tokens, up to the capacity of the new limit.
 */
export function underNewLimit(
  before: RateLimit,
  after: RateLimit,
  fullAt: number | null,
  now: number,
): number {
  const kept = Math.min(tokensAt(before, fullAt, now), after.count)
  return now + ((after.count - kept) * after.perMs) / after.count
}

/**
 * When a bucket is full after the clock was set back: it keeps its debt, and otherwise begins
 * empty, because tokens may have been taken before or after the step.
 */
export function fullAfterSetBack(
  { perMs }: RateLimit,
  fullAt: number,
  setBackMs: number,
  now: number,
): number {
  return Math.min(fullAt, Math.max(now + perMs, fullAt - setBackMs))
}

export function tokensAt(limit: RateLimit, fullAt: number | null, now: number): number {
  return limit.count - (missing(limit, fullAt, now) / limit.perMs) * limit.count
}

/**
 * How long until the bucket is full. If that is longer than the greatest debt lasts, the clock was
 * set back.
 */
function missing({ count, perMs }: RateLimit, fullAt: number | null, now: number): number {
  const mostMs = perMs * Math.max(1, MAX_COST / count)
  return Math.min(mostMs, Math.max(0, (fullAt ?? 0) - now))
}
