// cancel and retry: what people ask of a job by its id. Durable, for an HTTP answer reports them.

import type { JobState } from '../../job/job.ts'
import type { CommandResult } from '../store.ts'
import { attemptEndedByStore, attemptLine, WITH_ATTEMPT } from './attempt-log.ts'
import type { Database } from './database.ts'
import { guardOf, inStates } from './guards.ts'
import { DROP_LEASE, FINISH } from './settle.ts'

export const STATE_OF = `
select seq, state, fence, lease_id, worker_id, claimed_at, attempt_count from jobs where id = ?`

export const CANCEL_QUEUED = `
update jobs set state = 'cancelled', ${FINISH}, version = version + 1
where seq = ? and ${guardOf('cancel')} and ${inStates(['queued'])}`
export const CANCEL_RUNNING = `
update jobs set state = 'cancelled', attempts = ${WITH_ATTEMPT}, ${FINISH}, ${DROP_LEASE}
where seq = ? and ${guardOf('cancel')} and ${inStates(['running'])}`

/** Parameters: now (twice), seq. */
export const RETRY = `
update jobs set state = 'queued', attempts_left = max_attempts, free_attempts = 0, run_at = ?,
  first_run_at = ?, finished_at = null, purge_at = null, failure_reason = null,
  failure_message = null, result = null, result_truncated = 0, expires_at = null,
  version = version + 1
where seq = ? and ${guardOf('retry')}`

interface FoundRow {
  seq: number
  state: JobState
  fence: number
  lease_id: string
  worker_id: string
  claimed_at: number
  attempt_count: number
}

export async function cancel(database: Database, ids: string[]): Promise<CommandResult[]> {
  if (ids.length === 0) return []
  return database.connection.write('full', () => ids.map((id) => cancelOne(database, id)))
}

function cancelOne(database: Database, id: string): CommandResult {
  const { connection, clock, settings } = database
  const row = find(database, id)
  if (row === null) return { kind: 'not_found' }
  const now = clock.now()
  const purgeAt = now + settings.retentionMs
  const { changes } =
    row.state === 'running'
      ? connection.statement(CANCEL_RUNNING).run(cancelledLine(row, now), now, purgeAt, row.seq)
      : connection.statement(CANCEL_QUEUED).run(now, purgeAt, row.seq)
  return changes === 1 ? { kind: 'applied' } : { kind: 'refused', state: row.state }
}

function cancelledLine(row: FoundRow, now: number): string {
  const attempt = attemptEndedByStore(row, 'cancelled', now, 'the job was cancelled')
  return attemptLine(attempt, { fence: row.fence, leaseId: row.lease_id }, 'cancel')
}

export async function retry(database: Database, ids: string[]): Promise<CommandResult[]> {
  if (ids.length === 0) return []
  const results = await database.connection.write('full', () =>
    ids.map((id) => retryOne(database, id)),
  )
  if (results.some(({ kind }) => kind === 'applied')) database.watch.stir()
  return results
}

function retryOne(database: Database, id: string): CommandResult {
  const row = find(database, id)
  if (row === null) return { kind: 'not_found' }
  const now = database.clock.now()
  const { changes } = database.connection.statement(RETRY).run(now, now, row.seq)
  if (changes === 1) return { kind: 'applied' }
  if (row.state === 'dead' || row.state === 'cancelled') return { kind: 'unknown_endpoint' }
  return { kind: 'refused', state: row.state }
}

function find({ connection }: Database, id: string): FoundRow | null {
  return (connection.statement(STATE_OF).get(id) as FoundRow | undefined) ?? null
}
