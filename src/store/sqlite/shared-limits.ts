// Limits that endpoints share. The claiming transaction is the only one that writes, so the counts
// of running jobs hold until it commits.
import {
  type DeleteLimitResult,
  type LimitRefusal,
  type LimitUse,
  MAX_ENDPOINTS_OF_LIMIT,
  MAX_LIMITS,
  type PutLimitResult,
  type SharedLimit,
  type SharedLimitSettings,
  type SharedRoom,
  sharedRoom,
  underNewSettings,
  type Wait,
} from '../../endpoint/shared-limits.ts'
import { type IfVersion, isMet } from '../precondition.ts'
import { MAX_COUNT, type Page } from '../store.ts'
import type { Database } from './connection.ts'
import { parsed } from './job-row.ts'

const COLUMNS = `name, concurrency, rate_count, rate_per_ms, bucket_full_at, waits, created_at,
  updated_at, version`

export const LIMIT_NAMED = `select ${COLUMNS} from limits where name = $name`
export const LIMITS_AFTER = `
select ${COLUMNS} from limits where name > $after order by name limit +$limit`
export const COUNT_LIMITS = 'select count(*) as count from limits'
export const PUT_LIMIT = `
insert into limits (name, concurrency, rate_count, rate_per_ms, bucket_full_at, created_at,
  updated_at, version)
values ($name, $concurrency, $rateCount, $ratePerMs, $bucketFullAt, $now, $now, 1)
on conflict (name) do update set concurrency = excluded.concurrency,
  rate_count = excluded.rate_count, rate_per_ms = excluded.rate_per_ms,
  bucket_full_at = excluded.bucket_full_at, updated_at = excluded.updated_at,
  version = version + 1`
export const DELETE_LIMIT = 'delete from limits where name = $name'
export const USE_LIMIT = `
update limits set bucket_full_at = $bucketFullAt, waits = $waits where name = $name`

export const ENDPOINTS_OF_LIMIT = `
select endpoint from limit_endpoints where limit_name = $name order by endpoint`
export const ADD_ENDPOINT = `
insert into limit_endpoints (limit_name, endpoint) values ($name, $endpoint)
on conflict do nothing`
export const FORGET_LIMITS = 'delete from limit_endpoints where endpoint = $endpoint'
/** For each endpoint, the running jobs are a part of the index jobs_running. */
export const RUNNING_OF_LIMIT = `
select count(*) as count from (
  select 1 from limit_endpoints cross join jobs
  where limit_endpoints.limit_name = $name and jobs.endpoint = limit_endpoints.endpoint
    and jobs.state = 'running'
  limit +$limit)`

interface LimitRow {
  name: string
  concurrency: number | null
  rate_count: number | null
  rate_per_ms: number | null
  bucket_full_at: number | null
  waits: string | null
  created_at: number
  updated_at: number
  version: number
}

/** What one claim may take of the limits that its endpoints share. */
export interface SharedLimits {
  rooms(names: string[]): SharedRoom[]
  /** Stores what was taken. @param costs of all jobs that were claimed, by endpoint */
  save(costs: ReadonlyMap<string, number>): void
}

export function openSharedLimits(database: Database, now: number): SharedLimits {
  const opened = new Map<string, { limit: SharedLimit; room: SharedRoom }>()
  const open = (name: string) => {
    const known = opened.get(name)
    if (known !== undefined) return known.room
    const limit = find(database, name)
    if (limit === null) return null
    const room = sharedRoom(limit, (most) => countRunning(database, name, most), now)
    opened.set(name, { limit, room })
    return room
  }
  return {
    rooms: (names) => names.flatMap((name) => open(name) ?? []),
    save(costs) {
      for (const [name, { limit, room }] of opened) {
        const { rateFullAt, waits } = room.after(costs, now)
        if (rateFullAt === limit.rateFullAt && waits.length + limit.waits.length === 0) continue
        database.connection
          .statement(USE_LIMIT)
          .run({ name, bucketFullAt: rateFullAt, waits: waitsText(waits) })
      }
    },
  }
}

