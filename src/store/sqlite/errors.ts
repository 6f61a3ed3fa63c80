// Translates errors of SQLite into sentences for the caller, and waits while another process
// writes: on timers, because SQLite's own busy timeout would block the event loop.

import { statSync, utimesSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { STORE_DEADLINE_MS } from '../store.ts'
import { StoreUnavailable, type UnavailableKind } from '../store-errors.ts'

/** Primary result codes (sqlite.org/rescode.html); the low byte of an extended one. */
export const RESULT_CODES = {
  busy: 5,
  locked: 6,
  readOnly: 8,
  ioError: 10,
  corrupt: 11,
  full: 13,
  cannotOpen: 14,
  constraint: 19,
  mismatch: 20,
  misuse: 21,
  notADatabase: 26,
} as const

const MEANINGS: Record<number, { kind: UnavailableKind; sentence: string }> = {
  [RESULT_CODES.readOnly]: {
    kind: 'read_only',
    sentence: 'cannot be written: the file, its folder or the disk is read-only',
  },
  [RESULT_CODES.ioError]: {
    kind: 'disk_error',
    sentence: 'cannot be read or written: the disk reports an error',
  },
  [RESULT_CODES.corrupt]: { kind: 'damaged', sentence: 'is damaged; restore it from a backup' },
  [RESULT_CODES.full]: { kind: 'full', sentence: 'cannot grow: the disk is full' },
  [RESULT_CODES.cannotOpen]: {
    kind: 'disk_error',
    sentence: 'cannot be opened: it or its folder is missing or not accessible',
  },
  [RESULT_CODES.notADatabase]: { kind: 'damaged', sentence: 'is not an SQLite database' },
}
/** The file system is too full for the shared memory of the log: for SQLite an I/O error. */
const IO_ERROR_SHM_SIZE = RESULT_CODES.ioError | (19 << 8)

/** Wrong SQL or a broken invariant: thrown unchanged, because waiting does not fix it. */
const BUGS: readonly number[] = [
  1,
  RESULT_CODES.constraint,
  RESULT_CODES.mismatch,
  RESULT_CODES.misuse,
]

export function isBusy(error: unknown): boolean {
  const primary = primaryCode(error)
  return primary === RESULT_CODES.busy || primary === RESULT_CODES.locked
}

/** The sentence for an error of SQLite. null: it is a bug or comes from elsewhere. */
export function sentenceFor(path: string, error: unknown): string | null {
  const meaning = meaningOf(path, error)
  return meaning === null ? null : `the store ${path} ${meaning.sentence}`
}

/** StoreUnavailable for an error that may pass; the error itself for a bug. */
export function asStoreError(path: string, error: unknown): unknown {
  const meaning = meaningOf(path, error)
  if (meaning === null) return error
  const { kind, sentence } = meaning
  return new StoreUnavailable(`the store ${path} ${sentence}`, { cause: error, kind })
}

function meaningOf(
  path: string,
  error: unknown,
): { kind: UnavailableKind; sentence: string } | null {
  if (isClosed(error)) return { kind: 'closed', sentence: 'is closed' }
  const code = resultCode(error)
  if (code === null) return null
  if (code === IO_ERROR_SHM_SIZE) return MEANINGS[RESULT_CODES.full] ?? null
  const primary = code & 0xff
  if (BUGS.includes(primary)) return null
  const mayBeReadOnly = primary === RESULT_CODES.ioError || primary === RESULT_CODES.cannotOpen
  if (mayBeReadOnly && isOnReadOnlyDisk(path)) {
    return MEANINGS[RESULT_CODES.readOnly] ?? null
  }
  const unknown = { kind: 'disk_error', sentence: `does not work (SQLite result code ${code})` }
  return MEANINGS[primary] ?? (unknown as { kind: UnavailableKind; sentence: string })
}

/**
 * Linux makes a file system read-only after an error of its disk. SQLite reports that as an I/O
 * error, and access() may still report it as writable. On a disk that is mounted read-only SQLite
 * cannot open its log. Setting a time to its present value fails.
 */
function isOnReadOnlyDisk(path: string): boolean {
  try {
    const { atime, mtime } = statSync(path)
    utimesSync(path, atime, mtime)
    return false
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EROFS'
  }
}

export function primaryCode(error: unknown): number | null {
  const code = resultCode(error)
  return code === null ? null : code & 0xff
}

function resultCode(error: unknown): number | null {
  if (!(error instanceof Error) || !('errcode' in error)) return null
  return typeof error.errcode === 'number' ? error.errcode : null
}

function isClosed(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ERR_INVALID_STATE'
}

/** About the length of a transaction; random, so that processes do not collide repeatedly. */
const MIN_PAUSE_MS = 0.5
const MAX_PAUSE_MS = 5

/** Retries while the file is busy. For reads, which need not wait in the write queue. */
export async function retryWhileBusy<T>(path: string, work: () => T): Promise<T> {
  const deadline = performance.now() + STORE_DEADLINE_MS
  for (;;) {
    try {
      return work()
    } catch (error) {
      if (!isBusy(error)) throw asStoreError(path, error)
      if (performance.now() > deadline) throw stillBusy(path)
    }
    await pause()
  }
}

export function pause(): Promise<void> {
  return delay(MIN_PAUSE_MS + Math.random() * (MAX_PAUSE_MS - MIN_PAUSE_MS))
}

export function stillBusy(path: string): StoreUnavailable {
  return new StoreUnavailable(
    `the store ${path} was in use by another process for more than ${STORE_DEADLINE_MS} ms`,
    { kind: 'locked' },
  )
}
