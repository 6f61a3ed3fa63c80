// Gives pages that no job needs any more back to the disk: a few at each sweep, all of them by
// `posthorn vacuum`. SQLite itself keeps them for what comes next, and the file never shrinks.
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { StoreUnusable } from '../store.ts'
import type { Database } from './database.ts'
import { APPLICATION_ID } from './schema.ts'
import { isBusy, sentenceFor } from './sqlite-errors.ts'

/** What `pragma auto_vacuum` says of a file whose pages can be given back one by one. */
const INCREMENTAL = 2
/** Of one transaction: 5 ms, and a checkpoint now and then, as after any write. */
const PAGES_AT_ONCE = 500
/** The next jobs need room: to give it back and take it again would cost twice. */
const MIN_PAGES_KEPT = 1_000
const SHARE_KEPT = 0.1
/** Between two transactions of the command, so that other writers have their turn. */
const PAUSE_MS = 20
/** How long the command waits for another writer. */
const BUSY_TIMEOUT_MS = 5_000

export const FREE_PAGES = `
select freelist_count as free, page_count as pages, auto_vacuum as mode
from pragma_freelist_count, pragma_page_count, pragma_auto_vacuum`
export const GIVE_BACK = `pragma incremental_vacuum(${PAGES_AT_ONCE})`

interface PageCounts {
  free: number
  pages: number
  mode: number
}

/** One transaction of bounded length, and only where many pages are free. */
export async function giveBackPages({ connection }: Database): Promise<void> {
  const { free, pages, mode } = await connection.read(
    () => connection.statement(FREE_PAGES).get() as unknown as PageCounts,
  )
  if (mode !== INCREMENTAL || free <= Math.max(MIN_PAGES_KEPT, pages * SHARE_KEPT)) return
  // Stepped to its end: each step gives back one page.
  await connection.write('normal', () => void connection.statement(GIVE_BACK).all())
}

export interface Vacuumed {
  pages: number
  bytes: number
  /** Of the file now. */
  fileBytes: number
}

/**
 * Gives back all free pages, in short transactions while the store is in use. A file that was
 * created without this possibility is rewritten, once, and for that nobody else may have it open.
 *
 * @throws StoreUnusable with a sentence
 */
export async function vacuumFile(store: string): Promise<Vacuumed> {
  const path = resolve(store)
  if (!existsSync(path)) throw new StoreUnusable(`there is no store at ${store}`)
  let db: DatabaseSync | null = null
  try {
    db = new DatabaseSync(path, { timeout: BUSY_TIMEOUT_MS })
    const before = countPages(db, store)
    if (before.mode === INCREMENTAL) await giveBackAll(db)
    else rewrite(db, store)
    const after = countPages(db, store)
    const pageBytes = db.prepare('pragma page_size').get()?.page_size as number
    const pages = before.pages - after.pages
    return { pages, bytes: pages * pageBytes, fileBytes: after.pages * pageBytes }
  } catch (error) {
    throw asSentence(store, error)
  } finally {
    db?.close()
  }
}

function countPages(db: DatabaseSync, store: string): PageCounts {
  if (db.prepare('pragma application_id').get()?.application_id !== APPLICATION_ID) {
    throw new StoreUnusable(`${store} is not a store of Posthorn`)
  }
  return db.prepare(FREE_PAGES).get() as unknown as PageCounts
}

async function giveBackAll(db: DatabaseSync): Promise<void> {
  const giveBack = db.prepare(GIVE_BACK)
  let left = Number.POSITIVE_INFINITY
  for (;;) {
    giveBack.all()
    const { free } = db.prepare(FREE_PAGES).get() as unknown as PageCounts
    // Others may free pages as fast: it need not chase them.
    if (free === 0 || free >= left) break
    left = free
    await sleep(PAUSE_MS)
  }
  db.exec('pragma wal_checkpoint(truncate)')
}

function rewrite(db: DatabaseSync, store: string): void {
  try {
    // Refused while any other process has the file open.
    db.exec('pragma busy_timeout = 500; pragma locking_mode = exclusive; begin exclusive; commit')
  } catch (error) {
    if (!isBusy(error)) throw error
    throw new StoreUnusable(
      `the store ${store} was created by an earlier version and must be rewritten once, while ` +
        'no other process uses it: stop the API and the workers, then run this again',
      { cause: error },
    )
  }
  db.exec('pragma auto_vacuum = incremental; vacuum')
}

function asSentence(store: string, error: unknown): unknown {
  if (isBusy(error)) {
    return new StoreUnusable(`the store ${store} is locked by another program; try again later`, {
      cause: error,
    })
  }
  const sentence = sentenceFor(store, error)
  return sentence === null ? error : new StoreUnusable(sentence, { cause: error })
}
