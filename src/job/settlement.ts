// What a store returns for a report about an attempt that is no longer running: whether this report
// was stored before, and if not, who ended the attempt.
import type { JobState, Lease, Outcome } from './job.ts'
import type { EventName } from './lifecycle.ts'

type Holder = Pick<Lease, 'fence' | 'leaseId'>

/**
 * Who ended an attempt, and how, as reported or as stored with the attempt. Never shown to users.
 */
export interface AttemptEnd extends Holder {
  event: EventName
  outcome: Outcome
}

/**
 * The event that is written instead if another job has taken over the dedupe key; null: the event
 * itself.
 */
export function eventIfSuperseded(event: EventName): 'withdraw' | 'withdraw_lost' | null {
  switch (event) {
    case 'reschedule':
    case 'postpone':
      return 'withdraw'
    case 'time_out':
    case 'bury_timed_out':
      return 'withdraw_lost'
    default:
      return null
  }
}

/** A report of failure may have led to any of these events, depending on the attempts left. */
const AFTER_FAILED: ReadonlySet<EventName> = new Set(['reschedule', 'bury', 'withdraw'])

/**
 * Whether the report was stored before and only its response was lost. The sweep may have ended the
 * same attempt as lost, so only the same outcome by the same event is a repeat.
 */
export function isRepeat(reported: AttemptEnd, stored: AttemptEnd): boolean {
  const { event, outcome } = reported
  if (!isOf(reported, stored) || stored.outcome !== outcome) return false
  if (stored.event === event || stored.event === eventIfSuperseded(event)) return true
  return outcome === 'failed' && AFTER_FAILED.has(event) && AFTER_FAILED.has(stored.event)
}

/**
 * How a lease that no longer holds its job has ended, as a message to the handler that works under
 * it. If the job was retried since then, the lease is lost.
 *
 * @param last the last stored attempt
 */
export function endOfLease(
  lease: Holder,
  state: JobState | null,
  last: Omit<AttemptEnd, 'event'> | undefined,
): 'cancelled' | 'evicted' | 'lease_lost' {
  if (last?.outcome !== 'cancelled' || !isOf(lease, last)) return 'lease_lost'
  if (state === 'cancelled') return 'cancelled'
  return state === 'dead' ? 'evicted' : 'lease_lost'
}

function isOf(one: Holder, other: Holder): boolean {
  return one.fence === other.fence && one.leaseId === other.leaseId
}
