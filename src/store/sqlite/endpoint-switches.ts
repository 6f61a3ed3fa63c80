// pause, resume and the rotation of secrets: what people change about an endpoint beside its
// settings. Durable, for an HTTP answer reports them.
import { type Endpoint, rotatedSecrets } from '../../endpoint/endpoint.ts'
import type { Database } from './database.ts'
import { sealSecrets, validSecrets } from './endpoint-rows.ts'
import { find, findRow } from './endpoints.ts'

/** Parameters: now, name. */
export const PAUSE = `
update endpoints set paused = 1, updated_at = ?, version = version + 1
where name = ? and deleting = 0`
export const RESUME = `
update endpoints set paused = 0, disabled_reason = null, resting_until = null,
  rest_by_breaker = 0, throttle_streak = 0, failure_count = 0, ramp_places = null,
  ramp_ends_at = null, updated_at = ?, version = version + 1
where name = ? and deleting = 0`
/** Parameters: secrets, now, name. */
export const ROTATE = `
update endpoints set secrets = ?, updated_at = ?, version = version + 1
where name = ? and deleting = 0`

export function pauseEndpoint(database: Database, name: string): Promise<Endpoint | null> {
  const { connection, clock } = database
  return connection.write('full', () => {
    connection.statement(PAUSE).run(clock.now(), name)
    return find(database, name)
  })
}

export async function resumeEndpoint(database: Database, name: string): Promise<Endpoint | null> {
  const { connection, clock, watch } = database
  const endpoint = await connection.write('full', () => {
    connection.statement(RESUME).run(clock.now(), name)
    return find(database, name)
  })
  watch.stir()
  return endpoint
}

export function rotateSecret(
  database: Database,
  name: string,
  secret: string,
  overlapMs: number,
): Promise<Endpoint | { fullUntil: number } | null> {
  const { connection, clock, keys } = database
  return connection.write('full', () => {
    const row = findRow(database, name)
    if (row === null) return null
    const now = clock.now()
    const newest = { secret, until: null }
    const secrets = rotatedSecrets(validSecrets(row, keys, now), newest, overlapMs, now)
    if ('fullUntil' in secrets) return secrets
    connection.statement(ROTATE).run(sealSecrets(secrets, name, keys), now, name)
    return find(database, name)
  })
}
