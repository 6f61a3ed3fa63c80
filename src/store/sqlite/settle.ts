// settle: what a holder tells of its attempt. Each update proves fence and lease id, so whoever
// lost the lease changes nothing. On the usual path nothing is read.

import type { Attempt, Lease } from '../../job/job.ts'
import type { EventName, SettlingEvent } from '../../job/lifecycle.ts'
import { isRepeat } from '../../job/settlement.ts'
import type { Settlement, SettleResult } from '../settlement.ts'
import type { SettleOptions } from '../store.ts'
import type { Database } from './connection.ts'
import { runFinishEffects } from './finish-effects.ts'
import { guardOf } from './guards.ts'
import {
  attemptLine,
  DROP_LEASE,
  failureValues,
  finishAs,
  readAttemptLines,
  WITH_ATTEMPT,
} from './job-row.ts'

/** Of each, the last three parameters are the job's id, fence and lease id. */
export const SETTLE = {
  await: `update jobs set awaiting = 1, lease_wall = max(lease_wall, ?), lease_boot = null,
    lease_mono = null, version = version + 1
    where id = ? and ${guardOf('await')}`,
  succeed: `update jobs set attempts = ${WITH_ATTEMPT}, ${finishAs('succeeded')},
    result = ?, result_truncated = ?, ${DROP_LEASE}
    where id = ? and ${guardOf('succeed')}`,
  reschedule: `update jobs set state = 'queued', attempts = ${WITH_ATTEMPT}, run_at = ?, due_at = ?,
    ${DROP_LEASE}
    where id = ? and ${guardOf('reschedule')}`,
  postpone: `update jobs set state = 'queued', attempts = ${WITH_ATTEMPT}, run_at = ?, due_at = ?,
    attempts_left = attempts_left + 1, free_attempts = free_attempts + 1, ${DROP_LEASE}
    where id = ? and ${guardOf('postpone')}`,
  bury: `update jobs set attempts = ${WITH_ATTEMPT}, ${finishAs('dead')},
    failure_reason = ?, failure_message = ?, ${DROP_LEASE}
    where id = ? and ${guardOf('bury')}`,
} as const satisfies Record<SettlingEvent, string>

/** Parameters: line, finished at; id, fence, lease id. */
export const WITHDRAW = `
update jobs set attempts = ${WITH_ATTEMPT}, ${finishAs('cancelled')}, ${DROP_LEASE}
where id = ? and ${guardOf('withdraw')}`

export const ATTEMPTS_OF = 'select attempts, awaiting, fence, lease_id from jobs where id = ?'

export async function settle(
  database: Database,
  settlements: Settlement[],
  // A repeat needs no look at what is stored: a transaction that was not answered did not commit.
  { durable = false }: SettleOptions = {},
): Promise<SettleResult[]> {
  if (settlements.length === 0) return []
  const results = await database.connection.write(durable ? 'full' : 'normal', () => {
    const perJob = settlements.map((settlement) => settleOne(database, settlement))
    runFinishEffects(database)
    return perJob
  })
  if (settlements.some(({ event }) => event === 'reschedule' || event === 'postpone')) {
    database.notifier.notifyWork()
  }
  return results
}

function settleOne(database: Database, settlement: Settlement): SettleResult {
  const { jobId, fence, leaseId, event } = settlement
  const { changes } = database.connection
    .statement(SETTLE[event])
    .run(...valuesOf(settlement), jobId, fence, leaseId)
  if (changes === 1) return 'applied'
  if ((event === 'reschedule' || event === 'postpone') && withdraw(database, settlement)) {
    return 'applied'
  }
  return resultIfRefused(database, settlement)
}

/** What the statement of this event takes before the job's id. */
function valuesOf(settlement: Settlement): (string | number | null)[] {
  if (settlement.event === 'await') return [settlement.leaseExpiresAt]
  const line = attemptLine(settlement.attempt, settlement, settlement.event)
  const { finishedAt } = settlement.attempt
  switch (settlement.event) {
    case 'succeed':
      return [line, finishedAt, settlement.result, settlement.resultTruncated ? 1 : 0]
    case 'reschedule':
    case 'postpone':
      return [line, settlement.runAt, settlement.runAt]
    case 'bury':
      return [line, finishedAt, ...failureValues(settlement.failure)]
    default:
      throw new Error(`unknown event ${(settlement satisfies never as Settlement).event}`)
  }
}

/** A superseded job is not retried: it ends with its failed attempt. */
function withdraw(
  { connection }: Database,
  settlement: Extract<Settlement, { event: 'reschedule' | 'postpone' }>,
): boolean {
  const { jobId, fence, leaseId, attempt } = settlement
  const line = attemptLine(attempt, settlement, 'withdraw')
  const { changes } = connection
    .statement(WITHDRAW)
    .run(line, attempt.finishedAt, jobId, fence, leaseId)
  return changes === 1
}

function resultIfRefused(database: Database, settlement: Settlement): SettleResult {
  if (settlement.event !== 'await') return repeatResult(database, settlement)
  const row = database.connection.statement(ATTEMPTS_OF).get(settlement.jobId)
  const awaits =
    row?.awaiting === 1 && row.fence === settlement.fence && row.lease_id === settlement.leaseId
  return awaits ? 'already_applied' : 'lease_lost'
}

/** For a report whose guard failed: `already_applied` if it was stored before. */
export function repeatResult(
  { connection }: Database,
  { jobId, fence, leaseId, event, attempt }: ReportedAttempt,
): SettleResult {
  const row = connection.statement(ATTEMPTS_OF).get(jobId)
  const lines = readAttemptLines((row?.attempts as string | null | undefined) ?? null)
  const reported = { fence, leaseId, event, outcome: attempt.outcome }
  return lines.some((line) => isRepeat(reported, line)) ? 'already_applied' : 'lease_lost'
}

/** An attempt as the holder of this lease reported it. */
type ReportedAttempt = Lease & { event: EventName; attempt: Pick<Attempt, 'outcome'> }
