// The settings of single fairness keys: reads and changes. A change holds for jobs that wait: it
// gives the turns of the key other tags, and claims look whether the key has room (key-limits.ts).
import {
  type CountedKey,
  type DeleteKeyResult,
  type FairnessKey,
  type KeyRecord,
  type KeySettings,
  MAX_KEYS_WITH_SETTINGS,
  NEW_KEY,
  type PutKeyResult,
} from '../../endpoint/key-limits.ts'
import { keySlotsAfterRest } from '../../endpoint/key-rest.ts'
import { type IfVersion, isMet } from '../precondition.ts'
import { MAX_COUNT } from '../store.ts'
import type { Database } from './connection.ts'
import { ENDPOINT_FOR_KEY, findKey, keyWeight, type StoredKey } from './fairness-keys.ts'
import { countsOf } from './key-limits.ts'
import { setRest } from './key-rests.ts'
import { retag, wakeParked } from './turns.ts'

export const PRIORITIES_OF = 'select priority from lanes where endpoint = $endpoint'
export const COUNT_SETTINGS = `
select count(*) as count from fairness_keys where endpoint = $endpoint and settings is not null`
export const PUT_SETTINGS = `
insert into fairness_keys (endpoint, key, settings, version, updated_at)
values ($endpoint, $key, $settings, $version, $now)
on conflict do update set settings = excluded.settings, version = excluded.version,
  updated_at = excluded.updated_at`
/** The bucket and the rest stay. */
export const DROP_SETTINGS = `
update fairness_keys set settings = null, updated_at = null
where endpoint = $endpoint and key = $key`

export async function putFairnessKey(
  database: Database,
  { endpoint, key }: FairnessKey,
  settings: KeySettings,
  ifVersion: IfVersion,
): Promise<PutKeyResult> {
  const { connection, clock } = database
  const result = await connection.write('full', (): PutKeyResult => {
    if (connection.statement(ENDPOINT_FOR_KEY).get({ endpoint }) === undefined) {
      return { kind: 'unknown_endpoint' }
    }
    const stored = findKey(database, endpoint, key)
    const version = versionOf(stored)
    if (!isMet(ifVersion, version)) return { kind: 'stale', version }
    const count = connection.statement(COUNT_SETTINGS).get({ endpoint })?.count as number
    if (version === null && count >= MAX_KEYS_WITH_SETTINGS) return { kind: 'too_many_keys' }
    const now = clock.now()
    const next = (version ?? 0) + 1
    connection
      .statement(PUT_SETTINGS)
      .run({ endpoint, key, now, version: next, settings: JSON.stringify(settings) })
    if (!settings.paused) setRest(database, { endpoint, key }, null)
    applyTo(database, endpoint, key, stored)
    const rest = settings.paused ? (stored?.rest ?? null) : null
    return {
      kind: version === null ? 'created' : 'replaced',
      record: { key, settings, version: next, updatedAt: now, rest },
    }
  })
  if ('record' in result) database.notifier.notifyWork()
  return result
}

export async function deleteFairnessKey(
  database: Database,
  { endpoint, key }: FairnessKey,
  ifVersion: number | null,
): Promise<DeleteKeyResult> {
  const { connection } = database
  const result = await connection.write('full', (): DeleteKeyResult => {
    const stored = findKey(database, endpoint, key)
    const version = versionOf(stored)
    if (stored === null || version === null) return { kind: 'not_found' }
    if (ifVersion !== null && version !== ifVersion) return { kind: 'stale', version }
    connection.statement(DROP_SETTINGS).run({ endpoint, key })
    applyTo(database, endpoint, key, stored)
    return { kind: 'deleted' }
  })
  if (result.kind === 'deleted') database.notifier.notifyWork()
  return result
}

export function fairnessKeysNamed(
  database: Database,
  endpoint: string,
  keys: string[],
): Promise<KeyRecord[]> {
  return database.connection.read(() =>
    keys.flatMap((key) => {
      const stored = findKey(database, endpoint, key)
      if (stored === null) return []
      const { settings, rest, updatedAt } = stored
      if (settings === null && rest === null) return []
      return [{ key, settings, version: versionOf(stored) ?? 0, updatedAt, rest }]
    }),
  )
}

export function fairnessKeyState(
  database: Database,
  { endpoint, key }: FairnessKey,
): Promise<CountedKey> {
  return database.connection.read(() => {
    const { settings, bucket, rest } = findKey(database, endpoint, key) ?? NEW_KEY
    const counts = countsOf(database, { endpoint, key })
    const back = keySlotsAfterRest(rest, database.clock.now())
    return {
      ...{ settings, bucket, rest, running: counts.running(MAX_COUNT) },
      sending: back === null ? 0 : counts.sendingSince(back.since, back.slots),
    }
  })
}

/** null: the key has no settings. */
function versionOf(stored: StoredKey | null): number | null {
  return stored === null || stored.settings === null ? null : stored.version
}

/** The turns of the key get the tags of its weight, and claims look whether it has room. */
function applyTo(database: Database, endpoint: string, key: string, before: StoredKey | null) {
  const { connection } = database
  const weights = {
    before: before?.settings?.weight ?? 1,
    after: keyWeight(database, endpoint, key),
  }
  for (const { priority } of connection.statement(PRIORITIES_OF).all({ endpoint })) {
    const of = { endpoint, priority: priority as number, key }
    if (weights.before !== weights.after) retag(database, of, weights.before)
  }
  wakeParked(database, { endpoint, key })
}
