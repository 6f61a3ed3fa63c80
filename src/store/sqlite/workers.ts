// The worker processes that were lately seen, as each reports itself every few seconds.
import { MAX_WORKERS, WORKER_KEPT_MS, type WorkerRecord, type WorkerReport } from '../records.ts'
import type { Database } from './database.ts'

/** Each report makes one record at most, so this many keep up with any number of them. */
const FORGOTTEN_PER_REPORT = 10

export const REPORT_WORKER = `
insert or replace into workers
  (id, version, started_at, concurrency, in_flight, key_ids, seen_at)
values (?, ?, ?, ?, ?, ?, ?)`
export const REMOVE_WORKER = 'delete from workers where id = ?'
/** Parameters: until when they were seen, limit. */
export const FORGET_WORKERS = `
delete from workers where id in (select id from workers where seen_at <= ? limit +?)`
/** Parameters: since when they were seen, limit. */
export const WORKERS_SEEN = `
select id, version, started_at, concurrency, in_flight, key_ids, seen_at from workers
where seen_at > ? order by seen_at desc limit +?`

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
    const values = [id, version, startedAt, concurrency, inFlight, keyIds, now]
    connection.statement(REPORT_WORKER).run(...values)
    connection.statement(FORGET_WORKERS).run(now - WORKER_KEPT_MS, FORGOTTEN_PER_REPORT)
  })
}

export async function removeWorker({ connection }: Database, id: string): Promise<void> {
  await connection.write('normal', () => connection.statement(REMOVE_WORKER).run(id))
}

/** Of more than fit those seen last: the living are not crowded out by the dead. */
export function listWorkers({ connection, clock }: Database): Promise<WorkerRecord[]> {
  return connection.read(() => {
    const since = clock.now() - WORKER_KEPT_MS
    const rows = connection
      .statement(WORKERS_SEEN)
      .all(since, MAX_WORKERS) as unknown as WorkerRow[]
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
