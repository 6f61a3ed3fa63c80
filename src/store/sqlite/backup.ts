// `posthorn backup` and `posthorn vacuum`. A backup copies the database file as of one instant,
// while other processes read and write it. The copy is made under a temporary name, checked like a
// file at a start, and renamed last, so that a copy with its final name is complete. A vacuum
// returns free pages to the disk: each sweep returns a few, the command all of them.
import {
  closeSync,
  constants,
  copyFileSync,
  existsSync,
  fsyncSync,
  linkSync,
  lstatSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
} from 'node:fs'
import { dirname, resolve } from 'node:path'
import { backup, DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { SIDE_FILES, sideFileEnd } from '../file-names.ts'
import { StoreUnusable } from '../store-errors.ts'
import type { Database } from './connection.ts'
import { isBusy, primaryCode, RESULT_CODES, sentenceFor } from './errors.ts'
import { MARK_COPY } from './fences.ts'
import { createKeyRing } from './key-file.ts'
import { ENCRYPTED_ENDPOINTS } from './key-rotation.ts'
import { APPLICATION_ID } from './schema.ts'

const OWNER_ONLY = 0o600
/**
 * All pages are copied in one step: it reads one snapshot, and in WAL mode no writer waits for
 * that. Several steps would start again after each write of another process, and might never end.
 */
const ALL_PAGES = 2 ** 31 - 1
/** The errors of link(2) on a file system without hard links. */
const NO_LINKS: unknown[] = ['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK']

export interface Backup {
  bytes: number
  /**
   * The key that decrypts its secrets. `missing`: none of the keys is here. `none`: it has no
   * secrets.
   */
  key: { kind: 'file'; path: string } | { kind: 'given' | 'missing' | 'none' }
}

/**
 * Never overwrites a file. A run that fails or ends by process.exit leaves nothing. A run that is
 * killed leaves a file that ends in `.part`, and the next run fails with its name.
 *
 * @param given the keys that were set, or null for the key file
 * @throws StoreUnusable with a sentence
 */
export async function backUpFile(
  store: string,
  target: string,
  given: Buffer[] | null,
): Promise<Backup> {
  const path = resolve(store)
  if (!existsSync(path)) throw new StoreUnusable(`there is no store at ${store}`)
  const keyFile = given === null ? findKeyFile(path) : null
  refuseExisting(target, keyFile)
  const made = [`${target}.part`, ...SIDE_FILES.map((end) => `${target}.part${end}`)]
  makePart(target)
  const removeMade = () => {
    for (const file of made) rmSync(file, { force: true })
  }
  process.once('exit', removeMade)
  try {
    const bytes = await copyDatabase(store, path, `${target}.part`)
    const isSealed = checkCopy(store, `${target}.part`, given, keyFile)
    markCopy(store, `${target}.part`)
    const needsKeyFile = isSealed && keyFile !== null && !existsSync(`${target}.key`)
    if (needsKeyFile) {
      made.push(`${target}.key`)
      copyKey(keyFile, `${target}.key`)
    }
    writing(target, () => linkToName(`${target}.part`, target))
    // Only the name `.part` must still be removed.
    made.length = 1
    return { bytes, key: keyOf(isSealed, given, keyFile, `${target}.key`) }
  } finally {
    process.off('exit', removeMade)
    removeMade()
  }
}

function keyOf(
  isSealed: boolean,
  given: Buffer[] | null,
  keyFile: string | null,
  path: string,
): Backup['key'] {
  if (!isSealed) return { kind: 'none' }
  if (given !== null) return { kind: 'given' }
  return keyFile === null ? { kind: 'missing' } : { kind: 'file', path }
}

/**
 * The key file is beside the given path or, if that is a symbolic link, beside the file that it
 * points to.
 */
function findKeyFile(path: string): string | null {
  const found = [path, realpathSync(path)].map((one) => `${one}.key`)
  return found.find((file) => existsSync(file)) ?? null
}

function refuseExisting(target: string, keyFile: string | null): void {
  const end = sideFileEnd(target)
  if (end !== null) {
    const ofWhom = 'such a file belongs to a store; name another file'
    throw new StoreUnusable(
      `the copy cannot have the name ${target}, which ends in ${end}: ${ofWhom}`,
    )
  }
  const parts = [target, `${target}.part`].flatMap((file) => SIDE_FILES.map((one) => file + one))
  for (const file of [target, ...parts]) {
    if (isThere(file)) throw new StoreUnusable(`${file} already exists; name a new file`)
  }
  const copiedKey = `${target}.key`
  if (!isThere(copiedKey)) return
  // A run that was killed may have left the file. The same key does no harm.
  const isSame = keyFile !== null && readIfFile(copiedKey)?.equals(readFileSync(keyFile)) === true
  if (isSame) return
  throw new StoreUnusable(
    `${copiedKey} already exists and is not the key of this store; delete it or name a new file`,
  )
}

/** A symbolic link that leads nowhere exists, too. */
function isThere(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined
}

function readIfFile(path: string): Buffer | null {
  return lstatSync(path).isFile() ? readFileSync(path) : null
}

function makePart(target: string): void {
  const part = `${target}.part`
  if (isThere(part)) {
    throw new StoreUnusable(
      `${part} already exists: another backup to ${target} is running, or was interrupted; ` +
        'if none is running, delete that file',
    )
  }
  // The file is created before SQLite opens it, because SQLite would make it readable to others.
  writing(target, () => closeSync(openSync(part, 'wx', OWNER_ONLY)))
}

async function copyDatabase(store: string, path: string, part: string): Promise<number> {
  const source = open(store, () => new DatabaseSync(path, { readOnly: true }))
  try {
    // Proves that it is a database before anything is copied.
    const pageBytes = open(store, () => source.prepare('pragma page_size').get()?.page_size)
    const pages = await backup(source, part, { rate: ALL_PAGES })
    flush(part)
    return pages * (pageBytes as number)
  } catch (error) {
    throw copyFailed(store, part, error)
  } finally {
    source.close()
  }
}

/** An error that only a write causes concerns the copy: the store is only read. */
function copyFailed(store: string, part: string, error: unknown): unknown {
  if (error instanceof StoreUnusable) return error
  const code = primaryCode(error)
  if (code === RESULT_CODES.full) return cannotWrite(part, 'the disk is full', error)
  if (code === RESULT_CODES.cannotOpen) return cannotWrite(part, 'it cannot be opened', error)
  if (code === RESULT_CODES.readOnly) return cannotWrite(part, 'it is read-only', error)
  if (code === RESULT_CODES.ioError) {
    const sentence = `${store} cannot be read, or ${part} cannot be written: a disk reports an error`
    return new StoreUnusable(sentence, { cause: error })
  }
  return code === null ? cannotWrite(part, reasonOf(error), error) : unreadable(store, error)
}

function cannotWrite(path: string, reason: string, cause: unknown): StoreUnusable {
  return new StoreUnusable(`the copy ${path} cannot be written: ${reason}`, { cause })
}

function unreadable(store: string, error: unknown): unknown {
  if (isBusy(error)) {
    return new StoreUnusable(`the store ${store} is locked by another program`, { cause: error })
  }
  const sentence = sentenceFor(store, error)
  return sentence === null ? error : new StoreUnusable(sentence, { cause: error })
}

function open<T>(store: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    throw unreadable(store, error)
  }
}

