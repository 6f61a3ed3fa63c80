// Admission: how many jobs a claim may take from an endpoint. The claiming transaction is the only
// one that writes, so the counts hold until it commits.

import {
  type AttemptCounts,
  afterClaim,
  isLimited,
  type Limits,
  slotsLeft,
} from '../../endpoint/admission.ts'
import type { KeyLimits } from '../../endpoint/key-limits.ts'
import type { EndpointShare } from '../store.ts'
import { type Database, inOrder } from './connection.ts'
import { rampOf } from './endpoint-row.ts'
import { parsed } from './job-row.ts'

/** Proves the guard endpoint_eligible, except for limits. */
export const ELIGIBLE = inOrder<[endpoint: string, now: number]>(
  ['endpoint', 'now'],
  `select concurrency, per_key, limits, rate_count, rate_per_ms, bucket_full_at, resting_until,
    ramp_slots, ramp_ends_at
  from endpoints
  where name = $endpoint and deleting = 0 and paused = 0 and disabled_reason is null
    and (resting_until is null or resting_until <= $now)`,
)

export const RUNNING_UP_TO = `
select count(*) as count from (
  select 1 from jobs where state = 'running' and endpoint = $endpoint limit +$limit)`

export const SENDING_SINCE = `
select count(*) as count from (
  select 1 from jobs
  where state = 'running' and endpoint = $endpoint and awaiting_until is null
    and claimed_at >= $since
  limit +$limit)`

export const TAKE_TOKENS =
  'update endpoints set bucket_full_at = $rateFullAt where name = $endpoint'

interface LimitsRow {
  concurrency: number | null
  per_key: string | null
  limits: string | null
  rate_count: number | null
  rate_per_ms: number | null
  bucket_full_at: number | null
  resting_until: number | null
  ramp_slots: number | null
  ramp_ends_at: number | null
}

interface Admission {
  slots: number
  /** null: the endpoint has no limits, and the claim stores nothing about it. */
  limits: Limits | null
  perKey: KeyLimits | null
  /** The names of the limits that it shares with other endpoints. */
  shared: string[]
}

/** null: the endpoint accepts no claim now. */
export function acquireAdmission(
  { connection }: Database,
  { endpoint, limit: asked }: EndpointShare,
  now: number,
): Admission | null {
  const row = connection.ordered(ELIGIBLE).get(endpoint, now) as LimitsRow | undefined
  if (row === undefined) return null
  const limits = limitsOf(row)
  const perKey: KeyLimits | null = parsed(row.per_key, null)
  const shared: string[] = parsed(row.limits, [])
  if (!isLimited(limits)) return { slots: asked, limits: null, perKey, shared }
  const counts: AttemptCounts = {
    running: (limit) =>
      connection.statement(RUNNING_UP_TO).get({ endpoint, limit })?.count as number,
    sendingSince: (since, limit) =>
      connection.statement(SENDING_SINCE).get({ endpoint, since, limit })?.count as number,
  }
  return { slots: slotsLeft(limits, asked, counts, now), limits, perKey, shared }
}

/**
 * Stores what the claim took from the rate limit. Returns when to ask again.
 *
 * @param cost of all jobs that were claimed
 * @param nextCost of the job that comes next
 */
export function releaseAdmission(
  { connection }: Database,
  endpoint: string,
  limits: Limits,
  cost: number,
  now: number,
  nextCost?: number,
): number {
  const { rateFullAt, againAt } = afterClaim(limits, cost, now, nextCost)
  if (rateFullAt !== limits.rateFullAt) {
    connection.statement(TAKE_TOKENS).run({ endpoint, rateFullAt })
  }
  return againAt
}

function limitsOf(row: LimitsRow): Limits {
  const { rate_count: count, rate_per_ms: perMs } = row
  return {
    concurrency: row.concurrency,
    rateLimit: count === null || perMs === null ? null : { count, perMs },
    rateFullAt: row.bucket_full_at,
    restingUntil: row.resting_until,
    ramp: rampOf(row),
  }
}
