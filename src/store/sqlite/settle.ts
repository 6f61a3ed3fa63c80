// settle stores how attempts ended. Each update proves fence and lease id, so a worker that has
// lost the lease changes nothing. The usual path reads nothing.

import type { Attempt, Lease } from '../../job/job.ts'
import type { EventName, SettlingEvent } from '../../job/lifecycle.ts'
import { isRepeat } from '../../job/settlement.ts'
import type { Settlement, SettleOptions, SettleResult } from '../store.ts'
import { type Database, inOrder } from './connection.ts'
import { runFinishEffects } from './finish-effects.ts'
import { type Counted, noteCounted } from './group-members.ts'
import { guardOf } from './guards.ts'
import {
  attemptLine,
  DROP_LEASE,
  FAILURE,
  finishAs,
  IS_PLAIN,
  IS_PLAIN_MEMBER,
  QUEUE_AGAIN,
  readAttemptLines,
  SUCCEED_MEMBER,
  SUCCEED_PLAIN,
  WITH_ATTEMPT,
} from './job-row.ts'
import { placeUnplaced } from './turns.ts'

/** The values that every settlement proves. */
type ByLease = [jobId: string, fence: number, leaseId: string]
const BY_LEASE = ['jobId', 'fence', 'leaseId'] as const

const COMPLETION_DEADLINE = 'max(lease_wall, $leaseExpiresAt, coalesce(extended_to, 0))'

export const SETTLE = {
  await: inOrder<[...ByLease, leaseExpiresAt: number]>(
    [...BY_LEASE, 'leaseExpiresAt'],
    `update jobs set awaiting_until = ${COMPLETION_DEADLINE}, lease_wall = ${COMPLETION_DEADLINE},
    lease_boot = null, lease_mono = null, version = version + 1
    where id = $jobId and ${guardOf('await')}`,
  ),
  succeed: succeedSql(`${finishAs('succeeded')}, ${DROP_LEASE}`),
  reschedule: inOrder<[...ByLease, line: string, runAt: number]>(
    [...BY_LEASE, 'line', 'runAt'],
    `update jobs set ${QUEUE_AGAIN}, attempts = ${WITH_ATTEMPT},
    run_at = $runAt, due_at = $runAt, ${DROP_LEASE}
    where id = $jobId and ${guardOf('reschedule')}`,
  ),
  postpone: inOrder<[...ByLease, line: string, runAt: number]>(
    [...BY_LEASE, 'line', 'runAt'],
    `update jobs set ${QUEUE_AGAIN}, attempts = ${WITH_ATTEMPT},
    run_at = $runAt, due_at = $runAt,
    attempts_left = attempts_left + 1, free_attempts = free_attempts + 1, ${DROP_LEASE}
    where id = $jobId and ${guardOf('postpone')}`,
  ),
  bury: inOrder<[...ByLease, line: string, finishedAt: number, reason: string, message: string]>(
    [...BY_LEASE, 'line', 'finishedAt', 'reason', 'message'],
    `update jobs set attempts = ${WITH_ATTEMPT}, ${finishAs('dead')},
    ${FAILURE}, ${DROP_LEASE}
    where id = $jobId and ${guardOf('bury')}`,
  ),
} as const satisfies Record<SettlingEvent, string>

/**
 * The same as `succeed` for most jobs, at a lower cost: it sets no index mark. For other jobs
 * it changes nothing.
 */
export const SUCCEED_IF_PLAIN = succeedSql(SUCCEED_PLAIN, `and ${IS_PLAIN}`)
/** The same for most members of groups. */
export const SUCCEED_IF_MEMBER = succeedSql(
  SUCCEED_MEMBER,
  `and ${IS_PLAIN_MEMBER} returning group_id`,
)

function succeedSql(changes: string, proof = '') {
  return inOrder<
    [...ByLease, line: string, finishedAt: number, result: string | null, isTruncated: number]
  >(
    [...BY_LEASE, 'line', 'finishedAt', 'result', 'isTruncated'],
    `update jobs set attempts = ${WITH_ATTEMPT}, ${changes},
    result = $result, result_truncated = $isTruncated
    where id = $jobId and ${guardOf('succeed')} ${proof}`,
  )
}

