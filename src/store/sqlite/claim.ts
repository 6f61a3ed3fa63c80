// due finds the endpoints that may have work, without reading every queued job. claim makes due
// jobs running, each with a new fence, in one transaction. Neither reads jobs that are final, in
// the future or of other endpoints.

import { randomBytes } from 'node:crypto'
import type { ClaimedJob } from '../../job/job.ts'
import type { Claim, Due, EndpointShare, Holder } from '../store.ts'
import { acquireAdmission, releaseAdmission } from './admission.ts'
import { type Database, inOrder, UNKNOWN_BOOT } from './connection.ts'
import { guardOf } from './guards.ts'
import { openJobHeaders, originOf, parsed } from './job-row.ts'

/**
 * How many index entries are read for the jobs that became due since the last look. With more, it
 * is cheaper to skip from name to name, which returns every endpoint that has queued jobs.
 */
const MAX_ENTRIES = 1_000

export const DUE_BETWEEN = `
select endpoint from jobs
where claimable = 1 and due_at > $since and due_at <= $now
order by due_at limit ${MAX_ENTRIES}`

/** Counting a thousand rows costs less than returning them. */
export const COUNT_DUE_BETWEEN = `select count(*) as count from (${DUE_BETWEEN})`

/** Each step is one seek in the index, past all jobs of one endpoint. */
export const ALL_QUEUED = `
with recursive named (endpoint) as (
  select min(endpoint) from jobs where claimable = 1
  union all
  select (select min(endpoint) from jobs
    where claimable = 1 and endpoint > named.endpoint)
  from named where named.endpoint is not null)
select endpoint from named where endpoint is not null`

export const NEXT_DUE = `
select due_at as next_at from jobs where claimable = 1 and due_at > $now
order by due_at limit 1`

export function due({ connection, clock }: Database, since: number | null): Promise<Due> {
  return connection.read(() => {
    const now = clock.now()
    const recent = since === null ? null : becameDue(since, now)
    const next = connection.statement(NEXT_DUE).get({ now })
    const nextAt = (next?.next_at as number | undefined) ?? null
    return { endpoints: recent ?? allQueued(), nextAt }
  })

  function becameDue(since: number, now: number): string[] | null {
    const row = connection.statement(COUNT_DUE_BETWEEN).get({ since, now })
    const count = row?.count as number
    if (count >= MAX_ENTRIES) return null
    return distinct(connection.statement(DUE_BETWEEN).all({ since, now }))
  }

  function allQueued(): string[] {
    return distinct(connection.statement(ALL_QUEUED).all())
  }
}

function distinct(rows: Record<string, unknown>[]): string[] {
  return [...new Set(rows.map((row) => row.endpoint as string))]
}

/** The payloads of one claim are in memory together: it stops when it has so many bytes. */
const MAX_CLAIM_BYTES = 64 * 1024 * 1024
const LEASE_ID_BYTES = 12
/** Above every priority. */
export const ABOVE_ALL = 1_000

/** The next lower priority that has queued jobs: one seek, for any number of jobs. */
export const NEXT_PRIORITY = inOrder<[endpoint: string, below: number]>(
  ['endpoint', 'below'],
  `select max(priority) as priority from jobs
  where claimable = 1 and endpoint = $endpoint and priority < $below`,
)

export const CLAIMABLE = inOrder<[now: number, endpoint: string, priority: number, limit: number]>(
  ['now', 'endpoint', 'priority', 'limit'],
  `select seq, id, fence, payload_bytes, attempt_count, attempts_left, max_attempts, free_attempts,
  run_at, promoted_at, first_run_at, expires_at, timeout_ms, retry, headers, schedule_name, trace
from jobs
  where ${guardOf('claim')} and claimable = 1 and endpoint = $endpoint and priority = $priority
  order by run_at limit +$limit`,
)

export const PAYLOAD = inOrder<[seq: number]>(
  ['seq'],
  'select bytes from payloads where seq = $seq',
)

type ClaimValues = [
  ...[now: number, boot: number, leaseId: string, workerId: string],
  ...[leaseMono: number, leaseMs: number, leaseWall: number, pulledMs: number | null],
  ...[fence: number, seq: number],
]

/** CLAIMABLE has proved the guard in the same transaction. */
export const CLAIM = claimSql('claimable = null')
/** For a job that has an expiresAt. */
export const CLAIM_EXPIRING = claimSql('claimable = null, expiring_at = null')

function claimSql(clearMarks: string) {
  return inOrder<ClaimValues>(
    [
      ...(['now', 'boot', 'leaseId', 'workerId'] as const),
      ...(['leaseMono', 'leaseMs', 'leaseWall', 'pulledMs'] as const),
      ...(['fence', 'seq'] as const),
    ],
    `update jobs set state = 'running', ${clearMarks}, lease_id = $leaseId, worker_id = $workerId,
  claimed_at = $now, started_at = coalesce(started_at, $now),
  lease_boot = $boot, lease_mono = $leaseMono, lease_ms = $leaseMs, lease_wall = $leaseWall,
  pulled_ms = $pulledMs, progress = null, fence = $fence,
  attempt_count = attempt_count + 1, attempts_left = attempts_left - 1, version = version + 1
  where seq = $seq`,
  )
}

interface ClaimableRow {
  seq: number
  id: string
  fence: number
  payload_bytes: number
  attempt_count: number
  attempts_left: number
  max_attempts: number
  free_attempts: number
  run_at: number
  promoted_at: number | null
  first_run_at: number
  expires_at: number | null
  timeout_ms: number | null
  retry: string | null
  headers: string | null
  schedule_name: string | null
  trace: string | null
}

