// Schedules: stored with encrypted settings, and moved from tick to tick by compare-and-set.

import { type IfVersion, isMet } from '../precondition.ts'
import type {
  DeleteScheduleResult,
  Page,
  PutScheduleResult,
  Schedule,
  ScheduleChange,
  ScheduleMove,
} from '../store.ts'
import type { Database } from './connection.ts'

/** The payloads of one result are in memory together: it stops when it has so many bytes. */
const MAX_RESULT_BYTES = 16 * 1024 * 1024

const COLUMNS = `name, endpoint, paused, settings, payload, next_run_at, last_job_id, last_error,
  created_at, updated_at, version`

export const ENDPOINT_FOR_SCHEDULE =
  'select 1 from endpoints where name = $endpoint and deleting = 0'

export const SCHEDULE_NAMED = `select ${COLUMNS} from schedules where name = $name`
export const VERSION_OF_SCHEDULE = 'select version from schedules where name = $name'
export const SCHEDULES_AFTER = `
select ${COLUMNS} from schedules where name > $after order by name limit +$limit`
export const DUE_SCHEDULES = `
select ${COLUMNS} from schedules
where paused = 0 and next_run_at is not null and next_run_at <= $now
order by next_run_at limit +$limit`

/** Keeps the outcome of the last tick. */
export const PUT_SCHEDULE = `
insert into schedules (name, endpoint, paused, settings, payload, next_run_at, created_at,
  updated_at, version)
values ($name, $endpoint, $paused, $settings, $payload, $nextRunAt, $now, $now, $version)
on conflict (name) do update set endpoint = excluded.endpoint, paused = excluded.paused,
  settings = excluded.settings, payload = excluded.payload, next_run_at = excluded.next_run_at,
  updated_at = excluded.updated_at, version = excluded.version`
export const DELETE_SCHEDULE = 'delete from schedules where name = $name'
/** Advances a schedule only if its version and tick are as they were read. */
export const ADVANCE_SCHEDULE = `
update schedules set next_run_at = $nextRunAt, last_job_id = coalesce($lastJobId, last_job_id),
  last_error = $lastError
where name = $name and version = $version and next_run_at is $tickAt`

interface ScheduleRow {
  name: string
  endpoint: string
  paused: number
  settings: string
  payload: Uint8Array
  next_run_at: number | null
  last_job_id: string | null
  last_error: string | null
  created_at: number
  updated_at: number
  version: number
}

/** Does not decrypt the stored settings: those of a lost key can be replaced. */
export function putSchedule(
  database: Database,
  change: ScheduleChange,
  ifVersion: IfVersion,
): Promise<PutScheduleResult> {
  const { connection, clock, keys } = database
  const { name, endpoint, payload, nextRunAt } = change
  return connection.write('full', () => {
    const version = versionOf(database, name)
    if (!isMet(ifVersion, version)) return { kind: 'stale', version }
    if (connection.statement(ENDPOINT_FOR_SCHEDULE).get({ endpoint }) === undefined) {
      return { kind: 'unknown_endpoint' }
    }
    connection.statement(PUT_SCHEDULE).run({
      ...{ name, endpoint, payload, nextRunAt, now: clock.now(), version: (version ?? 0) + 1 },
      paused: change.paused ? 1 : 0,
      settings: keys.seal(change.settings, name),
    })
    const row = find(database, name) as ScheduleRow
    return {
      kind: version === null ? 'created' : 'replaced',
      schedule: toSchedule(row, change.settings),
    }
  })
}

/** Throws StoreUnusable if no key decrypts its settings. */
export function getSchedule(database: Database, name: string): Promise<Schedule | null> {
  return database.connection.read(() => {
    const row = find(database, name)
    return row === null ? null : toSchedule(row, database.keys.open(row.settings, name))
  })
}

export function listSchedules(
  database: Database,
  after: string | null,
  limit: number,
): Promise<Page<Schedule>> {
  return database.connection.read(() => {
    const { rows, isAll } = take(database, SCHEDULES_AFTER, { after: after ?? '' }, limit)
    return { items: decryptable(database, rows), next: isAll ? null : (rows.at(-1)?.name ?? null) }
  })
}

export function deleteSchedule(
  database: Database,
  name: string,
  ifVersion: number | null,
): Promise<DeleteScheduleResult> {
  return database.connection.write('full', () => {
    const version = versionOf(database, name)
    if (version === null) return { kind: 'not_found' }
    if (ifVersion !== null && version !== ifVersion) return { kind: 'stale', version }
    database.connection.statement(DELETE_SCHEDULE).run({ name })
    return { kind: 'deleted' }
  })
}

export function dueSchedules(database: Database, limit: number): Promise<Schedule[]> {
  return database.connection.read(() => {
    const passedOver = new Set(database.undecryptable.names())
    const now = database.clock.now()
    const { rows } = take(database, DUE_SCHEDULES, { now }, limit, passedOver)
    return decryptable(database, rows)
  })
}

/**
 * Power loss may undo the advance. Then the tick is repeated, and its job is found by its origin.
 */
export async function advanceSchedules(
  { connection }: Database,
  moves: ScheduleMove[],
): Promise<void> {
  if (moves.length === 0) return
  await connection.write('normal', () => {
    const advance = connection.statement(ADVANCE_SCHEDULE)
    for (const { name, version, tickAt, nextRunAt, lastJobId, lastError } of moves) {
      advance.run({
        ...{ name, version, tickAt, nextRunAt, lastError },
        lastJobId: lastJobId ?? null,
      })
    }
  })
}

/** The first rows of a query with `$limit`, in its order, except those that are passed over. */
function take(
  { connection }: Database,
  sql: string,
  start: Record<string, string | number>,
  limit: number,
  passedOver: ReadonlySet<string> = new Set(),
): { rows: ScheduleRow[]; isAll: boolean } {
  const rows: ScheduleRow[] = []
  let bytes = 0
  const found = connection.statement(sql).iterate({ ...start, limit: limit + 1 + passedOver.size })
  for (const row of found as Iterable<unknown> as Iterable<ScheduleRow>) {
    if (passedOver.has(row.name)) continue
    if (rows.length === limit || bytes > MAX_RESULT_BYTES) return { rows, isAll: false }
    bytes += row.payload.byteLength
    rows.push(row)
  }
  return { rows, isAll: true }
}

function decryptable({ keys, undecryptable }: Database, rows: ScheduleRow[]): Schedule[] {
  return rows.flatMap((row) => {
    const settings = undecryptable.tryDecrypt(row.name, () => keys.open(row.settings, row.name))
    return settings === null ? [] : [toSchedule(row, settings)]
  })
}

function find({ connection }: Database, name: string): ScheduleRow | null {
  const row = connection.statement(SCHEDULE_NAMED).get({ name })
  return row === undefined ? null : (row as unknown as ScheduleRow)
}

function versionOf({ connection }: Database, name: string): number | null {
  const row = connection.statement(VERSION_OF_SCHEDULE).get({ name })
  return row === undefined ? null : (row.version as number)
}

function toSchedule(row: ScheduleRow, settings: string): Schedule {
  return {
    name: row.name,
    endpoint: row.endpoint,
    paused: row.paused === 1,
    settings,
    payload: row.payload,
    nextRunAt: row.next_run_at,
    lastJobId: row.last_job_id,
    lastError: row.last_error,
    createdAt: row.created_at,
    updatedAt: row.updated_at,
    version: row.version,
  }
}
