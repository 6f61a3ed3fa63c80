// The one connection of a process, and the store's clock. It opens the file: creates it if it is
// missing, readable to its owner only, and checks that it is ours and writable. Statements are
// prepared once. Transactions run one after another, each as durable as its caller asks. Nothing is
// awaited inside a transaction, so that no two can interleave.

import { randomBytes } from 'node:crypto'
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs'
import { basename, dirname } from 'node:path'
import {
  DatabaseSync,
  type SQLInputValue,
  type SQLOutputValue,
  type StatementResultingChanges,
  type StatementSync,
} from 'node:sqlite'
import type { End, EndListeners } from '../ends.ts'
import { SIDE_FILES } from '../file-names.ts'
import { createReadiness } from '../readiness.ts'
import { createSetBackWatch } from '../set-back-watch.ts'
import type { StoreClock, StoreSettings } from '../store.ts'
import { StoreUnavailable, StoreUnusable } from '../store-errors.ts'
import type { UndecryptableSchedules } from '../undecryptable-schedules.ts'
import { type Migrated, missingStore, waitForApi } from '../upgrade.ts'
import { asStoreError, isBusy, pause, retryWhileBusy, sentenceFor } from './errors.ts'
import { type FileInPlace, MAX_IDLE_LOG_BYTES } from './file-in-place.ts'
import { flushFolder, type KeyRing } from './key-file.ts'
import type { Notifier } from './notifier.ts'
import { isUpgraded, migrate, readVersion } from './schema.ts'
import { createWriteQueue, type Durability } from './write-queue.ts'

export interface Database {
  connection: Connection
  clock: SqliteClock
  keys: KeyRing
  notifier: Notifier
  settings: StoreSettings
  ends: EndListeners
  undecryptable: UndecryptableSchedules
  fences: Fences
  /** Where the next sweep continues to look for missing endpoints, and to check blocked jobs. */
  nextSweep: { afterName: string; afterBlocked: { endpoint: string; seq: number } }
}

/**
 * Called in the transaction that ends an attempt or a job. Listeners get the end after the commit.
 */
export function reportEnd({ connection, ends }: Database, end: End): void {
  connection.afterCommit(() => ends.emit(end))
}

/** fences.ts reserves them. */
export interface Fences {
  /** The fence of the next claim of a job with this one; null: more must be reserved first. */
  after(fence: number): number | null
  /** `after` has returned null, and `reserve` was not called since. */
  readonly isShort: boolean
  /** Reserves all fences that were asked for, and a block more. */
  reserve(): Promise<void>
  /** Whether an attempt was sent, or may have been: a power loss may have undone its claim. */
  wasSent(job: { attemptCount: number; seq: number; firstRunAt: number }): boolean
  /** The parameters of the guard sent_before. */
  readonly undone: { undoneSeq: number; undoneUntil: number }
  /** Called in the last transaction of this process. */
  noteClose(): void
}

interface SqliteClock extends StoreClock {
  /** Identifies the start of the machine: monotonic instants of another start mean nothing. */
  readonly boot: number
  /** Milliseconds since some instant of this start of the machine. */
  monotonic(): number
}

interface Connection {
  readonly commandCount: number
  /** Prepares each SQL text once. */
  statement(sql: string): StatementSync
  ordered<Values extends SQLInputValue[]>(sql: OrderedSql<Values>): OrderedStatement<Values>
  read<T>(body: () => T): Promise<T>
  /** Commits all of `body` or nothing. Retries while the file is busy. */
  write<T>(durability: Durability, body: () => T): Promise<T>
  /** Called in a transaction. Calls `notify` after the commit, and never without a commit. */
  afterCommit(notify: () => void): void
  /** Changes when another connection has written. null: it cannot be read now. */
  peekVersion(): number | null
  /** Throws StoreUnavailable unless the store takes writes. */
  ready(): Promise<void>
  /** @param last the body of a last transaction: nothing is written after it */
  close(last?: () => void): Promise<void>
}

/**
 * SQL whose values are bound in the order of the tuple. For statements that run for each job or
 * each endpoint of a claim: to bind a value by its name costs up to a microsecond (decision 0023).
 */
export type OrderedSql<Values extends SQLInputValue[]> = string & { readonly values?: Values }

interface OrderedStatement<Values extends SQLInputValue[]> {
  run(...values: Values): StatementResultingChanges
  get(...values: Values): Record<string, SQLOutputValue> | undefined
  all(...values: Values): Record<string, SQLOutputValue>[]
}

