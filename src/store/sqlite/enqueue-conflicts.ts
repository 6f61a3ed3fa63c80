// Finds the stored job that a new one conflicts with: by id, by idempotency key, by origin, or by
// the dedupe key of a queued or running job. Decides nothing about dedupe: src/job/dedupe.ts does.

import { type DedupeDecision, decideDedupe } from '../../job/dedupe.ts'
import type { MinimalJob, NewJob } from '../../job/job.ts'
import type { EnqueueResult } from '../store.ts'
import type { Database } from './connection.ts'
import { guardOf, HOLDS_DEDUPE_KEY } from './guards.ts'
import {
  finishQueuedAs,
  JOB_COLUMNS,
  type JobRow,
  listText,
  mapText,
  sealHeaders,
  toJob,
} from './job-row.ts'
import { leaveLine, placeUnplaced } from './turns.ts'

const jobBy = (columns: string) => ({
  id: `select ${columns}, origin_key from jobs where id = $id`,
  key: `
select ${columns}, request_hash as known_hash from jobs
where endpoint = $endpoint and idempotency_key = $key`,
  /** The job to which this key was added. */
  addedKey: `
select ${columns},
  (select request_hash from added_keys
    where added_keys.endpoint = $endpoint and key = $key) as known_hash
from jobs
where seq = (select seq from added_keys where added_keys.endpoint = $endpoint and key = $key)`,
  origin: `select ${columns} from jobs where endpoint = $endpoint and origin_key = $originKey`,
})
export const JOB_BY = jobBy(JOB_COLUMNS)
/** Read no payload, no result and no attempts. */
export const MINIMAL_JOB_BY = jobBy('id, state, version, group_id')

export const IS_ADDED_KEY = 'select 1 from added_keys where endpoint = $endpoint and key = $key'
export const ADD_IDEMPOTENCY_KEY = `
insert into added_keys (endpoint, key, request_hash, seq)
values ($endpoint, $key, $requestHash, $seq)
on conflict do nothing`
/** Marks a job that has a key, because its retention depends on that. */
export const MARK_KEYED = 'update jobs set has_key = 1 where seq = $seq and has_key is null'

export const DEDUPE_HOLDER = `
select seq, id, state, attempt_count, first_run_at, version from jobs
where ${HOLDS_DEDUPE_KEY} and endpoint = $endpoint and dedupe_key = $dedupeKey`

export const REPLACE = `
update jobs set run_at = $runAt, due_at = $runAt, first_run_at = $runAt,
  expires_at = $expiresAt, expiring_at = $expiresAt, priority = $priority, tags = $tags,
  metadata = $metadata, headers = $headers, payload_bytes = $payloadBytes, version = version + 1
where seq = $seq and ${guardOf('replace')}`
export const REPLACE_PAYLOAD = 'update payloads set bytes = $payload where seq = $seq'
/** The mark is for later jobs of the same batch, which may depend on this job. */
export const DISPLACE = `
update jobs set ${finishQueuedAs('cancelled', '1')} where seq = $seq and ${guardOf('displace')}`
export const SUPERSEDE = `
update jobs set superseded = 1, version = version + 1
where seq = $seq and ${guardOf('supersede')}`

/** A row of JOB_BY, or of MINIMAL_JOB_BY without the other columns. */
type FoundRow = JobRow & { known_hash: string | null; origin_key: string | null }

interface Found {
  row: Pick<FoundRow, 'known_hash' | 'origin_key'>
  job: MinimalJob
}

function find(
  { connection, keys }: Database,
  by: keyof typeof JOB_BY,
  values: Record<string, string>,
  isMinimal: boolean,
): Found | null {
  const sql = (isMinimal ? MINIMAL_JOB_BY : JOB_BY)[by]
  const row = connection.statement(sql).get(values) as FoundRow | undefined
  if (row === undefined) return null
  const { id, state, version, group_id: group } = row
  return { row, job: isMinimal ? { id, state, version, group } : toJob(row, keys) }
}

/** The same job, stored by a write whose result was lost; or a job of another origin. */
export function findById(
  database: Database,
  { id, originKey }: NewJob,
  isMinimal: boolean,
): EnqueueResult<MinimalJob> | null {
  const found = find(database, 'id', { id }, isMinimal)
  if (found === null) return null
  if (found.row.origin_key !== originKey) return { kind: 'id_taken', jobId: id }
  return { kind: 'inserted', job: found.job }
}

