// A copy of the database file as of one instant, made while others read and write it.
import {
  closeSync,
  constants,
  copyFileSync,
  existsSync,
  fsyncSync,
  linkSync,
  openSync,
  rmSync,
} from 'node:fs'
import { dirname } from 'node:path'
import { backup, DatabaseSync } from 'node:sqlite'
import { StoreUnusable } from '../store.ts'
import { sentenceFor } from './sqlite-errors.ts'

const OWNER_ONLY = 0o600
/**
 * All pages in one step: it holds one snapshot, for which no writer waits in WAL mode. In several
 * steps it would start anew at each write of another process, and might never end.
 */
const ALL_PAGES = 2 ** 31 - 1

export interface Backup {
  bytes: number
  /** Where the copy of the key file stands; null: there is none beside the store. */
  keyFile: string | null
}

/**
 * The key file is copied first and the copy linked to its name last: where the copy stands, it can
 * be used. Killed in between it leaves a file that ends in `.part`.
 *
 * @throws StoreUnusable with a sentence
 */
export async function backUpFile(path: string, target: string): Promise<Backup> {
  if (!existsSync(path)) throw new StoreUnusable(`there is no store at ${path}`)
  refuseExisting(target)
  const keyFile = `${path}.key`
  const part = `${target}.part`
  try {
    // Made before SQLite opens it, for SQLite would make it readable to others.
    closeSync(openSync(part, 'wx', OWNER_ONLY))
  } catch (error) {
    throw new StoreUnusable(`${part} can not be made: ${reasonOf(error)}`, { cause: error })
  }
  try {
    const bytes = await copyDatabase(path, part)
    flush(part)
    // After the database: a secret in it was sealed with a key that is there by now.
    const hasKey = existsSync(keyFile)
    if (hasKey) copyFileSync(keyFile, `${target}.key`, constants.COPYFILE_EXCL)
    if (hasKey) flush(`${target}.key`)
    linkSync(part, target)
    flush(dirname(target))
    return { bytes, keyFile: hasKey ? `${target}.key` : null }
  } catch (error) {
    if (error instanceof StoreUnusable) throw error
    const sentence = sentenceFor(path, error) ?? `the copy failed: ${reasonOf(error)}`
    throw new StoreUnusable(sentence, { cause: error })
  } finally {
    for (const end of ['', '-journal', '-wal', '-shm']) rmSync(`${part}${end}`, { force: true })
  }
}

function refuseExisting(target: string): void {
  for (const file of [target, `${target}.key`]) {
    if (existsSync(file)) throw new StoreUnusable(`${file} is there already; name a new file`)
  }
}

async function copyDatabase(path: string, part: string): Promise<number> {
  const source = new DatabaseSync(path, { readOnly: true })
  try {
    // Proves that it is a database before anything is said of a copy.
    const { page_size: pageBytes } = source.prepare('pragma page_size').get() as {
      page_size: number
    }
    const pages = await backup(source, part, { rate: ALL_PAGES })
    return pages * pageBytes
  } finally {
    source.close()
  }
}

function flush(path: string): void {
  const file = openSync(path, 'r')
  try {
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
