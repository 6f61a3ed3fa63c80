// renew, release and heartbeat: what the holder of a lease writes before its attempt ends.

import type { JobState, Lease } from '../../job/job.ts'
import { endOfLease } from '../../job/settlement.ts'
import { FIRST_TURN, NO_TURN } from '../../job/turns.ts'
import type { Heartbeat, HeartbeatResult, RenewResult } from '../store.ts'
import { type Database, inOrder } from './connection.ts'
import { runFinishEffects } from './finish-effects.ts'
import { guardOf } from './guards.ts'
import { DROP_LEASE, finishAs, readAttemptLines } from './job-row.ts'

/**
 * Never shortens a lease. A lease of an earlier start of the machine cannot be compared and is
 * replaced.
 */
const EXTEND_LEASE = `
  lease_ms = iif(lease_boot <> $boot or lease_mono < $leaseMono, $leaseMs, lease_ms),
  lease_mono = iif(lease_boot <> $boot, $leaseMono, max(lease_mono, $leaseMono)),
  lease_wall = max(lease_wall, $leaseWall),
  lease_boot = $boot`

type RenewValues = [
  ...[boot: number, leaseMono: number, leaseMs: number, leaseWall: number],
  ...[jobId: string, fence: number, leaseId: string],
]

export const RENEW = inOrder<RenewValues>(
  ['boot', 'leaseMono', 'leaseMs', 'leaseWall', 'jobId', 'fence', 'leaseId'],
  `update jobs set ${EXTEND_LEASE} where id = $jobId and ${guardOf('renew')}`,
)

/** Nothing was sent: as if the job had not been claimed, except for the fence. */
const UNSENT = `attempt_count = attempt_count - 1, attempts_left = attempts_left + 1,
  started_at = iif(attempt_count = 1, null, started_at)`

export const RELEASE = `
update jobs set state = 'queued', claimable = 1, expiring_at = expires_at,
  turn = iif(fairness_key is null, ${NO_TURN}, ${FIRST_TURN}),
  due_at = max(run_at, $now), ${UNSENT}, ${DROP_LEASE}
where id = $jobId and ${guardOf('release')}`
export const WITHDRAW_UNSENT = `
update jobs set ${finishAs('cancelled')}, ${UNSENT}, ${DROP_LEASE}
where id = $jobId and ${guardOf('withdraw')}`

export const LEASE_OF = `
select state, fence, lease_id, awaiting_until, pulled_ms, lease_wall, attempts from jobs
where id = $jobId`

/** By kind of holder. The worker itself renews the lease of an attempt that it is sending. */
export const HEARTBEAT = {
  pushed: heartbeatSql(
    'extended_to = coalesce(max(extended_to, $extendedTo), $extendedTo, extended_to)',
  ),
  awaiting: heartbeatSql(
    'lease_wall = max(lease_wall, $leaseWall), awaiting_until = max(lease_wall, $leaseWall)',
  ),
  pulled: heartbeatSql(EXTEND_LEASE),
} as const

function heartbeatSql(extension: string): string {
  return `update jobs set ${extension}, progress = coalesce($progress, progress),
    version = version + 1
    where id = $jobId and ${guardOf('heartbeat')}`
}

interface LeaseRow {
  state: JobState
  fence: number
  lease_id: string | null
  awaiting_until: number | null
  pulled_ms: number | null
  lease_wall: number | null
  attempts: string | null
}

export async function renew(
  database: Database,
  leases: Lease[],
  leaseMs: number,
): Promise<RenewResult[]> {
  if (leases.length === 0) return []
  return database.connection.write('normal', () => {
    const { boot, leaseMono, leaseWall } = extension(database, leaseMs)
    const statement = database.connection.ordered(RENEW)
    return leases.map(({ jobId, fence, leaseId }) => {
      const { changes } = statement.run(boot, leaseMono, leaseMs, leaseWall, jobId, fence, leaseId)
      return changes === 1 ? 'applied' : 'lease_lost'
    })
  })
}

/** The parameters of EXTEND_LEASE. */
function extension({ clock }: Database, leaseMs: number) {
  return {
    ...{ boot: clock.boot, leaseMs },
    ...{ leaseMono: clock.monotonic() + leaseMs, leaseWall: clock.now() + leaseMs },
  }
}

export async function release(database: Database, leases: Lease[]): Promise<RenewResult[]> {
  if (leases.length === 0) return []
  const results = await database.connection.write('normal', () => {
    const perJob = leases.map((lease) => releaseOne(database, lease))
    runFinishEffects(database)
    return perJob
  })
  if (results.includes('applied')) database.notifier.notifyWork()
  return results
}

function releaseOne({ connection, clock }: Database, lease: Lease): RenewResult {
  const { jobId, fence, leaseId } = lease
  const now = clock.now()
  const released = connection.statement(RELEASE).run({ jobId, fence, leaseId, now })
  if (released.changes === 1) return 'applied'
  const withdrawn = connection
    .statement(WITHDRAW_UNSENT)
    .run({ jobId, fence, leaseId, finishedAt: now })
  return withdrawn.changes === 1 ? 'applied' : 'lease_lost'
}

export function heartbeat(
  database: Database,
  lease: Lease,
  beat: Heartbeat,
): Promise<HeartbeatResult> {
  const { connection } = database
  const { jobId, fence, leaseId } = lease
  return connection.write('full', () => {
    const row = connection.statement(LEASE_OF).get({ jobId }) as LeaseRow | undefined
    if (row === undefined) return { kind: 'lease_lost' }
    const [kind, values] = extensionBy(database, row, beat)
    const progress =
      beat.progress === null ? null : JSON.stringify({ ...beat.progress, at: database.clock.now() })
    const { changes } = connection
      .statement(HEARTBEAT[kind])
      .run({ jobId, fence, leaseId, progress, ...values })
    if (changes === 0) {
      return { kind: endOfLease(lease, row.state, readAttemptLines(row.attempts).at(-1)) }
    }
    const after = connection.statement(LEASE_OF).get({ jobId }) as unknown as LeaseRow
    return { kind: 'applied', leaseExpiresAt: after.lease_wall as number }
  })
}

function extensionBy(
  database: Database,
  { awaiting_until, pulled_ms }: LeaseRow,
  { extendMs, completionTimeoutMs }: Heartbeat,
): [keyof typeof HEARTBEAT, Record<string, number | null>] {
  if (awaiting_until !== null) {
    return ['awaiting', { leaseWall: database.clock.now() + (extendMs ?? completionTimeoutMs) }]
  }
  return pulled_ms === null
    ? ['pushed', { extendedTo: extendMs === null ? null : database.clock.now() + extendMs }]
    : ['pulled', extension(database, extendMs ?? pulled_ms)]
}
