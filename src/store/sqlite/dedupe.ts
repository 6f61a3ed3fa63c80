// Dedupe: what a request comes to whose dedupe key a queued or running job of its endpoint has.
import { type DedupeDecision, decideDedupe } from '../../job/dedupe.ts'
import type { Job, NewJob } from '../../job/job.ts'
import type { EnqueueResult } from '../store.ts'
import type { Database } from './database.ts'
import { finishQueuedAs } from './finish.ts'
import { guardOf, HOLDS_DEDUPE_KEY } from './guards.ts'
import { addKey, jobOfId } from './known-jobs.ts'
import { listText, mapText, sealHeaders } from './rows.ts'

export const DEDUPE_HOLDER = `
select seq, id, state, attempt_count, version from jobs
where ${HOLDS_DEDUPE_KEY} and endpoint = ? and dedupe_key = ?`

/** The last parameters: seq, version. */
export const REPLACE = `
update jobs set run_at = ?, due_at = ?, first_run_at = ?, priority = ?, tags = ?, metadata = ?,
  headers = ?,
  expires_at = ?, payload_bytes = ?, version = version + 1
where seq = ? and ${guardOf('replace')}`
export const REPLACE_PAYLOAD = 'update payloads set bytes = ? where seq = ?'
/** Parameters: now, seq. */
export const DISPLACE = `
update jobs set ${finishQueuedAs('cancelled')} where seq = ? and ${guardOf('displace')}`
export const SUPERSEDE = `
update jobs set superseded = 1, version = version + 1
where seq = ? and ${guardOf('supersede')}`

interface HolderRow {
  seq: number
  id: string
  state: 'queued' | 'running'
  attempt_count: number
  version: number
}

/** null: nobody has the key, or nobody has it any more, and the job is to be inserted. */
export function applyDedupe(database: Database, job: NewJob): EnqueueResult | null {
  const { connection, clock } = database
  const { key, mode } = job.dedupe as NonNullable<NewJob['dedupe']>
  const holder = connection.statement(DEDUPE_HOLDER).get(job.endpoint, key) as HolderRow | undefined
  if (holder === undefined) return null
  const decision = decideDedupe(mode, { state: holder.state, attemptCount: holder.attempt_count })
  switch (decision.kind) {
    case 'reject':
      return { kind: 'dedupe_conflict', jobId: holder.id }
    case 'replace':
      replace(database, job, holder)
      return found(database, job, holder)
    case 'keep':
      return found(database, job, holder)
    case 'displace':
      connection.statement(DISPLACE).run(clock.now(), holder.seq)
      return null
    case 'supersede':
      connection.statement(SUPERSEDE).run(holder.seq)
      return null
    default:
      throw new Error(`unknown decision ${(decision satisfies never as DedupeDecision).kind}`)
  }
}

function found(database: Database, job: NewJob, { seq, id }: HolderRow): EnqueueResult {
  addKey(database, job, seq)
  return { kind: 'existing', job: jobOfId(database, id) as Job }
}

/** Its id, budget, ordering key, dependencies and onFinish stay. */
function replace({ connection, keys }: Database, job: NewJob, { seq, version }: HolderRow): void {
  connection
    .statement(REPLACE)
    .run(
      job.runAt,
      job.runAt,
      job.runAt,
      job.priority,
      listText(job.tags),
      mapText(job.metadata),
      sealHeaders(job.headers, job.endpoint, keys),
      job.expiresAt,
      job.payload.byteLength,
      seq,
      version,
    )
  connection.statement(REPLACE_PAYLOAD).run(job.payload, seq)
}
