// What is stored of single fairness keys: their settings, the buckets of their rate limits, and
// their rests.
import {
  type KeyBucket,
  type KeySettings,
  type KeyState,
  NEW_KEY,
  weightOf,
} from '../../endpoint/key-limits.ts'
import type { KeyRest } from '../../endpoint/key-rest.ts'
import { type Database, inOrder } from './connection.ts'

export const KEY_STATE = inOrder<[endpoint: string, key: string]>(
  ['endpoint', 'key'],
  `select settings, version, updated_at, bucket_full_at, bucket_at, bucket_tokens, rest
  from fairness_keys
  where endpoint = $endpoint and key = $key`,
)
export const ENDPOINT_FOR_KEY = 'select 1 from endpoints where name = $endpoint and deleting = 0'
export const ANY_KEY = 'select 1 from fairness_keys where endpoint = $endpoint limit 1'
export const SET_BUCKET = `
insert into fairness_keys (endpoint, key, bucket_full_at, bucket_at, bucket_tokens)
values ($endpoint, $key, $fullAt, $at, $tokens)
on conflict do update set bucket_full_at = excluded.bucket_full_at,
  bucket_at = excluded.bucket_at, bucket_tokens = excluded.bucket_tokens`
/** As the index fairness_keys_unneeded has it. */
const NEEDED_UNTIL = 'max(coalesce(bucket_full_at, 0), coalesce(rest_kept_until, 0))'
export const UNNEEDED_KEYS = `
select endpoint, key from fairness_keys
where settings is null and ${NEEDED_UNTIL} <= $now order by ${NEEDED_UNTIL} limit +$limit`
export const DROP_UNNEEDED_KEY = `
delete from fairness_keys
where endpoint = $endpoint and key = $key and settings is null and ${NEEDED_UNTIL} <= $now`
export const FORGET_KEYS = 'delete from fairness_keys where endpoint = $endpoint'

interface KeyRow {
  settings: string | null
  version: number
  updated_at: number | null
  bucket_full_at: number | null
  bucket_at: number | null
  bucket_tokens: number | null
  rest: string | null
}

export interface StoredKey extends KeyState {
  version: number
  updatedAt: number | null
}

/** null: nothing is stored of the key. */
export function findKey({ connection }: Database, endpoint: string, key: string): StoredKey | null {
  const row = connection.ordered(KEY_STATE).get(endpoint, key) as KeyRow | undefined
  if (row === undefined) return null
  return {
    settings: row.settings === null ? null : (JSON.parse(row.settings) as KeySettings),
    bucket: bucketOf(row),
    rest: row.rest === null ? null : (JSON.parse(row.rest) as KeyRest),
    version: row.version,
    updatedAt: row.updated_at,
  }
}

function bucketOf(row: KeyRow): KeyBucket | null {
  const { bucket_full_at: fullAt, bucket_at: at, bucket_tokens: tokens } = row
  return fullAt === null || at === null || tokens === null ? null : { at, tokens, fullAt }
}

export function keyWeight(database: Database, endpoint: string, key: string): number {
  return weightOf(findKey(database, endpoint, key) ?? NEW_KEY)
}

/** Whether anything is stored of a key of the endpoint. */
export function hasKeys({ connection }: Database, endpoint: string): boolean {
  return connection.statement(ANY_KEY).get({ endpoint }) !== undefined
}

export function setBucket(
  { connection }: Database,
  endpoint: string,
  key: string,
  bucket: KeyBucket,
): void {
  connection.statement(SET_BUCKET).run({ endpoint, key, ...bucket })
}

/** Forgets keys without settings whose bucket is full and whose rest is over. Returns how many. */
export async function dropUnneededKeys(
  { connection, clock }: Database,
  limit: number,
): Promise<number> {
  const now = clock.now()
  const found = await connection.read(() => connection.statement(UNNEEDED_KEYS).all({ now, limit }))
  if (found.length === 0) return 0
  return connection.write('normal', () =>
    found.reduce((sum, { endpoint, key }) => {
      const { changes } = connection
        .statement(DROP_UNNEEDED_KEY)
        .run({ ...{ endpoint, key }, now } as never)
      return sum + Number(changes)
    }, 0),
  )
}
