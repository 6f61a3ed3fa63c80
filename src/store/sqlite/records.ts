// The records beside jobs, endpoints and schedules: API keys, workers, minute statistics, the
// upkeep lease, and the settings that the API reports to the workers.

import { type KeyScope, MAX_KEYS, type StoredKey } from '../api-key.ts'
import type { ApiMode } from '../api-mode.ts'
import {
  MAX_MINUTE_STATS_READ,
  MINUTE_MS,
  MINUTE_STATS_KEPT_MS,
  type MinuteStats,
  type MinuteStatsRange,
  minuteOf,
  refuseTooMany,
  wholeMinutes,
} from '../minute-stats.ts'
import { mayTakeUpkeep, type StoredUpkeepLease, type UpkeepLease } from '../upkeep-lease.ts'
import {
  MAX_WORKERS,
  WORKER_KEPT_MS,
  type WorkerRecord,
  type WorkerReport,
} from '../worker-liveness.ts'
import type { Database } from './connection.ts'

export const COUNT_KEYS = 'select count(*) as count from api_keys'
export const ADD_KEY = `
insert into api_keys (id, name, scope, hash, created_at)
values ($id, $name, $scope, $hash, $createdAt)`
export const LIST_KEYS = `
select id, name, scope, hash, created_at from api_keys order by created_at, id
limit +$limit`
export const REMOVE_KEY = 'delete from api_keys where id = $id'

interface KeyRow {
  id: string
  name: string
  scope: KeyScope
  hash: string
  created_at: number
}

export function addKey({ connection }: Database, key: StoredKey): Promise<'added' | 'full'> {
  return connection.write('full', () => {
    const count = connection.statement(COUNT_KEYS).get()?.count as number
    if (count >= MAX_KEYS) return 'full'
    const { id, name, scope, hash, createdAt } = key
    connection.statement(ADD_KEY).run({ id, name, scope, hash, createdAt })
    return 'added'
  })
}

export function listKeys({ connection }: Database): Promise<StoredKey[]> {
  return connection.read(() => {
    const rows = connection.statement(LIST_KEYS).all({ limit: MAX_KEYS })
    return (rows as unknown as KeyRow[]).map(({ created_at, ...key }) => ({
      ...key,
      createdAt: created_at,
    }))
  })
}

export function removeKey({ connection }: Database, id: string): Promise<boolean> {
  return connection.write('full', () => connection.statement(REMOVE_KEY).run({ id }).changes === 1)
}

/** A report adds one record at most, so this many are enough for any number of workers. */
const FORGOTTEN_PER_REPORT = 10

export const REPORT_WORKER = `
insert or replace into workers
  (id, version, started_at, concurrency, in_flight, key_ids, seen_at)
values ($id, $version, $startedAt, $concurrency, $inFlight, $keyIds, $now)`
export const REMOVE_WORKER = 'delete from workers where id = $id'
export const FORGET_WORKERS = `
delete from workers where id in (select id from workers where seen_at <= $until limit +$limit)`
export const WORKERS_SEEN = `
select id, version, started_at, concurrency, in_flight, key_ids, seen_at from workers
where seen_at > $since order by seen_at desc limit +$limit`

interface WorkerRow {
  id: string
  version: string
  started_at: number
  concurrency: number
  in_flight: number
  key_ids: string
  seen_at: number
}

export async function reportWorker(
  { connection, clock }: Database,
  report: WorkerReport,
): Promise<void> {
  const { id, version, startedAt, concurrency, inFlight } = report
  const keyIds = JSON.stringify(report.keyIds)
  await connection.write('normal', () => {
    const now = clock.now()
    connection
      .statement(REPORT_WORKER)
      .run({ id, version, startedAt, concurrency, inFlight, keyIds, now })
    connection
      .statement(FORGET_WORKERS)
      .run({ until: now - WORKER_KEPT_MS, limit: FORGOTTEN_PER_REPORT })
  })
}

export async function removeWorker({ connection }: Database, id: string): Promise<void> {
  await connection.write('normal', () => connection.statement(REMOVE_WORKER).run({ id }))
}

/** If there are too many, returns those seen last: live workers come before stopped ones. */
export function listWorkers({ connection, clock }: Database): Promise<WorkerRecord[]> {
  return connection.read(() => {
    const since = clock.now() - WORKER_KEPT_MS
    const rows = connection
      .statement(WORKERS_SEEN)
      .all({ since, limit: MAX_WORKERS }) as unknown as WorkerRow[]
    return rows.map(toWorker).sort((a, b) => (a.id < b.id ? -1 : 1))
  })
}

function toWorker(row: WorkerRow): WorkerRecord {
  return {
    id: row.id,
    version: row.version,
    startedAt: row.started_at,
    concurrency: row.concurrency,
    inFlight: row.in_flight,
    keyIds: JSON.parse(row.key_ids),
    seenAt: row.seen_at,
  }
}

/** More than one call can add, so that the table shrinks again after a burst. */
const FORGOTTEN_PER_ADD = 1_000

export const MINUTE_STATS_OF = `
select succeeded, failed, durations from minute_stats
where minute = $minute and endpoint = $endpoint`
export const WRITE_MINUTE_STATS = `
insert or replace into minute_stats (minute, endpoint, succeeded, failed, durations)
values ($minute, $endpoint, $succeeded, $failed, $durations)`
export const FORGET_MINUTE_STATS = `
delete from minute_stats where (minute, endpoint) in (
  select minute, endpoint from minute_stats where minute < $firstKept limit +$limit)`
