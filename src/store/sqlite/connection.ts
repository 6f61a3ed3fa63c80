// The one connection of a process: statements prepared once, transactions one after another, and
// how durable each commit is. Nothing is awaited inside a transaction, so none can interleave.
import type { DatabaseSync, StatementSync } from 'node:sqlite'
import { retryWhileBusy } from './busy-wait.ts'
import { isBusy, sentenceFor } from './sqlite-errors.ts'
import { createWriteQueue, type Durability } from './write-queue.ts'

export interface Connection {
  readonly commandCount: number
  /** The prepared statement of this text, prepared once. */
  statement(sql: string): StatementSync
  read<T>(body: () => T): Promise<T>
  /** All of `body` or nothing, committed; tried again while the file is busy. */
  write<T>(durability: Durability, body: () => T): Promise<T>
  /** Changes when another connection has written; null when the store can not be asked just now. */
  peekVersion(): number | null
  close(): Promise<void>
}

export function createConnection(db: DatabaseSync, path: string): Connection {
  const statements = new Map<string, StatementSync>()
  const writes = createWriteQueue(path, transaction)
  let commandCount = 0
  /** As openFile left it. */
  let durability: Durability = 'full'

  function statement(sql: string): StatementSync {
    const known = statements.get(sql)
    if (known !== undefined) return known
    const prepared = db.prepare(sql)
    statements.set(sql, prepared)
    return prepared
  }

  function transaction(wanted: Durability, body: () => void): void {
    // The pragma acts when it is compiled, and not inside a transaction: it can not be prepared.
    if (durability !== wanted) {
      db.exec(`pragma synchronous = ${wanted}`)
      durability = wanted
    }
    statement('begin immediate').run()
    commandCount++
    try {
      body()
      statement('commit').run()
    } finally {
      if (db.isTransaction) db.exec('rollback')
    }
  }

  return {
    get commandCount() {
      return commandCount
    },
    statement,
    read(body) {
      return retryWhileBusy(path, () => {
        commandCount++
        return body()
      })
    },
    write(wanted, body) {
      return writes.add(wanted, body)
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
      await writes.drained()
      statements.clear()
      if (db.isOpen) db.close()
    },
  }
}
