// The job that a request made before, by the keys that can tell: its id, its idempotency keys, what
// it was made for.
import type { Job, NewJob } from '../../job/job.ts'
import type { EnqueueResult } from '../store.ts'
import type { Database } from './database.ts'
import { JOB_COLUMNS, type JobRow, toJob } from './rows.ts'

export const JOB_OF_ID = `select ${JOB_COLUMNS}, origin_key from jobs where id = ?`

export const JOB_OF_KEY = `
select ${JOB_COLUMNS}, request_hash as known_hash from jobs
where endpoint = ? and idempotency_key = ?`
export const IS_ADDED_KEY = 'select 1 from added_keys where endpoint = ? and key = ?'
/** Of a key that came later. */
export const JOB_OF_ADDED_KEY = `
select ${JOB_COLUMNS},
  (select request_hash from added_keys where added_keys.endpoint = ? and key = ?) as known_hash
from jobs where seq = (select seq from added_keys where added_keys.endpoint = ? and key = ?)`

export const JOB_OF_ORIGIN = `select ${JOB_COLUMNS} from jobs where endpoint = ? and origin_key = ?`

export const ADD_KEY = `
insert into added_keys (endpoint, key, request_hash, seq) values (?, ?, ?, ?)
on conflict do nothing`
/** For its retention. */
export const MARK_KEYED = 'update jobs set has_key = 1 where seq = ? and has_key is null'

type KeyedRow = JobRow & { known_hash: string | null }

export function jobOfId({ connection, keys }: Database, id: string): Job | null {
  const row = connection.statement(JOB_OF_ID).get(id) as JobRow | undefined
  return row === undefined ? null : toJob(row, keys)
}

/** This very job, stored by a write whose answer was lost; or one of another origin. */
export function findById(
  { connection, keys }: Database,
  { id, originKey }: NewJob,
): EnqueueResult | null {
  const row = connection.statement(JOB_OF_ID).get(id) as
    | (JobRow & { origin_key: string | null })
    | undefined
  if (row === undefined) return null
  if (row.origin_key !== originKey) return { kind: 'id_taken', jobId: id }
  return { kind: 'inserted', job: toJob(row, keys) }
}

/** What no unique index of jobs tells. */
export function findByAddedKey(database: Database, job: NewJob): EnqueueResult | null {
  const { idempotency, endpoint } = job
  if (idempotency === null) return null
  const added = database.connection.statement(IS_ADDED_KEY).get(endpoint, idempotency.key)
  return added === undefined ? null : findByKey(database, job)
}

export function findByKey(
  { connection, keys }: Database,
  { endpoint, idempotency }: NewJob,
): EnqueueResult | null {
  if (idempotency === null) return null
  const { key, requestHash } = idempotency
  const row = (connection.statement(JOB_OF_KEY).get(endpoint, key) ??
    connection.statement(JOB_OF_ADDED_KEY).get(endpoint, key, endpoint, key)) as
    | KeyedRow
    | undefined
  if (row === undefined) return null
  if (row.known_hash !== requestHash) return { kind: 'key_reused', jobId: row.id }
  return { kind: 'existing', job: toJob(row, keys) }
}

export function findByOrigin(
  { connection, keys }: Database,
  { endpoint, originKey }: NewJob,
): EnqueueResult | null {
  if (originKey === null) return null
  const row = connection.statement(JOB_OF_ORIGIN).get(endpoint, originKey) as JobRow | undefined
  return row === undefined ? null : { kind: 'existing', job: toJob(row, keys) }
}

/** So that the repeat of a request that was answered with this job is answered with it again. */
export function addKey({ connection }: Database, job: NewJob, seq: number): void {
  if (job.idempotency === null) return
  const { key, requestHash } = job.idempotency
  connection.statement(ADD_KEY).run(job.endpoint, key, requestHash, seq)
  connection.statement(MARK_KEYED).run(seq)
}
