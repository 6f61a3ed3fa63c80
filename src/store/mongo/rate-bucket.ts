// The token bucket of a rate limit, kept as one instant: when it will be full again. A bucket of
// `count` tokens refills evenly within `perMs`, so that one token takes perMs / count.
import type { RateLimit } from '../../endpoint/endpoint.ts'

/** What arithmetic with fractions may take from a whole token. */
const ROUNDING = 1e-6

/** How many attempts may start now. */
export function wholeTokens(limit: RateLimit, fullAt: number | null | undefined, now: number) {
  return Math.max(0, Math.floor(tokens(limit, fullAt, now) + ROUNDING))
}

/** When the bucket is full again once so many were taken now, with fractions of milliseconds. */
export function fullAfterTaking(
  limit: RateLimit,
  fullAt: number | null | undefined,
  now: number,
  taken: number,
): number {
  const missingMs = missing(limit, fullAt, now) + (taken * limit.perMs) / limit.count
  return now + missingMs
}

/** When the next attempt may start; null: now. */
export function freeAt(
  limit: RateLimit,
  fullAt: number | null | undefined,
  now: number,
): number | null {
  if (wholeTokens(limit, fullAt, now) > 0) return null
  const spareMs = ((limit.count - 1) * limit.perMs) / limit.count
  return Math.ceil(now + missing(limit, fullAt, now) - spareMs)
}

/** The bucket of another limit: as full as it was, and no fuller than the new one can be. */
export function underNewLimit(
  before: RateLimit,
  after: RateLimit,
  fullAt: number | null | undefined,
  now: number,
): number {
  const kept = Math.min(tokens(before, fullAt, now), after.count)
  return now + ((after.count - kept) * after.perMs) / after.count
}

function tokens(limit: RateLimit, fullAt: number | null | undefined, now: number): number {
  return limit.count - (missing(limit, fullAt, now) / limit.perMs) * limit.count
}

/** How long until it is full; an empty bucket needs all of perMs, and no more. */
function missing({ perMs }: RateLimit, fullAt: number | null | undefined, now: number): number {
  return Math.min(perMs, Math.max(0, (fullAt ?? 0) - now))
}