/** @param names all the parameters of `sql`, in the order in which their values are given */
export function inOrder<Values extends SQLInputValue[]>(
  names: { [Index in keyof Values]: string },
  sql: string,
): OrderedSql<Values> {
  const used: string[] = []
  const numbered = sql.replaceAll(/\$(\w+)/g, (parameter, name) => {
    used.push(name)
    const index = names.indexOf(name)
    if (index < 0) throw new Error(`${parameter} has no place in the order of ${sql}`)
    return `?${index + 1}`
  })
  const unused = names.filter((name) => !used.includes(name))
  if (unused.length > 0) throw new Error(`${unused} are not parameters of ${sql}`)
  // node:sqlite looks up the name of each parameter, and `?1` is one, in a list of all of them.
  const isInOrder = used.every((name, i) => name === names[i])
  const ordered = isInOrder ? numbered.replaceAll(/\?\d+/g, '?') : numbered
  return ordered as OrderedSql<Values>
}

const BOOT_ID_FILE = '/proc/sys/kernel/random/boot_id'
/** 48 bits: an integer that a double represents exactly, and short in an index. */
const BOOT_ID_HEX_DIGITS = 12
/** The boot id on systems that do not have one. */
export const UNKNOWN_BOOT = 0

/**
 * Wall time for due times, monotonic time for leases, so that setting the clock ends no lease. All
 * processes of a machine read the same monotonic clock.
 */
export function createClock(): SqliteClock {
  const setBack = createSetBackWatch(() => Date.now() - performance.now())
  return {
    boot: readBoot(),
    now() {
      const now = Date.now()
      setBack.note(now - performance.now())
      return now
    },
    watchSetBack: setBack.watch,
    monotonic: () => Number(process.hrtime.bigint() / 1_000_000n),
  }
}

function readBoot(): number {
  if (process.platform !== 'linux') return UNKNOWN_BOOT
  const digits = readFileSync(BOOT_ID_FILE, 'latin1').replaceAll('-', '')
  return Number.parseInt(digits.slice(0, BOOT_ID_HEX_DIGITS), 16)
}

const OWNER_ONLY = 0o600
/** SQLite creates files beside the database, and people put copies there. */
const OWNER_ONLY_FOLDER = 0o700
/** 16 MiB of pages: keeps the upper levels of the indexes of a large backlog in memory. */
const CACHE_KIB = 16_384
/** Fewer, larger checkpoints than the default 1,000 pages: each one flushes twice. */
const CHECKPOINT_PAGES = 4_000

const SETTINGS = `
pragma journal_mode = wal;
pragma cache_size = -${CACHE_KIB};
pragma wal_autocheckpoint = ${CHECKPOINT_PAGES};
pragma journal_size_limit = ${MAX_IDLE_LOG_BYTES};
pragma synchronous = full;`

/** SQLite's limit is 512 bytes, that of file names 255, both with the suffixes of side files. */
const MAX_PATH_BYTES = 480
const MAX_NAME_BYTES = 230

/**
 * @param mayCreate false: if the file is missing or has an older schema, waits for another process
 *   to create or upgrade it
 * @throws StoreUnusable with a sentence for the person who started the process
 */
export async function openFile(path: string, mayCreate: boolean): Promise<DatabaseSync> {
  refuseLongPath(path)
  if (isMissing(path)) {
    if (mayCreate) createFile(path)
    else await waitForFile(path)
  }
  refuseUnreadable(path)
  const db = orUnusable(path, () => new DatabaseSync(path, { timeout: 0 }))
  try {
    if (!mayCreate) await waitForApi(() => retryWhileBusy(path, () => isUpgraded(db, path)))
    await retryWhileBusy(path, () => {
      if (db.isTransaction) db.exec('rollback')
      migrate(db, path, mayCreate ? 'online' : 'none')
      db.exec(SETTINGS)
      proveWritable(db)
    })
    return db
  } catch (error) {
    db.close()
    throw asUnusable(path, error)
  }
}

/** Takes all steps, for `posthorn migrate`. */
export async function migrateFile(path: string): Promise<Migrated> {
  if (isMissing(path)) throw missingStore(`at ${path}`)
  refuseUnreadable(path)
  const db = orUnusable(path, () => new DatabaseSync(path, { timeout: 0 }))
  try {
    const from = readVersion(db)
    await retryWhileBusy(path, () => {
      if (db.isTransaction) db.exec('rollback')
      migrate(db, path, 'all')
    })
    return {
      ...{ from, to: readVersion(db) },
      ...{ createdIndexes: [], changedIndexes: [], droppedIndexes: [], faults: [] },
    }
  } catch (error) {
    throw asUnusable(path, error)
  } finally {
    db.close()
  }
}

/**
 * A durable write: a read-only file or a full disk fails now, not at the first job. Writing the
 * schema number, although unchanged, raises the change counter of the header (file-in-place.ts).
 */
