// What an error of SQLite means for the caller, as a sentence; nothing here decides on a retry.
import { StoreUnavailable } from '../store.ts'

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

const SENTENCES: Record<number, string> = {
  [RESULT_CODES.readOnly]: 'can not be written: the file, its folder or the disk is read-only',
  [RESULT_CODES.ioError]: 'can not be read or written: the disk reports an error',
  [RESULT_CODES.corrupt]: 'is damaged; restore it from a backup',
  [RESULT_CODES.full]: 'can not grow: the disk is full',
  [RESULT_CODES.cannotOpen]: 'can not be opened: its folder is missing or not accessible',
  [RESULT_CODES.notADatabase]: 'is not an SQLite database',
}

/** Wrong SQL or a broken invariant of ours: shown as it is, for no waiting will mend it. */
const BUGS: readonly number[] = [
  1,
  RESULT_CODES.constraint,
  RESULT_CODES.mismatch,
  RESULT_CODES.misuse,
]

export function isBusy(error: unknown): boolean {
  const code = primaryCode(error)
  return code === RESULT_CODES.busy || code === RESULT_CODES.locked
}

/**
 * The sentence for an error of SQLite, or null when the error is not one a caller can live with.
 */
export function sentenceFor(path: string, error: unknown): string | null {
  if (isClosed(error)) return `the store ${path} is closed`
  const code = primaryCode(error)
  if (code === null || BUGS.includes(code)) return null
  return `the store ${path} ${SENTENCES[code] ?? `does not work (SQLite result code ${code})`}`
}

/** StoreUnavailable for what may pass, the error itself for what is a bug. */
export function asStoreError(path: string, error: unknown): unknown {
  const sentence = sentenceFor(path, error)
  return sentence === null ? error : new StoreUnavailable(sentence, { cause: error })
}

export function primaryCode(error: unknown): number | null {
  if (!(error instanceof Error) || !('errcode' in error)) return null
  return typeof error.errcode === 'number' ? error.errcode & 0xff : null
}

function isClosed(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ERR_INVALID_STATE'
}
