// reportHealth: what attempts tell about their endpoints. Counts and rests raise no version.
import type { HealthReport } from '../endpoint-results.ts'
import type { Database } from './database.ts'

export const HEALTH_OF = `
select version, failure_count, breaker_failures, breaker_cooldown_ms, resting_until,
  rest_by_breaker, throttle_streak, probe_id, probe_fence, disabled_reason
from endpoints where name = ?`
/** The row was read in the same transaction. */
export const WRITE_HEALTH = `
update endpoints set version = ?, failure_count = ?, resting_until = ?, rest_by_breaker = ?,
  throttle_streak = ?, probe_id = ?, probe_fence = ?, disabled_reason = ?
where name = ?`

/** Rests of an endpoint that names no time: the first, doubled with each more in a row, the last. */
const FIRST_THROTTLE_MS = 1_000
const MAX_THROTTLE_MS = 60_000
const MAX_REST_MS = 24 * 3_600_000
/** 2 to this power times the first rest is more than the last, and no overflow. */
const MAX_DOUBLINGS = 10

interface Health {
  version: number
  failure_count: number
  breaker_failures: number | null
  breaker_cooldown_ms: number | null
  resting_until: number | null
  rest_by_breaker: number
  throttle_streak: number
  probe_id: string | null
  probe_fence: number | null
  disabled_reason: 'gone' | null
}

export async function reportHealth(database: Database, reports: HealthReport[]): Promise<void> {
  if (reports.length === 0) return
  const { connection, clock, watch } = database
  await connection.write('normal', () => {
    const now = clock.now()
    for (const report of reports) {
      const stored = connection.statement(HEALTH_OF).get(report.endpoint) as Health | undefined
      if (stored === undefined) continue
      const health = { ...stored }
      apply(health, report, now)
      connection
        .statement(WRITE_HEALTH)
        .run(
          health.version,
          health.failure_count,
          health.resting_until,
          health.rest_by_breaker,
          health.throttle_streak,
          health.probe_id,
          health.probe_fence,
          health.disabled_reason,
          report.endpoint,
        )
    }
  })
  if (reports.some(({ reset }) => reset)) watch.stir()
}

function apply(health: Health, report: HealthReport, now: number): void {
  if (report.reset) {
    health.failure_count = 0
    health.throttle_streak = 0
    health.resting_until = null
    health.rest_by_breaker = 0
    forgetProbe(health)
  }
  if (report.failures > 0) countFailures(health, report.failures, now)
  if (report.throttle !== null) throttle(health, report.throttle.until, now)
  if (report.goneAtVersion === health.version) {
    health.disabled_reason = 'gone'
    health.version++
  }
}

function countFailures(health: Health, failures: number, now: number): void {
  health.failure_count += failures
  forgetProbe(health)
  const { breaker_failures, breaker_cooldown_ms } = health
  if (breaker_failures === null || breaker_cooldown_ms === null) return
  if (health.failure_count < breaker_failures || isResting(health, now)) return
  health.resting_until = now + breaker_cooldown_ms
  health.rest_by_breaker = 1
}

function throttle(health: Health, named: number | null, now: number): void {
  if (!isResting(health, now)) health.throttle_streak++
  const doublings = Math.min(Math.max(0, health.throttle_streak - 1), MAX_DOUBLINGS)
  const ownUntil = now + Math.min(FIRST_THROTTLE_MS * 2 ** doublings, MAX_THROTTLE_MS)
  const until = Math.min(named ?? ownUntil, now + MAX_REST_MS)
  if (health.resting_until !== null && health.resting_until >= until) return
  health.resting_until = until
  health.rest_by_breaker = 0
}

function isResting({ resting_until }: Health, now: number): boolean {
  return resting_until !== null && resting_until > now
}

function forgetProbe(health: Health): void {
  health.probe_id = null
  health.probe_fence = null
}
