// What a store makes of a report about an attempt that it does not find running: was this very
// report stored before, and who ended the attempt instead?
import type { JobState, Lease, Outcome } from './job.ts'
import type { EventName } from './lifecycle.ts'

type Holder = Pick<Lease, 'fence' | 'leaseId'>

/** Who ended an attempt, and how: reported, or stored with the attempt and never shown. */
export interface AttemptEnd extends Holder {
  event: EventName
  outcome: Outcome
}

/** What is written in place of an event if another job has taken over the dedupe key; null: it. */
export function eventIfSuperseded(event: EventName): 'withdraw' | 'withdraw_lapsed' | null {
  switch (event) {
    case 'reschedule':
    case 'postpone':
      return 'withdraw'
    case 'time_out':
    case 'bury_timed_out':
      return 'withdraw_lapsed'
    default:
      return null
  }
}

/** What a handler reported as failed may have led to any of these, by the budget that was left. */
const AFTER_FAILED: ReadonlySet<EventName> = new Set(['reschedule', 'bury', 'withdraw'])

/**
 * Whether what is reported was stored before, and its answer was lost. The sweep may have ended
 * this very attempt as lost: only the same outcome by the same event is a repeat.
 */
export function isRepeat(reported: AttemptEnd, stored: AttemptEnd): boolean {
  const { event, outcome } = reported
  if (!isOf(reported, stored) || stored.outcome !== outcome) return false
  if (stored.event === event || stored.event === eventIfSuperseded(event)) return true
  return outcome === 'failed' && AFTER_FAILED.has(event) && AFTER_FAILED.has(stored.event)
}

/**
 * How a lease that no longer holds its job has ended, for the handler that works under it. A job
 * that was retried since has moved on.
 *
 * @param last the last attempt that is stored
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
