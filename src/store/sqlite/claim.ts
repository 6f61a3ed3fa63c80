// claim: due jobs become running, each under a new fence, in one transaction that is durable before
// anything is sent. Jobs in the future, final or of other endpoints are never looked at.
import { randomBytes } from 'node:crypto'
import type { ClaimedJob } from '../../job/job.ts'
import type { Holder, Lane } from '../store.ts'
import type { Database } from './database.ts'
import { guardOf } from './guards.ts'
import { openHeaders } from './rows.ts'

/** Payloads of one claim are held in memory together; a claim stops short once it has so many. */
const MAX_CLAIM_BYTES = 64 * 1024 * 1024
const LEASE_ID_BYTES = 12
/** Above every priority, where the way down begins. */
const ABOVE_ALL = 1_000

/** The next lower priority that has queued jobs: one seek, however many wait. */
export const NEXT_PRIORITY = `
select max(priority) as priority from jobs
where state = 'queued' and endpoint = ? and priority < ?`

/** Parameters: now (due), now (unexpired), endpoint, priority, limit. */
export const CLAIMABLE = `
select seq, id, fence, payload_bytes, attempt_count, attempts_left, max_attempts, free_attempts,
  run_at, first_run_at, expires_at, timeout_ms, retry, headers from jobs
where ${guardOf('claim')} and endpoint = ? and priority = ?
order by run_at limit ?`

export const PAYLOAD = 'select bytes from payloads where seq = ?'

/** What it may change was proved by CLAIMABLE in the same transaction. */
export const CLAIM = `
update jobs set state = 'running', lease_id = ?, worker_id = ?, claimed_at = ?, lease_boot = ?,
  lease_mono = ?, lease_ms = ?, lease_wall = ?, started_at = coalesce(started_at, ?),
  fence = fence + 1, attempt_count = attempt_count + 1, attempts_left = attempts_left - 1,
  version = version + 1
where seq = ?`

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
  first_run_at: number
  expires_at: number | null
  timeout_ms: number | null
  retry: string | null
  headers: string | null
}

/** What all jobs of one claim share. */
interface Grant {
  leaseId: string
  holder: Holder
  now: number
  monotonic: number
}

export function claim(
  database: Database,
  lanes: Lane[],
  limit: number,
  holder: Holder,
): Promise<ClaimedJob[]> {
  return database.connection.write('full', () => {
    const { clock } = database
    const grant = {
      leaseId: randomBytes(LEASE_ID_BYTES).toString('base64url'),
      holder,
      now: clock.now(),
      monotonic: clock.monotonic(),
    }
    const claimed: ClaimedJob[] = []
    let bytesLeft = MAX_CLAIM_BYTES
    for (const lane of lanes) {
      const room = Math.min(lane.limit, limit - claimed.length)
      if (room <= 0 || bytesLeft <= 0) continue
      bytesLeft = claimLane(database, { ...lane, limit: room }, grant, bytesLeft, claimed)
    }
    return claimed
  })
}

/** Adds to `claimed`; returns how many payload bytes may still be taken. */
function claimLane(
  { connection, clock, keys }: Database,
  { endpoint, limit }: Lane,
  grant: Grant,
  bytes: number,
  claimed: ClaimedJob[],
): number {
  const full = claimed.length + limit
  let bytesLeft = bytes
  let priority = ABOVE_ALL
  while (claimed.length < full && bytesLeft > 0) {
    const next = connection.statement(NEXT_PRIORITY).get(endpoint, priority)?.priority
    if (typeof next !== 'number') break
    priority = next
    const rows = connection
      .statement(CLAIMABLE)
      .all(
        grant.now,
        grant.now,
        endpoint,
        priority,
        full - claimed.length,
      ) as unknown as ClaimableRow[]
    const update = connection.statement(CLAIM)
    const payload = connection.statement(PAYLOAD)
    for (const row of rows) {
      if (bytesLeft <= 0) break
      bytesLeft -= row.payload_bytes
      update.run(
        grant.leaseId,
        grant.holder.workerId,
        grant.now,
        clock.boot,
        grant.monotonic + grant.holder.leaseMs,
        grant.holder.leaseMs,
        grant.now + grant.holder.leaseMs,
        grant.now,
        row.seq,
      )
      claimed.push({
        jobId: row.id,
        fence: row.fence + 1,
        leaseId: grant.leaseId,
        endpoint,
        payload: payload.get(row.seq)?.bytes as Uint8Array,
        attemptNumber: row.attempt_count + 1,
        attemptsLeft: row.attempts_left - 1,
        maxAttempts: row.max_attempts,
        freeAttempts: row.free_attempts,
        runAt: row.run_at,
        firstRunAt: row.first_run_at,
        expiresAt: row.expires_at,
        timeoutMs: row.timeout_ms,
        retry: row.retry === null ? null : JSON.parse(row.retry),
        headers: openHeaders(row.headers, endpoint, keys),
        claimedAt: grant.now,
      })
    }
  }
  return bytesLeft
}
