// What becomes of the instants of a job that were stored while the store's clock was ahead. Pure.
import { MAX_AHEAD_MS } from './job.ts'

/** More than the clocks of two processes of one store differ. */
export const AHEAD_TOLERANCE_MS = 1_000
export interface StoredInstants {
  runAt: number
  createdAt: number
  /** null: no attempt has ended yet. */
  lastFinishedAt: number | null
}

/**
 * When a queued job is due, after the clock was set back; null: as stored. Only what is proved to
 * have been written by the clock that was ahead is changed:
 *
 * - a retry keeps its wait, counted from now: its last attempt ended at an instant still to come;
 * - a job that was due when it was created is due now;
 * - no client can have asked for an instant more than a year ahead, so that was a delay.
 *
 * A job that was created for an instant of the next year, by a client that named it, keeps it.
 */
export function runAtAfterSetBack(job: StoredInstants, now: number): number | null {
  const writtenAt = job.lastFinishedAt ?? job.createdAt
  const isTooFar = job.runAt > now + MAX_AHEAD_MS + AHEAD_TOLERANCE_MS
  if (writtenAt <= now + AHEAD_TOLERANCE_MS) return isTooFar ? now : null
  const isCertain = job.lastFinishedAt !== null || job.runAt <= job.createdAt || isTooFar
  const runAt = now + Math.max(0, job.runAt - writtenAt)
  return isCertain && runAt < job.runAt ? runAt : null
}
