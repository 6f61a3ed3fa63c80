// How many more attempts of an endpoint its limits let begin, and when to ask again. A store counts
// the attempts under way and sees to it that nobody else claims between the count and the write.
import type { Endpoint, EndpointSettings } from './endpoint.ts'
import { placesAfterRest } from './health.ts'
import { freeAt, fullAfterTaking, wholeTokens } from './rate-bucket.ts'

/** What decides, as it is stored. */
export interface Limits
  extends Pick<EndpointSettings, 'concurrency' | 'rateLimit'>,
    Pick<Endpoint, 'restingUntil' | 'ramp'> {
  /** When the bucket of its rate limit is full again, with fractions of milliseconds; null: it is. */
  rateFullAt: number | null
}

/** Counts jobs of the endpoint, at most up to `limit`: more would change nothing. */
export interface AttemptCounts {
  /** All that run: those that await completion, and those whose lease has expired, too. */
  running(limit: number): number
  /** Those that are being sent and were claimed from `since` on. */
  sendingSince(since: number, limit: number): number
}

/** How soon to ask again where nothing tells when an attempt will end. */
export const ASK_AGAIN_MS = 250

/** Whether anything has to be counted. An endpoint that comes back from a rest is tried first. */
export function isLimited({ concurrency, rateLimit, restingUntil }: Limits): boolean {
  return concurrency !== null || rateLimit !== null || restingUntil !== null
}

/** How many attempts may begin now, of those that are asked for. Counts only what can matter. */
export function slotsLeft(
  limits: Limits,
  asked: number,
  counts: AttemptCounts,
  now: number,
): number {
  const { concurrency, rateLimit, rateFullAt } = limits
  let slots = asked
  if (rateLimit !== null) slots = Math.min(slots, wholeTokens(rateLimit, rateFullAt, now))
  if (concurrency !== null && slots > 0) {
    slots = Math.min(slots, concurrency - counts.running(concurrency))
  }
  const back = placesAfterRest(limits, now)
  if (back !== null && slots > 0) {
    slots = Math.min(slots, back.places - counts.sendingSince(back.since, back.places))
  }
  return Math.max(0, slots)
}

/** What is to be stored once so many attempts were begun, and when there may be room for more. */
export function afterClaim(
  { rateLimit, rateFullAt }: Limits,
  claimedCount: number,
  now: number,
): { rateFullAt: number | null; againAt: number } {
  if (rateLimit === null) return { rateFullAt, againAt: now + ASK_AGAIN_MS }
  const fullAt =
    claimedCount === 0 ? rateFullAt : fullAfterTaking(rateLimit, rateFullAt, now, claimedCount)
  return { rateFullAt: fullAt, againAt: freeAt(rateLimit, fullAt, now) ?? now + ASK_AGAIN_MS }
}