/** The unique indexes of jobs do not cover added keys. */
export function findByAddedKey(
  database: Database,
  job: NewJob,
  isMinimal: boolean,
): EnqueueResult<MinimalJob> | null {
  const { idempotency, endpoint } = job
  if (idempotency === null) return null
  const { key } = idempotency
  const added = database.connection.statement(IS_ADDED_KEY).get({ endpoint, key })
  return added === undefined ? null : findByKey(database, job, isMinimal)
}

export function findByKey(
  database: Database,
  { endpoint, idempotency }: NewJob,
  isMinimal: boolean,
): EnqueueResult<MinimalJob> | null {
  if (idempotency === null) return null
  const { key, requestHash } = idempotency
  const found =
    find(database, 'key', { endpoint, key }, isMinimal) ??
    find(database, 'addedKey', { endpoint, key }, isMinimal)
  if (found === null) return null
  const { row, job } = found
  return row.known_hash === requestHash
    ? { kind: 'existing', job }
    : { kind: 'key_reused', jobId: job.id }
}

export function findByOrigin(
  database: Database,
  { endpoint, originKey }: NewJob,
  isMinimal: boolean,
): EnqueueResult<MinimalJob> | null {
  if (originKey === null) return null
  const found = find(database, 'origin', { endpoint, originKey }, isMinimal)
  return found === null ? null : { kind: 'existing', job: found.job }
}

/** A job that this transaction has stored or found. */
export function storedJob(database: Database, id: string, isMinimal: boolean): MinimalJob {
  const found = find(database, 'id', { id }, isMinimal)
  if (found === null) throw new Error(`job ${id} is not stored`)
  return found.job
}

interface HolderRow {
  seq: number
  id: string
  state: 'queued' | 'running'
  attempt_count: number
  first_run_at: number
  version: number
}

/** null: no job has the key, or no longer, and the new one must be inserted. */
export function applyDedupe(
  database: Database,
  job: NewJob,
  isMinimal: boolean,
): EnqueueResult<MinimalJob> | null {
  const { connection, clock, fences } = database
  const { key: dedupeKey, mode } = job.dedupe as NonNullable<NewJob['dedupe']>
  const holder = connection.statement(DEDUPE_HOLDER).get({ endpoint: job.endpoint, dedupeKey }) as
    | HolderRow
    | undefined
  if (holder === undefined) return null
  const wasSent = fences.wasSent({
    attemptCount: holder.attempt_count,
    seq: holder.seq,
    firstRunAt: holder.first_run_at,
  })
  const decision = decideDedupe(mode, { state: holder.state, wasSent })
  switch (decision.kind) {
    case 'reject':
      return { kind: 'dedupe_conflict', jobId: holder.id }
    case 'replace':
      replace(database, job, holder)
      return existing(database, job, holder, isMinimal)
    case 'keep':
      return existing(database, job, holder, isMinimal)
    case 'displace':
      connection.statement(DISPLACE).run({
        ...{ seq: holder.seq, finishedAt: clock.now(), ...fences.undone },
      })
      return null
    case 'supersede':
      connection.statement(SUPERSEDE).run({ seq: holder.seq })
      return null
    default:
      throw new Error(`unknown decision ${(decision satisfies never as DedupeDecision).kind}`)
  }
}

function existing(
  database: Database,
  job: NewJob,
  { seq, id }: HolderRow,
  isMinimal: boolean,
): EnqueueResult<MinimalJob> {
  addIdempotencyKey(database, job, seq)
  return { kind: 'existing', job: storedJob(database, id, isMinimal) }
}

/** Keeps its id, attempts, ordering key, dependencies and onFinish. */
function replace(database: Database, job: NewJob, { seq, version }: HolderRow): void {
  const { connection, keys } = database
  const { runAt, expiresAt, priority, payload } = job
  leaveLine(database, seq)
  connection.statement(REPLACE).run({
    ...{ seq, version, runAt, expiresAt, priority },
    tags: listText(job.tags),
    metadata: mapText(job.metadata),
    headers: sealHeaders(job.headers, job.endpoint, keys),
    payloadBytes: payload.byteLength,
  })
  placeUnplaced(database)
  connection.statement(REPLACE_PAYLOAD).run({ seq, payload })
}

/** A repeat of the request that got this job then gets it again. */
function addIdempotencyKey({ connection }: Database, job: NewJob, seq: number): void {
  if (job.idempotency === null) return
  const { endpoint } = job
  const { key, requestHash } = job.idempotency
  connection.statement(ADD_IDEMPOTENCY_KEY).run({ endpoint, key, requestHash, seq })
  connection.statement(MARK_KEYED).run({ seq })
}
