// sweep, overdue and endOverdue end what no worker or client ends. A sweep first reads without a
// write lock. It writes only if it found something, and every write proves again what was read.

import { EXPIRED, LEASE_LOST } from '../../job/attempt.ts'
import { addEffects, type FinishEffects, NO_EFFECTS, sumEffects } from '../../job/finish-effects.ts'
import { purgeClasses } from '../../job/retention.ts'
import type { SettleResult } from '../store.ts'
import { StoreUnavailable } from '../store-errors.ts'
import type { OverdueEnd, OverdueJob, SweepCounts, SweepOptions } from '../sweep.ts'
import { returnFreePages } from './backup.ts'
import {
  BLOCKED_BY_SEQ,
  BLOCKED_COLUMNS,
  type BlockedJob,
  checkBlocked,
  resolveBlocked,
} from './blocked-jobs.ts'
import { type Database, reportEnd, UNKNOWN_BOOT } from './connection.ts'
import { endJobsOfDeletedEndpoints } from './deleted-endpoints.ts'
import { dropUnneededKeys } from './fairness-keys.ts'
import { MAX_STEPS, runFinishEffects } from './finish-effects.ts'
import { sweepGroups } from './groups.ts'
import { guardOf } from './guards.ts'
import { inputSteps } from './inputs.ts'
import {
  attemptLine,
  DROP_LEASE,
  endedAttempt,
  FAILURE,
  finishAs,
  finishQueuedAs,
  parsed,
  QUEUE_AGAIN,
  WITH_ATTEMPT,
} from './job-row.ts'
import { WRITE_META } from './records.ts'
import { repeatResult } from './settle.ts'
import { placeUnplaced } from './turns.ts'

export async function sweep(database: Database, options: SweepOptions): Promise<SweepCounts> {
  const { limit } = options
  if (!options.reclaim) await proveWritable(database)
  // The purge comes first: a job that this sweep ends can be read until the next one, even with a
  // short retention.
  const purged = await purge(database, limit)
  // The effects that another process left pending, run before those of the jobs that this sweep
  // ends.
  const left = await runPendingEffects(database, limit)
  const blocked = await recheckBlocked(database, limit)
  // Evict before reclaim: a job of a deleted endpoint must not be queued again.
  const ended = await endJobsOfDeletedEndpoints(database, limit)
  const leases = options.reclaim
    ? await endExpiredLeases(database, limit)
    : { reclaimed: 0, buriedLost: 0, ...NO_EFFECTS }
  const expired = await expire(database, limit)
  const groups = await sweepGroups(database, limit)
  await dropUnneededKeys(database, limit)
  if (leases.reclaimed > 0) database.notifier.notifyWork()
  await returnFreePages(database)
  return {
    abandoned: ended.abandoned,
    evicted: ended.evicted,
    reclaimed: leases.reclaimed,
    buriedLost: leases.buriedLost,
    expired: expired.expired,
    ...sumEffects([left, blocked, ended, leases, expired]),
    // Only the effects that another process left pending are counted.
    effectsDone: left.effectsDone,
    ...groups,
    purged,
    overdue: await isAnyOverdue(database),
  }
}

/**
 * Most sweeps find nothing and only read, which works with a full disk or a long writer, too. But
 * during an outage a sweep must fail until the holders of leases can renew again.
 */
function proveWritable({ connection }: Database): Promise<void> {
  return connection.write('normal', () => {
    connection.statement(WRITE_META).run({ key: 'proof_of_writing', value: '' })
  })
}

export const PURGEABLE = `
select seq from jobs
where (unsuccessful is 'dead') = $isDead and has_key is $hasKey and finished_at <= $finishedBy
  and finished_at is not null and effects_pending = 0
  and not exists (select 1 from needed_results where needed = jobs.id)
order by finished_at limit +$limit`
export const PURGE = `delete from jobs where seq = $seq and ${guardOf('purge')}`

/** Purges class by class. If a class fills the limit, the next sweep follows at once. */
async function purge({ connection, clock, settings }: Database, limit: number): Promise<number> {
  const found = await connection.read(() => {
    let left = limit
    return purgeClasses(settings, clock.now()).flatMap(({ isDead, isKeyed, finishedBy }) => {
      const proof = { isDead: isDead ? 1 : 0, hasKey: isKeyed ? 1 : null, finishedBy }
      const rows = connection.statement(PURGEABLE).all({ ...proof, limit: left })
      left -= rows.length
      return rows.map(({ seq }) => ({ seq: seq as number, ...proof }))
    })
  })
  if (found.length === 0) return 0
  return connection.write('normal', () =>
    found.reduce((sum, job) => sum + Number(connection.statement(PURGE).run(job).changes), 0),
  )
}

