// sweep: what nobody else can end. It first looks, without a write lock, and writes only where it
// found something; every write proves again what was seen.
import type { SweepCounts, SweepOptions } from '../store.ts'
import { attemptEndedByStore, attemptLine, WITH_ATTEMPT } from './attempt-log.ts'
import { UNKNOWN_BOOT } from './clock.ts'
import type { Database } from './database.ts'
import { buryJobsOfGoneEndpoints } from './endpoint-burial.ts'
import { guardOf } from './guards.ts'
import { DROP_LEASE, FINISH } from './settle.ts'

const LAPSED_COLUMNS = `seq, fence, lease_id, lease_boot, lease_mono, worker_id, claimed_at,
  attempt_count, attempts_left`

/** Of an earlier start of the machine; parameters: boot, limit. Twice, to seek on either side. */
export const LAPSED_BEFORE_BOOT = `
select ${LAPSED_COLUMNS} from jobs where state = 'running' and lease_boot < ? limit ?`
export const LAPSED_AFTER_BOOT = `
select ${LAPSED_COLUMNS} from jobs where state = 'running' and lease_boot > ? limit ?`
/** Parameters: boot, monotonic now, limit. */
export const LAPSED = `
select ${LAPSED_COLUMNS} from jobs
where state = 'running' and lease_boot = ? and lease_mono <= ?
order by lease_mono limit ?`
/** Only where no boot id is known: walks all leases. Parameters: boot, now, now, limit. */
export const LAPSED_BY_RESTART = `
select ${LAPSED_COLUMNS} from jobs
where state = 'running' and lease_boot = ? and lease_mono > ? and lease_mono - lease_ms > ?
limit ?`

export const RECLAIM = `
update jobs set state = 'queued', attempts = ${WITH_ATTEMPT}, run_at = ?, ${DROP_LEASE}
where seq = ? and ${guardOf('reclaim')}`
export const BURY_LAPSED = `
update jobs set state = 'dead', attempts = ${WITH_ATTEMPT}, ${FINISH},
  failure_reason = 'lease_lost', failure_message = ?, ${DROP_LEASE}
where seq = ? and ${guardOf('bury_lapsed')}`

/** Parameters: now, limit. */
export const EXPIRED = `
select seq from jobs where state = 'queued' and expires_at is not null and expires_at <= ?
order by expires_at limit ?`
export const EXPIRE = `
update jobs set state = 'dead', ${FINISH}, failure_reason = 'expired', failure_message = ?,
  version = version + 1
where seq = ? and ${guardOf('expire')}`

/** Parameters: now, limit. */
export const PURGEABLE = `
select seq from jobs where purge_at is not null and purge_at <= ? order by purge_at limit ?`
export const PURGE = `delete from jobs where seq = ? and ${guardOf('purge')}`

const LOST = 'the lease ran out: its worker ended, hung, or lost the store'
const LOST_LAST = 'the lease of the last attempt ran out: its worker ended, hung, or lost the store'
const EXPIRED_MESSAGE = 'it expired before an attempt succeeded'

interface LapsedRow {
  seq: number
  fence: number
  lease_id: string
  lease_boot: number
  lease_mono: number
  worker_id: string
  claimed_at: number
  attempt_count: number
  attempts_left: number
}

export async function sweep(database: Database, options: SweepOptions): Promise<SweepCounts> {
  // Evicts before it reclaims: a job of an endpoint that is being deleted need not go round again.
  const buried = await buryJobsOfGoneEndpoints(database, options.limit)
  const lapsed = options.reclaim
    ? await endLapsedLeases(database, options.limit)
    : { reclaimed: 0, buriedLapsed: 0 }
  const expired = await endFound(database, EXPIRED, options.limit, (seq, now) =>
    database.connection
      .statement(EXPIRE)
      .run(now, now + database.settings.retentionDeadMs, EXPIRED_MESSAGE, seq, now),
  )
  const purged = await endFound(database, PURGEABLE, options.limit, (seq, now) =>
    database.connection.statement(PURGE).run(seq, now),
  )
  if (lapsed.reclaimed > 0) database.watch.stir()
  return { ...buried, ...lapsed, expired, purged }
}

async function endLapsedLeases(
  database: Database,
  limit: number,
): Promise<Pick<SweepCounts, 'reclaimed' | 'buriedLapsed'>> {
  const counts = { reclaimed: 0, buriedLapsed: 0 }
  const rows = await findLapsed(database, limit)
  if (rows.length === 0) return counts
  await database.connection.write('normal', () => {
    counts.reclaimed = 0
    counts.buriedLapsed = 0
    for (const row of rows) {
      if (row.attempts_left > 0) counts.reclaimed += reclaim(database, row)
      else counts.buriedLapsed += buryLapsed(database, row)
    }
  })
  return counts
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

function reclaim(database: Database, row: LapsedRow): number {
  const now = database.clock.now()
  const line = lostLine(row, 'reclaim', now)
  const { changes } = database.connection
    .statement(RECLAIM)
    .run(line, now, row.seq, ...lapseProof(database, row))
  return Number(changes)
}

function buryLapsed(database: Database, row: LapsedRow): number {
  const now = database.clock.now()
  const line = lostLine(row, 'bury_lapsed', now)
  const purgeAt = now + database.settings.retentionDeadMs
  const { changes } = database.connection
    .statement(BURY_LAPSED)
    .run(line, now, purgeAt, LOST_LAST, row.seq, ...lapseProof(database, row))
  return Number(changes)
}

function lostLine(row: LapsedRow, event: 'reclaim' | 'bury_lapsed', now: number): string {
  const lease = { fence: row.fence, leaseId: row.lease_id }
  return attemptLine(attemptEndedByStore(row, 'lost', now, LOST), lease, event)
}

/** The parameters of the guard lease_lapsed. */
function lapseProof({ clock }: Database, row: LapsedRow): (number | string)[] {
  const now = clock.monotonic()
  return [row.fence, row.lease_id, row.lease_boot, row.lease_mono, clock.boot, now, now]
}

/** Finds rows by (now, limit) and, when there are any, ends each; answers how many it ended. */
async function endFound(
  { connection, clock }: Database,
  finding: string,
  limit: number,
  end: (seq: number, now: number) => { changes: number | bigint },
): Promise<number> {
  const rows = await connection.read(() => connection.statement(finding).all(clock.now(), limit))
  if (rows.length === 0) return 0
  return connection.write('normal', () => {
    const now = clock.now()
    return rows.reduce((count, { seq }) => count + Number(end(seq as number, now).changes), 0)
  })
}