function proveWritable(db: DatabaseSync): void {
  db.exec('begin immediate')
  db.exec("insert or replace into meta (key, value) values ('last_opened_at', unixepoch('now'))")
  db.exec(`pragma user_version = ${readVersion(db)}`)
  db.exec('commit')
}

function refuseLongPath(path: string): void {
  const isLong = Buffer.byteLength(path) > MAX_PATH_BYTES
  if (!isLong && Buffer.byteLength(basename(path)) <= MAX_NAME_BYTES) return
  throw new StoreUnusable(
    `the path of the store is too long: it may have ${MAX_PATH_BYTES} bytes, and the name of the ` +
      `file ${MAX_NAME_BYTES}`,
  )
}

/**
 * An empty file has lost its content: a store is never empty, not even while it is created. SQLite
 * reads a file of one byte as an empty one, and refuses any longer file that is no database.
 */
function isMissing(path: string): boolean {
  let stats: { size: number; isDirectory(): boolean } | undefined
  try {
    stats = statSync(path, { throwIfNoEntry: false })
  } catch (error) {
    throw new StoreUnusable(`the store ${path} cannot be opened: ${reasonOf(error)}`, {
      cause: error,
    })
  }
  if (stats === undefined) return true
  if (stats.isDirectory()) throw new StoreUnusable(`the store ${path} is a folder, not a file`)
  if (stats.size === 1) throw new StoreUnusable(`the store ${path} is not an SQLite database`)
  if (stats.size > 0) return false
  throw new StoreUnusable(
    `the store ${path} is an empty file, so its jobs are gone: restore it from a backup, or remove ` +
      'the file to start with a new store',
  )
}

function refuseUnreadable(path: string): void {
  try {
    accessSync(path, constants.R_OK)
  } catch (error) {
    throw new StoreUnusable(`the store ${path} cannot be opened: ${reasonOf(error)}`, {
      cause: error,
    })
  }
}

/** Resolves when another process has created the file. */
async function waitForFile(path: string): Promise<void> {
  await waitForApi(() => !isMissing(path))
  if (isMissing(path)) throw missingStore(`at ${path}`)
}

/**
 * Creates the file under a temporary name and links it to its own name: a store with its name
 * always has its tables. Of several processes one wins, and the others open its file.
 */
function createFile(path: string): void {
  const left = SIDE_FILES.map((end) => path + end).find((file) => existsSync(file))
  if (left !== undefined) {
    // Another process has created and opened it meanwhile.
    if (existsSync(path)) return
    throw new StoreUnusable(
      `there is no store at ${path}, but ${left} is a part of one, which a new store would remove: ` +
        'restore the store from a backup, or move that file away to start with a new one',
    )
  }
  const folder = dirname(path)
  try {
    makeFolder(folder)
  } catch (error) {
    throw new StoreUnusable(`the folder ${folder} cannot be created: ${reasonOf(error)}`, {
      cause: error,
    })
  }
  const draft = `${path}.${randomBytes(6).toString('hex')}`
  try {
    // The file is created before SQLite opens it, because SQLite would make it readable to others.
    closeSync(openSync(draft, 'wx', OWNER_ONLY))
  } catch (error) {
    throw cannotCreate(path, error)
  }
  try {
    writeTables(draft)
    nameDraft(draft, path)
    flushFolder(folder)
  } catch (error) {
    throw cannotCreate(path, error)
  } finally {
    for (const end of ['', '-journal']) rmSync(draft + end, { force: true })
  }
}

function cannotCreate(path: string, error: unknown): StoreUnusable {
  const sentence = sentenceFor(path, error)
  return new StoreUnusable(sentence ?? `the store ${path} cannot be created: ${reasonOf(error)}`, {
    cause: error,
  })
}

function writeTables(draft: string): void {
  const db = new DatabaseSync(draft)
  try {
    migrate(db, draft)
  } finally {
    db.close()
  }
}

function nameDraft(draft: string, path: string): void {
  try {
    linkSync(draft, path)
  } catch (error) {
    // No hard links here, so two processes may both create it: file-in-place.ts detects that.
    if (codeOf(error) !== 'EEXIST' && !existsSync(path)) renameSync(draft, path)
  }
}

/** Does not use the option `recursive` of mkdir, which never returns for a folder under /proc. */
function makeFolder(folder: string): void {
  if (existsSync(folder)) return
  makeFolder(dirname(folder))
  try {
    mkdirSync(folder, OWNER_ONLY_FOLDER)
  } catch (error) {
    // Another process may have created it meanwhile.
    if (!existsSync(folder)) throw error
  }
}

