// Notices that the store at its path is no longer the one this process has open: removed, moved,
// replaced, or overwritten in place. SQLite notices none of these: it goes on writing to files that
// no other process can find ("How To Corrupt An SQLite Database File", 4.2 to 4.5).
import { closeSync, openSync, readSync, type Stats, statSync } from 'node:fs'
import { type StoreSettings, StoreUnavailable } from '../store.ts'

/** Idle processes notice, and report, within this time. */
const LOOK_EVERY_MS = 500
/** A busy one looks after each write at the file, and as often as this at all that belongs to it. */
const LOOK_AT_ALL_EVERY_MS = 50
/** sqlite.org/fileformat.html, "The Database Header". */
const HEADER_BYTES = 28
const MAGIC = 'SQLite format 3\0'
const CHANGE_COUNTER_AT = 24

export interface FileInPlace {
  /** Looks, and throws StoreUnavailable unless the files at the path are the open ones. */
  assertNow(): void
  /** Throws what the last look found: for reads, which are many, and before a write. */
  assertLastSeen(): void
  /** Watches a file that is needed for as long as the store is open. */
  add(path: string): void
  close(): void
}

type Settings = Pick<StoreSettings, 'warn' | 'error'>

/** @param path open in WAL mode, so that its log and shared memory are there too */
export function watchFileInPlace(path: string, settings: Settings): FileInPlace {
  const header = openHeader(path)
  const watched = new Map<string, FileId>()
  let lost: string | null = null
  let isClosed = false
  let lookedAtAllAtMs = Number.NEGATIVE_INFINITY

  function add(file: string): void {
    watched.set(file, fileId(file))
  }

  function look(): void {
    if (isClosed) return
    const found = lossNow()
    if (found === lost) return
    const isBack = found === null
    lost = found
    if (isBack) settings.warn({ detail: `the store ${path} is back in its place` }, 'store.back')
    else (settings.error ?? settings.warn)({ detail: adviceFor(path, found) }, 'store.lost')
  }

  function lossOf(file: string): string | null {
    const known = watched.get(file)
    const now = fileId(file)
    if (now.ino === known?.ino && now.dev === known.dev) return null
    return `${file} ${now.ino === null ? 'was removed' : 'was replaced by another file'}`
  }

  function lossNow(): string | null {
    lookedAtAllAtMs = performance.now()
    for (const file of watched.keys()) {
      const loss = lossOf(file)
      if (loss !== null) return loss
    }
    return header.isOverwritten() ? `${path} was overwritten by something other than SQLite` : null
  }

  function assertLastSeen(): void {
    if (lost !== null) throw new StoreUnavailable(lost, { kind: 'removed' })
  }

  for (const end of ['', '-wal', '-shm']) add(path + end)
  const timer = setInterval(look, LOOK_EVERY_MS)
  timer.unref()

  return {
    assertNow() {
      const isAllDue = performance.now() - lookedAtAllAtMs >= LOOK_AT_ALL_EVERY_MS
      if (isAllDue || lossOf(path) !== null) look()
      assertLastSeen()
    },
    assertLastSeen,
    add,
    close() {
      clearInterval(timer)
      isClosed = true
      header.close()
    },
  }
}

function adviceFor(path: string, loss: string): string {
  return (
    `${loss} while the store was in use: nothing is accepted, claimed or recorded until the same ` +
    `file is back. To go on with another one, stop every process of Posthorn, remove ${path}-wal ` +
    `and ${path}-shm if they are there, put the file in its place, and start again.`
  )
}

interface FileId {
  dev: number | null
  ino: number | null
}

/** A file that cannot be looked at for any reason is as good as none. */
function fileId(path: string): FileId {
  let stats: Stats | undefined
  try {
    stats = statSync(path, { throwIfNoEntry: false })
  } catch {
    stats = undefined
  }
  return { dev: stats?.dev ?? null, ino: stats?.ino ?? null }
}

interface Header {
  isOverwritten(): boolean
  close(): void
}

/**
 * The change counter in the file only grows while SQLite alone writes it, and every start of a
 * process raises it (open-file.ts). A copy made earlier, or by `posthorn backup`, has a lower one.
 */
function openHeader(path: string): Header {
  const file = openShared(path)
  const bytes = Buffer.alloc(HEADER_BYTES)
  let highest = 0
  return {
    isOverwritten() {
      const count = readSync(file.fd, bytes, 0, HEADER_BYTES, 0)
      const isDatabase =
        count === HEADER_BYTES && bytes.toString('latin1', 0, MAGIC.length) === MAGIC
      const counter = bytes.readUInt32BE(CHANGE_COUNTER_AT)
      if (!isDatabase || counter < highest) return true
      highest = counter
      return false
    },
    close: file.close,
  }
}

/** By device and inode. Only tests open one file several times in a process. */
const shared = new Map<string, { fd: number; users: number }>()

/**
 * One descriptor for all stores of a process on the same file, closed after the last of them: to
 * close any descriptor of a file drops the locks that SQLite holds on it in this process.
 */
function openShared(path: string): { fd: number; close(): void } {
  const { dev, ino } = fileId(path)
  const key = `${dev}:${ino}`
  const file = shared.get(key) ?? { fd: openSync(path, 'r'), users: 0 }
  shared.set(key, file)
  file.users++
  return {
    fd: file.fd,
    close() {
      file.users--
      if (file.users > 0) return
      shared.delete(key)
      closeSync(file.fd)
    },
  }
}
