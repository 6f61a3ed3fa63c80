// The life cycle of a job as data: every event, the states it starts from, the guards of its write,
// and the state it leads to. Both stores take their guards from this table, and docs/LIFECYCLE.md
// is generated from it. A store that writes a state by any other rule is wrong.
import type { JobState } from './job.ts'

/** What a write proves about the record that it changes, in the same atomic step. */
export const GUARDS = {
  holder: 'fence and lease id are those of the writer',
  due: 'its runAt has come, by the store’s clock',
  unexpired: 'its expiresAt, if any, has not come',
  expired: 'its expiresAt has come',
  claimable:
    'it is not blocked: its dependencies are met and it has its ordering slot; and it has its turn, if it has a fairness key',
  blocked: 'it is blocked: it waits for dependencies or for its ordering slot',
  dependencies_met:
    'every job it depends on has succeeded, was waived by a retry, or failed while its needs say continue',
  inputs_made: 'it has its inputs, if it needs any',
  slot_free:
    'no other job has the ordering slot of its key (unique index), and every earlier job of the key is final',
  dependency_failed:
    'a job that it depends on is dead, cancelled or gone, and no need of it says continue',
  sending: 'its phase is sending',
  awaiting: 'its phase is awaiting_completion',
  superseded: 'another job has taken over its dedupe key',
  not_superseded: 'no other job has taken over its dedupe key',
  sent_before: 'an attempt was sent, or may have been before a power loss',
  attempts_left: 'at least one attempt is left',
  no_attempts_left: 'no attempt is left',
  free_attempts_left: 'fewer than 100 attempts were free',
  lease_expired: 'fence, lease id and expiry are those that were read, and the expiry has passed',
  version_read: 'its version is the one that was read',
  key_unused: 'its idempotency key is unused at its endpoint (unique index)',
  dedupe_unused: 'no other queued or running job of its endpoint has its dedupe key (unique index)',
  endpoint_accepts: 'its endpoint exists and is not being deleted',
  endpoint_eligible:
    'its endpoint exists, is not being deleted, paused, disabled or resting, and its limits leave room',
  endpoint_gone: 'its endpoint is gone or being deleted',
  effects_done: 'everything that follows its finish is done',
  not_needed: 'no waiting job needs its result',
  purge_due: 'its retention has passed',
} as const
export type Guard = keyof typeof GUARDS

export interface LifecycleEvent {
  from: readonly JobState[]
  guards: readonly Guard[]
  /** null: the record is deleted. */
  to: JobState | null
  /** Other changes of the same write. */
  also: string
  by: readonly ('API' | 'worker' | 'sweeper')[]
}

const DROP_LEASE = 'drops the lease'
const PUSH_ATTEMPT = 'adds the attempt'

/** Changes of every write to a final state. */
const FINISH = 'finishedAt, finishes + 1, effectsPending = true if anything follows'