export const ARE_EFFECTS_PENDING = 'select 1 from jobs where effects_pending = 1 limit 1'

/** Runs them in transactions of bounded length, until none is pending or `limit` jobs were read. */
async function runPendingEffects(database: Database, limit: number): Promise<FinishEffects> {
  const { connection } = database
  const total = { ...NO_EFFECTS }
  for (let steps = 0; steps < limit; steps += MAX_STEPS) {
    const isLeft = await connection.read(() => connection.statement(ARE_EFFECTS_PENDING).get())
    if (isLeft === undefined) break
    const counts = await connection.write('normal', () => runFinishEffects(database))
    addEffects(total, counts)
  }
  return total
}

/**
 * The limit of blocked jobs that are checked without a mark. Each check costs some microseconds.
 */
const RECHECKS_PER_SWEEP = 200

/** The blocked jobs that enqueue has marked. */
export const MARKED = `
select ${BLOCKED_COLUMNS} from jobs where recheck = 1 and blocked = 1 order by seq limit +$limit`
/** The blocked jobs after the last one that was checked, in the same endpoint. */
export const BLOCKED_NEXT = `
select ${BLOCKED_COLUMNS} from jobs where blocked = 1 and endpoint = $endpoint and seq > $seq
order by seq limit +$limit`
/**
 * The blocked jobs in the endpoints after that one. There are two queries: a comparison of pairs
 * would seek by endpoint alone.
 */
export const BLOCKED_BEYOND = `
select ${BLOCKED_COLUMNS} from jobs where blocked = 1 and endpoint > $endpoint
order by endpoint, seq limit +$limit`

export const UNMARK = 'update jobs set recheck = 0 where seq = $seq and recheck = 1'

async function recheckBlocked(database: Database, limit: number): Promise<FinishEffects> {
  const { connection } = database
  const found = await connection.read(() => findMovable(database, limit))
  if (found.length === 0) return NO_EFFECTS
  return connection.write('normal', () => {
    const counts = { ...NO_EFFECTS }
    let steps = 0
    for (const seq of found) {
      if (steps > MAX_STEPS) break
      const blocked = connection.statement(BLOCKED_BY_SEQ).get({ seq }) as BlockedJob | undefined
      const became = blocked === undefined ? 'waits' : resolveBlocked(database, blocked)
      if (became === 'ready') counts.promoted++
      if (became === 'fails') counts.dependentsFailed++
      if (blocked?.needs) steps += inputSteps(database, seq)
      // If its dependency was queued again, the next finish of the dependency decides.
      connection.statement(UNMARK).run({ seq })
    }
    return sumEffects([counts, runFinishEffects(database)])
  })
}

/** The marked jobs, and those of the next unmarked ones that no longer have to wait. */
function findMovable(database: Database, limit: number): number[] {
  const { connection, nextSweep } = database
  const marked = connection.statement(MARKED).all({ limit }) as unknown as BlockedJob[]
  const part = Math.min(limit, RECHECKS_PER_SWEEP)
  const { endpoint, seq } = nextSweep.afterBlocked
  const next = connection.statement(BLOCKED_NEXT).all({ endpoint, seq, limit: part })
  const beyond = { endpoint, limit: part - next.length }
  next.push(...connection.statement(BLOCKED_BEYOND).all(beyond))
  const round = next as unknown as BlockedJob[]
  const last = round.length < part ? undefined : round.at(-1)
  nextSweep.afterBlocked = { endpoint: last?.endpoint ?? '', seq: last?.seq ?? 0 }
  const moving = round.filter((row) => checkBlocked(database, row).kind !== 'waits')
  return [...new Set([...marked, ...moving].map(({ seq }) => seq))]
}

const LEASE_COLUMNS = `seq, id, endpoint, fence, lease_id, lease_boot, lease_mono, worker_id,
  claimed_at, attempt_count, attempts_left, superseded`

