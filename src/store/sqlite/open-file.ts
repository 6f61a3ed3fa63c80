// Opens the database file: made where it is missing, readable to its owner only, migrated, and
// proved to be ours and writable before anything is accepted.
import { closeSync, existsSync, mkdirSync, openSync } from 'node:fs'
import { dirname } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { StoreUnavailable, StoreUnusable } from '../store.ts'
import { retryWhileBusy } from './busy-wait.ts'
import { migrate } from './schema.ts'
import { sentenceFor } from './sqlite-errors.ts'

const OWNER_ONLY = 0o600
/** 16 MiB of pages: keeps the upper levels of the indexes of a large backlog in memory. */
const CACHE_KIB = 16_384
/** Fewer, larger checkpoints than the default 1,000 pages: each one flushes twice. */
const CHECKPOINT_PAGES = 4_000
/** What the log is cut back to after a burst. */
const MAX_IDLE_LOG_BYTES = 64 * 1024 * 1024

const SETTINGS = `
pragma journal_mode = wal;
pragma cache_size = -${CACHE_KIB};
pragma wal_autocheckpoint = ${CHECKPOINT_PAGES};
pragma journal_size_limit = ${MAX_IDLE_LOG_BYTES};
pragma synchronous = full;`

/** A durable write: a read-only file or a full disk shows now, not at the first job. */
const PROVE_WRITABLE = `
begin immediate;
insert or replace into meta (key, value) values ('last_opened_at', unixepoch('now'));
commit;`

/** Throws StoreUnusable with a sentence for whoever started the process. */
export async function openFile(path: string): Promise<DatabaseSync> {
  createFile(path)
  const db = attempt(path, () => new DatabaseSync(path, { timeout: 0 }))
  try {
    await retryWhileBusy(path, () => {
      if (db.isTransaction) db.exec('rollback')
      migrate(db, path)
      db.exec(SETTINGS)
      db.exec(PROVE_WRITABLE)
    })
    return db
  } catch (error) {
    db.close()
    throw asUnusable(path, error)
  }
}

function createFile(path: string): void {
  const folder = dirname(path)
  try {
    makeFolder(folder)
  } catch (error) {
    throw new StoreUnusable(`the folder ${folder} can not be made: ${reasonOf(error)}`, {
      cause: error,
    })
  }
  try {
    // Made before SQLite opens it, for SQLite would make it readable to others.
    closeSync(openSync(path, 'ax', OWNER_ONLY))
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return
    throw new StoreUnusable(`the store ${path} can not be made: ${reasonOf(error)}`, {
      cause: error,
    })
  }
}

/** Not mkdir's own `recursive`, which never returns for a folder under /proc. */
function makeFolder(folder: string): void {
  if (existsSync(folder)) return
  makeFolder(dirname(folder))
  try {
    mkdirSync(folder)
  } catch (error) {
    // Another process may have made it meanwhile.
    if (!existsSync(folder)) throw error
  }
}

function attempt<T>(path: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    throw asUnusable(path, error)
  }
}

/** What would be "unavailable" later is a reason not to start. */
function asUnusable(path: string, error: unknown): unknown {
  if (error instanceof StoreUnavailable) return new StoreUnusable(error.message, { cause: error })
  const sentence = sentenceFor(path, error)
  return sentence === null ? error : new StoreUnusable(sentence, { cause: error })
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
