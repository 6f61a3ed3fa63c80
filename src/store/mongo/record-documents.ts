// How schedules, keys, workers and figures lie in MongoDB: flat documents, as jobs do.
import type { KeyScope, Schedule, StoredKey, WorkerRecord, WorkerReport } from '../records.ts'
import { ownBytes } from './documents.ts'

export interface ScheduleDocument {
  /** Its name. */
  _id: string
  endpoint: string
  paused: boolean
  /** Sealed. */
  settings: string
  payload: Uint8Array
  nextRunAt: Date | null
  lastJobId: string | null
  lastError: string | null
  createdAt: Date
  updatedAt: Date
  version: number
}

export interface KeyDocument {
  _id: string
  name: string
  scope: KeyScope
  /** Base64 of the SHA-256. */
  hash: string
  createdAt: Date
}

export interface WorkerDocument {
  _id: string
  version: string
  startedAt: Date
  concurrency: number
  inFlight: number
  keyIds: string[]
  seenAt: Date
}

export interface FiguresDocument {
  /** Minute and endpoint: adding to the same ones meets the same document. */
  _id: string
  minute: Date
  endpoint: string
  succeeded: number
  failed: number
  /** Counts by bucket; absent are those of none. */
  durations?: Record<string, number>
  /** By writer the number of its last report. */
  reports?: Record<string, number>
}

/** @param settings opened */
export function scheduleOf(document: ScheduleDocument, settings: string): Schedule {
  return {
    name: document._id,
    endpoint: document.endpoint,
    paused: document.paused,
    settings,
    payload: ownBytes(document.payload),
    nextRunAt: document.nextRunAt?.getTime() ?? null,
    lastJobId: document.lastJobId,
    lastError: document.lastError,
    createdAt: document.createdAt.getTime(),
    updatedAt: document.updatedAt.getTime(),
    version: document.version,
  }
}

export function keyOf({ _id, createdAt, ...key }: KeyDocument): StoredKey {
  return { id: _id, ...key, createdAt: createdAt.getTime() }
}

export function workerFields({ id, startedAt, ...report }: WorkerReport, seenAt: Date) {
  return { ...report, startedAt: new Date(startedAt), seenAt } satisfies Omit<WorkerDocument, '_id'>
}

export function workerOf(document: WorkerDocument): WorkerRecord {
  const { _id, startedAt, seenAt, ...report } = document
  return { id: _id, ...report, startedAt: startedAt.getTime(), seenAt: seenAt.getTime() }
}
