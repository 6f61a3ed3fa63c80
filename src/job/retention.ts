// How long a final job is kept. The stores ask at each purge and write no date into a job, so that
// a changed setting counts for the jobs that are there, too.
import type { JobState, NewJob } from './job.ts'

export const FINAL_STATES = ['succeeded', 'dead', 'cancelled'] as const satisfies JobState[]
export type FinalState = (typeof FINAL_STATES)[number]

export interface Retention {
  /** How long succeeded and cancelled jobs are kept. */
  retentionMs: number
  retentionDeadMs: number
}

/** A key finds its job for at least this long, whatever the settings. */
export const MIN_KEY_LIFE_MS = 24 * 3_600_000

/**
 * Whether a repeat must find the job: of a request, by its idempotency key; of what Posthorn itself
 * enqueues (for a schedule, an onFinish, an outbox), by its origin.
 */
export function hasKey(job: Pick<NewJob, 'idempotency' | 'originKey'>): boolean {
  return job.idempotency !== null || job.originKey !== null
}

/**
 * From its end on. An idempotency key comes to a job when it is made, or later while it is not
 * final: a day after the end is at least a day after any of its keys came.
 */
export function keptMs(state: FinalState, isKeyed: boolean, retention: Retention): number {
  const wantedMs = state === 'dead' ? retention.retentionDeadMs : retention.retentionMs
  return isKeyed ? Math.max(wantedMs, MIN_KEY_LIFE_MS) : wantedMs
}

/** Jobs that are kept equally long; of these, those that ended by `finishedBy` may go. */
export interface PurgeClass {
  state: FinalState
  isKeyed: boolean
  finishedBy: number
}

export function purgeClasses(retention: Retention, now: number): PurgeClass[] {
  return FINAL_STATES.flatMap((state) =>
    [false, true].map((isKeyed) => ({
      state,
      isKeyed,
      finishedBy: now - keptMs(state, isKeyed, retention),
    })),
  )
}
