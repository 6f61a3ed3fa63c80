// What workers report, which of them are live, and which can deliver jobs.

export const MAX_WORKERS = 1_000
export const WORKER_KEPT_MS = 3_600_000

export interface WorkerReport {
  id: string
  version: string
  startedAt: number
  concurrency: number
  inFlight: number
  /** See Store.encryptionKeyIds. */
  keyIds: string[]
}

export interface WorkerRecord extends WorkerReport {
  seenAt: number
}

/**
 * A worker reports every 2 s, so one that missed two reports counts as dead. GET /stats shows that
 * after its snapshot expired (queue-snapshot.ts); both times together are below 10 s.
 */
const WORKER_LIVE_MS = 5_000

/** @param now by the store's clock */
export function isLive(worker: WorkerRecord, now: number): boolean {
  // A worker that was seen in the future reported before the clock was set back.
  return Math.abs(now - worker.seenAt) < WORKER_LIVE_MS
}

/**
 * Whether a worker has the key with which this process encrypts. A worker without it delivers
 * nothing.
 *
 * @param keyIds of the process that asks
 */
export function hasKey(worker: WorkerRecord, [current]: string[]): boolean {
  // A worker without a key reads the key file as soon as it exists.
  return current === undefined || worker.keyIds.length === 0 || worker.keyIds.includes(current)
}

/**
 * Whether jobs are delivered by this worker: it is live and has the key. Statistics, metrics and
 * explain count only such workers.
 *
 * @param now by the store's clock
 * @param keyIds of the process that asks
 */
export function canDeliver(worker: WorkerRecord, now: number, keyIds: string[]): boolean {
  return isLive(worker, now) && hasKey(worker, keyIds)
}