/** Returns whether it has secrets. Those of endpoints must decrypt, as at a start. */
function checkCopy(
  store: string,
  part: string,
  given: Buffer[] | null,
  keyFile: string | null,
): boolean {
  // No process writes to the copy, so it needs neither locks nor side files.
  const copy = new DatabaseSync(new URL(`${pathToFileURL(resolve(part))}?immutable=1`), {
    readOnly: true,
  })
  try {
    return open(store, () => {
      if (copy.prepare('pragma application_id').get()?.application_id !== APPLICATION_ID) {
        throw new StoreUnusable(`${store} is not a store of Posthorn`)
      }
      const found = copy.prepare('pragma quick_check(1)').get()?.quick_check
      if (found !== 'ok') {
        throw new StoreUnusable(`the store ${store} is damaged (${found}); nothing was copied`)
      }
      const sealed = copy.prepare(ENCRYPTED_ENDPOINTS).all() as Record<'name' | 'secrets', string>[]
      if (given !== null || keyFile !== null) {
        const keys = createKeyRing(keyFile?.replace(/\.key$/, '') ?? '', given)
        for (const { name, secrets } of sealed) keys.open(secrets, name)
      }
      return sealed.length > 0
    })
  } finally {
    copy.close()
  }
}

/** A store that continues with this copy gives no fence that the original gave (fences.ts). */
function markCopy(store: string, part: string): void {
  try {
    const copy = new DatabaseSync(part)
    try {
      copy.exec(MARK_COPY)
    } finally {
      copy.close()
    }
    flush(part)
  } catch (error) {
    throw copyFailed(store, part, error)
  }
}

