// The token bucket of a rate limit, stored as one instant: when it is full again. Pure. A bucket of
// `count` tokens refills evenly within `perMs`, so one token takes perMs / count.
import type { RateLimit } from './endpoint.ts'

/**
 * Absorbs rounding: a double stores a current instant to a quarter of a thousandth of a
 * millisecond.
 */
const ROUNDING_MS = 1e-3

/**
 * How many attempts may start now.
 *
 * @param fullAt null: the bucket is full
 */
export function wholeTokens(limit: RateLimit, fullAt: number | null, now: number): number {
  const rounding = (ROUNDING_MS * limit.count) / limit.perMs
  return Math.max(0, Math.floor(tokensAt(limit, fullAt, now) + rounding))
}

/**
 * When the bucket is full again if `taken` tokens are taken now, with fractions of milliseconds.
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

/** When the next attempt may start; null: now. */
export function freeAt(limit: RateLimit, fullAt: number | null, now: number): number | null {
  if (wholeTokens(limit, fullAt, now) > 0) return null
  const spareMs = ((limit.count - 1) * limit.perMs) / limit.count
  const full = now + missing(limit, fullAt, now)
  // The instant and the tokens at it are rounded apart: the tokens decide, in at most two steps.
  let at = Math.floor(full - spareMs - ROUNDING_MS)
  while (wholeTokens(limit, full, at) === 0) at += 1
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

export function tokensAt(limit: RateLimit, fullAt: number | null, now: number): number {
  return limit.count - (missing(limit, fullAt, now) / limit.perMs) * limit.count
}

/**
 * How long until the bucket is full: at most perMs, the time of an empty bucket, even if the clock
 * was set back.
 */
function missing({ perMs }: RateLimit, fullAt: number | null, now: number): number {
  return Math.min(perMs, Math.max(0, (fullAt ?? 0) - now))
}
