// Which workers are live, and which of them can deliver jobs.
import type { WorkerRecord } from './store.ts'

/**
 * A worker reports every 2 s: one that missed two reports is taken for dead. Together with the
 * age of the statistics in which that is shown (queue-snapshot.ts) this is to stay below 10 s
 * (D14).
 */
const WORKER_LIVE_MS = 5_000

/** @param now by the store's clock */
export function isLive(worker: WorkerRecord, now: number): boolean {
  // One that was seen in the future was seen before the clock was set back.
  return Math.abs(now - worker.seenAt) < WORKER_LIVE_MS
}

/**
 * Whether a worker can open what is encrypted here: one that cannot claims nothing.
 *
 * @param keyIds of the process that asks
 */
export function hasKey(worker: WorkerRecord, [current]: string[]): boolean {
  // One that had no need of a key yet reads the key file once there is one.
  return current === undefined || worker.keyIds.length === 0 || worker.keyIds.includes(current)
}

/**
 * Whether jobs are delivered by this worker: it is live and has the key. Statistics, metrics and
 * explain count only such workers, and without one an API does the upkeep.
 *
 * @param now by the store's clock
 * @param keyIds of the process that asks
 */
export function canDeliver(worker: WorkerRecord, now: number, keyIds: string[]): boolean {
  return isLive(worker, now) && hasKey(worker, keyIds)
}
