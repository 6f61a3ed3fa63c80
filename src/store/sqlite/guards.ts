// The guards of LIFECYCLE as SQL: what each write of a job proves, in the statement that writes it.
// The parameters have the same names in all statements: $now, $fence, $leaseId, $version …

import type { JobState } from '../../job/job.ts'
import { type EventName, type Guard, LIFECYCLE } from '../../job/lifecycle.ts'
import { MAX_FREE_ATTEMPTS } from '../../job/retry-policy.ts'

const ENDPOINT_ACCEPTS = `exists (
  select 1 from endpoints where endpoints.name = jobs.endpoint and endpoints.deleting = 0)`

/** The condition of the unique index jobs_dedupe on `endpoint` and `dedupe_key`. */
export const HOLDS_DEDUPE_KEY = 'dedupe_key is not null and superseded = 0 and holds_keys = 1'

/** The condition of the index jobs_ordered. */
export const IN_ORDER = 'ordering_key is not null and holds_keys = 1'

/**
 * The guard for a job that awaits completion. Its lease must survive a restart of the machine, so
 * the wall clock decides.
 */
const AWAITING_EXPIRED = `fence = $fence and lease_id = $leaseId
  and lease_wall = $leaseExpiresAt and lease_wall <= $now`

const GUARD_SQL = {
  holder: 'fence = $fence and lease_id = $leaseId',
  due: 'run_at <= $now',
  unexpired: '(expires_at is null or expires_at > $now)',
  expired: 'expires_at is not null and expires_at <= $now',
  claimable: 'blocked = 0',
  blocked: 'blocked = 1',
  dependencies_met: 'waiting_for is null',
  inputs_made: '(needs is null or inputs_bytes is not null)',
  slot_free: `(ordering_key is null or (
    seq = (select min(earliest.seq) from jobs as earliest
      where earliest.endpoint = jobs.endpoint and earliest.ordering_key = jobs.ordering_key
        and earliest.ordering_key is not null and earliest.holds_keys = 1)
    and not exists (select 1 from jobs as other where other.ordering_slot is not null
      and other.endpoint = jobs.endpoint and other.ordering_slot = jobs.ordering_key)))`,
  dependency_failed: `exists (select 1 from json_each(jobs.waiting_for) as awaited
    where not exists (select 1 from jobs as dependency where dependency.id = awaited.value
      and dependency.state in ('queued', 'running', 'succeeded'))
    and not exists (select 1 from groups where groups.id = awaited.value
      and groups.state <> 'failed')
    and not coalesce((select min(need.value ->> 'ifFailed') = 'continue'
        and max(need.value ->> 'ifFailed') = 'continue'
      from json_each(jobs.needs) as need where need.value ->> 'jobId' = awaited.value), false))`,
  sending: 'awaiting_until is null',
  awaiting: 'awaiting_until is not null',
  superseded: 'superseded = 1',
  not_superseded: 'superseded = 0',
  /** As fences.ts has it: also if a power loss may have undone the claim. */
  sent_before: `(attempt_count > 0
    or (seq <= $undoneSeq and first_run_at <= $undoneUntil))`,
  attempts_left: 'attempts_left > 0',
  no_attempts_left: 'attempts_left = 0',
  free_attempts_left: `free_attempts < ${MAX_FREE_ATTEMPTS}`,
  /**
   * As it was read, and expired. The last comparison is for systems without a boot id: a lease that
   * begins in the future is from an earlier start of the machine.
   */
  lease_expired: `fence = $fence and lease_id = $leaseId
    and lease_boot = $leaseBoot and lease_mono = $leaseMono
    and (lease_boot <> $boot or lease_mono <= $monotonic or lease_mono - lease_ms > $monotonic)`,
  version_read: 'version = $version',
  /** By the unique index jobs_idempotency: the insert changes nothing if the key is used. */
  key_unused: 'true',
  /** This guard is for a retry. At enqueue the unique index jobs_dedupe proves it. */
  dedupe_unused: `(dedupe_key is null or not exists (select 1 from jobs as other
    where other.endpoint = jobs.endpoint and other.dedupe_key = jobs.dedupe_key
      and other.dedupe_key is not null and other.superseded = 0 and other.holds_keys = 1))`,
  endpoint_accepts: ENDPOINT_ACCEPTS,
  /** Proved once for all jobs of a share, by ELIGIBLE in admission.ts, in the same transaction. */
  endpoint_eligible: 'true',
  endpoint_gone: `not ${ENDPOINT_ACCEPTS}`,
  effects_done: 'effects_pending = 0',
  not_needed: 'not exists (select 1 from needed_results where needed = jobs.id)',
  purge_due: "(state = 'dead') = $isDead and has_key is $hasKey and finished_at <= $finishedBy",
} satisfies Record<Guard, string>

/**
 * The condition of an event: the states it starts from, and its guards in LIFECYCLE's order.
 *
 * @param phase for an event that ends expired leases: which rule decides that they have expired
 */
export function guardOf(
  event: Exclude<EventName, 'enqueue'>,
  phase: 'sending' | 'awaiting' = 'sending',
): string {
  const { from, guards } = LIFECYCLE[event]
  const proofs = (guards as readonly Guard[]).map((guard) =>
    guard === 'lease_expired' && phase === 'awaiting' ? AWAITING_EXPIRED : GUARD_SQL[guard],
  )
  return [inStates(from), ...proofs].join(' and ')
}

export function inStates(states: readonly JobState[], column = 'state'): string {
  const [first, ...others] = states
  // For one state this is an equation, because the planner finds a partial index only for an
  // equation.
  if (others.length === 0) return `${column} = '${first}'`
  return `${column} in (${states.map((state) => `'${state}'`).join(', ')})`
}
