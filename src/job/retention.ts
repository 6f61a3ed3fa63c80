// How long a final job is kept. The stores compute this at each purge and write no date into a job,
// so that a changed setting also applies to stored jobs.
import type { JobState, NewJob } from './job.ts'

export const FINAL_STATES = ['succeeded', 'dead', 'cancelled'] as const satisfies JobState[]
export type FinalState = (typeof FINAL_STATES)[number]

export interface Retention {
  /** The retention of succeeded and cancelled jobs. */
  retentionMs: number
  retentionDeadMs: number
}

/** A key finds its job for at least this long, regardless of the settings. */
export const MIN_KEY_LIFE_MS = 24 * 3_600_000

/**
 * Whether a repeat must find the job. A repeated request finds it by its idempotency key. Posthorn
 * itself, which enqueues for a schedule, an onFinish or an outbox, finds it by its origin key.
 */
export function hasKey(job: Pick<NewJob, 'idempotency' | 'originKey'>): boolean {
  return job.idempotency !== null || job.originKey !== null
}

/**
 * A class of jobs with the same retention. Those that ended at or before `finishedBy` may be
 * purged. A job gets its idempotency keys at its creation, or later while it is not final, so a day
 * after its end is at least a day after it got any of its keys.
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
