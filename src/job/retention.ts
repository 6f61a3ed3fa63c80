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
 * Jobs that are kept equally long; of these, those that ended by `finishedBy` may go. An
 * idempotency key comes to a job when it is made, or later while it is not final: a day after the
 * end is at least a day after any of its keys came.
 */
export interface PurgeClass {
  isDead: boolean
  isKeyed: boolean
  finishedBy: number
}

export function purgeClasses(retention: Retention, now: number): PurgeClass[] {
  const { retentionMs, retentionDeadMs } = retention
  return [false, true].flatMap((isDead) =>
    [false, true].map((isKeyed) => {
      const wantedMs = isDead ? retentionDeadMs : retentionMs
      const keptMs = isKeyed ? Math.max(wantedMs, MIN_KEY_LIFE_MS) : wantedMs
      return { isDead, isKeyed, finishedBy: now - keptMs }
    }),
  )
}
