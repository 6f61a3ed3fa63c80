// The limits of fairness keys. A claim counts the running jobs of a key. A key at its limit is
// parked (turns.ts) until a job of it ends, its next token comes, or its settings change.
import {
  type DeleteKeyResult,
  type FairnessKey,
  type KeyLimits,
  type KeyRecord,
  type KeyRoom,
  type KeySettings,
  type KeyState,
  keyRoom,
  MAX_KEYS_WITH_SETTINGS,
  NEW_KEY,
  type PutKeyResult,
} from '../../endpoint/key-limits.ts'
import { NO_TURN, PARKED } from '../../job/turns.ts'
import { type IfVersion, isMet } from '../precondition.ts'
import { MAX_COUNT } from '../store.ts'
import type { Database } from './connection.ts'
import { findKey, hasKeys, keyWeight, type StoredKey, setBucket } from './fairness-keys.ts'
import {
  ALARMS_PER_CLAIM,
  giveTurns,
  park,
  retag,
  SET_PARKED_ASIDE,
  TURNS_PER_CHANGE,
  wakeParked,
} from './turns.ts'

export const RIPE_PARKED = `
select fairness_key as key from jobs
where turn = ${PARKED} and effects_pending = 0 and endpoint = $endpoint and priority = $priority
  and due_at <= $now
order by due_at limit ${ALARMS_PER_CLAIM}`
/** The key that is looked at next. */
export const FIRST_PARKED = `
select min((select min(due_at) from jobs
  where turn = ${PARKED} and effects_pending = 0 and endpoint = $endpoint
    and priority = lanes.priority)) as until
from lanes where endpoint = $endpoint`
export const PRIORITIES_OF = 'select priority from lanes where endpoint = $endpoint'
/** By the conditions of the index jobs_of_key: a job that runs has no turn, and is not blocked. */
export const RUNNING_OF_KEY = `
select count(*) as count from (
  select 1 from jobs
  where fairness_key is not null and holds_keys = 1 and turn = ${NO_TURN} and blocked < 2
    and endpoint = $endpoint and fairness_key = $key and blocked = 0
  limit +$limit)`
export const WAKE_ALL_PARKED = `
update jobs set due_at = $now
where turn = ${PARKED} and effects_pending = 0 and endpoint = $endpoint`
export const COUNT_SETTINGS = `
select count(*) as count from fairness_keys where endpoint = $endpoint and settings is not null`
export const PUT_SETTINGS = `
insert into fairness_keys (endpoint, key, settings, version, updated_at)
values ($endpoint, $key, $settings, $version, $now)
on conflict do update set settings = excluded.settings, version = excluded.version,
  updated_at = excluded.updated_at`
/** The bucket stays. */
export const DROP_SETTINGS = `
update fairness_keys set settings = null, updated_at = null,
  bucket_full_at = coalesce(bucket_full_at, 0)
where endpoint = $endpoint and key = $key`
export const ENDPOINT_FOR_KEY = 'select 1 from endpoints where name = $endpoint and deleting = 0'

/** What one claim may take of each key of its endpoint. */
export interface Keys {
  room(key: string): KeyRoom
  /** Whether keys may have other weights than 1. */
  areWeighted: boolean
  /** Stores what was taken from rate limits. */
  save(): void
}

export function openKeys(
  database: Database,
  endpoint: string,
  perKey: KeyLimits | null,
  now: number,
): Keys {
  const areStored = hasKeys(database, endpoint)
  const rooms = new Map<string, KeyRoom>()
  return {
    areWeighted: areStored,
    room(key) {
      const known = rooms.get(key)
      if (known !== undefined) return known
      const state = areStored ? (findKey(database, endpoint, key) ?? NEW_KEY) : NEW_KEY
      const running = (limit: number) => runningOfKey(database, endpoint, key, limit)
      const room = keyRoom(perKey, state, running, now)
      rooms.set(key, room)
      return room
    },
    save() {
      for (const [key, room] of rooms) {
        const bucket = room.bucketAfter(room.takenCost(), now)
        if (bucket !== null) setBucket(database, endpoint, key, bucket)
      }
    },
  }
}

/** Parked keys that may have room, which get as many turns as they have slots. */
export function unpark(
  database: Database,
  lane: { endpoint: string; priority: number },
  keys: Keys,
  now: number,
): void {
  const { connection } = database
  for (const { key } of connection.statement(RIPE_PARKED).all({ ...lane, now })) {
    const of = { ...lane, key: key as string }
    const left = keys.room(of.key).left()
    if (left === 0) {
      park(database, of, keys.room(of.key).freeAt())
    } else {
      connection.statement(SET_PARKED_ASIDE).run({ ...of })
      giveTurns(database, of, Math.min(left, TURNS_PER_CHANGE))
    }
  }
}

/** When a parked key of the endpoint may have room; null: no key waits. */
export function parkedUntil({ connection }: Database, endpoint: string): number | null {
  const found = connection.statement(FIRST_PARKED).get({ endpoint })?.until
  return typeof found === 'number' ? found : null
}

/** The limits of the keys of the endpoint have changed. */
export function applyKeyLimits({ connection, clock }: Database, endpoint: string): void {
  connection.statement(WAKE_ALL_PARKED).run({ endpoint, now: clock.now() })
}

function runningOfKey(
  { connection }: Database,
  endpoint: string,
  key: string,
  limit: number,
): number {
  return connection.statement(RUNNING_OF_KEY).get({ endpoint, key, limit })?.count as number
}

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
    applyTo(database, endpoint, key, stored)
    return {
      kind: version === null ? 'created' : 'replaced',
      record: { key, settings, version: next, updatedAt: now },
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
      if (stored === null || stored.settings === null || stored.updatedAt === null) return []
      const { settings, version, updatedAt } = stored
      return [{ key, settings, version, updatedAt }]
    }),
  )
}

export function fairnessKeyState(
  database: Database,
  { endpoint, key }: FairnessKey,
): Promise<KeyState & { running: number }> {
  return database.connection.read(() => {
    const { settings, bucket } = findKey(database, endpoint, key) ?? NEW_KEY
    return { settings, bucket, running: runningOfKey(database, endpoint, key, MAX_COUNT) }
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