/** The values that all jobs of one claim share. */
interface Grant {
  leaseId: string
  holder: Holder
  now: number
  monotonic: number
  /** How many jobs were left to the next claim, because no fences are reserved for them. */
  skippedCount: number
}

export async function claim(
  database: Database,
  shares: EndpointShare[],
  limit: number,
  holder: Holder,
): Promise<Claim> {
  const { fences } = database
  // Before a claim: if it fails, no job is claimed that no worker hears of.
  if (fences.isShort) await fences.reserve()
  const claimed = await claimOnce(database, shares, limit, holder)
  if (claimed.jobs.length > 0 || !fences.isShort) return claimed
  await fences.reserve()
  return claimOnce(database, shares, limit, holder)
}

function claimOnce(
  database: Database,
  shares: EndpointShare[],
  limit: number,
  holder: Holder,
): Promise<Claim> {
  const { clock, connection } = database
  // A claim that a power loss undoes does no harm (fences.ts), except that the response to a pull
  // has reported it. Without a boot id, fences.ts cannot detect a power loss.
  const isFlushed = holder.pulls || clock.boot === UNKNOWN_BOOT
  return connection.write(isFlushed ? 'full' : 'normal', () => {
    const grant = {
      leaseId: randomBytes(LEASE_ID_BYTES).toString('base64url'),
      holder,
      now: clock.now(),
      monotonic: clock.monotonic(),
      skippedCount: 0,
    }
    const claim: Claim = { jobs: [], limited: [], unfinished: [] }
    let bytesLeft = MAX_CLAIM_BYTES
    for (const share of shares) {
      const asked = Math.min(share.limit, limit - claim.jobs.length)
      const skippedBefore = grant.skippedCount
      if (asked > 0 && bytesLeft > 0) {
        bytesLeft = claimAdmitted(database, { ...share, limit: asked }, grant, bytesLeft, claim)
      }
      const isCut = asked < share.limit || bytesLeft <= 0 || grant.skippedCount > skippedBefore
      if (isCut && share.limit > 0) claim.unfinished.push(share.endpoint)
    }
    return claim
  })
}

/** Adds to `claim`. Returns how many payload bytes the claim may still take. */
function claimAdmitted(
  database: Database,
  share: EndpointShare,
  grant: Grant,
  bytes: number,
  claim: Claim,
): number {
  const admission = acquireAdmission(database, share, grant.now)
  if (admission === null) return bytes
  const { endpoint } = share
  const { slots, limits } = admission
  const countBefore = claim.jobs.length
  const bytesLeft = claimShare(database, { endpoint, limit: slots }, grant, bytes, claim.jobs)
  if (limits === null) return bytesLeft
  const claimedCount = claim.jobs.length - countBefore
  const againAt = releaseAdmission(database, endpoint, limits, claimedCount, grant.now)
  if (slots < share.limit && claimedCount === slots) claim.limited.push({ endpoint, againAt })
  return bytesLeft
}

/** Adds to `claimed`. Returns how many payload bytes the claim may still take. */
function claimShare(
  { connection, clock, fences, keys }: Database,
  { endpoint, limit }: EndpointShare,
  grant: Grant,
  bytes: number,
  claimed: ClaimedJob[],
): number {
  const full = claimed.length + limit
  const { holder, leaseId, monotonic, now } = grant
  const updates = {
    plain: connection.ordered(CLAIM),
    expiring: connection.ordered(CLAIM_EXPIRING),
  }
  const payload = connection.ordered(PAYLOAD)
  let bytesLeft = bytes
  let priority = ABOVE_ALL
  while (claimed.length < full && bytesLeft > 0) {
    const next = connection.ordered(NEXT_PRIORITY).get(endpoint, priority)?.priority
    if (typeof next !== 'number') break
    priority = next
    const rows = connection
      .ordered(CLAIMABLE)
      .all(now, endpoint, priority, full - claimed.length) as unknown as ClaimableRow[]
    for (const row of rows) {
      if (bytesLeft <= 0) break
      const fence = fences.after(row.fence)
      if (fence === null) {
        grant.skippedCount++
        continue
      }
      bytesLeft -= row.payload_bytes
      updates[row.expires_at === null ? 'plain' : 'expiring'].run(
        now,
        clock.boot,
        leaseId,
        holder.workerId,
        monotonic + holder.leaseMs,
        holder.leaseMs,
        now + holder.leaseMs,
        holder.pulls ? holder.leaseMs : null,
        fence,
        row.seq,
      )
      claimed.push({
        jobId: row.id,
        fence,
        leaseId,
        endpoint,
        payload: payload.get(row.seq)?.bytes as Uint8Array,
        attemptNumber: row.attempt_count + 1,
        attemptsLeft: row.attempts_left - 1,
        maxAttempts: row.max_attempts,
        freeAttempts: row.free_attempts,
        runAt: row.run_at,
        firstRunAt: row.first_run_at,
        promotedAt: row.promoted_at,
        expiresAt: row.expires_at,
        timeoutMs: row.timeout_ms,
        retry: parsed(row.retry, null),
        headers: openJobHeaders(row.headers, endpoint, keys),
        scheduleName: row.schedule_name,
        ...originOf(row.trace),
        claimedAt: now,
      })
    }
  }
  return bytesLeft
}
