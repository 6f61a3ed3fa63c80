// The files beside a SQLite store: each has the name of the store with an ending of its own. A
// store or a copy with such a name would be mistaken for a part of another store: SQLite removes or
// overwrites a `-wal` or `-journal` that it does not understand.
import { basename, normalize } from 'node:path'

/** Endings of the files that SQLite treats as part of the database (sqlite.org/tempfiles.html). */
export const SIDE_FILES = ['-journal', '-wal', '-shm']
const KEY_FILE = '.key'

/** The ending by which the path is such a file; null: the path can be that of a store. */
export function sideFileEnd(path: string): string | null {
  // SQLite normalizes a path before it opens it: `x-wal/` and `x-wal/.` are `x-wal`.
  const name = basename(normalize(path)).toLowerCase()
  return [...SIDE_FILES, KEY_FILE].find((end) => name.endsWith(end)) ?? null
}