export const LIFECYCLE = {
  enqueue: {
    from: [],
    guards: ['key_unused', 'dedupe_unused', 'endpoint_accepts'],
    to: 'queued',
    also: 'attemptsLeft = maxAttempts; blocked if it waits for a job or has an ordering key',
    by: ['API', 'worker'],
  },
  promote: {
    from: ['queued'],
    guards: ['blocked', 'dependencies_met', 'inputs_made', 'slot_free'],
    to: 'queued',
    also: 'no longer blocked; it has its inputs and its ordering slot',
    by: ['API', 'worker', 'sweeper'],
  },
  claim: {
    from: ['queued'],
    guards: ['due', 'unexpired', 'claimable', 'endpoint_eligible'],
    to: 'running',
    also: 'new lease, phase sending, fence + 1 (after a power loss, more), attemptCount + 1, attemptsLeft − 1',
    by: ['worker', 'API'],
  },
  renew: {
    from: ['running'],
    guards: ['holder', 'sending'],
    to: 'running',
    also: 'lease.expiresAt = the later of the stored one and now + LEASE_DURATION',
    by: ['worker'],
  },
  heartbeat: {
    from: ['running'],
    guards: ['holder'],
    to: 'running',
    also: 'progress; for a job that awaits completion or was pulled, lease.expiresAt = the later of the stored one and now + extension; for one whose response is not stored yet, the extension is kept for await',
    by: ['API'],
  },
  await: {
    from: ['running'],
    guards: ['holder', 'sending'],
    to: 'running',
    also: 'phase = awaiting_completion, lease.expiresAt = the latest of the stored one, the completion deadline and the extension of a heartbeat',
    by: ['worker'],
  },
  succeed: {
    from: ['running'],
    guards: ['holder'],
    to: 'succeeded',
    also: `${PUSH_ATTEMPT}, result, ${DROP_LEASE}; ${FINISH}`,
    by: ['worker', 'API'],
  },
  reschedule: {
    from: ['running'],
    guards: ['holder', 'attempts_left', 'not_superseded'],
    to: 'queued',
    also: `${PUSH_ATTEMPT}, ${DROP_LEASE}, runAt = now + back-off`,
    by: ['worker', 'API'],
  },
  postpone: {
    from: ['running'],
    guards: ['holder', 'free_attempts_left', 'not_superseded'],
    to: 'queued',
    also: `${PUSH_ATTEMPT}, ${DROP_LEASE}, attemptsLeft + 1, freeAttempts + 1, runAt`,
    by: ['worker'],
  },
  bury: {
    from: ['running'],
    guards: ['holder'],
    to: 'dead',
    also: `${PUSH_ATTEMPT}, ${DROP_LEASE}, failure; ${FINISH}`,
    by: ['worker', 'API'],
  },
  release: {
    from: ['running'],
    guards: ['holder', 'not_superseded'],
    to: 'queued',
    also: `nothing was sent: ${DROP_LEASE}, attemptCount − 1, attemptsLeft + 1; the fence stays`,
    by: ['worker'],
  },
  withdraw: {
    from: ['running'],
    guards: ['holder', 'superseded'],
    to: 'cancelled',
    also: `in place of reschedule, postpone and release: ${PUSH_ATTEMPT}, ${DROP_LEASE}; ${FINISH}`,
    by: ['worker', 'API'],
  },
  reclaim: {
    from: ['running'],
    guards: ['sending', 'lease_expired', 'attempts_left', 'not_superseded'],
    to: 'queued',
    also: `${PUSH_ATTEMPT} (lost), ${DROP_LEASE}, runAt = now`,
    by: ['sweeper'],
  },
  bury_lost: {
    from: ['running'],
    guards: ['sending', 'lease_expired', 'no_attempts_left', 'not_superseded'],
    to: 'dead',
    also: `${PUSH_ATTEMPT} (lost), ${DROP_LEASE}, failure lease_lost; ${FINISH}`,
    by: ['sweeper'],
  },
  withdraw_lost: {
    from: ['running'],
    guards: ['lease_expired', 'superseded'],
    to: 'cancelled',
    also: `${PUSH_ATTEMPT} (lost, or timeout of one that awaited completion), ${DROP_LEASE}; ${FINISH}`,
    by: ['sweeper'],
  },
  time_out: {
    from: ['running'],
    guards: ['awaiting', 'lease_expired', 'attempts_left', 'not_superseded'],
    to: 'queued',
    also: `${PUSH_ATTEMPT} (timeout), ${DROP_LEASE}, runAt = now + back-off`,
    by: ['sweeper'],
  },
  bury_timed_out: {
    from: ['running'],
    guards: ['awaiting', 'lease_expired', 'not_superseded'],
    to: 'dead',
    also: `${PUSH_ATTEMPT} (timeout), ${DROP_LEASE}, failure; ${FINISH}`,
    by: ['sweeper'],
  },
  expire: {
    from: ['queued'],
    guards: ['expired'],
    to: 'dead',
    also: `failure expired; ${FINISH}`,
    by: ['sweeper'],
  },
  abandon: {
    from: ['queued'],
    guards: ['endpoint_gone'],
    to: 'dead',
    also: `failure endpoint_gone; ${FINISH}`,
    by: ['sweeper'],
  },
  fail_dependent: {
    from: ['queued'],
    guards: ['blocked', 'dependency_failed'],
    to: 'dead',
    also: `failure dependency_failed; ${FINISH}`,
    by: ['API', 'worker', 'sweeper'],
  },
  fail_inputs: {
    from: ['queued'],
    guards: ['blocked', 'dependencies_met'],
    to: 'dead',
    also: `its inputs cannot be made: failure input_missing or inputs_too_large; ${FINISH}`,
    by: ['API', 'worker', 'sweeper'],
  },
  evict: {
    from: ['running'],
    guards: ['endpoint_gone'],
    to: 'dead',
    also: `${PUSH_ATTEMPT} (cancelled), ${DROP_LEASE}, failure endpoint_gone; ${FINISH}`,
    by: ['sweeper'],
  },
  replace: {
    from: ['queued'],
    guards: ['version_read'],
    to: 'queued',
    also: 'by a request with its dedupe key, if no attempt was sent: payload, runAt, priority, tags, metadata, headers, expiresAt',
    by: ['API'],
  },
  displace: {
    from: ['queued'],
    guards: ['sent_before'],
    to: 'cancelled',
    also: `by a request with its dedupe key, which the job loses; ${FINISH}`,
    by: ['API'],
  },
  supersede: {
    from: ['running'],
    guards: ['not_superseded'],
    to: 'running',
    also: 'by a request with its dedupe key, which the job loses; superseded',
    by: ['API'],
  },
  cancel: {
    from: ['queued', 'running'],
    guards: [],
    to: 'cancelled',
    also: `of a running one ${PUSH_ATTEMPT} (cancelled) and ${DROP_LEASE}; ${FINISH}`,
    by: ['API'],
  },
  retry: {
    from: ['dead', 'cancelled'],
    guards: ['endpoint_accepts', 'dedupe_unused'],
    to: 'queued',
    also: 'attemptsLeft = maxAttempts, freeAttempts = 0, runAt = now, maxAge starts again; waits again for dependencies that are not final (those of the same command included), those that stay dead, cancelled or gone are waived by a retry by id and prevent a bulk retry, and those whose results it needs are never waived; blocked if it waits, needs results or has an ordering key, and its inputs are made again; clears finishedAt, failure, result, progress, expiresAt',
    by: ['API'],
  },
  edit: {
    from: ['queued'],
    guards: ['version_read'],
    to: 'queued',
    also: 'the fields given',
    by: ['API'],
  },
  delete: {
    from: ['succeeded', 'dead', 'cancelled'],
    guards: ['effects_done', 'not_needed'],
    to: null,
    also: '',
    by: ['API'],
  },
  purge: {
    from: ['succeeded', 'dead', 'cancelled'],
    guards: ['purge_due', 'effects_done', 'not_needed'],
    to: null,
    also: '',
    by: ['sweeper'],
  },
} as const satisfies Record<string, LifecycleEvent>

export type EventName = keyof typeof LIFECYCLE

/**
 * The events by which the holder of a lease reports that its attempt has ended, or that the handler
 * will report the end later.
 */
export type SettlingEvent = 'await' | 'succeed' | 'reschedule' | 'postpone' | 'bury'