export const MINUTE_STATS_SINCE = `
select minute, endpoint, succeeded, failed, durations from minute_stats
where minute >= $first order by minute desc, endpoint desc limit +$limit`

interface MinuteStatsRow {
  minute: number
  endpoint: string
  succeeded: number
  failed: number
  /** JSON. */
  durations: string
}

/**
 * Adds all statistics in one transaction. If it throws, nothing was committed, so a repeated report
 * needs no check.
 */
export async function addMinuteStats(database: Database, stats: MinuteStats[]): Promise<void> {
  refuseTooMany(stats)
  if (stats.length === 0) return
  const { connection, clock } = database
  await connection.write('normal', () => {
    for (const one of stats) addMinute(database, one)
    const firstKept = clock.now() - MINUTE_STATS_KEPT_MS
    connection.statement(FORGET_MINUTE_STATS).run({ firstKept, limit: FORGOTTEN_PER_ADD })
  })
}

function addMinute({ connection }: Database, stats: MinuteStats): void {
  const { minute, endpoint } = stats
  const stored = connection.statement(MINUTE_STATS_OF).get({ minute, endpoint }) as
    | MinuteStatsRow
    | undefined
  const before: number[] = stored === undefined ? [] : JSON.parse(stored.durations)
  const durations = stats.durations.map((count, i) => count + (before[i] ?? 0))
  connection.statement(WRITE_MINUTE_STATS).run({
    ...{ minute, endpoint, durations: JSON.stringify(durations) },
    succeeded: stats.succeeded + (stored?.succeeded ?? 0),
    failed: stats.failed + (stored?.failed ?? 0),
  })
}

export function minuteStatsSince(
  database: Database,
  instant: number,
  endpoint: string | null,
): Promise<MinuteStatsRange> {
  const { connection } = database
  return connection.read(() => {
    if (endpoint !== null) return minuteStatsOfOne(database, instant, endpoint)
    const rows = connection.statement(MINUTE_STATS_SINCE).all({
      first: minuteOf(instant),
      limit: MAX_MINUTE_STATS_READ + 1,
    }) as unknown as MinuteStatsRow[]
    return wholeMinutes(rows.map((row) => ({ ...row, durations: JSON.parse(row.durations) })))
  })
}

/** Makes one seek for each minute that is kept, so that it reads nothing of other endpoints. */
function minuteStatsOfOne(
  { connection, clock }: Database,
  instant: number,
  endpoint: string,
): MinuteStatsRange {
  const now = clock.now()
  const statement = connection.statement(MINUTE_STATS_OF)
  const stats: MinuteStats[] = []
  const first = minuteOf(Math.max(instant, now - MINUTE_STATS_KEPT_MS))
  for (let minute = first; minute <= now; minute += MINUTE_MS) {
    const row = statement.get({ minute, endpoint }) as MinuteStatsRow | undefined
    if (row === undefined) continue
    const { succeeded, failed, durations } = row
    stats.push({ minute, endpoint, succeeded, failed, durations: JSON.parse(durations) })
  }
  return { stats, more: false }
}

export const WRITE_META = 'insert or replace into meta (key, value) values ($key, $value)'
export const READ_META = 'select value from meta where key = $key'

export const DROP_META = 'delete from meta where key = $key and value = $value'

const UPKEEP = 'upkeep'

export function upkeepLease({ connection }: Database): Promise<StoredUpkeepLease | null> {
  return connection.read(() => storedLease(connection))
}

export async function takeUpkeep(
  { connection, clock }: Database,
  lease: UpkeepLease,
): Promise<boolean> {
  return connection.write('normal', () => {
    const now = clock.now()
    const known = storedLease(connection)
    if (known !== null && !mayTakeUpkeep(known, lease, now)) return false
    const { holder, isStandby, leaseMs } = lease
    const stored: StoredUpkeepLease = { holder, isStandby, expiresAt: now + leaseMs }
    connection.statement(WRITE_META).run({ key: UPKEEP, value: JSON.stringify(stored) })
    return true
  })
}

function storedLease(connection: Database['connection']): StoredUpkeepLease | null {
  const row = connection.statement(READ_META).get({ key: UPKEEP })
  return row === undefined ? null : JSON.parse(row.value as string)
}

export async function releaseUpkeep({ connection }: Database, holder: string): Promise<void> {
  await connection.write('normal', () => {
    const row = connection.statement(READ_META).get({ key: UPKEEP })
    if (row === undefined) return
    const text = row.value as string
    if ((JSON.parse(text) as StoredUpkeepLease).holder !== holder) return
    connection.statement(DROP_META).run({ key: UPKEEP, value: text })
  })
}

const API_MODE = 'api_mode'

export function writeApiMode({ connection }: Database, mode: ApiMode): Promise<void> {
  return connection.write('full', () => {
    connection.statement(WRITE_META).run({ key: API_MODE, value: JSON.stringify(mode) })
  })
}

export function readApiMode({ connection }: Database): Promise<ApiMode | null> {
  return connection.read(() => {
    const row = connection.statement(READ_META).get({ key: API_MODE })
    if (row === undefined) return null
    return JSON.parse(row.value as string)
  })
}
