// The token bucket of a rate limit as one number: the instant at which it will be full again. It
// holds `count` tokens at most and refills evenly, `count` within `perMs`.
import type { RateLimit } from '../../endpoint/endpoint.ts'

/** An instant with a fraction is off by less: a double holds a quarter of a microsecond there. */
const ROUNDING_MS = 0.001

/** @param fullAt null: it is full */
export function tokensAt(fullAt: number | null, { count, perMs }: RateLimit, now: number): number {
  return Math.min(count, Math.max(0, count - (missingMs(fullAt, perMs, now) * count) / perMs))
}

export function wholeTokens(fullAt: number | null, limit: RateLimit, now: number): number {
  return Math.floor(tokensAt(fullAt === null ? null : fullAt - ROUNDING_MS, limit, now))
}

/** The bucket with that many tokens fewer. */
export function afterTaking(
  fullAt: number | null,
  { count, perMs }: RateLimit,
  now: number,
  taken: number,
): number {
  return now + missingMs(fullAt, perMs, now) + (taken * perMs) / count
}

/** When the next whole token comes; null: one is there. */
export function rateFreeAt(fullAt: number | null, limit: RateLimit, now: number): number | null {
  if (fullAt === null || wholeTokens(fullAt, limit, now) >= 1) return null
  const missing = 1 - tokensAt(fullAt, limit, now)
  return now + Math.max(1, Math.ceil((missing * limit.perMs) / limit.count - ROUNDING_MS))
}

/** The bucket under another limit: no fuller than it was, and than it can be. */
export function underLimit(
  fullAt: number | null,
  before: RateLimit,
  limit: RateLimit,
  now: number,
): number {
  const tokens = Math.min(limit.count, tokensAt(fullAt, before, now))
  return now + ((limit.count - tokens) * limit.perMs) / limit.count
}

/** Never more than it takes to fill an empty one, though the clock was set back. */
function missingMs(fullAt: number | null, perMs: number, now: number): number {
  return fullAt === null ? 0 : Math.min(perMs, Math.max(0, fullAt - now))
}