function orUnusable<T>(path: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    throw asUnusable(path, error)
  }
}

/** An error that means "unavailable" later is a reason not to start. */
function asUnusable(path: string, error: unknown): unknown {
  if (error instanceof StoreUnavailable) return new StoreUnusable(error.message, { cause: error })
  const sentence = sentenceFor(path, error)
  return sentence === null ? error : new StoreUnusable(sentence, { cause: error })
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : null
}

/** The pages to which the next job is written, and where the next due one is found. */
const LOOK_AT_JOBS = [
  'select seq from jobs order by seq desc limit 1',
  'select due_at from jobs where claimable = 1 order by due_at limit 1',
]
/** A process that stops waits no longer for another one that writes. */
const LAST_WRITE_MS = 500
const PROVE_WRITABLE =
  "insert or replace into meta (key, value) values ('last_proved_at', unixepoch('now'))"

export function createConnection(db: DatabaseSync, path: string, file: FileInPlace): Connection {
  const statements = createStatements(db)
  const { statement } = statements
  const transactions = createTransactions(db, statement, file)
  const writes = createWriteQueue(path, transactions.run)
  const readiness = createReadiness(() =>
    write('normal', () => {
      for (const sql of LOOK_AT_JOBS) statement(sql).get()
      statement(PROVE_WRITABLE).run()
    }),
  )
  let readCount = 0

  async function write<T>(wanted: Durability, body: () => T): Promise<T> {
    try {
      const value = await writes.add(wanted, body)
      readiness.noteSuccess()
      return value
    } catch (error) {
      readiness.noteFailure(error)
      throw error
    }
  }

  return {
    get commandCount() {
      return readCount + transactions.count()
    },
    statement,
    ordered: statement,
    async read(body) {
      try {
        return await retryWhileBusy(path, () => {
          file.assertLastSeen()
          readCount++
          return body()
        })
      } catch (error) {
        readiness.noteReadFailure(error)
        throw error
      }
    },
    write,
    afterCommit: transactions.afterCommit,
    peekVersion() {
      try {
        return statement('pragma data_version').get()?.data_version as number
      } catch (error) {
        // A notification may be missed. The next read or write gets the error and reports it.
        if (sentenceFor(path, error) === null && !isBusy(error)) throw error
        return null
      }
    },
    async ready() {
      if (!db.isOpen) throw closed(path)
      file.assertNow()
      await readiness.check()
    },
    async close(last) {
      await writes.drained()
      if (last !== undefined && db.isOpen)
        await runLast(path, () => transactions.run('normal', last))
      statements.clear()
      if (!db.isOpen) return
      db.close()
      file.close()
    },
  }
}

/** For the time in which an earlier success would still count. */
function closed(path: string): StoreUnavailable {
  return new StoreUnavailable(`the store ${path} is closed`, { kind: 'closed' })
}

/** If it fails, the next start of the machine counts as one after a power loss (fences.ts). */
async function runLast(path: string, transaction: () => void): Promise<void> {
  const deadline = performance.now() + LAST_WRITE_MS
  for (;;) {
    try {
      transaction()
      return
    } catch (error) {
      if (!isBusy(error)) {
        if (asStoreError(path, error) instanceof StoreUnavailable) return
        throw error
      }
      if (performance.now() > deadline) return
    }
    await pause()
  }
}

function createStatements(db: DatabaseSync) {
  const known = new Map<string, StatementSync>()
  return {
    statement(sql: string): StatementSync {
      const found = known.get(sql)
      if (found !== undefined) return found
      const prepared = db.prepare(sql)
      known.set(sql, prepared)
      return prepared
    },
    clear: () => known.clear(),
  }
}

function createTransactions(
  db: DatabaseSync,
  statement: (sql: string) => StatementSync,
  file: FileInPlace,
) {
  let count = 0
  let waiting: (() => void)[] = []
  /** The durability that openFile has set. */
  let durability: Durability = 'full'

  /** A commit after the file was removed is lost, so it must not look like a success. */
  function run(wanted: Durability, body: () => void): void {
    file.assertLastSeen()
    // Takes effect when it is compiled, and only outside a transaction: it cannot be prepared.
    if (durability !== wanted) {
      db.exec(`pragma synchronous = ${wanted}`)
      durability = wanted
    }
    statement('begin immediate').run()
    count++
    waiting = []
    try {
      body()
      statement('commit').run()
    } finally {
      if (db.isTransaction) db.exec('rollback')
    }
    file.assertNow()
    for (const notify of waiting) notify()
  }

  return {
    run,
    count: () => count,
    afterCommit(notify: () => void): void {
      waiting.push(notify)
    },
  }
}
