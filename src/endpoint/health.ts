// What attempts tell about the health of their endpoint, and what that leads to: rests, the circuit
// breaker, being disabled. Pure.
import type { CircuitBreaker } from './endpoint.ts'

/** What happened to an endpoint since the last report, in this order. */
export interface HealthReport {
  endpoint: string
  /** An attempt succeeded or was accepted: what was counted before is forgotten, a rest ends. */
  reset: boolean
  /** Failed attempts after that which its circuit breaker counts. */
  failures: number
  /** Throttled answers: `until` is the instant that was named, null if none was. */
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
  /** The attempt that tries a tripped endpoint is under way. */
  isProbing: boolean
}

/** Rests of an endpoint that names no time: the first, doubled with each more in a row, to the last. */
const FIRST_THROTTLE_MS = 1_000
const MAX_THROTTLE_MS = 60_000
/** The longest rest that an answer can ask for. */
const MAX_REST_MS = 24 * 3_600_000

/** In the order in which it happened: reset, failures, throttle, gone. */
export function healthAfter(
  before: Health,
  report: HealthReport,
  breaker: CircuitBreaker | null,
  now: number,
): Health {
  const health = report.reset ? wellAgain(before) : { ...before }
  if (report.failures > 0) countFailures(health, report.failures, breaker, now)
  if (report.throttle !== null) throttle(health, report.throttle.until, now)
  if (report.goneAtVersion === health.version) {
    health.isGone = true
    health.version++
  }
  return health
}

function wellAgain({ version, isGone }: Health): Health {
  return {
    version,
    isGone,
    restingUntil: null,
    restCause: null,
    throttleStreak: 0,
    failureCount: 0,
    isProbing: false,
  }
}

function countFailures(
  health: Health,
  failures: number,
  breaker: CircuitBreaker | null,
  now: number,
): void {
  health.failureCount += failures
  health.isProbing = false
  if (breaker === null || health.failureCount < breaker.failures || isResting(health, now)) return
  health.restingUntil = now + breaker.cooldownMs
  health.restCause = 'breaker'
}

function throttle(health: Health, named: number | null, now: number): void {
  if (!isResting(health, now)) health.throttleStreak++
  const doublings = Math.max(0, health.throttleStreak - 1)
  const ownUntil = now + Math.min(FIRST_THROTTLE_MS * 2 ** doublings, MAX_THROTTLE_MS)
  const until = Math.min(named ?? ownUntil, now + MAX_REST_MS)
  if (health.restingUntil !== null && health.restingUntil >= until) return
  health.restingUntil = until
  health.restCause = 'throttle'
}

function isResting({ restingUntil }: Health, now: number): boolean {
  return restingUntil !== null && restingUntil > now
}
