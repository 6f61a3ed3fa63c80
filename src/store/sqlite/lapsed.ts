// Leases of senders that ran out: their jobs are queued again, or buried.
import { LEASE_LOST } from '../../job/attempt.ts'
import { type FinishEffects, NO_EFFECTS } from '../../job/finish-effects.ts'
import type { Attempt, FailureReason } from '../../job/job.ts'
import { StoreUnavailable, type SweepCounts } from '../store.ts'
import { runAftermath } from './aftermath.ts'
import { attemptLine, endedAttempt, WITH_ATTEMPT } from './attempt-log.ts'
import { UNKNOWN_BOOT } from './clock.ts'
import { type Database, tellEnd } from './database.ts'
import { DROP_LEASE, failureValues, finishAs } from './finish.ts'
import { guardOf } from './guards.ts'

const LAPSED_COLUMNS = `seq, id, endpoint, fence, lease_id, lease_boot, lease_mono, worker_id,
  claimed_at, attempt_count, attempts_left, superseded`

/** Of an earlier start of the machine; parameters: boot, limit. Twice, to seek on either side. */
export const LAPSED_BEFORE_BOOT = `
select ${LAPSED_COLUMNS} from jobs where state = 'running' and lease_boot < ? limit +?`
export const LAPSED_AFTER_BOOT = `
select ${LAPSED_COLUMNS} from jobs where state = 'running' and lease_boot > ? limit +?`
/** Parameters: boot, monotonic now, limit. */
export const LAPSED = `
select ${LAPSED_COLUMNS} from jobs
where state = 'running' and lease_boot = ? and lease_mono <= ?
order by lease_mono limit +?`
/** Only where no boot id is known: walks all leases. Parameters: boot, now, now, limit. */
export const LAPSED_BY_RESTART = `
select ${LAPSED_COLUMNS} from jobs
where state = 'running' and lease_boot = ? and lease_mono > ? and lease_mono - lease_ms > ?
limit +?`

/** After `seq` come the parameters of the guard lease_lapsed. Parameters: line, now (twice), … */
export const RECLAIM = `
update jobs set state = 'queued', attempts = ${WITH_ATTEMPT}, run_at = ?, due_at = ?, ${DROP_LEASE}
where seq = ? and ${guardOf('reclaim')}`
/** Parameters: line, now, reason, message, … */
export const BURY_LAPSED = `
update jobs set attempts = ${WITH_ATTEMPT}, ${finishAs('dead')},
  failure_reason = ?, failure_message = ?, ${DROP_LEASE}
where seq = ? and ${guardOf('bury_lapsed')}`
/** Parameters: line, now, … */
export const WITHDRAW_LAPSED = `
update jobs set attempts = ${WITH_ATTEMPT}, ${finishAs('cancelled')}, ${DROP_LEASE}
where seq = ? and awaiting = 0 and ${guardOf('withdraw_lapsed')}`

interface LapsedRow {
  seq: number
  id: string
  endpoint: string
  fence: number
  lease_id: string
  lease_boot: number
  lease_mono: number
  worker_id: string
  claimed_at: number
  attempt_count: number
  attempts_left: number
  superseded: number
}

type LapseCounts = Pick<SweepCounts, 'reclaimed' | 'buriedLapsed'> & FinishEffects

/** Far longer than writers wait for each other: who waited so long met one that held the file. */
const MAX_LOCK_WAIT_MS = 1_000

/**
 * Throws StoreUnavailable when it had to wait long for its turn: so had the holders of these
 * leases, who could not renew, and whose results are to be stored first.
 */
export async function endLapsedLeases(database: Database, limit: number): Promise<LapseCounts> {
  const rows = await findLapsed(database, limit)
  if (rows.length === 0) return { reclaimed: 0, buriedLapsed: 0, ...NO_EFFECTS }
  const askedAtMs = performance.now()
  const written = await database.connection.write('normal', () => {
    if (performance.now() - askedAtMs > MAX_LOCK_WAIT_MS) return null
    const counts = { reclaimed: 0, buriedLapsed: 0 }
    for (const row of rows) {
      if (row.superseded === 1) counts.buriedLapsed += withdrawLapsed(database, row)
      else if (row.attempts_left > 0) counts.reclaimed += reclaim(database, row)
      else counts.buriedLapsed += buryLapsed(database, row)
    }
    return { ...counts, ...runAftermath(database) }
  })
  if (written === null)
    throw new StoreUnavailable('another process wrote to the store for too long')
  return written
}

function findLapsed({ connection, clock }: Database, limit: number): Promise<LapsedRow[]> {
  return connection.read(() => {
    const { boot } = clock
    const now = clock.monotonic()
    const rows = connection.statement(LAPSED).all(boot, now, limit)
    rows.push(...connection.statement(LAPSED_BEFORE_BOOT).all(boot, limit))
    rows.push(...connection.statement(LAPSED_AFTER_BOOT).all(boot, limit))
    if (boot === UNKNOWN_BOOT) {
      rows.push(...connection.statement(LAPSED_BY_RESTART).all(boot, now, now, limit))
    }
    return rows.slice(0, limit) as unknown as LapsedRow[]
  })
}

type LapsedEvent = 'reclaim' | 'bury_lapsed' | 'withdraw_lapsed'

function reclaim(database: Database, row: LapsedRow): number {
  const now = database.clock.now()
  const { attempt, line } = lost(row, 'reclaim', now)
  const { changes } = database.connection
    .statement(RECLAIM)
    .run(line, now, now, row.seq, ...lapseProof(database, row))
  return ended(database, row, changes, attempt, null)
}

function buryLapsed(database: Database, row: LapsedRow): number {
  const now = database.clock.now()
  const { attempt, line } = lost(row, 'bury_lapsed', now)
  const { changes } = database.connection
    .statement(BURY_LAPSED)
    .run(line, now, ...failureValues(LEASE_LOST), row.seq, ...lapseProof(database, row))
  return ended(database, row, changes, attempt, LEASE_LOST.reason)
}

function withdrawLapsed(database: Database, row: LapsedRow): number {
  const now = database.clock.now()
  const { attempt, line } = lost(row, 'withdraw_lapsed', now)
  const { changes } = database.connection
    .statement(WITHDRAW_LAPSED)
    .run(line, now, row.seq, ...lapseProof(database, row))
  return ended(database, row, changes, attempt, null)
}

function lost(row: LapsedRow, event: LapsedEvent, now: number): { attempt: Attempt; line: string } {
  const lease = { fence: row.fence, leaseId: row.lease_id }
  const attempt = endedAttempt(row, 'lease_expired', now)
  return { attempt, line: attemptLine(attempt, lease, event) }
}

function ended(
  database: Database,
  { id: jobId, endpoint }: LapsedRow,
  changes: number | bigint,
  attempt: Attempt,
  diedOf: FailureReason | null,
): number {
  if (Number(changes) === 1) tellEnd(database, { jobId, endpoint, attempt, diedOf })
  return Number(changes)
}

/** The parameters of the guard lease_lapsed. */
function lapseProof({ clock }: Database, row: LapsedRow): (number | string)[] {
  const now = clock.monotonic()
  return [row.fence, row.lease_id, row.lease_boot, row.lease_mono, clock.boot, now, now]
}
