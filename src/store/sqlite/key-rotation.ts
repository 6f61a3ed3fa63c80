// Decrypts every stored secret at the start, and encrypts those of an older key with the current
// key. Then the older key can be removed from ENCRYPTION_KEY.
import type { Database } from './connection.ts'

/**
 * Limit of schedules read and encrypted together: no other writer waits longer than for a batch of
 * jobs.
 */
const SCHEDULES_AT_ONCE = 500

export const ENCRYPTED_ENDPOINTS = 'select name, headers, secrets from endpoints'
/** Replaces the values only if they are still those that were decrypted. */
export const REENCRYPT_ENDPOINT = `
update endpoints set headers = $newHeaders, secrets = $newSecrets
where name = $name and secrets = $secrets`

export const ENCRYPTED_SCHEDULES = `
select name, settings from schedules where name > $after order by name limit +$limit`
export const REENCRYPT_SCHEDULE =
  'update schedules set settings = $newSettings where name = $name and settings = $settings'

interface EncryptedEndpoint {
  name: string
  headers: string | null
  secrets: string
}

interface EncryptedSchedule {
  name: string
  settings: string
}

/** @throws StoreUnusable if a secret has another key: the start fails, instead of each delivery */
export async function reencryptEndpoints({ connection, keys, settings }: Database): Promise<void> {
  const changes = await connection.read(() => {
    const found: Record<string, string | null>[] = []
    const rows = connection.statement(ENCRYPTED_ENDPOINTS).iterate()
    for (const {
      name,
      headers,
      secrets,
    } of rows as Iterable<unknown> as Iterable<EncryptedEndpoint>) {
      const plain = keys.open(secrets, name)
      const plainHeaders = headers === null ? null : keys.open(headers, name)
      if (keys.isCurrent(secrets) && (headers === null || keys.isCurrent(headers))) continue
      const newHeaders = plainHeaders === null ? null : keys.seal(plainHeaders, name)
      found.push({ name, secrets, newHeaders, newSecrets: keys.seal(plain, name) })
    }
    return found
  })
  if (settings.reencrypts === false || changes.length === 0) return
  await connection.write('full', () => {
    for (const change of changes) connection.statement(REENCRYPT_ENDPOINT).run(change)
  })
}

/** A schedule that no key decrypts is logged and stays: the others must tick. */
export async function reencryptSchedules(database: Database): Promise<void> {
  const { connection, settings } = database
  if (settings.reencrypts === false) return
  let last: EncryptedSchedule | undefined = { name: '', settings: '' }
  while (last !== undefined) {
    const after: string = last.name
    const rows = (await connection.read(() =>
      connection.statement(ENCRYPTED_SCHEDULES).all({ after, limit: SCHEDULES_AT_ONCE }),
    )) as unknown as EncryptedSchedule[]
    await reencryptSome(database, rows)
    last = rows.length === SCHEDULES_AT_ONCE ? rows.at(-1) : undefined
  }
}

async function reencryptSome(
  { connection, keys, undecryptable }: Database,
  rows: EncryptedSchedule[],
): Promise<void> {
  const changes = rows.flatMap(({ name, settings }) => {
    if (keys.isCurrent(settings)) return []
    const plain = undecryptable.tryDecrypt(name, () => keys.open(settings, name))
    return plain === null ? [] : [{ name, settings, newSettings: keys.seal(plain, name) }]
  })
  if (changes.length === 0) return
  await connection.write('full', () => {
    for (const change of changes) connection.statement(REENCRYPT_SCHEDULE).run(change)
  })
}
