// What attempts tell about the health of their endpoint, and what follows: rests, the circuit
// breaker, the way back after a rest, being disabled. Pure.
import type { CircuitBreaker, Endpoint } from './endpoint.ts'

/** How an endpoint comes back from a rest once its first attempt has succeeded. */
export interface Ramp {
  /** Attempts that may be in flight: one more with each success, so twice as many each round. */
  places: number
  /** When the ramp ends at the latest: handlers that take minutes must not make it take hours. */
  endsAt: number
}

/** What happened to an endpoint since the last report, in this order. */
export interface HealthReport {
  endpoint: string
  /** Attempts that succeeded or were accepted: when each was claimed. */
  succeeded: number[]
  /** Failed attempts after that which its circuit breaker counts. */
  failures: number
  /** Throttled answers: `until` is the latest instant that was named, null if none was. */
  throttle: { until: number | null } | null
  /** Answered 410 to an attempt that began with this version: it is disabled if it still is. */
  goneAtVersion: number | null
}

export interface Health {
  version: number
  isGone: boolean
  restingUntil: number | null
  restCause: 'breaker' | 'throttle' | null
  /** Throttled in a row, those that came while it rested anyway left out. */
  throttleStreak: number
  /** Failed in a row, as the breaker counts. */
  failureCount: number
  /** null: it does not rest, or no attempt has succeeded since its rest. */
  ramp: Ramp | null
}

/** Rests of a throttled endpoint: the first, doubled with each more in a row, up to the last. */
const FIRST_THROTTLE_MS = 1_000
const MAX_THROTTLE_MS = 60_000
/** The longest rest that an answer can ask for. */
const MAX_REST_MS = 24 * 3_600_000
/** With so many places in flight the endpoint has shown that it takes what it is sent. */
const MAX_RAMP_PLACES = 64
const MAX_RAMP_MS = 30_000
/** More than the clocks of two processes differ. Nothing is claimed in the last part of a rest. */
const CLOCK_MARGIN_MS = 100

/** In the order in which it happened: successes, failures, throttle, gone. */
export function healthAfter(
  before: Health,
  report: HealthReport,
  breaker: CircuitBreaker | null,
  now: number,
): Health {
  const health = { ...before }
  if (report.succeeded.length > 0) countSuccesses(health, report.succeeded, now)
  if (report.failures > 0) countFailures(health, report.failures, breaker, now)
  if (report.throttle !== null) throttle(health, report.throttle.until, now)
  if (report.goneAtVersion === health.version) {
    health.isGone = true
    health.version++
  }
  return health
}

/**
 * How many attempts of an endpoint may be in flight after its rest, those counted that were claimed
 * from `since` on; null: it does not come back from a rest.
 */
export function placesAfterRest(
  { restingUntil, ramp }: Pick<Endpoint, 'restingUntil' | 'ramp'>,
  now: number,
): { places: number; since: number } | null {
  if (restingUntil === null) return null
  if (ramp !== null && ramp.endsAt <= now) return null
  return { places: ramp?.places ?? 1, since: restingUntil - CLOCK_MARGIN_MS }
}

/**
 * Until when an endpoint rests, after the clock was set back. A rest of the breaker is as long as
 * its cooldown; one that the endpoint asked for was stored before or after the step, and ends no
 * later than either would.
 *
 * @param cooldownMs of the breaker that began the rest; null: the endpoint asked for it
 * @param setBackMs 0: not known
 */
export function restAfterSetBack(
  restingUntil: number,
  cooldownMs: number | null,
  setBackMs: number,
  now: number,
): number {
  if (cooldownMs !== null) return Math.min(restingUntil, now + cooldownMs)
  return Math.min(Math.max(now, restingUntil - setBackMs), now + MAX_REST_MS)
}

/**
 * A rest that the breaker began ends with any success. One that the endpoint asked for does not: an
 * attempt that began before it proves nothing about it, and none begins while it lasts.
 */
function countSuccesses(health: Health, claimedAt: number[], now: number): void {
  health.failureCount = 0
  const { restingUntil, restCause } = health
  if (restingUntil === null) {
    health.throttleStreak = 0
    return
  }
  const since = restingUntil - CLOCK_MARGIN_MS
  const proofs = restCause === 'breaker' ? claimedAt : claimedAt.filter((at) => at >= since)
  if (proofs.length === 0) return
  health.throttleStreak = 0
  const places = (health.ramp?.places ?? 1) + proofs.length
  const endsAt = health.ramp?.endsAt ?? now + MAX_RAMP_MS
  const isWell = places > MAX_RAMP_PLACES || endsAt <= now
  health.restingUntil = isWell ? null : Math.min(restingUntil, now)
  health.restCause = isWell ? null : restCause
  health.ramp = isWell ? null : { places, endsAt }
}

function countFailures(
  health: Health,
  failures: number,
  breaker: CircuitBreaker | null,
  now: number,
): void {
  health.failureCount += failures
  if (breaker === null || health.failureCount < breaker.failures || isResting(health, now)) return
  health.restingUntil = now + breaker.cooldownMs
  health.restCause = 'breaker'
  health.ramp = null
}

function throttle(health: Health, named: number | null, now: number): void {
  if (!isResting(health, now)) health.throttleStreak++
  health.ramp = null
  const doublings = Math.max(0, health.throttleStreak - 1)
  const ownUntil = now + Math.min(FIRST_THROTTLE_MS * 2 ** doublings, MAX_THROTTLE_MS)
  const until = Math.min(Math.max(named ?? 0, ownUntil), now + MAX_REST_MS)
  if (health.restingUntil !== null && health.restingUntil >= until) return
  health.restingUntil = until
  health.restCause = 'throttle'
}

function isResting({ restingUntil }: Health, now: number): boolean {
  return restingUntil !== null && restingUntil > now
}
