// Admission: how many attempts of an endpoint may start now, by its limits, and when to ask again.
// The store counts the running attempts, and ensures that no other process claims jobs between the
// count and the write.
import { DEFAULT_COST } from '../job/job.ts'
import type { Endpoint, EndpointSettings } from './endpoint.ts'
import { slotsAfterRest } from './health.ts'
import { freeAt, fullAfterTaking, hasTokens, wholeTokens } from './rate-bucket.ts'
import type { SharedRoom } from './shared-limits.ts'

/** The stored fields that decide how many attempts may start. */
export interface Limits
  extends Pick<EndpointSettings, 'concurrency' | 'rateLimit'>,
    Pick<Endpoint, 'restingUntil' | 'ramp'> {
  /**
   * When the bucket of the rate limit is full again, with fractions of milliseconds; null: it is
   * full.
   */
  rateFullAt: number | null
}

/** Counts jobs of the endpoint, up to `limit`: a higher count would not change the decision. */
export interface AttemptCounts {
  /** All running jobs, including those that await completion or whose lease has expired. */
  running(limit: number): number
  /** Jobs that are being sent and were claimed at or after `since`. */
  sendingSince(since: number, limit: number): number
}

/** How soon to ask again if the end of an attempt cannot be predicted. */
export const ASK_AGAIN_MS = 250

/** Whether any limit needs a count. An endpoint that recovers from a rest is limited, too. */
export function isLimited({ concurrency, rateLimit, restingUntil }: Limits): boolean {
  return concurrency !== null || rateLimit !== null || restingUntil !== null
}

/** How many of the requested attempts may start now. Counts only where the result can matter. */
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
  const back = slotsAfterRest(limits, now)
  if (back !== null && slots > 0) {
    slots = Math.min(slots, back.slots - counts.sendingSince(back.since, back.slots))
  }
  return Math.max(0, slots)
}

/** Whether the jobs of an endpoint may start, one after the other, while one claim takes them. */
export interface Tokens {
  /**
   * Returns false, and takes nothing, if a job of this cost may not start now. No other job of the
   * endpoint passes it.
   */
  take(cost: number): boolean
  /** null: none was refused. */
  readonly refusal: Refusal | null
}

export interface Refusal {
  /** Of the job. */
  cost: number
  /** The shared limits that refused it; none: the rate limit of the endpoint did. */
  limits: string[]
  /** When to ask these limits again. */
  againAt: number
}

/**
 * By the rate limit of the endpoint, and by the limits that it shares.
 *
 * @param limits null: the endpoint has no limits of its own
 */
export function tokensOf(
  endpoint: string,
  limits: Pick<Limits, 'rateLimit' | 'rateFullAt'> | null,
  shared: SharedRoom[],
  now: number,
): Tokens {
  const { rateLimit = null, rateFullAt = null } = limits ?? {}
  let fullAt = rateFullAt
  let refusal: Refusal | null = null
  return {
    take(cost) {
      if (refusal !== null) return false
      const askAgainAt = now + ASK_AGAIN_MS
      if (rateLimit !== null && !hasTokens(rateLimit, fullAt, now, cost)) {
        refusal = { cost, limits: [], againAt: askAgainAt }
        return false
      }
      const full = shared.filter((room) => !room.canTake(endpoint, cost))
      if (full.length > 0) {
        const againAt = Math.max(...full.map((room) => room.refuse(endpoint, cost) ?? askAgainAt))
        refusal = { cost, limits: full.map(({ name }) => name), againAt }
        return false
      }
      if (rateLimit !== null) fullAt = fullAfterTaking(rateLimit, fullAt, now, cost)
      for (const room of shared) room.take(endpoint, cost)
      return true
    },
    get refusal() {
      return refusal
    },
  }
}

/**
 * The values to store after a claim, and when there may be room for more.
 *
 * @param cost of all jobs that were claimed
 * @param nextCost of the job that comes next
 */
export function afterClaim(
  { rateLimit, rateFullAt }: Pick<Limits, 'rateLimit' | 'rateFullAt'>,
  cost: number,
  now: number,
  nextCost = DEFAULT_COST,
): { rateFullAt: number | null; againAt: number } {
  if (rateLimit === null) return { rateFullAt, againAt: now + ASK_AGAIN_MS }
  const fullAt =
    cost > 0 || (rateFullAt ?? 0) > now
      ? fullAfterTaking(rateLimit, rateFullAt, now, cost)
      : rateFullAt
  const againAt = freeAt(rateLimit, fullAt, now, nextCost) ?? now + ASK_AGAIN_MS
  return { rateFullAt: fullAt, againAt }
}
