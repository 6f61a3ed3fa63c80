// The gate of an endpoint: how many jobs a claim may take of it. The claiming transaction is the
// only one that writes, so what is counted here holds until it commits.

import { type AttemptCounts, afterClaim, type Limits, slotsLeft } from '../../endpoint/admission.ts'
import type { Database } from './connection.ts'
import { rampOf } from './endpoint-row.ts'

/** Proves the guard endpoint_eligible but for limits. Parameters: name, now. */
export const ELIGIBLE = `
select concurrency, rate_count, rate_per_ms, bucket_full_at, resting_until, ramp_places,
  ramp_ends_at
from endpoints
where name = ? and deleting = 0 and paused = 0 and disabled_reason is null
  and (resting_until is null or resting_until <= ?)`

/** Parameters: endpoint, limit. */
export const RUNNING_UP_TO = `
select count(*) as count from (
  select 1 from jobs where state = 'running' and endpoint = ? limit +?)`

/** Parameters: endpoint, since, limit. */
export const SENDING_SINCE = `
select count(*) as count from (
  select 1 from jobs
  where state = 'running' and endpoint = ? and awaiting = 0 and claimed_at >= ? limit +?)`

export const TAKE_TOKENS = 'update endpoints set bucket_full_at = ? where name = ?'

interface GateRow {
  concurrency: number | null
  rate_count: number | null
  rate_per_ms: number | null
  bucket_full_at: number | null
  resting_until: number | null
  ramp_places: number | null
  ramp_ends_at: number | null
}

/** null: nothing may be claimed of it now. */
export function eligible({ connection }: Database, endpoint: string, now: number): GateRow | null {
  return (connection.statement(ELIGIBLE).get(endpoint, now) as GateRow | undefined) ?? null
}

/** How many jobs the limits leave room for, of those that are asked for. */
export function slotsAt(
  { connection }: Database,
  endpoint: string,
  limits: Limits,
  asked: number,
  now: number,
): number {
  const counts: AttemptCounts = {
    running: (limit) => connection.statement(RUNNING_UP_TO).get(endpoint, limit)?.count as number,
    sendingSince: (since, limit) =>
      connection.statement(SENDING_SINCE).get(endpoint, since, limit)?.count as number,
  }
  return slotsLeft(limits, asked, counts, now)
}

/** Writes what the claim took; answers when to ask again. */
export function closeGate(
  { connection }: Database,
  endpoint: string,
  limits: Limits,
  claimedCount: number,
  now: number,
): number {
  const { rateFullAt, againAt } = afterClaim(limits, claimedCount, now)
  if (rateFullAt !== limits.rateFullAt) connection.statement(TAKE_TOKENS).run(rateFullAt, endpoint)
  return againAt
}

export function limitsOf(row: GateRow): Limits {
  const { rate_count: count, rate_per_ms: perMs } = row
  return {
    concurrency: row.concurrency,
    rateLimit: count === null || perMs === null ? null : { count, perMs },
    rateFullAt: row.bucket_full_at,
    restingUntil: row.resting_until,
    ramp: rampOf(row),
  }
}
