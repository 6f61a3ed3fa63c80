// The one connection of a process: statements prepared once, transactions one after another, and
// how durable each commit is. Nothing is awaited inside a transaction, so none can interleave.
import type { DatabaseSync, StatementSync } from 'node:sqlite'
import { createReadiness } from '../readiness.ts'
import { retryWhileBusy } from './busy-wait.ts'
import type { FileInPlace } from './file-in-place.ts'
import { isBusy, sentenceFor } from './sqlite-errors.ts'
import { createWriteQueue, type Durability } from './write-queue.ts'

export interface Connection {
  readonly commandCount: number
  /** The prepared statement of this text, prepared once. */
  statement(sql: string): StatementSync
  read<T>(body: () => T): Promise<T>
  /** All of `body` or nothing, committed; tried again while the file is busy. */
  write<T>(durability: Durability, body: () => T): Promise<T>
  /** Called in a transaction: `tell` is called once it is committed, and never if it is not. */
  afterCommit(tell: () => void): void
  /** Changes when another connection has written; null when the store can not be asked just now. */
  peekVersion(): number | null
  /** Throws StoreUnavailable unless the store takes writes. */
  ready(): Promise<void>
  close(): Promise<void>
}

/** Where the next job would be written, and where the next one that is due is found. */
const LOOK_AT_JOBS = [
  'select seq from jobs order by seq desc limit 1',
  "select due_at from jobs where state = 'queued' and held = 0 order by due_at limit 1",
]
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
        // A hint may be missed; whoever needs the store next meets the error where it can be told.
        if (sentenceFor(path, error) === null && !isBusy(error)) throw error
        return null
      }
    },
    async ready() {
      file.assertNow()
      await readiness.check()
    },
    async close() {
      await writes.drained()
      statements.clear()
      if (!db.isOpen) return
      db.close()
      file.close()
    },
  }
}

/** Statements prepared once. */
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
  let toTell: (() => void)[] = []
  /** As openFile left it. */
  let durability: Durability = 'full'

  /** What is committed after the file went is lost: no caller may take it for stored. */
  function run(wanted: Durability, body: () => void): void {
    file.assertLastSeen()
    // The pragma acts when it is compiled, and not inside a transaction: it cannot be prepared.
    if (durability !== wanted) {
      db.exec(`pragma synchronous = ${wanted}`)
      durability = wanted
    }
    statement('begin immediate').run()
    count++
    toTell = []
    try {
      body()
      statement('commit').run()
    } finally {
      if (db.isTransaction) db.exec('rollback')
    }
    file.assertNow()
    for (const tell of toTell) tell()
  }

  return {
    run,
    count: () => count,
    afterCommit(tell: () => void): void {
      toTell.push(tell)
    },
  }
}
