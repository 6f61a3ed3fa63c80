// What every write to a final state changes, and every write that ends a lease.
import type { Failure, JobState } from '../../job/job.ts'

export const DROP_LEASE = `lease_id = null, worker_id = null, claimed_at = null, lease_boot = null,
  lease_mono = null, lease_ms = null, lease_wall = null, awaiting = 0, pulled_ms = null,
  version = version + 1`

/**
 * One parameter: when it ended. The mark of the aftermath is looked for in the same transaction
 * (aftermath.ts); until it is cleared the job stays.
 */
export function finishAs(state: Exclude<JobState, 'queued' | 'running'>): string {
  return `state = '${state}', finished_at = ?, turn = null, finishes = finishes + 1,
    aftermath = (ordering_key is not null or has_dependents = 1
      or coalesce(instr(notice_states, '"${state}"'), 0) > 0)`
}

/** The same for a job that was queued: it may have been held. */
export function finishQueuedAs(state: 'dead' | 'cancelled'): string {
  return `${finishAs(state)}, held = 0, recheck = 0, version = version + 1`
}

/** The parameters of `failure_reason = ?, failure_message = ?`. */
export function failureValues({ reason, message }: Failure): [string, string] {
  return [reason, message]
}
