// Makes repeated deliveries harmless: keeps the fence and the result of each job in the same SQLite
// file as the work, so that one transaction writes both.
import { mkdirSync } from 'node:fs'
import { dirname } from 'node:path'
import { DatabaseSync } from 'node:sqlite'

export interface Ledger {
  /** The work has its own tables in it. */
  db: DatabaseSync
  /** Begins an attempt. From now on, older attempts of the job are refused. */
  begin(jobId: string, fence: number): 'begun' | 'stale' | { result: unknown }
  /** Runs `change` in a transaction that checks that no newer attempt has begun. @throws StaleAttempt */
  write<T>(jobId: string, fence: number, change: () => T): T
  /** Stores the result, so that the work is not done again. `change` is in the same transaction. */
  finish<T>(jobId: string, fence: number, result: T, change?: () => void): T
}

export class StaleAttempt extends Error {
  constructor(jobId: string, fence: number) {
    super(`a newer attempt of ${jobId} has begun: the attempt with fence ${fence} may not write`)
  }
}

/** How long a write waits for another process that writes. */
const BUSY_TIMEOUT_MS = 5_000

export function openLedger(path: string, tables: string): Ledger {
  mkdirSync(dirname(path), { recursive: true })
  const db = new DatabaseSync(path, { timeout: BUSY_TIMEOUT_MS })
  db.exec('pragma journal_mode = wal')
  db.exec('create table if not exists jobs (job_id text primary key, fence integer, result text)')
  db.exec(tables)
  const raise = db.prepare(`insert into jobs (job_id, fence) values (?, ?)
    on conflict (job_id) do update set fence = max(fence, excluded.fence)`)
  const read = db.prepare('select fence, result from jobs where job_id = ?')
  const settle = db.prepare('update jobs set result = ? where job_id = ?')
  const rowOf = (jobId: string) => read.get(jobId) as { fence: number; result: string | null }

  function write<T>(jobId: string, fence: number, change: () => T): T {
    db.exec('begin immediate')
    try {
      if (rowOf(jobId).fence > fence) throw new StaleAttempt(jobId, fence)
      const made = change()
      db.exec('commit')
      return made
    } catch (error) {
      db.exec('rollback')
      throw error
    }
  }

  return {
    db,
    begin(jobId, fence) {
      raise.run(jobId, fence)
      const row = rowOf(jobId)
      if (row.fence > fence) return 'stale'
      return row.result === null ? 'begun' : { result: JSON.parse(row.result) }
    },
    write,
    finish(jobId, fence, result, change = () => {}) {
      write(jobId, fence, () => {
        change()
        settle.run(JSON.stringify(result), jobId)
      })
      return result
    },
  }
}
