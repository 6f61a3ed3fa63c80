// reportHealth: what attempts tell about their endpoints. Counts and rests raise no version.
import { type Health, type HealthReport, healthAfter } from '../../endpoint/health.ts'
import type { Database } from './database.ts'
import { rampOf } from './endpoint-rows.ts'

export const HEALTH_OF = `
select version, failure_count, breaker_failures, breaker_cooldown_ms, resting_until,
  rest_by_breaker, throttle_streak, ramp_places, ramp_ends_at
from endpoints where name = ?`
/** The row was read in the same transaction. */
export const WRITE_HEALTH = `
update endpoints set version = ?, failure_count = ?, resting_until = ?, rest_by_breaker = ?,
  throttle_streak = ?, ramp_places = ?, ramp_ends_at = ?,
  disabled_reason = coalesce(?, disabled_reason), updated_at = coalesce(?, updated_at)
where name = ?`

interface HealthRow {
  version: number
  failure_count: number
  breaker_failures: number | null
  breaker_cooldown_ms: number | null
  resting_until: number | null
  rest_by_breaker: number
  throttle_streak: number
  ramp_places: number | null
  ramp_ends_at: number | null
}

export async function reportHealth(database: Database, reports: HealthReport[]): Promise<void> {
  if (reports.length === 0) return
  const { connection, clock, watch } = database
  await connection.write('normal', () => {
    const now = clock.now()
    for (const report of reports) {
      const row = connection.statement(HEALTH_OF).get(report.endpoint) as HealthRow | undefined
      if (row !== undefined) writeHealth(database, row, report, now)
    }
  })
  if (reports.some(({ succeeded }) => succeeded.length > 0)) watch.stir()
}

function writeHealth(
  { connection }: Database,
  row: HealthRow,
  report: HealthReport,
  now: number,
): void {
  const { breaker_failures, breaker_cooldown_ms } = row
  const breaker =
    breaker_failures === null || breaker_cooldown_ms === null
      ? null
      : { failures: breaker_failures, cooldownMs: breaker_cooldown_ms }
  const before: Health = {
    version: row.version,
    isGone: false,
    restingUntil: row.resting_until,
    restCause: restCauseOf(row),
    throttleStreak: row.throttle_streak,
    failureCount: row.failure_count,
    ramp: rampOf(row),
  }
  const after = healthAfter(before, report, breaker, now)
  connection
    .statement(WRITE_HEALTH)
    .run(
      after.version,
      after.failureCount,
      after.restingUntil,
      after.restCause === 'breaker' ? 1 : 0,
      after.throttleStreak,
      after.ramp?.places ?? null,
      after.ramp?.endsAt ?? null,
      after.isGone ? 'gone' : null,
      after.isGone ? now : null,
      report.endpoint,
    )
}

function restCauseOf({ resting_until, rest_by_breaker }: HealthRow): Health['restCause'] {
  if (resting_until === null) return null
  return rest_by_breaker === 1 ? 'breaker' : 'throttle'
}
