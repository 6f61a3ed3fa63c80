// Corrects the instants of a job that were stored while the store's clock was ahead. Pure.
import { MAX_AHEAD_MS } from './job.ts'

/** Larger than the difference between the clocks of two processes on one store. */
export const AHEAD_TOLERANCE_MS = 1_000
export interface StoredInstants {
  runAt: number
  createdAt: number
  /** null: no attempt has ended yet. */
  lastFinishedAt: number | null
}

/**
 * When a queued job is due after the clock was set back; null: the stored value stays. Only an
 * instant that was provably written while the clock was ahead is changed:
 *
 * - a retry keeps its delay, counted from now: its last attempt ended in the future;
 * - a job that was due at its creation is due now;
 * - an instant more than a year ahead was computed from a delay: no client can ask for one.
 *
 * A runAt within the next year that a client named stays as it is.
 */
export function runAtAfterSetBack(job: StoredInstants, now: number): number | null {
  const writtenAt = job.lastFinishedAt ?? job.createdAt
  const isTooFar = job.runAt > now + MAX_AHEAD_MS + AHEAD_TOLERANCE_MS
  if (writtenAt <= now + AHEAD_TOLERANCE_MS) return isTooFar ? now : null
  const isCertain = job.lastFinishedAt !== null || job.runAt <= job.createdAt || isTooFar
  const runAt = now + Math.max(0, job.runAt - writtenAt)
  return isCertain && runAt < job.runAt ? runAt : null
}