/** Leases of an earlier start of the machine. There are two queries, to seek on both sides. */
export const LEASES_BEFORE_BOOT = `
select ${LEASE_COLUMNS} from jobs where state = 'running' and lease_boot < $boot limit +$limit`
export const LEASES_AFTER_BOOT = `
select ${LEASE_COLUMNS} from jobs where state = 'running' and lease_boot > $boot limit +$limit`
export const EXPIRED_LEASES = `
select ${LEASE_COLUMNS} from jobs
where state = 'running' and lease_boot = $boot and lease_mono <= $monotonic
order by lease_mono limit +$limit`
/** Used only if the system has no boot id: reads all leases. */
export const LEASES_BEFORE_RESTART = `
select ${LEASE_COLUMNS} from jobs
where state = 'running' and lease_boot = $boot and lease_mono > $monotonic
  and lease_mono - lease_ms > $monotonic
limit +$limit`

export const END_EXPIRED_LEASE = {
  reclaim: `update jobs set ${QUEUE_AGAIN}, attempts = ${WITH_ATTEMPT},
    run_at = $now, due_at = $now, ${DROP_LEASE}
    where seq = $seq and ${guardOf('reclaim')}`,
  bury_lost: `update jobs set attempts = ${WITH_ATTEMPT}, ${finishAs('dead')}, ${FAILURE},
    ${DROP_LEASE}
    where seq = $seq and ${guardOf('bury_lost')}`,
  withdraw_lost: `update jobs set attempts = ${WITH_ATTEMPT}, ${finishAs('cancelled')},
    ${DROP_LEASE}
    where seq = $seq and awaiting_until is null and ${guardOf('withdraw_lost')}`,
} as const

