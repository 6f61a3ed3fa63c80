// The life of a job as data: every event, where it starts, what its write must prove, where it
// ends. Both stores take their guards from here and docs/LIFECYCLE.md is printed from it; a store
// that writes a state by any other rule is wrong.
import type { JobState } from './job.ts'

/** What a write proves about the record it changes, in the same atomic step. */
export const GUARDS = {
  holder: 'fence and lease id are those of the one who writes',
  due: 'its runAt has come, by the store’s clock',
  unexpired: 'its expiresAt, if any, has not come',
  expired: 'its expiresAt has come',
  attempts_left: 'at least one attempt is left',
  no_attempts_left: 'no attempt is left',
  free_attempts_left: 'fewer than 100 attempts were free',
  lease_lapsed: 'fence, lease id and expiry are those that were seen, and the expiry has passed',
  key_unused: 'its idempotency key is unused at its endpoint (unique index)',
  endpoint_accepts: 'its endpoint exists and is not being deleted',
  endpoint_gone: 'its endpoint is gone or being deleted',
  purge_due: 'its time of retention has passed',
} as const
export type Guard = keyof typeof GUARDS

export interface LifecycleEvent {
  from: readonly JobState[]
  guards: readonly Guard[]
  /** null: the record is gone. */
  to: JobState | null
  /** What else the same write changes. */
  also: string
  by: readonly ('API' | 'worker' | 'sweeper')[]
}

const DROP_LEASE = 'drops the lease'
const PUSH_ATTEMPT = 'adds the attempt'

export const LIFECYCLE = {
  enqueue: {
    from: [],
    guards: ['key_unused', 'endpoint_accepts'],
    to: 'queued',
    also: 'attemptsLeft = maxAttempts',
    by: ['API'],
  },
  claim: {
    from: ['queued'],
    guards: ['due', 'unexpired', 'endpoint_accepts'],
    to: 'running',
    also: 'new lease, fence + 1, attemptCount + 1, attemptsLeft − 1',
    by: ['worker'],
  },
  renew: {
    from: ['running'],
    guards: ['holder'],
    to: 'running',
    also: 'lease.expiresAt = the later of the stored one and now + LEASE_DURATION',
    by: ['worker'],
  },
  succeed: {
    from: ['running'],
    guards: ['holder'],
    to: 'succeeded',
    also: `${PUSH_ATTEMPT}, result, ${DROP_LEASE}, finishedAt`,
    by: ['worker'],
  },
  reschedule: {
    from: ['running'],
    guards: ['holder', 'attempts_left'],
    to: 'queued',
    also: `${PUSH_ATTEMPT}, ${DROP_LEASE}, runAt = now + back-off`,
    by: ['worker'],
  },
  postpone: {
    from: ['running'],
    guards: ['holder', 'free_attempts_left'],
    to: 'queued',
    also: `${PUSH_ATTEMPT}, ${DROP_LEASE}, attemptsLeft + 1, freeAttempts + 1, runAt`,
    by: ['worker'],
  },
  bury: {
    from: ['running'],
    guards: ['holder'],
    to: 'dead',
    also: `${PUSH_ATTEMPT}, ${DROP_LEASE}, failure, finishedAt`,
    by: ['worker'],
  },
  release: {
    from: ['running'],
    guards: ['holder'],
    to: 'queued',
    also: `nothing was sent: ${DROP_LEASE}, attemptCount − 1, attemptsLeft + 1; the fence stays`,
    by: ['worker'],
  },
  reclaim: {
    from: ['running'],
    guards: ['lease_lapsed', 'attempts_left'],
    to: 'queued',
    also: `${PUSH_ATTEMPT} (lost), ${DROP_LEASE}, runAt = now`,
    by: ['sweeper'],
  },
  bury_lapsed: {
    from: ['running'],
    guards: ['lease_lapsed', 'no_attempts_left'],
    to: 'dead',
    also: `${PUSH_ATTEMPT} (lost), ${DROP_LEASE}, failure lease_lost, finishedAt`,
    by: ['sweeper'],
  },
  expire: {
    from: ['queued'],
    guards: ['expired'],
    to: 'dead',
    also: 'failure expired, finishedAt',
    by: ['sweeper'],
  },
  abandon: {
    from: ['queued'],
    guards: ['endpoint_gone'],
    to: 'dead',
    also: 'failure endpoint_gone, finishedAt',
    by: ['sweeper'],
  },
  evict: {
    from: ['running'],
    guards: ['endpoint_gone'],
    to: 'dead',
    also: `${PUSH_ATTEMPT} (cancelled), ${DROP_LEASE}, failure endpoint_gone, finishedAt`,
    by: ['sweeper'],
  },
  cancel: {
    from: ['queued', 'running'],
    guards: [],
    to: 'cancelled',
    also: `of a running one ${PUSH_ATTEMPT} (cancelled) and ${DROP_LEASE}; finishedAt`,
    by: ['API'],
  },
  retry: {
    from: ['dead', 'cancelled'],
    guards: ['endpoint_accepts'],
    to: 'queued',
    also: 'attemptsLeft = maxAttempts, freeAttempts = 0, runAt = now, maxAge starts anew; clears finishedAt, failure, result, expiresAt',
    by: ['API'],
  },
  purge: {
    from: ['succeeded', 'dead', 'cancelled'],
    guards: ['purge_due'],
    to: null,
    also: '',
    by: ['sweeper'],
  },
} as const satisfies Record<string, LifecycleEvent>

export type EventName = keyof typeof LIFECYCLE

/** The events by which a holder tells how its attempt ended. */
export type SettlingEvent = 'succeed' | 'reschedule' | 'postpone' | 'bury'
