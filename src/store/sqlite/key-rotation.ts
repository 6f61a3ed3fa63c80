// Decrypts every stored secret at the start, and encrypts those of an older key with the current
// key. Then the older key can be removed from ENCRYPTION_KEY.
import type { Database } from './connection.ts'

/** What a start opens to prove its keys. */
export const SEALED = 'select name, headers, secrets from endpoints'
/** Nobody has put it anew meanwhile. */
const RESEAL = 'update endpoints set headers = ?, secrets = ? where name = ? and secrets = ?'

/**
 * Opens every stored secret once: a wrong key ends the start instead of each delivery. What was
 * sealed with another than the first key is sealed with that one now, so that the old can go.
 */
export async function proveKeys({ connection, keys }: Database): Promise<void> {
  const resealed = await connection.read(() => {
    const found: [string | null, string, string, string][] = []
    for (const row of connection.statement(SEALED).iterate()) {
      const { name, headers, secrets } = row as Record<'name' | 'secrets', string> & {
        headers: string | null
      }
      const plain = keys.open(secrets, name)
      const plainHeaders = headers === null ? null : keys.open(headers, name)
      if (keys.isCurrent(secrets) && (headers === null || keys.isCurrent(headers))) continue
      const newHeaders = plainHeaders === null ? null : keys.seal(plainHeaders, name)
      found.push([newHeaders, keys.seal(plain, name), name, secrets])
    }
    return found
  })
  if (resealed.length === 0) return
  await connection.write('full', () => {
    for (const values of resealed) connection.statement(RESEAL).run(...values)
  })
}

/** Read, and sealed, in one go: nobody waits longer for it than for a batch of jobs. */
const SCHEDULES_AT_ONCE = 500

/** Parameters: name, limit. */
export const SEALED_SETTINGS = `
select name, settings from schedules where name > ? order by name limit +?`
/** The guard: what was opened is what is stored. */
export const RESEAL_SETTINGS = 'update schedules set settings = ? where name = ? and settings = ?'

interface SealedRow {
  name: string
  settings: string
}

export async function resealSchedules(database: Database): Promise<void> {
  const { connection } = database
  let last: SealedRow | undefined = { name: '', settings: '' }
  while (last !== undefined) {
    const after: string = last.name
    const rows = await connection.read(
      () =>
        connection
          .statement(SEALED_SETTINGS)
          .all(after, SCHEDULES_AT_ONCE) as unknown as SealedRow[],
    )
    await reseal(database, rows)
    last = rows.length === SCHEDULES_AT_ONCE ? rows.at(-1) : undefined
  }
}

async function reseal({ connection, keys, unreadable }: Database, rows: SealedRow[]) {
  const resealed = rows.flatMap(({ name, settings }) => {
    if (keys.isCurrent(settings)) return []
    const plain = unreadable.openOrNote(name, () => keys.open(settings, name))
    return plain === null ? [] : [[keys.seal(plain, name), name, settings]]
  })
  if (resealed.length === 0) return
  await connection.write('full', () => {
    for (const values of resealed) connection.statement(RESEAL_SETTINGS).run(...values)
  })
}
