// The insert of a job: by a request, and by the finish of another job that tells of itself.
import type { Acceptance } from '../../job/acceptance.ts'
import type { NewJob } from '../../job/job.ts'
import { hasKey } from '../../job/retention.ts'
import type { Database } from './database.ts'
import { listText, mapText, originText, sealHeaders } from './rows.ts'

const PLAIN_COLUMNS = `id, endpoint, priority, run_at, due_at, first_run_at, created_at, expires_at,
  attempts_left, max_attempts, timeout_ms, payload_bytes, idempotency_key, has_key, request_hash,
  retry, headers, tags, metadata`
const OTHER_COLUMNS = `held, recheck, dedupe_key, ordering_key, origin_key, schedule_name,
  notice_endpoint, notice_states, depends_on, waiting_for, trace`

/** Of most jobs: each column that is not named saves the binding of a null. */
export const INSERT_PLAIN = insertSql(PLAIN_COLUMNS)
export const INSERT_JOB = insertSql(`${PLAIN_COLUMNS}, ${OTHER_COLUMNS}`)

/** `on conflict do nothing`: a used key or a known id is told by the count of changes. */
function insertSql(columns: string): string {
  const values = columns.split(',').map(() => '?')
  return `insert into jobs (${columns}) values (${values.join(', ')}) on conflict do nothing`
}

export const INSERT_PAYLOAD = 'insert into payloads (seq, bytes) values (?, ?)'

/** Its seq, or null when it is known by its id or by a key that must be its own. */
export function insertJob(
  database: Database,
  job: NewJob,
  acceptance: Acceptance,
): number | bigint | null {
  const { connection } = database
  const plain = plainValues(database, job, acceptance.maxAttempts)
  const { changes, lastInsertRowid } = isPlain(job, acceptance)
    ? connection.statement(INSERT_PLAIN).run(...plain)
    : connection.statement(INSERT_JOB).run(...plain, ...otherValues(job, acceptance))
  if (changes === 0) return null
  connection.statement(INSERT_PAYLOAD).run(lastInsertRowid, job.payload)
  return lastInsertRowid
}

function isPlain(job: NewJob, { onFinish }: Acceptance): boolean {
  return (
    onFinish === null &&
    job.dedupe === null &&
    job.originKey === null &&
    job.scheduleName === null &&
    job.trace === null &&
    job.hops === 0 &&
    job.orderingKey === null &&
    job.dependsOn.length === 0
  )
}

type Value = string | number | null

function plainValues({ keys }: Database, job: NewJob, maxAttempts: number): Value[] {
  const { idempotency } = job
  return [
    job.id,
    job.endpoint,
    job.priority,
    job.runAt,
    job.runAt,
    job.runAt,
    job.createdAt,
    job.expiresAt,
    maxAttempts,
    maxAttempts,
    job.timeoutMs,
    job.payload.byteLength,
    idempotency?.key ?? null,
    hasKey(job) ? 1 : null,
    idempotency?.requestHash ?? null,
    job.retry === null ? null : JSON.stringify(job.retry),
    sealHeaders(job.headers, job.endpoint, keys),
    listText(job.tags),
    mapText(job.metadata),
  ]
}

function otherValues(job: NewJob, acceptance: Acceptance): Value[] {
  const { onFinish, waitingFor, isHeld, isDoomed } = acceptance
  return [
    isHeld ? 1 : 0,
    // The next sweep looks at it.
    isDoomed ? 1 : 0,
    job.dedupe?.key ?? null,
    job.orderingKey,
    job.originKey,
    job.scheduleName,
    onFinish?.endpoint ?? null,
    onFinish === null ? null : JSON.stringify(onFinish.states),
    listText(job.dependsOn),
    listText(waitingFor),
    originText(job),
  ]
}