function copyKey(from: string, to: string): void {
  writing(to, () => {
    copyFileSync(from, to, constants.COPYFILE_EXCL)
    flush(to)
  })
}

/** Does not overwrite a file that was created meanwhile, if the file system can detect that. */
function linkToName(part: string, target: string): void {
  try {
    linkSync(part, target)
  } catch (error) {
    if (!NO_LINKS.includes(codeOf(error)) || isThere(target)) throw error
    renameSync(part, target)
  }
  flush(dirname(target))
}

function writing(path: string, work: () => void): void {
  try {
    work()
  } catch (error) {
    throw cannotWrite(path, reasonOf(error), error)
  }
}

const REASONS: Record<string, string> = {
  ENOSPC: 'the disk is full',
  EDQUOT: 'the disk quota is used up',
  ENOENT: 'its folder does not exist',
  ENOTDIR: 'its folder does not exist',
  EACCES: 'permission denied',
  EROFS: 'the disk is read-only',
  EEXIST: 'a file of that name was created meanwhile',
}

function reasonOf(error: unknown): string {
  return REASONS[String(codeOf(error))] ?? (error as Error).message
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : null
}

function flush(path: string): void {
  const file = openSync(path, 'r')
  try {
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
}

/** These pages take one transaction: 5 ms, and sometimes a checkpoint, as after any write. */
const PAGES_AT_ONCE = 500
/** The next jobs need the space again: returning it first would cost twice. */
const MIN_PAGES_KEPT = 1_000
const SHARE_KEPT = 0.1
/** Between two transactions of the command, so that other processes can write. */
const PAUSE_MS = 20
/** How long the command waits for another writer. */
const BUSY_TIMEOUT_MS = 5_000

const FREE_PAGES = `
select freelist_count as free, page_count as pages from pragma_freelist_count, pragma_page_count`
const RETURN_PAGES = `pragma incremental_vacuum(${PAGES_AT_ONCE})`

interface PageCounts {
  free: number
  pages: number
}

/** Takes one transaction of bounded length, and only if many pages are free. */
export async function returnFreePages({ connection }: Database): Promise<void> {
  const { free, pages } = await connection.read(
    () => connection.statement(FREE_PAGES).get() as unknown as PageCounts,
  )
  if (free <= Math.max(MIN_PAGES_KEPT, pages * SHARE_KEPT)) return
  // The statement is stepped to its end, because each step returns one page.
  await connection.write('normal', () => void connection.statement(RETURN_PAGES).all())
}

export interface Vacuumed {
  pages: number
  bytes: number
  /** The size of the file now. */
  fileBytes: number
}

/**
 * Returns all free pages to the disk, in short transactions while the store is in use.
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
    await returnAllPages(db)
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

async function returnAllPages(db: DatabaseSync): Promise<void> {
  const returnPages = db.prepare(RETURN_PAGES)
  let left = Number.POSITIVE_INFINITY
  for (;;) {
    returnPages.all()
    const { free } = db.prepare(FREE_PAGES).get() as unknown as PageCounts
    // Other processes may free pages as fast. Such pages can wait for the next run.
    if (free === 0 || free >= left) break
    left = free
    await sleep(PAUSE_MS)
  }
  db.exec('pragma wal_checkpoint(truncate)')
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
