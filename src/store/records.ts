// What a store keeps beside jobs and endpoints: schedules, keys, workers and statistics.

export const MAX_KEYS = 1_000
export const MAX_WORKERS = 1_000
export const WORKER_KEPT_MS = 3_600_000
/** How long the statistics of a minute are kept. */
export const MINUTE_STATS_KEPT_MS = 48 * 3_600_000

/** A schedule as stored: what it means is src/schedule's. */
export interface ScheduleChange {
  name: string
  /** Where its jobs go. */
  endpoint: string
  paused: boolean
  /** JSON text, sealed at rest: timing, options and the template of its jobs. */
  settings: string
  payload: Uint8Array
  /** null: no tick is to come. */
  nextRunAt: number | null
}

export interface Schedule extends ScheduleChange {
  lastJobId: string | null
  /** Why the last tick made no job; null: it made one. */
  lastError: string | null
  createdAt: number
  updatedAt: number
  /** Raised by what people change, not by ticks. */
  version: number
}

export interface ScheduleMove {
  name: string
  /** Guards: as read. */
  version: number
  tickAt: number | null
  nextRunAt: number | null
  /** undefined: it stays. */
  lastJobId?: string
  lastError: string | null
}

export type PutScheduleResult =
  | { kind: 'created' | 'replaced'; schedule: Schedule }
  /** `ifVersion` is not met; null: there is no such schedule. */
  | { kind: 'stale'; version: number | null }
  | { kind: 'unknown_endpoint' }

export type DeleteScheduleResult =
  | { kind: 'deleted' | 'not_found' }
  | { kind: 'stale'; version: number }

export const KEY_SCOPES = ['enqueue', 'work', 'admin'] as const
export type KeyScope = (typeof KEY_SCOPES)[number]

/** An API key: never itself, only its SHA-256. */
export interface StoredKey {
  id: string
  name: string
  scope: KeyScope
  /** Base64. */
  hash: string
  createdAt: number
}

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

/** Upper bounds of the histogram of durations in MinuteStats, in ms; one more bucket is above. */
export const DURATION_BOUNDS_MS = [10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000]

/** What ended at one endpoint within one minute. */
export interface MinuteStats {
  /** Its first instant. */
  minute: number
  endpoint: string
  succeeded: number
  failed: number
  /** Attempts by duration: one count for each of DURATION_BOUNDS_MS, and one above. */
  durations: number[]
}

/** Rows that one call adds at most: one write of either store. */
export const MAX_MINUTE_STATS_ADDED = 200

/** Tells a report from its repetition. */
export interface MinuteStatsReport {
  /** Names the process: letters, digits, `-` and `_`. */
  writer: string
  /** Grows with each report of the writer. */
  number: number
}

/** Whole minutes, oldest first. */
export interface MinuteStatsRange {
  stats: MinuteStats[]
  /** Older minutes were asked for and are left out: they are too many. */
  more: boolean
}

export interface EndpointStats {
  /** Due ones included. */
  queued: number
  due: number
  running: number
  dead: number
  /** Since when the job is due that has been due longest; null: none is due. */
  oldestDueAt: number | null
  /** A count is MAX_COUNT, and the true one larger. */
  more: boolean
}

/** The right to do the upkeep for all processes, until `leaseMs` from now. */
export interface UpkeepLease {
  /** The process. */
  holder: string
  leaseMs: number
}

/**
 * A lease that ends later than this was written before the clock was set back, and is void. Clocks
 * of processes differ, and so may the lengths they ask for: less than a length too late is valid.
 */
export function latestUpkeepEnd(now: number, leaseMs: number): number {
  return now + 2 * leaseMs
}

export interface ApiMode {
  /** No API key is set: loopback targets are allowed. */
  localMode: boolean
  /** Base of the URLs that handlers are given; null: none is known. */
  publicUrl: string | null
}
