// settle, renew, release: what a holder writes. Each update proves fence and lease id, so whoever
// lost the lease changes nothing. On the usual path nothing is read.
import type { Failure, Lease } from '../../job/job.ts'
import type { SettlingEvent } from '../../job/lifecycle.ts'
import { MIN_KEY_LIFE_MS, type RenewResult, type Settlement, type SettleResult } from '../store.ts'
import { attemptLine, readAttemptLines, WITH_ATTEMPT } from './attempt-log.ts'
import type { Database } from './database.ts'
import { guardOf } from './guards.ts'

export const DROP_LEASE = `lease_id = null, worker_id = null, claimed_at = null, lease_boot = null,
  lease_mono = null, lease_ms = null, lease_wall = null, version = version + 1`

/** Two parameters: when it ended, and from when retention alone would let it go. */
export const FINISH = `finished_at = ?, purge_at = max(?, created_at + ${MIN_KEY_LIFE_MS})`

/** Of each, the last three parameters are the job's id, fence and lease id. */
export const SETTLE = {
  succeed: `update jobs set state = 'succeeded', attempts = ${WITH_ATTEMPT}, ${FINISH},
    result = ?, result_truncated = ?, ${DROP_LEASE}
    where id = ? and ${guardOf('succeed')}`,
  reschedule: `update jobs set state = 'queued', attempts = ${WITH_ATTEMPT}, run_at = ?,
    ${DROP_LEASE}
    where id = ? and ${guardOf('reschedule')}`,
  postpone: `update jobs set state = 'queued', attempts = ${WITH_ATTEMPT}, run_at = ?,
    attempts_left = attempts_left + 1, free_attempts = free_attempts + 1, ${DROP_LEASE}
    where id = ? and ${guardOf('postpone')}`,
  bury: `update jobs set state = 'dead', attempts = ${WITH_ATTEMPT}, ${FINISH},
    failure_reason = ?, failure_message = ?, ${DROP_LEASE}
    where id = ? and ${guardOf('bury')}`,
} as const satisfies Record<SettlingEvent, string>

export const ATTEMPTS_OF = 'select attempts from jobs where id = ?'

/**
 * Parameters: boot, expiry (thrice), lease length, wall-clock expiry; id, fence, lease id. A lease
 * is never shortened; one of an earlier start of the machine can not be compared and is replaced.
 */
export const RENEW = `
update jobs set
  lease_ms = iif(lease_boot <> ? or lease_mono < ?, ?, lease_ms),
  lease_mono = iif(lease_boot <> ?, ?, max(lease_mono, ?)),
  lease_wall = max(lease_wall, ?),
  lease_boot = ?
where id = ? and ${guardOf('renew')}`

/** Nothing was sent: as if it had not been claimed, but for the fence. */
export const RELEASE = `
update jobs set state = 'queued', attempt_count = attempt_count - 1,
  attempts_left = attempts_left + 1, started_at = iif(attempt_count = 1, null, started_at),
  ${DROP_LEASE}
where id = ? and ${guardOf('release')}`

export async function settle(
  database: Database,
  settlements: Settlement[],
): Promise<SettleResult[]> {
  if (settlements.length === 0) return []
  const results = await database.connection.write('normal', () =>
    settlements.map((settlement) => settleOne(database, settlement)),
  )
  if (settlements.some(({ event }) => event === 'reschedule' || event === 'postpone')) {
    database.watch.stir()
  }
  return results
}

function settleOne(database: Database, settlement: Settlement): SettleResult {
  const { attempt, event } = settlement
  const statement = database.connection.statement(SETTLE[event])
  const line = attemptLine(attempt, settlement, event)
  const { jobId, fence, leaseId } = settlement
  const { changes } = statement.run(line, ...valuesOf(database, settlement), jobId, fence, leaseId)
  return changes === 1 ? 'applied' : lookBack(database, settlement)
}

/** What the statement of this event takes after the attempt's line. */
function valuesOf({ settings }: Database, settlement: Settlement): (string | number | null)[] {
  const { finishedAt } = settlement.attempt
  switch (settlement.event) {
    case 'succeed':
      return [
        finishedAt,
        finishedAt + settings.retentionMs,
        settlement.result,
        settlement.resultTruncated ? 1 : 0,
      ]
    case 'reschedule':
    case 'postpone':
      return [settlement.runAt]
    case 'bury':
      return [
        finishedAt,
        finishedAt + settings.retentionDeadMs,
        ...failureValues(settlement.failure),
      ]
    default:
      throw new Error(`unknown event ${(settlement satisfies never as Settlement).event}`)
  }
}

export function failureValues({ reason, message }: Failure): [string, string] {
  return [reason, message]
}

/** Applied before means: this lease wrote a line, by the same event, with the same outcome. */
function lookBack({ connection }: Database, settlement: Settlement): SettleResult {
  const row = connection.statement(ATTEMPTS_OF).get(settlement.jobId)
  const lines = readAttemptLines((row?.attempts as string | null | undefined) ?? null)
  const known = lines.some(
    (line) =>
      line.fence === settlement.fence &&
      line.leaseId === settlement.leaseId &&
      line.event === settlement.event &&
      line.outcome === settlement.attempt.outcome,
  )
  return known ? 'already_applied' : 'lease_lost'
}

export async function renew(
  { connection, clock }: Database,
  leases: Lease[],
  leaseMs: number,
): Promise<RenewResult[]> {
  if (leases.length === 0) return []
  return connection.write('normal', () => {
    const until = clock.monotonic() + leaseMs
    const untilWall = clock.now() + leaseMs
    const statement = connection.statement(RENEW)
    return leases.map(({ jobId, fence, leaseId }) => {
      const { boot } = clock
      const { changes } = statement.run(
        ...[boot, until, leaseMs, boot, until, until, untilWall, boot],
        ...[jobId, fence, leaseId],
      )
      return changes === 1 ? 'applied' : 'lease_lost'
    })
  })
}

export async function release(database: Database, leases: Lease[]): Promise<RenewResult[]> {
  if (leases.length === 0) return []
  const results = await database.connection.write('normal', () => {
    const statement = database.connection.statement(RELEASE)
    return leases.map(({ jobId, fence, leaseId }): RenewResult => {
      return statement.run(jobId, fence, leaseId).changes === 1 ? 'applied' : 'lease_lost'
    })
  })
  if (results.includes('applied')) database.watch.stir()
  return results
}
