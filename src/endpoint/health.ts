// The health of an endpoint, derived from its attempts: rests, the circuit breaker, the recovery
// after a rest, and disabling. Pure.
import type { CircuitBreaker, Endpoint } from './endpoint.ts'

/** The recovery of an endpoint after a rest, once its first attempt has succeeded. */
export interface Ramp {
  /**
   * Attempts that may be in flight. Each success adds one, so that the number doubles each round.
   */
  slots: number
  /** The latest end of the ramp: handlers that take minutes must not make it last for hours. */
  endsAt: number
}

/** What happened at an endpoint since the last report, in the order of the fields. */
export interface HealthReport {
  endpoint: string
  /** When each attempt that succeeded or was accepted had been claimed. */
  succeeded: number[]
  /** Later failed attempts that count for its circuit breaker. */
  failures: number
  /** Throttled attempts: `until` is the latest instant that a response named; null: none did. */
  throttle: { until: number | null } | null
  /**
   * The endpoint's version at the start of an attempt that got a 410. It is disabled only if its
   * version is still the same.
   */
  goneAtVersion: number | null
}

export interface Health {
  version: number
  isGone: boolean
  restingUntil: number | null
  restCause: 'breaker' | 'throttle' | null
  /** Throttled attempts in a row, without those that ended during a rest. */
  throttleStreak: number
  /** Failed attempts in a row, as the circuit breaker counts them. */
  failureCount: number
  /** null: the endpoint is not resting, or no attempt has succeeded since its rest. */
  ramp: Ramp | null
}

/**
 * The rest of a throttled endpoint: it starts with the first value and doubles with each further
 * throttled attempt in a row, up to the maximum.
 */
const FIRST_THROTTLE_MS = 1_000
const MAX_THROTTLE_MS = 60_000
/** The longest rest that a response can ask for. */
const MAX_REST_MS = 24 * 3_600_000
/** An endpoint that handles this many attempts in flight has recovered. */
const MAX_RAMP_SLOTS = 64
const MAX_RAMP_MS = 30_000
/**
 * Larger than the difference between the clocks of two processes. Nothing is claimed during a rest,
 * so a claim within this margin before its end counts as a claim after it.
 */
const CLOCK_MARGIN_MS = 100

/** Applies a report in the order of events: successes, failures, throttle, gone. */
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
 * How many attempts of an endpoint may be in flight after its rest, counting those claimed at or
 * after `since`; null: it is not recovering from a rest.
 */
export function slotsAfterRest(
  { restingUntil, ramp }: Pick<Endpoint, 'restingUntil' | 'ramp'>,
  now: number,
): { slots: number; since: number } | null {
  if (restingUntil === null) return null
  if (ramp !== null && ramp.endsAt <= now) return null
  return { slots: ramp?.slots ?? 1, since: restingUntil - CLOCK_MARGIN_MS }
}

/**
 * When the rest of an endpoint ends after the clock was set back. A rest that the circuit breaker
 * began lasts no longer than its cooldown. A rest that the endpoint asked for may have been stored
 * before or after the step, so it ends by the earlier of the two.
 *
 * @param cooldownMs of the circuit breaker that began the rest; null: the endpoint asked for it
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
 * A rest that the circuit breaker began ends with any success. A rest that the endpoint asked for
 * does not end with the success of an attempt that started before it: such an attempt proves
 * nothing, and none starts during the rest.
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
  const slots = (health.ramp?.slots ?? 1) + proofs.length
  const endsAt = health.ramp?.endsAt ?? now + MAX_RAMP_MS
  const isWell = slots > MAX_RAMP_SLOTS || endsAt <= now
  health.restingUntil = isWell ? null : Math.min(restingUntil, now)
  health.restCause = isWell ? null : restCause
  health.ramp = isWell ? null : { slots, endsAt }
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