export function putLimit(
  database: Database,
  settings: SharedLimitSettings,
  ifVersion: IfVersion,
): Promise<PutLimitResult> {
  const { connection, clock } = database
  const { name, concurrency, rateLimit } = settings
  return connection.write('full', () => {
    const stored = find(database, name)
    const version = stored?.version ?? null
    if (!isMet(ifVersion, version)) return { kind: 'stale', version }
    const count = connection.statement(COUNT_LIMITS).get({})?.count as number
    if (stored === null && count >= MAX_LIMITS) return { kind: 'too_many_limits' }
    const now = clock.now()
    const bucketFullAt = underNewSettings(stored, settings, now)
    connection.statement(PUT_LIMIT).run({
      ...{ name, concurrency, now, bucketFullAt },
      ...{ rateCount: rateLimit?.count ?? null, ratePerMs: rateLimit?.perMs ?? null },
    })
    const limit = find(database, name) as SharedLimit
    return { kind: stored === null ? 'created' : 'replaced', limit }
  })
}

export function limitsNamed(database: Database, names: string[]): Promise<SharedLimit[]> {
  return database.connection.read(() =>
    [...new Set(names)].flatMap((name) => find(database, name) ?? []),
  )
}

export function listLimits(
  { connection }: Database,
  after: string | null,
  limit: number,
): Promise<Page<SharedLimit>> {
  return connection.read(() => {
    const rows = connection.statement(LIMITS_AFTER).all({ after: after ?? '', limit: limit + 1 })
    const items = (rows as unknown as LimitRow[]).slice(0, limit).map(toLimit)
    return { items, next: rows.length > limit ? (items.at(-1)?.name ?? null) : null }
  })
}

export function limitUse(database: Database, name: string): Promise<LimitUse> {
  return database.connection.read(() => ({
    endpoints: endpointsOf(database, name),
    running: countRunning(database, name, MAX_COUNT),
  }))
}

export function deleteLimit(
  database: Database,
  name: string,
  ifVersion: number | null,
): Promise<DeleteLimitResult> {
  const { connection } = database
  return connection.write('full', () => {
    const stored = find(database, name)
    if (stored === null) return { kind: 'not_found' }
    const { version } = stored
    if (ifVersion !== null && version !== ifVersion) return { kind: 'stale', version }
    const [endpoint] = endpointsOf(database, name)
    if (endpoint !== undefined) return { kind: 'in_use', endpoint }
    connection.statement(DELETE_LIMIT).run({ name })
    return { kind: 'deleted' }
  })
}

/** In the transaction that writes the endpoint. Returns why it cannot name these limits. */
export function nameLimits(
  database: Database,
  endpoint: string,
  names: string[],
): LimitRefusal | null {
  const { connection } = database
  for (const limit of names) {
    if (find(database, limit) === null) return { kind: 'unknown_limit', limit }
    const endpoints = endpointsOf(database, limit)
    if (!endpoints.includes(endpoint) && endpoints.length >= MAX_ENDPOINTS_OF_LIMIT) {
      return { kind: 'too_many_endpoints', limit }
    }
  }
  connection.statement(FORGET_LIMITS).run({ endpoint })
  for (const name of names) connection.statement(ADD_ENDPOINT).run({ name, endpoint })
  return null
}

function endpointsOf({ connection }: Database, name: string): string[] {
  return connection
    .statement(ENDPOINTS_OF_LIMIT)
    .all({ name })
    .map(({ endpoint }) => endpoint as string)
}

function countRunning({ connection }: Database, name: string, limit: number): number {
  return connection.statement(RUNNING_OF_LIMIT).get({ name, limit })?.count as number
}

function find({ connection }: Database, name: string): SharedLimit | null {
  const row = connection.statement(LIMIT_NAMED).get({ name }) as LimitRow | undefined
  return row === undefined ? null : toLimit(row)
}

function toLimit(row: LimitRow): SharedLimit {
  const { rate_count: count, rate_per_ms: perMs } = row
  return {
    name: row.name,
    concurrency: row.concurrency,
    rateLimit: count === null || perMs === null ? null : { count, perMs },
    rateFullAt: row.bucket_full_at,
    waits: parsed(row.waits, []),
    createdAt: row.created_at,
    updatedAt: row.updated_at,
    version: row.version,
  }
}

function waitsText(waits: Wait[]): string | null {
  return waits.length === 0 ? null : JSON.stringify(waits)
}
