// What stands beside a SQLite store under its name and an end of its own. A store or a copy that
// took such a name would be taken for a part of another store: SQLite removes or overwrites a
// `-wal` or `-journal` that it does not understand.

/** Files that SQLite takes for a part of the database (sqlite.org/tempfiles.html). */
export const SIDE_FILES = ['-journal', '-wal', '-shm']
const KEY_FILE = '.key'

/** The end that makes the path one of these; null: it may name a store. */
export function sideFileEnd(path: string): string | null {
  const name = path.toLowerCase()
  return [...SIDE_FILES, KEY_FILE].find((end) => name.endsWith(end)) ?? null
}