export const WITHDRAW = `
update jobs set attempts = ${WITH_ATTEMPT}, ${finishAs('cancelled')}, ${DROP_LEASE}
where id = $jobId and ${guardOf('withdraw')}`

export const ATTEMPTS_OF =
  'select attempts, awaiting_until, fence, lease_id from jobs where id = $jobId'

export async function settle(
  database: Database,
  settlements: Settlement[],
  // A repeat needs no check first: if a write throws, nothing was committed.
  { durable = false }: SettleOptions = {},
): Promise<SettleResult[]> {
  if (settlements.length === 0) return []
  const isAnyQueued = settlements.some(
    ({ event }) => event === 'reschedule' || event === 'postpone',
  )
  const results = await database.connection.write(durable ? 'full' : 'normal', () => {
    const counted: Counted = new Map()
    const perJob = settlements.map((settlement) => settleOne(database, settlement, counted))
    if (isAnyQueued) placeUnplaced(database)
    runFinishEffects(database, counted)
    return perJob
  })
  if (isAnyQueued) database.notifier.notifyWork()
  return results
}

function settleOne(database: Database, settlement: Settlement, counted: Counted): SettleResult {
  const { event } = settlement
  const changes = writeSettlement(database.connection, settlement, counted)
  if (changes === 1) return 'applied'
  if ((event === 'reschedule' || event === 'postpone') && withdraw(database, settlement)) {
    return 'applied'
  }
  return resultIfRefused(database, settlement)
}

/** Returns the number of jobs that it changed. @param counted the members among them */
function writeSettlement(
  { ordered }: Database['connection'],
  settlement: Settlement,
  counted: Counted,
): number | bigint {
  const { jobId, fence, leaseId } = settlement
  const lease: ByLease = [jobId, fence, leaseId]
  if (settlement.event === 'await') {
    return ordered(SETTLE.await).run(...lease, settlement.leaseExpiresAt).changes
  }
  const line = attemptLine(settlement.attempt, settlement, settlement.event)
  const { finishedAt } = settlement.attempt
  switch (settlement.event) {
    case 'succeed': {
      const { result, resultTruncated } = settlement
      const values = [...lease, line, finishedAt, result, resultTruncated ? 1 : 0] as const
      if (ordered(SUCCEED_IF_PLAIN).run(...values).changes === 1) return 1
      const member = ordered(SUCCEED_IF_MEMBER).get(...values)
      if (member === undefined) return ordered(SETTLE.succeed).run(...values).changes
      noteCounted(counted, member.group_id as string, 'succeeded')
      return 1
    }
    case 'reschedule':
    case 'postpone':
      return ordered(SETTLE[settlement.event]).run(...lease, line, settlement.runAt).changes
    case 'bury': {
      const { reason, message } = settlement.failure
      return ordered(SETTLE.bury).run(...lease, line, finishedAt, reason, message).changes
    }
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
  const { finishedAt } = attempt
  const { changes } = connection
    .statement(WITHDRAW)
    .run({ jobId, fence, leaseId, line, finishedAt })
  return changes === 1
}

function resultIfRefused(database: Database, settlement: Settlement): SettleResult {
  if (settlement.event !== 'await') return repeatResult(database, settlement)
  const { jobId } = settlement
  const row = database.connection.statement(ATTEMPTS_OF).get({ jobId })
  const awaits =
    row !== undefined &&
    row.awaiting_until !== null &&
    row.fence === settlement.fence &&
    row.lease_id === settlement.leaseId
  return awaits ? 'already_applied' : 'lease_lost'
}

/** The result of a report whose guard failed: `already_applied` if the report was stored before. */
export function repeatResult(
  { connection }: Database,
  { jobId, fence, leaseId, event, attempt }: ReportedAttempt,
): SettleResult {
  const row = connection.statement(ATTEMPTS_OF).get({ jobId })
  const lines = readAttemptLines((row?.attempts as string | null | undefined) ?? null)
  const reported = { fence, leaseId, event, outcome: attempt.outcome }
  return lines.some((line) => isRepeat(reported, line)) ? 'already_applied' : 'lease_lost'
}

/** An attempt as the holder of its lease reported it. */
type ReportedAttempt = Lease & { event: EventName; attempt: Pick<Attempt, 'outcome'> }
