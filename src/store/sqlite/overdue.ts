// Jobs that await completion and whose deadline has passed. The deadline is judged by the wall
// clock: handlers work on elsewhere while this machine starts anew.
import type { OverdueEnd, OverdueJob, SettleResult } from '../settlement.ts'
import { runAftermath } from './aftermath.ts'
import { attemptLine, WITH_ATTEMPT } from './attempt-log.ts'
import { type Database, tellEnd } from './database.ts'
import { DROP_LEASE, failureValues, finishAs } from './finish.ts'
import { guardOf } from './guards.ts'
import { parsed } from './rows.ts'
import { wasToldBefore } from './settle.ts'

/** Parameters: now, limit. */
export const OVERDUE = `
select id, endpoint, fence, lease_id, lease_wall, claimed_at, worker_id, attempt_count,
  attempts_left, max_attempts, free_attempts, first_run_at, promoted_at, expires_at, retry
from jobs where awaiting = 1 and lease_wall <= ? order by lease_wall limit +?`

/** Of each, the last parameters are the job's id; fence, lease id and expiry as seen; now. */
export const TIME_OUT = `
update jobs set state = 'queued', attempts = ${WITH_ATTEMPT}, run_at = ?, due_at = ?, ${DROP_LEASE}
where id = ? and ${guardOf('time_out', 'awaiting')}`
export const BURY_TIMED_OUT = `
update jobs set attempts = ${WITH_ATTEMPT}, ${finishAs('dead')},
  failure_reason = ?, failure_message = ?, ${DROP_LEASE}
where id = ? and ${guardOf('bury_timed_out', 'awaiting')}`
export const WITHDRAW_OVERDUE = `
update jobs set attempts = ${WITH_ATTEMPT}, ${finishAs('cancelled')}, ${DROP_LEASE}
where id = ? and awaiting = 1 and ${guardOf('withdraw_lapsed', 'awaiting')}`

interface OverdueRow {
  id: string
  endpoint: string
  fence: number
  lease_id: string
  lease_wall: number
  claimed_at: number
  worker_id: string
  attempt_count: number
  attempts_left: number
  max_attempts: number
  free_attempts: number
  first_run_at: number
  promoted_at: number | null
  expires_at: number | null
  retry: string | null
}

export function overdue({ connection, clock }: Database, limit: number): Promise<OverdueJob[]> {
  return connection.read(() => {
    const rows = connection.statement(OVERDUE).all(clock.now(), limit)
    return (rows as unknown as OverdueRow[]).map((row) => ({
      jobId: row.id,
      fence: row.fence,
      leaseId: row.lease_id,
      endpoint: row.endpoint,
      leaseExpiresAt: row.lease_wall,
      claimedAt: row.claimed_at,
      workerId: row.worker_id,
      attemptNumber: row.attempt_count,
      attemptsLeft: row.attempts_left,
      maxAttempts: row.max_attempts,
      freeAttempts: row.free_attempts,
      firstRunAt: row.first_run_at,
      promotedAt: row.promoted_at,
      expiresAt: row.expires_at,
      retry: parsed(row.retry, null),
    }))
  })
}

export async function endOverdue(database: Database, ends: OverdueEnd[]): Promise<SettleResult[]> {
  if (ends.length === 0) return []
  const results = await database.connection.write('normal', () => {
    const told = ends.map((end) => endOne(database, end))
    runAftermath(database)
    return told
  })
  if (ends.some(({ event }) => event === 'time_out')) database.watch.stir()
  return results
}

function endOne(database: Database, end: OverdueEnd): SettleResult {
  const { connection, clock } = database
  const now = clock.now()
  const line = attemptLine(end.attempt, end, end.event)
  const seen = [end.jobId, end.fence, end.leaseId, end.leaseExpiresAt, now]
  const { finishedAt } = end.attempt
  const { changes } =
    end.event === 'time_out'
      ? connection.statement(TIME_OUT).run(line, end.runAt, end.runAt, ...seen)
      : connection
          .statement(BURY_TIMED_OUT)
          .run(line, finishedAt, ...failureValues(end.failure), ...seen)
  const { jobId, endpoint, attempt } = end
  if (changes === 1) {
    const diedOf = end.event === 'bury_timed_out' ? end.failure.reason : null
    tellEnd(database, { jobId, endpoint, attempt, diedOf })
    return 'applied'
  }
  const withdrawal = attemptLine(end.attempt, end, 'withdraw_lapsed')
  const withdrawn = connection.statement(WITHDRAW_OVERDUE).run(withdrawal, finishedAt, ...seen)
  if (withdrawn.changes === 0) return wasToldBefore(database, end)
  tellEnd(database, { jobId, endpoint, attempt, diedOf: null })
  return 'applied'
}
