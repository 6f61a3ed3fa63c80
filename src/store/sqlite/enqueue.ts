// enqueue: a batch becomes durable in one transaction, and each job gets its own answer.
import { type NewJob, newlyQueued } from '../../job/job.ts'
import { type EnqueueResult, MAX_ENQUEUE_BATCH } from '../store.ts'
import type { Database } from './database.ts'
import { JOB_COLUMNS, type JobRow, mapText, sealHeaders, toJob } from './rows.ts'

/** `on conflict do nothing`: a used key or a known id is told by the count of changes. */
export const INSERT_JOB = `
insert into jobs (id, endpoint, priority, run_at, first_run_at, created_at, expires_at,
  attempts_left, max_attempts, timeout_ms, retry, headers, tags, metadata, idempotency_key,
  request_hash, payload_bytes)
values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
on conflict do nothing`

export const INSERT_PAYLOAD = 'insert into payloads (seq, bytes) values (?, ?)'

export const ACCEPTING_ENDPOINT = `
select max_attempts from endpoints where name = ? and deleting = 0`

export const JOB_OF_KEY = `
select ${JOB_COLUMNS}, request_hash from jobs where endpoint = ? and idempotency_key = ?`

export const JOB_OF_ID = `select ${JOB_COLUMNS} from jobs where id = ?`

export async function enqueue(database: Database, jobs: NewJob[]): Promise<EnqueueResult[]> {
  if (jobs.length > MAX_ENQUEUE_BATCH) {
    throw new RangeError(`${jobs.length} jobs in a batch of at most ${MAX_ENQUEUE_BATCH}`)
  }
  if (jobs.length === 0) return []
  const results = await database.connection.write('full', () => {
    const budgets = new Map<string, number | null>()
    return jobs.map((job) => enqueueOne(database, job, budgets))
  })
  if (results.some((result) => result.kind === 'inserted')) database.watch.stir()
  return results
}

function enqueueOne(
  database: Database,
  job: NewJob,
  budgets: Map<string, number | null>,
): EnqueueResult {
  let budget = budgets.get(job.endpoint)
  if (budget === undefined) {
    budget = readBudget(database, job.endpoint)
    budgets.set(job.endpoint, budget)
  }
  if (budget === null) return { kind: 'unknown_endpoint' }
  const maxAttempts = job.maxAttempts ?? budget
  const { changes, lastInsertRowid } = insert(database, job, maxAttempts)
  if (changes === 0) return answerRepeat(database, job)
  database.connection.statement(INSERT_PAYLOAD).run(lastInsertRowid, job.payload)
  return { kind: 'inserted', job: newlyQueued(job, maxAttempts) }
}

/** The endpoint's maxAttempts, or null when it takes no jobs. */
function readBudget({ connection }: Database, endpoint: string): number | null {
  const row = connection.statement(ACCEPTING_ENDPOINT).get(endpoint)
  return row === undefined ? null : (row.max_attempts as number)
}

function insert({ connection, keys }: Database, job: NewJob, maxAttempts: number) {
  return connection
    .statement(INSERT_JOB)
    .run(
      job.id,
      job.endpoint,
      job.priority,
      job.runAt,
      job.runAt,
      job.createdAt,
      job.expiresAt,
      maxAttempts,
      maxAttempts,
      job.timeoutMs,
      job.retry === null ? null : JSON.stringify(job.retry),
      sealHeaders(job.headers, job.endpoint, keys),
      job.tags.length === 0 ? null : JSON.stringify(job.tags),
      mapText(job.metadata),
      job.idempotency?.key ?? null,
      job.idempotency?.requestHash ?? null,
      job.payload.byteLength,
    )
}

/** The key is used, or this very job was stored before and the answer was lost. */
function answerRepeat(database: Database, job: NewJob): EnqueueResult {
  const { connection, keys } = database
  const own = connection.statement(JOB_OF_ID).get(job.id) as JobRow | undefined
  if (own !== undefined) return { kind: 'inserted', job: toJob(own, keys) }
  const row = connection
    .statement(JOB_OF_KEY)
    .get(job.endpoint, job.idempotency?.key ?? null) as unknown as JobRow & { request_hash: string }
  if (row.request_hash !== job.idempotency?.requestHash)
    return { kind: 'key_reused', jobId: row.id }
  return { kind: 'existing', job: toJob(row, keys) }
}