interface ExpiredLease {
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

type ExpiredLeaseCounts = Pick<SweepCounts, 'reclaimed' | 'buriedLost'> & FinishEffects

/**
 * Far longer than writers wait for each other. A longer wait shows that one has blocked the file.
 */
const MAX_LOCK_WAIT_MS = 1_000

/**
 * Throws StoreUnavailable if it had to wait long to write: then the holders of these leases could
 * not renew either, and their results must be stored first.
 */
async function endExpiredLeases(database: Database, limit: number): Promise<ExpiredLeaseCounts> {
  const rows = await findExpiredLeases(database, limit)
  if (rows.length === 0) return { reclaimed: 0, buriedLost: 0, ...NO_EFFECTS }
  const askedAtMs = performance.now()
  const written = await database.connection.write('normal', () => {
    if (performance.now() - askedAtMs > MAX_LOCK_WAIT_MS) return null
    const counts = { reclaimed: 0, buriedLost: 0 }
    for (const row of rows) {
      const event = eventOf(row)
      if (!endExpiredLease(database, row, event)) continue
      if (event === 'reclaim') counts.reclaimed++
      else counts.buriedLost++
    }
    placeUnplaced(database)
    return { ...counts, ...runFinishEffects(database) }
  })
  if (written === null)
    throw new StoreUnavailable('another process wrote to the store for too long')
  return written
}

function findExpiredLeases(
  { connection, clock }: Database,
  limit: number,
): Promise<ExpiredLease[]> {
  return connection.read(() => {
    const { boot } = clock
    const monotonic = clock.monotonic()
    const rows = connection.statement(EXPIRED_LEASES).all({ boot, monotonic, limit })
    rows.push(...connection.statement(LEASES_BEFORE_BOOT).all({ boot, limit }))
    rows.push(...connection.statement(LEASES_AFTER_BOOT).all({ boot, limit }))
    if (boot === UNKNOWN_BOOT) {
      rows.push(...connection.statement(LEASES_BEFORE_RESTART).all({ boot, monotonic, limit }))
    }
    return rows.slice(0, limit) as unknown as ExpiredLease[]
  })
}

function eventOf({ superseded, attempts_left }: ExpiredLease): keyof typeof END_EXPIRED_LEASE {
  if (superseded === 1) return 'withdraw_lost'
  return attempts_left > 0 ? 'reclaim' : 'bury_lost'
}

/** Returns whether the lease was still as it was read. */
function endExpiredLease(
  database: Database,
  row: ExpiredLease,
  event: keyof typeof END_EXPIRED_LEASE,
): boolean {
  const { connection, clock } = database
  const now = clock.now()
  const lease = { fence: row.fence, leaseId: row.lease_id }
  const attempt = endedAttempt(row, 'lease_expired', now)
  const values = {
    reclaim: { now },
    bury_lost: { finishedAt: now, ...LEASE_LOST },
    withdraw_lost: { finishedAt: now },
  }[event]
  const { changes } = connection.statement(END_EXPIRED_LEASE[event]).run({
    ...{ seq: row.seq, ...lease, leaseBoot: row.lease_boot, leaseMono: row.lease_mono },
    ...{ boot: clock.boot, monotonic: clock.monotonic() },
    ...{ line: attemptLine(attempt, lease, event), ...values },
  })
  if (changes === 0) return false
  const deathReason = event === 'bury_lost' ? LEASE_LOST.reason : null
  reportEnd(database, { jobId: row.id, endpoint: row.endpoint, attempt, deathReason })
  return true
}

export const EXPIRED_JOBS = `
select seq from jobs where expiring_at <= $now
order by expiring_at limit +$limit`
export const EXPIRE = `
update jobs set ${finishQueuedAs('dead')}, ${FAILURE}
where seq = $seq and ${guardOf('expire')} returning id, endpoint`

async function expire(
  database: Database,
  limit: number,
): Promise<{ expired: number } & FinishEffects> {
  const { connection, clock } = database
  const found = await connection.read(() =>
    connection.statement(EXPIRED_JOBS).all({ now: clock.now(), limit }),
  )
  if (found.length === 0) return { expired: 0, ...NO_EFFECTS }
  return connection.write('normal', () => {
    const now = clock.now()
    const statement = connection.statement(EXPIRE)
    let expired = 0
    for (const { seq } of found as { seq: number }[]) {
      const row = statement.get({ seq, now, finishedAt: now, ...EXPIRED })
      if (row === undefined) continue
      expired++
      const { id, endpoint } = row as { id: string; endpoint: string }
      reportEnd(database, { jobId: id, endpoint, attempt: null, deathReason: EXPIRED.reason })
    }
    return { expired, ...runFinishEffects(database) }
  })
}

export const OVERDUE = `
select id, endpoint, fence, lease_id, lease_wall, claimed_at, worker_id, attempt_count,
  attempts_left, max_attempts, free_attempts, first_run_at, promoted_at, expires_at, retry
from jobs where awaiting_until <= $now order by awaiting_until limit +$limit`

export const IS_ANY_OVERDUE = 'select 1 from jobs where awaiting_until <= $now limit 1'

function isAnyOverdue({ connection, clock }: Database): Promise<0 | 1> {
  return connection.read(() => {
    const found = connection.statement(IS_ANY_OVERDUE).get({ now: clock.now() })
    return found === undefined ? 0 : 1
  })
}

export const TIME_OUT = `
update jobs set ${QUEUE_AGAIN}, attempts = ${WITH_ATTEMPT}, run_at = $runAt, due_at = $runAt,
  ${DROP_LEASE}
where id = $jobId and ${guardOf('time_out', 'awaiting')}`
export const BURY_TIMED_OUT = `
update jobs set attempts = ${WITH_ATTEMPT}, ${finishAs('dead')}, ${FAILURE}, ${DROP_LEASE}
where id = $jobId and ${guardOf('bury_timed_out', 'awaiting')}`
export const WITHDRAW_OVERDUE = `
update jobs set attempts = ${WITH_ATTEMPT}, ${finishAs('cancelled')}, ${DROP_LEASE}
where id = $jobId and awaiting_until is not null and ${guardOf('withdraw_lost', 'awaiting')}`

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
    const rows = connection.statement(OVERDUE).all({ now: clock.now(), limit })
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
    const perJob = ends.map((end) => endOne(database, end))
    placeUnplaced(database)
    runFinishEffects(database)
    return perJob
  })
  if (ends.some(({ event }) => event === 'time_out')) database.notifier.notifyWork()
  return results
}

function endOne(database: Database, end: OverdueEnd): SettleResult {
  const { connection, clock } = database
  const { jobId, endpoint, fence, leaseId, leaseExpiresAt, attempt } = end
  const { finishedAt } = attempt
  const proof = { jobId, fence, leaseId, leaseExpiresAt, now: clock.now() }
  const line = attemptLine(attempt, end, end.event)
  const { changes } =
    end.event === 'time_out'
      ? connection.statement(TIME_OUT).run({ ...proof, line, runAt: end.runAt })
      : connection.statement(BURY_TIMED_OUT).run({ ...proof, line, finishedAt, ...end.failure })
  if (changes === 1) {
    const deathReason = end.event === 'bury_timed_out' ? end.failure.reason : null
    reportEnd(database, { jobId, endpoint, attempt, deathReason })
    return 'applied'
  }
  const withdrawn = connection
    .statement(WITHDRAW_OVERDUE)
    .run({ ...proof, line: attemptLine(attempt, end, 'withdraw_lost'), finishedAt })
  if (withdrawn.changes === 0) return repeatResult(database, end)
  reportEnd(database, { jobId, endpoint, attempt, deathReason: null })
  return 'applied'
}
