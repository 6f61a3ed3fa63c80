// LIFECYCLE's guards as SQL: what each write on a job proves, in the statement that writes it.
// Parameters are positional; a guard's are named beside it, in the order of its question marks.
import type { JobState } from '../../job/job.ts'
import { type EventName, type Guard, LIFECYCLE } from '../../job/lifecycle.ts'
import { MAX_FREE_ATTEMPTS } from '../../job/retry-policy.ts'

const ENDPOINT_ACCEPTS = `exists (
  select 1 from endpoints where endpoints.name = jobs.endpoint and endpoints.deleting = 0)`

const GUARD_SQL = {
  /** fence, lease id */
  holder: 'fence = ? and lease_id = ?',
  /** now */
  due: 'run_at <= ?',
  /** now */
  unexpired: '(expires_at is null or expires_at > ?)',
  /** now */
  expired: 'expires_at is not null and expires_at <= ?',
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
  /** The unique index jobs_idempotency: the insert does nothing when the key is used. */
  key_unused: 'true',
  endpoint_accepts: ENDPOINT_ACCEPTS,
  endpoint_gone: `not ${ENDPOINT_ACCEPTS}`,
  /** now */
  purge_due: 'purge_at is not null and purge_at <= ?',
} satisfies Record<Guard, string>

/**
 * The condition of an event: where it starts and all that its write proves, in LIFECYCLE's order.
 */
export function guardOf(event: Exclude<EventName, 'enqueue'>): string {
  const { from, guards } = LIFECYCLE[event]
  const proofs = (guards as readonly Guard[]).map((guard) => GUARD_SQL[guard])
  return [inStates(from), ...proofs].join(' and ')
}

export function inStates(states: readonly JobState[], column = 'state'): string {
  const [first, ...others] = states
  // An equation, where it can be one, is what the planner finds partial indexes by.
  if (others.length === 0) return `${column} = '${first}'`
  return `${column} in (${states.map((state) => `'${state}'`).join(', ')})`
}

/** Finds the index jobs_unsuccessful, whose words these are. */
export const UNSUCCESSFUL = "(state = 'dead' or state = 'cancelled')"
