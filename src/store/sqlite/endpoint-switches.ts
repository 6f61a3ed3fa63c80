// pause, resume and the rotation of secrets: what people change about an endpoint beside its
// settings. Durable, for an HTTP answer reports them.
import { type Endpoint, rotatedSecrets } from '../../endpoint/endpoint.ts'
import { type OtherVersion, otherVersion } from '../precondition.ts'
import type { Database } from './database.ts'
import { sealSecrets, validSecrets } from './endpoint-rows.ts'
import { find, findRow } from './endpoints.ts'

/** Parameters: now, name. The version of an endpoint that was paused before stays as it is. */
export const PAUSE = `
update endpoints set paused = 1,
  updated_at = case when paused = 0 then ? else updated_at end, version = version + (paused = 0)
where name = ? and deleting = 0`
/** What it resets beside these three are counts, which never raise a version. */
const IS_HELD_BACK = '(paused = 1 or disabled_reason is not null or resting_until is not null)'
export const RESUME = `
update endpoints set paused = 0, disabled_reason = null, resting_until = null,
  rest_by_breaker = 0, throttle_streak = 0, failure_count = 0, ramp_places = null,
  ramp_ends_at = null, updated_at = case when ${IS_HELD_BACK} then ? else updated_at end,
  version = version + ${IS_HELD_BACK}
where name = ? and deleting = 0`
/** Parameters: secrets, now, name. */
export const ROTATE = `
update endpoints set secrets = ?, updated_at = ?, version = version + 1
where name = ? and deleting = 0`

export function pauseEndpoint(
  database: Database,
  name: string,
  ifVersion: number | null = null,
): Promise<Endpoint | OtherVersion | null> {
  return run(database, PAUSE, name, ifVersion)
}

export async function resumeEndpoint(
  database: Database,
  name: string,
  ifVersion: number | null = null,
): Promise<Endpoint | OtherVersion | null> {
  const endpoint = await run(database, RESUME, name, ifVersion)
  database.watch.stir()
  return endpoint
}

function run(
  database: Database,
  change: typeof PAUSE | typeof RESUME,
  name: string,
  ifVersion: number | null,
): Promise<Endpoint | OtherVersion | null> {
  const { connection, clock } = database
  return connection.write('full', () => {
    const other = otherVersion(findRow(database, name), ifVersion)
    if (other !== null) return other
    connection.statement(change).run(clock.now(), name)
    return find(database, name)
  })
}

export function rotateSecret(
  database: Database,
  name: string,
  secret: string,
  overlapMs: number,
  ifVersion: number | null = null,
): Promise<Endpoint | OtherVersion | { fullUntil: number } | null> {
  const { connection, clock, keys } = database
  return connection.write('full', () => {
    const row = findRow(database, name)
    if (row === null) return null
    const other = otherVersion(row, ifVersion)
    if (other !== null) return other
    const now = clock.now()
    const newest = { secret, until: null }
    const secrets = rotatedSecrets(validSecrets(row, keys, now), newest, overlapMs, now)
    if ('fullUntil' in secrets) return secrets
    connection.statement(ROTATE).run(sealSecrets(secrets, name, keys), now, name)
    return find(database, name)
  })
}
