// Finds the stored job that a new one conflicts with: by id, by idempotency key, by origin, or by
// the dedupe key of a queued or running job. Decides nothing about dedupe: src/job/dedupe.ts does.

import { type DedupeDecision, decideDedupe } from '../../job/dedupe.ts'
import type { Job, NewJob } from '../../job/job.ts'
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
import { JOB_OF_ID, jobOfId } from './jobs.ts'

export const JOB_OF_KEY = `
select ${JOB_COLUMNS}, request_hash as known_hash from jobs
where endpoint = $endpoint and idempotency_key = $key`
export const IS_ADDED_KEY = 'select 1 from added_keys where endpoint = $endpoint and key = $key'
/** Finds the job to which this key was added. */
export const JOB_OF_ADDED_KEY = `
select ${JOB_COLUMNS},
  (select request_hash from added_keys
    where added_keys.endpoint = $endpoint and key = $key) as known_hash
from jobs
where seq = (select seq from added_keys where added_keys.endpoint = $endpoint and key = $key)`

export const JOB_OF_ORIGIN = `
select ${JOB_COLUMNS} from jobs where endpoint = $endpoint and origin_key = $originKey`

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
update jobs set run_at = $runAt, due_at = $runAt, first_run_at = $runAt, expires_at = $expiresAt,
  priority = $priority, tags = $tags, metadata = $metadata, headers = $headers,
  payload_bytes = $payloadBytes, version = version + 1
where seq = $seq and ${guardOf('replace')}`
export const REPLACE_PAYLOAD = 'update payloads set bytes = $payload where seq = $seq'
/** The mark is for later jobs of the same batch, which may depend on this job. */
export const DISPLACE = `
update jobs set ${finishQueuedAs('cancelled', '1')} where seq = $seq and ${guardOf('displace')}`
export const SUPERSEDE = `
update jobs set superseded = 1, version = version + 1
where seq = $seq and ${guardOf('supersede')}`

type KeyedRow = JobRow & { known_hash: string | null }

/** The same job, stored by a write whose result was lost; or a job of another origin. */
export function findById(
  { connection, keys }: Database,
  { id, originKey }: NewJob,
): EnqueueResult | null {
  const row = connection.statement(JOB_OF_ID).get({ id }) as
    | (JobRow & { origin_key: string | null })
    | undefined
  if (row === undefined) return null
  if (row.origin_key !== originKey) return { kind: 'id_taken', jobId: id }
  return { kind: 'inserted', job: toJob(row, keys) }
}

/** The unique indexes of jobs do not cover added keys. */
export function findByAddedKey(database: Database, job: NewJob): EnqueueResult | null {
  const { idempotency, endpoint } = job
  if (idempotency === null) return null
  const { key } = idempotency
  const added = database.connection.statement(IS_ADDED_KEY).get({ endpoint, key })
  return added === undefined ? null : findByKey(database, job)
}

export function findByKey(
  { connection, keys }: Database,
  { endpoint, idempotency }: NewJob,
): EnqueueResult | null {
  if (idempotency === null) return null
  const { key, requestHash } = idempotency
  const row = (connection.statement(JOB_OF_KEY).get({ endpoint, key }) ??
    connection.statement(JOB_OF_ADDED_KEY).get({ endpoint, key })) as KeyedRow | undefined
  if (row === undefined) return null
  if (row.known_hash !== requestHash) return { kind: 'key_reused', jobId: row.id }
  return { kind: 'existing', job: toJob(row, keys) }
}

export function findByOrigin(
  { connection, keys }: Database,
  { endpoint, originKey }: NewJob,
): EnqueueResult | null {
  if (originKey === null) return null
  const row = connection.statement(JOB_OF_ORIGIN).get({ endpoint, originKey }) as JobRow | undefined
  return row === undefined ? null : { kind: 'existing', job: toJob(row, keys) }
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
export function applyDedupe(database: Database, job: NewJob): EnqueueResult | null {
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
      return found(database, job, holder)
    case 'keep':
      return found(database, job, holder)
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

function found(database: Database, job: NewJob, { seq, id }: HolderRow): EnqueueResult {
  addIdempotencyKey(database, job, seq)
  return { kind: 'existing', job: jobOfId(database, id) as Job }
}

/** Keeps its id, attempts, ordering key, dependencies and onFinish. */
function replace({ connection, keys }: Database, job: NewJob, { seq, version }: HolderRow): void {
  const { runAt, expiresAt, priority, payload } = job
  connection.statement(REPLACE).run({
    ...{ seq, version, runAt, expiresAt, priority },
    tags: listText(job.tags),
    metadata: mapText(job.metadata),
    headers: sealHeaders(job.headers, job.endpoint, keys),
    payloadBytes: payload.byteLength,
  })
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
