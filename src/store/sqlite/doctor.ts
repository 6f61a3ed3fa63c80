// The checks of `posthorn doctor store` on SQLite. They only read the file.
import { existsSync, statfsSync, statSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { type Check, failed, ok, type StoreReport, warning } from '../doctor-report.ts'
import { StoreUnusable } from '../store-errors.ts'
import { sentenceFor } from './errors.ts'
import { isUpgraded, migrate } from './schema.ts'

const MIB = 1_048_576
/** A burst of jobs, its log and the copy of a backup need room. */
const MIN_FREE_BYTES = 256 * MIB
/** The permission bits of everyone but the owner. */
const OTHERS = 0o077

type Report = Pick<StoreReport, 'engine' | 'checks' | 'plans' | 'latencies'>

export function examineSqliteStore(given: string, minFreeBytes = MIN_FREE_BYTES): Report {
  const path = resolve(given)
  const checks = existsSync(path) ? checkFile(path, minFreeBytes) : [notThere(path)]
  return { engine: `SQLite ${process.versions.sqlite}`, checks, plans: [], latencies: [] }
}

function notThere(path: string): Check {
  const advice = 'Restore it from a backup, or start the API, which creates it.'
  return failed('file', `There is no store at ${path}.`, advice)
}

function checkFile(path: string, minFreeBytes: number): Check[] {
  const outside = [checkPermissions(path), checkFreeSpace(path, minFreeBytes)]
  try {
    const db = new DatabaseSync(path, { readOnly: true })
    try {
      return [...outside, ...checkContent(db, path)]
    } finally {
      db.close()
    }
  } catch (error) {
    if (error instanceof StoreUnusable) {
      const advice = 'Use the version that wrote it, or correct STORE_URL.'
      return [...outside, failed('schema', `${error.message}.`, advice)]
    }
    const found = sentenceFor(path, error) ?? (error as Error).message
    return [...outside, failed('file', `${found}.`, 'Restore the store from a backup.')]
  }
}

function checkPermissions(path: string): Check {
  const open = [path, `${path}.key`].filter(
    (file) => existsSync(file) && (statSync(file).mode & OTHERS) !== 0,
  )
  // Windows has no such bits.
  if (open.length === 0 || process.platform === 'win32') {
    return ok('permissions', 'Only its owner can read the store.')
  }
  const found = `Other users of this machine can read ${open.join(' and ')}.`
  return warning('permissions', found, `Run chmod 600 ${open.join(' ')}.`)
}

function checkFreeSpace(path: string, minFreeBytes: number): Check {
  const { bavail, bsize } = statfsSync(dirname(path))
  const freeBytes = bavail * bsize
  const found = `The disk has ${Math.floor(freeBytes / MIB)} MiB free.`
  if (freeBytes >= minFreeBytes) return ok('disk', found)
  return failed('disk', found, 'Free some space: on a full disk no job can be stored.')
}

function checkContent(db: DatabaseSync, path: string): Check[] {
  if (!isUpgraded(db, path)) {
    const found = 'The store has the schema of an earlier version.'
    return [failed('schema', found, 'Run posthorn migrate.'), checkIntegrity(db)]
  }
  return [checkTables(db), checkStatistics(db), checkJournal(db), checkIntegrity(db)]
}

/**
 * Compares with a new store: with the same tables and indexes, the plans are those that were
 * tested.
 */
function checkTables(db: DatabaseSync): Check {
  const fresh = new DatabaseSync(':memory:')
  migrate(fresh, ':memory:')
  const expected = definitionsIn(fresh)
  const found = definitionsIn(db)
  fresh.close()
  const wrong = [...expected].filter(([name, sql]) => found.get(name) !== sql)
  if (wrong.length === 0) {
    return ok('schema', `All ${expected.size} tables and indexes are as this version defines them.`)
  }
  const names = wrong.map(([name]) => name).join(', ')
  const advice = 'Restore the store from a backup.'
  return failed('schema', `These are missing or have another definition: ${names}.`, advice)
}

function definitionsIn(db: DatabaseSync): Map<string, string> {
  const rows = db
    .prepare(
      "select name, sql from sqlite_schema where sql is not null and name not like 'sqlite_%'",
    )
    .all()
  return new Map(rows.map(({ name, sql }) => [String(name), String(sql)]))
}

function checkStatistics(db: DatabaseSync): Check {
  const name = 'plans'
  const analyzed = db
    .prepare("select count(*) as count from sqlite_schema where name like 'sqlite_stat%'")
    .get()
  if (analyzed?.count === 0) {
    return ok(name, 'No statistics change the query plans, which were tested with this schema.')
  }
  return warning(
    name,
    'The store has statistics of analyze: they can change the query plans, which were tested without them.',
    'Stop Posthorn, and run: drop table sqlite_stat1.',
  )
}

function checkJournal(db: DatabaseSync): Check {
  const mode = db.prepare('pragma journal_mode').get()?.journal_mode
  if (mode === 'wal') return ok('journal', 'The journal mode is WAL.')
  const advice = 'The next start of the API or a worker sets WAL.'
  return warning('journal', `The journal mode is ${mode}, not WAL.`, advice)
}

function checkIntegrity(db: DatabaseSync): Check {
  const [first] = db.prepare('pragma quick_check(1)').all()
  const result = String(first?.quick_check)
  if (result === 'ok') return ok('integrity', 'pragma quick_check found no damage.')
  return failed('integrity', `The file is damaged: ${result}.`, 'Restore it from a backup.')
}
