// Notices that the store at its path is no longer the one this process has open: removed, moved,
// replaced, or overwritten in place. SQLite notices none of these: it goes on writing to files that
// no other process can find ("How To Corrupt An SQLite Database File", 4.2 to 4.5).
import {
  closeSync,
  fstatSync,
  openSync,
  readFileSync,
  readSync,
  type Stats,
  statSync,
} from 'node:fs'
import { type StoreSettings, StoreUnavailable } from '../store.ts'
import { MAX_IDLE_LOG_BYTES } from './open-file.ts'

/** Idle processes notice, and report, within this time. */
const LOOK_EVERY_MS = 500
/** A busy one looks after each write at the file, and as often as this at all that belongs to it. */
const LOOK_AT_ALL_EVERY_MS = 50
/** sqlite.org/fileformat.html, "The Database Header". */
const HEADER_BYTES = 32
const MAGIC = 'SQLite format 3\0'
const PAGE_SIZE_AT = 16
const CHANGE_COUNTER_AT = 24
const PAGE_COUNT_AT = 28
/** sqlite.org/fileformat.html, "WAL File Format": the last bit tells the order of bytes. */
const LOG_HEADER_BYTES = 32
const LOG_MAGIC = 0x377f0682

export interface FileInPlace {
  /** Looks, and throws StoreUnavailable unless the files at the path are the open ones. */
  assertNow(): void
  /** Throws what the last look found: for reads, which are many, and before a write. */
  assertLastSeen(): void
  /** Watches a small file that must stay as it is for as long as the store is open. */
  add(path: string): void
  close(): void
}

type Settings = Pick<StoreSettings, 'warn' | 'error'>

/** @param path open in WAL mode, so that its log and shared memory are there too */
export function watchFileInPlace(path: string, settings: Settings): FileInPlace {
  const header = openHeader(path)
  const log = openLog(`${path}-wal`)
  const watched = new Map<string, FileId>()
  const contents = new Map<string, Buffer>()
  let lost: string | null = null
  /** Nothing brings it back: what was cut off is gone. */
  let damage: string | null = null
  let isClosed = false
  let lookedAtAllAtMs = Number.NEGATIVE_INFINITY

  function add(file: string): void {
    watched.set(file, fileId(file))
    contents.set(file, readFileSync(file))
  }

  function look(): void {
    if (isClosed) return
    const found = lossNow()
    if (found === lost) return
    const isBack = found === null
    lost = found
    if (isBack) settings.warn({ detail: `the store ${path} is back in its place` }, 'store.back')
    else {
      const detail = damage === null ? adviceFor(path, found) : damageAdvice(path, damage)
      ;(settings.error ?? settings.warn)({ detail }, 'store.lost')
    }
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
    for (const [file, content] of contents) {
      if (!isStill(file, content)) return `${file} was changed`
    }
    damage ??= cutOff()
    if (damage !== null) return damage
    return header.isOverwritten() ? `${path} was overwritten by something other than SQLite` : null
  }

  function cutOff(): string | null {
    if (header.isCutOff()) return `a part of ${path} was cut off`
    return log.isCutOff() ? `a part of ${path}-wal was cut off` : null
  }

  function assertLastSeen(): void {
    if (lost !== null) throw new StoreUnavailable(lost, { kind: 'removed' })
  }

  for (const end of ['', '-wal', '-shm']) watched.set(path + end, fileId(path + end))
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
      log.close()
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

function damageAdvice(path: string, damage: string): string {
  return (
    `${damage} while the store was in use: nothing is accepted, claimed or recorded any more. Stop ` +
    `every process of Posthorn, remove ${path}-wal and ${path}-shm if they are there, and restore ` +
    'the store from a backup.'
  )
}

function isStill(file: string, content: Buffer): boolean {
  try {
    return readFileSync(file).equals(content)
  } catch {
    return false
  }
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
  isCutOff(): boolean
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
  let knownSize = 0
  return {
    /**
     * SQLite itself makes the file smaller after a vacuum, and has said so in the header by then.
     * A file that is to grow may be smaller than its header says for as long as a checkpoint takes.
     */
    isCutOff() {
      const { size } = fstatSync(file.fd)
      if (size < knownSize) {
        readSync(file.fd, bytes, 0, HEADER_BYTES, 0)
        const pageSize = bytes.readUInt16BE(PAGE_SIZE_AT)
        // 65,536 does not fit and is written as 1.
        const bytesPerPage = pageSize === 1 ? 65_536 : pageSize
        if (size < bytes.readUInt32BE(PAGE_COUNT_AT) * bytesPerPage) return true
      }
      knownSize = size
      return false
    },
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

/**
 * SQLite writes a header with new salts whenever it begins the log from its start, and empties it
 * only after that or whole. So one that got shorter under the same header was cut off by another
 * program, and where its beginning was cut off SQLite has written behind a hole.
 */
function openLog(path: string): { isCutOff(): boolean; close(): void } {
  const file = openShared(path)
  let known = { size: 0, header: Buffer.alloc(0) }
  return {
    isCutOff() {
      const { size } = fstatSync(file.fd)
      const header = Buffer.alloc(LOG_HEADER_BYTES)
      if (size < LOG_HEADER_BYTES) return false
      readSync(file.fd, header, 0, LOG_HEADER_BYTES, 0)
      if ((header.readUInt32BE(0) & ~1) >>> 0 !== LOG_MAGIC) return true
      // After a burst SQLite cuts the log back to this size.
      const isShorter = size < known.size && size < MAX_IDLE_LOG_BYTES
      if (isShorter && header.equals(known.header)) return true
      known = { size, header }
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
