// The one connection of a process: transactions one after another, waiting for other processes
// without blocking the event loop, and how durable each commit is.
import { chmodSync, closeSync, mkdirSync, openSync } from 'node:fs'
import { dirname } from 'node:path'
import { DatabaseSync, type StatementSync } from 'node:sqlite'
import { setTimeout as delay } from 'node:timers/promises'
import { StoreUnavailable, StoreUnusable } from '../store.ts'
import { migrate } from './schema.ts'
import { asStoreError, isBusy, sentenceFor } from './sqlite-errors.ts'

/** `full`: survives power loss. `normal`: survives the death of any process. */
export type Durability = 'full' | 'normal'

export interface Connection {
  readonly commandCount: number
  /** The prepared statement of this text, prepared once. */
  statement(sql: string): StatementSync
  read<T>(body: () => T): Promise<T>
  /** One transaction: all of `body` or nothing. In the order of the calls. */
  write<T>(durability: Durability, body: () => T): Promise<T>
  /** Changes when another connection has written; null when the store can not be asked just now. */
  peekVersion(): number | null
  close(): Promise<void>
}

interface WaitingWrite {
  attempt(): 'done' | 'busy'
  fail(error: unknown): void
  deadline: number
}

/** How long a batch waits for other processes; the API then answers 503. */
const MAX_WAIT_MS = 3_000
const MIN_PAUSE_MS = 0.5
const MAX_PAUSE_MS = 5
/** Far more than the doors of one process send at once; beyond it memory would only grow. */
const MAX_WAITING_WRITES = 10_000
const OWNER_ONLY = 0o600
/** 16 MiB of pages: keeps the upper levels of the indexes of a large backlog in memory. */
const CACHE_KIB = 16_384
/** Fewer, larger checkpoints than the default 1,000 pages: each one flushes twice. */
const CHECKPOINT_PAGES = 4_000
/** What the log is cut back to after a burst. */
const MAX_IDLE_LOG_BYTES = 64 * 1024 * 1024

/** Opens the file, making it and its folder where missing. Throws StoreUnusable. */
export async function openConnection(path: string): Promise<Connection> {
  createFile(path)
  const db = openDatabase(path)
  try {
    await prepareDatabase(db, path)
  } catch (error) {
    db.close()
    throw error
  }
  return createConnection(db, path)
}

function createFile(path: string): void {
  try {
    mkdirSync(dirname(path), { recursive: true })
  } catch (error) {
    throw new StoreUnusable(`the folder ${dirname(path)} can not be made: ${reasonOf(error)}`, {
      cause: error,
    })
  }
  try {
    // Made before SQLite opens it, for SQLite would make it readable to others.
    closeSync(openSync(path, 'ax', OWNER_ONLY))
    chmodSync(path, OWNER_ONLY)
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return
    throw new StoreUnusable(`the store ${path} can not be made: ${reasonOf(error)}`, {
      cause: error,
    })
  }
}

function openDatabase(path: string): DatabaseSync {
  try {
    return new DatabaseSync(path, { timeout: 0 })
  } catch (error) {
    throw asUnusable(path, error)
  }
}

async function prepareDatabase(db: DatabaseSync, path: string): Promise<void> {
  const deadline = performance.now() + MAX_WAIT_MS
  for (;;) {
    try {
      migrate(db, path)
      db.exec('pragma journal_mode = wal')
      db.exec(`pragma cache_size = -${CACHE_KIB}`)
      db.exec(`pragma wal_autocheckpoint = ${CHECKPOINT_PAGES}`)
      db.exec(`pragma journal_size_limit = ${MAX_IDLE_LOG_BYTES}`)
      db.exec('pragma synchronous = full')
      // Proves now, not at the first job, that the file can be written.
      db.exec('begin immediate; update meta set value = value where key = 0; commit')
      return
    } catch (error) {
      if (db.isTransaction) db.exec('rollback')
      if (!isBusy(error) || performance.now() > deadline) throw asUnusable(path, error)
      await pause()
    }
  }
}

function createConnection(db: DatabaseSync, path: string): Connection {
  const statements = new Map<string, StatementSync>()
  const waiting: WaitingWrite[] = []
  let commandCount = 0
  let durability: Durability = 'full'
  let draining: Promise<void> | null = null

  function statement(sql: string): StatementSync {
    const known = statements.get(sql)
    if (known !== undefined) return known
    const prepared = db.prepare(sql)
    statements.set(sql, prepared)
    return prepared
  }

  function transaction<T>(wanted: Durability, body: () => T): T {
    // The pragma acts when it is compiled, and not inside a transaction: it can not be prepared.
    if (durability !== wanted) {
      db.exec(`pragma synchronous = ${wanted}`)
      durability = wanted
    }
    statement('begin immediate').run()
    try {
      commandCount++
      const value = body()
      statement('commit').run()
      return value
    } finally {
      if (db.isTransaction) db.exec('rollback')
    }
  }

  async function drain(): Promise<void> {
    for (let head = waiting[0]; head !== undefined; head = waiting[0]) {
      if (head.attempt() === 'done') {
        waiting.shift()
      } else if (performance.now() > head.deadline) {
        waiting.shift()
        head.fail(stillBusy(path))
      } else {
        await pause()
      }
    }
    draining = null
  }

  return {
    get commandCount() {
      return commandCount
    },
    statement,
    async read(body) {
      const deadline = performance.now() + MAX_WAIT_MS
      for (;;) {
        try {
          commandCount++
          return body()
        } catch (error) {
          if (!isBusy(error)) throw asStoreError(path, error)
          if (performance.now() > deadline) throw stillBusy(path)
        }
        await pause()
      }
    },
    write(wanted, body) {
      return new Promise((resolve, reject) => {
        const attempt = () => {
          try {
            resolve(transaction(wanted, body))
          } catch (error) {
            if (isBusy(error)) return 'busy'
            reject(asStoreError(path, error))
          }
          return 'done'
        }
        if (waiting.length === 0 && attempt() === 'done') return
        if (waiting.length >= MAX_WAITING_WRITES) {
          reject(new StoreUnavailable(`the store ${path} is busy: ${waiting.length} writes wait`))
          return
        }
        waiting.push({ attempt, fail: reject, deadline: performance.now() + MAX_WAIT_MS })
        draining ??= drain()
      })
    },
    peekVersion() {
      try {
        return statement('pragma data_version').get()?.data_version as number
      } catch (error) {
        // A hint may be missed; whoever needs the store next meets the error where it can be told.
        if (sentenceFor(path, error) === null && !isBusy(error)) throw error
        return null
      }
    },
    async close() {
      await draining
      statements.clear()
      if (db.isOpen) db.close()
    },
  }
}

function pause(): Promise<void> {
  return delay(MIN_PAUSE_MS + Math.random() * (MAX_PAUSE_MS - MIN_PAUSE_MS))
}

function stillBusy(path: string): StoreUnavailable {
  return new StoreUnavailable(
    `the store ${path} was in use by another process for more than ${MAX_WAIT_MS} ms`,
  )
}

function asUnusable(path: string, error: unknown): unknown {
  if (isBusy(error)) return new StoreUnusable(stillBusy(path).message, { cause: error })
  const sentence = sentenceFor(path, error)
  return sentence === null ? error : new StoreUnusable(sentence, { cause: error })
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : null
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
