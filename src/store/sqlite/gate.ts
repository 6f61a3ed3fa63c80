// The gate of an endpoint: how many jobs a claim may take of it. The claiming transaction is the
// only one that writes, so what is counted here holds until it commits.
import type { RateLimit } from '../../endpoint/endpoint.ts'
import { placesAfterRest } from '../../endpoint/health.ts'
import { freeAt, fullAfterTaking, wholeTokens } from '../../endpoint/rate-bucket.ts'
import type { Database } from './database.ts'
import { rampOf } from './endpoint-rows.ts'

/** Proves the guard endpoint_eligible but for limits. Parameters: name, now. */
export const ELIGIBLE = `
select concurrency, rate_count, rate_per_ms, bucket_full_at, resting_until, ramp_places,
  ramp_ends_at
from endpoints
where name = ? and deleting = 0 and paused = 0 and disabled_reason is null
  and (resting_until is null or resting_until <= ?)`

/** All of them: those that await completion, and those whose lease has lapsed, too. */
export const RUNNING_UP_TO = `
select count(*) as count from (
  select 1 from jobs where state = 'running' and endpoint = ? limit +?)`

/** Attempts under way that began after the rest. Parameters: endpoint, since, limit. */
export const SENDING_SINCE = `
select count(*) as count from (
  select 1 from jobs
  where state = 'running' and endpoint = ? and awaiting = 0 and claimed_at >= ? limit +?)`

export const TAKE_TOKENS = 'update endpoints set bucket_full_at = ? where name = ?'

/** How soon to ask again where nothing tells when an attempt will end. */
const ASK_AGAIN_MS = 250

export interface GateRow {
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
export function roomAt(
  { connection }: Database,
  endpoint: string,
  gate: GateRow,
  asked: number,
  now: number,
): number {
  let room = asked
  const rateLimit = rateLimitOf(gate)
  if (rateLimit !== null) room = Math.min(room, wholeTokens(rateLimit, gate.bucket_full_at, now))
  if (gate.concurrency !== null && room > 0) {
    const running = connection.statement(RUNNING_UP_TO).get(endpoint, gate.concurrency)?.count
    room = Math.min(room, gate.concurrency - (running as number))
  }
  const back = placesAfterRest({ restingUntil: gate.resting_until, ramp: rampOf(gate) }, now)
  if (back !== null && room > 0) {
    const { places, since } = back
    const sending = connection.statement(SENDING_SINCE).get(endpoint, since, places)?.count
    room = Math.min(room, places - (sending as number))
  }
  return room
}

/** Writes what the claim took; answers when to ask again. */
export function closeGate(
  { connection }: Database,
  endpoint: string,
  gate: GateRow,
  claimedCount: number,
  now: number,
): number {
  const rateLimit = rateLimitOf(gate)
  let fullAt = gate.bucket_full_at
  if (rateLimit !== null && claimedCount > 0) {
    fullAt = fullAfterTaking(rateLimit, fullAt, now, claimedCount)
    connection.statement(TAKE_TOKENS).run(fullAt, endpoint)
  }
  const tokenAt = rateLimit === null ? null : freeAt(rateLimit, fullAt, now)
  return tokenAt ?? now + ASK_AGAIN_MS
}

function rateLimitOf({ rate_count, rate_per_ms }: GateRow): RateLimit | null {
  return rate_count === null || rate_per_ms === null
    ? null
    : { count: rate_count, perMs: rate_per_ms }
}
