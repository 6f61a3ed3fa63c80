// The limits of fairness keys. A claim counts the running jobs of a key. A key at its limit is
// parked (turns.ts) until a job of it ends, its next token comes, or its settings change.
import type { AttemptCounts } from '../../endpoint/admission.ts'
import {
  type FairnessKey,
  type KeyLimits,
  type KeyRoom,
  keyRoom,
  NEW_KEY,
} from '../../endpoint/key-limits.ts'
import { NO_TURN, PARKED } from '../../job/turns.ts'
import type { Database } from './connection.ts'
import { findKey, hasKeys, setBucket } from './fairness-keys.ts'
import { ALARMS_PER_CLAIM, giveTurns, park, SET_PARKED_ASIDE, TURNS_PER_CHANGE } from './turns.ts'

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
/** By the conditions of the index jobs_of_key: a job that runs has no turn, and is not blocked. */
const RUNS_WITH_KEY = `fairness_key is not null and holds_keys = 1 and turn = ${NO_TURN}
    and blocked < 2 and endpoint = $endpoint and fairness_key = $key and blocked = 0`
export const RUNNING_OF_KEY = `
select count(*) as count from (
  select 1 from jobs
  where ${RUNS_WITH_KEY}
  limit +$limit)`
export const SENDING_OF_KEY = `
select count(*) as count from (
  select 1 from jobs
  where ${RUNS_WITH_KEY} and awaiting_until is null and claimed_at >= $since
  limit +$limit)`
export const WAKE_ALL_PARKED = `
update jobs set due_at = $now
where turn = ${PARKED} and effects_pending = 0 and endpoint = $endpoint`

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
      const room = keyRoom(perKey, state, countsOf(database, { endpoint, key }), now)
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

export function countsOf({ connection }: Database, { endpoint, key }: FairnessKey): AttemptCounts {
  const count = (sql: string, more: Record<string, number>) =>
    connection.statement(sql).get({ endpoint, key, ...more })?.count as number
  return {
    running: (limit) => count(RUNNING_OF_KEY, { limit }),
    sendingSince: (since, limit) => count(SENDING_OF_KEY, { since, limit }),
  }
}
