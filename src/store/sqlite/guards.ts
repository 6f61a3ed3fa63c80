// LIFECYCLE's guards as SQL: what each write on a job proves, in the statement that writes it.
// Parameters are positional; a guard's are named beside it, in the order of its question marks.

import type { JobState } from '../../job/job.ts'
import { type EventName, type Guard, LIFECYCLE } from '../../job/lifecycle.ts'
import { MAX_FREE_ATTEMPTS } from '../../job/retry-policy.ts'

const ENDPOINT_ACCEPTS = `exists (
  select 1 from endpoints where endpoints.name = jobs.endpoint and endpoints.deleting = 0)`

/** Finds the index jobs_unsuccessful, whose words these are. */
export const UNSUCCESSFUL = "(state = 'dead' or state = 'cancelled')"

/** Of partial indexes, whose words these are. */
export const UNFINISHED = "(state = 'queued' or state = 'running')"

/** Finds the index jobs_dedupe; with it `endpoint` and `dedupe_key` make one job. */
export const HOLDS_DEDUPE_KEY = `dedupe_key is not null and superseded = 0 and ${UNFINISHED}`

/** Finds the index jobs_ordered. */
export const IN_ORDER = `ordering_key is not null and ${UNFINISHED}`

/**
 * Of an awaiting job, whose lease must survive a restart of the machine: the wall clock decides.
 * Parameters: fence, lease id and expiry as seen; now.
 */
const AWAITING_EXPIRED = 'fence = ? and lease_id = ? and lease_wall = ? and lease_wall <= ?'

const GUARD_SQL = {
  /** fence, lease id */
  holder: 'fence = ? and lease_id = ?',
  /** now */
  due: 'run_at <= ?',
  /** now */
  unexpired: '(expires_at is null or expires_at > ?)',
  /** now */
  expired: 'expires_at is not null and expires_at <= ?',
  claimable: 'blocked = 0',
  held: 'blocked = 1',
  dependencies_met: 'waiting_for is null',
  turn_free: `(ordering_key is null or (
    seq = (select min(earliest.seq) from jobs as earliest
      where earliest.endpoint = jobs.endpoint and earliest.ordering_key = jobs.ordering_key
        and earliest.ordering_key is not null
        and (earliest.state = 'queued' or earliest.state = 'running'))
    and not exists (select 1 from jobs as other where other.ordering_slot is not null
      and other.endpoint = jobs.endpoint and other.ordering_slot = jobs.ordering_key)))`,
  dependency_failed: `exists (select 1 from json_each(jobs.waiting_for) as awaited
    where not exists (select 1 from jobs as dependency where dependency.id = awaited.value
      and dependency.state in ('queued', 'running', 'succeeded')))`,
  sending: 'awaiting = 0',
  awaiting: 'awaiting = 1',
  superseded: 'superseded = 1',
  not_superseded: 'superseded = 0',
  sent_before: 'attempt_count > 0',
  attempts_left: 'attempts_left > 0',
  no_attempts_left: 'attempts_left = 0',
  free_attempts_left: `free_attempts < ${MAX_FREE_ATTEMPTS}`,
  /**
   * fence, lease id, boot and expiry as seen; then this boot, monotonic now, monotonic now.
   * The last one is the rule for systems that tell no boot id: a lease that seems to begin in the
   * future is of an earlier start of the machine.
   */
  lease_lapsed: `fence = ? and lease_id = ? and lease_boot = ? and lease_mono = ?
    and (lease_boot <> ? or lease_mono <= ? or lease_mono - lease_ms > ?)`,
  /** version */
  version_read: 'version = ?',
  /** The unique index jobs_idempotency: the insert does nothing when the key is used. */
  key_unused: 'true',
  /** Of a retry; at enqueue the unique index jobs_dedupe proves it. */
  dedupe_unused: `(dedupe_key is null or not exists (select 1 from jobs as other
    where other.endpoint = jobs.endpoint and other.dedupe_key = jobs.dedupe_key
      and other.dedupe_key is not null and other.superseded = 0
      and (other.state = 'queued' or other.state = 'running')))`,
  endpoint_accepts: ENDPOINT_ACCEPTS,
  /** Proved once for all jobs of a lane, by ELIGIBLE in admission.ts, in the same transaction. */
  endpoint_eligible: 'true',
  endpoint_gone: `not ${ENDPOINT_ACCEPTS}`,
  aftermath_done: 'effects_pending = 0',
  /** is dead, has key, finished by */
  purge_due: "(state = 'dead') = ? and has_key is ? and finished_at <= ?",
} satisfies Record<Guard, string>

/**
 * The condition of an event: where it starts and all that its write proves, in LIFECYCLE's order.
 *
 * @param phase of an event that ends expired leases: how its expiry is decided
 */
export function guardOf(
  event: Exclude<EventName, 'enqueue'>,
  phase: 'sending' | 'awaiting' = 'sending',
): string {
  const { from, guards } = LIFECYCLE[event]
  const proofs = (guards as readonly Guard[]).map((guard) =>
    guard === 'lease_lapsed' && phase === 'awaiting' ? AWAITING_EXPIRED : GUARD_SQL[guard],
  )
  return [inStates(from), ...proofs].join(' and ')
}

export function inStates(states: readonly JobState[], column = 'state'): string {
  const [first, ...others] = states
  // An equation, where it can be one, is what the planner finds partial indexes by.
  if (others.length === 0) return `${column} = '${first}'`
  return `${column} in (${states.map((state) => `'${state}'`).join(', ')})`
}
