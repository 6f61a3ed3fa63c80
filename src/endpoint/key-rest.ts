// The rest of a fairness key: a response with `posthorn-throttle-scope: key` asked for fewer
// requests of this key alone. The rules are those of a throttled endpoint (health.ts). No I/O.
import { AHEAD_TOLERANCE_MS } from '../job/set-back.ts'
import { type Health, type HealthReport, healthAfter, type Ramp, slotsAfterRest } from './health.ts'
import type { FairnessKey } from './key-limits.ts'

/** It is stored from the first throttled attempt until the key has recovered. */
export interface KeyRest {
  /** When it was stored. */
  at: number
  restingUntil: number
  /** As in Health. */
  throttleStreak: number
  ramp: Ramp | null
  /** From then on it has no effect. */
  keptUntil: number
}

/** What happened at a key since the last report, in the order of the fields. */
export interface KeyHealthReport
  extends FairnessKey,
    Pick<HealthReport, 'succeeded' | 'throttle'> {}

/** A key of which no job was sent for so long after its rest need not recover. */
const KEPT_AFTER_REST_MS = 3_600_000

/** null: the key has recovered, or the clock was set back since the rest was stored. */
export function restInForce(rest: KeyRest | null, now: number): KeyRest | null {
  if (rest === null || rest.keptUntil <= now || rest.at > now + AHEAD_TOLERANCE_MS) return null
  return rest
}

/** Applies a report. null: nothing needs to be stored. */
export function keyRestAfter(
  stored: KeyRest | null,
  { succeeded, throttle, endpoint }: KeyHealthReport,
  now: number,
): KeyRest | null {
  const rest = restInForce(stored, now)
  const before: Health = {
    version: 0,
    isGone: false,
    restingUntil: rest?.restingUntil ?? null,
    restCause: rest === null ? null : 'throttle',
    throttleStreak: rest?.throttleStreak ?? 0,
    failureCount: 0,
    ramp: rest?.ramp ?? null,
  }
  const report = { endpoint, succeeded, failures: 0, throttle, goneAtVersion: null }
  const { restingUntil, throttleStreak, ramp } = healthAfter(before, report, null, now)
  if (restingUntil === null) return null
  const keptUntil = ramp?.endsAt ?? restingUntil + KEPT_AFTER_REST_MS
  return { at: now, restingUntil, throttleStreak, ramp, keptUntil }
}

/** When the key may start jobs again; null: it does not rest now. */
export function keyRestsUntil(stored: KeyRest | null, now: number): number | null {
  const rest = restInForce(stored, now)
  return rest !== null && rest.restingUntil > now ? rest.restingUntil : null
}

/** As slotsAfterRest. null: the key is not recovering. */
export function keySlotsAfterRest(
  stored: KeyRest | null,
  now: number,
): { slots: number; since: number } | null {
  const rest = restInForce(stored, now)
  return rest === null ? null : slotsAfterRest(rest, now)
}
