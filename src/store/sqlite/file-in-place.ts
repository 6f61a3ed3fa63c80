// Detects that the store at its path is no longer the one that this process has open: it was
// removed, moved, replaced, or overwritten in place. SQLite does not detect that: it continues to
// write to files that no other process finds ("How To Corrupt An SQLite Database File", 4.2 to
// 4.5).

import {
  closeSync,
  fstatSync,
  openSync,
  readFileSync,
  readSync,
  type Stats,
  statSync,
} from 'node:fs'
import type { StoreSettings } from '../store.ts'
import { StoreUnavailable, type UnavailableKind } from '../store-errors.ts'

/** An idle process detects and reports it within this time. */
const LOOK_EVERY_MS = 500
/** A busy process checks the file after each write, and all files of the store as often as this. */
const LOOK_AT_ALL_EVERY_MS = 50
const CUT_OFF_FOR_MS = 300

/** SQLite truncates the log to this size after a burst. */
export const MAX_IDLE_LOG_BYTES = 64 * 1024 * 1024

/** sqlite.org/fileformat.html, "The Database Header". */
const HEADER_BYTES = 32
const MAGIC = 'SQLite format 3\0'
const PAGE_SIZE_AT = 16
const CHANGE_COUNTER_AT = 24
const PAGE_COUNT_AT = 28
/** sqlite.org/fileformat.html, "WAL File Format": the last bit is the byte order. */
const LOG_HEADER_BYTES = 32
const LOG_MAGIC = 0x377f0682
const LOG_PAGE_SIZE_AT = 8
const FRAME_HEADER_BYTES = 24

export interface FileInPlace {
  /** Checks the files, and throws StoreUnavailable unless those at the path are the open ones. */
  assertNow(): void
  /** Throws what the last check found: for reads, which are many, and before a write. */
  assertLastSeen(): void
  /** Checks a small file, too, which must not change while the store is open. */
  add(path: string): void
  close(): void
}

type Settings = Pick<StoreSettings, 'warn' | 'error'>

/** @param path open in WAL mode, so that its log and shared memory are there too */
export function watchFileInPlace(path: string, settings: Settings): FileInPlace {
  const files = watchFiles(path)
  let lost: Loss | null = null
  let isClosed = false
  let lookedAtAllAtMs = Number.NEGATIVE_INFINITY

  function look(): void {
    if (isClosed) return
    lookedAtAllAtMs = performance.now()
    const found = files.loss()
    if (found?.text === lost?.text) return
    lost = found
    if (found === null) {
      settings.warn({ detail: `the store ${path} is back in its place` }, 'store.back')
      return
    }
    const report = settings.error ?? settings.warn
    report({ detail: found.advice }, 'store.lost')
  }

  function assertLastSeen(): void {
    if (lost !== null) throw new StoreUnavailable(lost.text, { kind: lost.kind })
  }

  const timer = setInterval(look, LOOK_EVERY_MS)
  timer.unref()

  return {
    assertNow() {
      const isAllDue = performance.now() - lookedAtAllAtMs >= LOOK_AT_ALL_EVERY_MS
      if (isAllDue || files.lossOf(path) !== null) look()
      assertLastSeen()
    },
    assertLastSeen,
    add: files.add,
    close() {
      clearInterval(timer)
      isClosed = true
      files.close()
    },
  }
}

interface Loss {
  /** A sentence without its full stop. */
  text: string
  /** `damaged`: moving a file back does not repair it. */
  kind: Extract<UnavailableKind, 'removed' | 'damaged'>
  /** `text` with what to do, for the log. */
  advice: string
}

/** Reports the problems of the files of a store. */
function watchFiles(path: string) {
  const header = openHeader(path)
  const log = openLog(`${path}-wal`)
  const known = new Map(['', '-wal', '-shm'].map((end) => [path + end, fileId(path + end)]))
  const contents = new Map<string, Buffer>()
  /** The damage is kept, because what was cut off is lost. */
  let damage: string | null = null

  function lossOf(file: string): string | null {
    const before = known.get(file)
    const now = fileId(file)
    if (now.ino === before?.ino && now.dev === before.dev) return null
    return `${file} ${now.ino === null ? 'was removed' : 'was replaced by another file'}`
  }

  function cutOff(): string | null {
    if (header.isCutOff()) return `a part of ${path} was cut off`
    return log.isCutOff() ? `a part of ${path}-wal was cut off` : null
  }

  return {
    lossOf,
    loss(): Loss | null {
      for (const file of known.keys()) {
        const text = lossOf(file)
        if (text !== null) return moved(path, text)
      }
      for (const [file, content] of contents) {
        const change = changeOf(file, content)
        if (change !== null) return keyFileLoss(file, change)
      }
      damage ??= cutOff()
      if (damage !== null) return damaged(path, damage)
      const overwritten = header.overwritten()
      if (overwritten === null) return null
      const text = `${path} was overwritten by something other than SQLite`
      return overwritten === 'copy' ? moved(path, text) : damaged(path, text)
    },
    add(file: string): void {
      known.set(file, fileId(file))
      contents.set(file, readFileSync(file))
    },
    close() {
      header.close()
      log.close()
    },
  }
}

function moved(path: string, text: string): Loss {
  const advice =
    `${text} while the store was in use: nothing is accepted, claimed or recorded until the same ` +
    `file is back. To continue with another one, stop every process of Posthorn, remove ${path}-wal ` +
    `and ${path}-shm if they are there, put the file in its place, and start again.`
  return { text, kind: 'removed', advice }
}

function damaged(path: string, text: string): Loss {
  const advice =
    `${text} while the store was in use: nothing is accepted, claimed or recorded any more. Stop ` +
    `every process of Posthorn, remove ${path}-wal and ${path}-shm if they are there, and restore ` +
    'the store from a backup.'
  return { text, kind: 'damaged', advice }
}

function keyFileLoss(file: string, change: string): Loss {
  const text = `the key file ${file} ${change}`
  const advice =
    `${text} while the store was in use: nothing is accepted, claimed or recorded until its content ` +
    'is as before. Restore it from a backup; without its key no stored secret can be read.'
  return { text, kind: 'removed', advice }
}

/** null: none. */
function changeOf(file: string, content: Buffer): string | null {
  try {
    return readFileSync(file).equals(content) ? null : 'was changed'
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    return code === 'ENOENT' ? 'was removed' : 'cannot be read'
  }
}

interface FileId {
  dev: number | null
  ino: number | null
}

/** A file that cannot be read for any reason counts as missing. */
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
  /**
   * What the file was overwritten with: an earlier copy of the store, or something that is not a
   * database.
   */
  overwritten(): 'copy' | 'other' | null
  isCutOff(): boolean
  close(): void
}

/**
 * The change counter in the file only grows while SQLite alone writes it, and each start of a
 * process raises it (connection.ts). An earlier copy, or one of `posthorn backup`, has a lower one.
 */
function openHeader(path: string): Header {
  const file = openShared(path)
  const bytes = Buffer.alloc(HEADER_BYTES)
  let highest = 0
  let knownSize = 0
  let suspected: { size: number; atMs: number } | null = null
  return {
    /**
     * SQLite makes the file smaller after a vacuum, and updates the header first. While a
     * checkpoint lets it grow again, it may be smaller than its header says. So it counts as cut
     * off only if it stays smaller for some time.
     */
    isCutOff() {
      const { size } = fstatSync(file.fd)
      if (size >= knownSize || size >= sizeByHeader()) {
        knownSize = size
        suspected = null
        return false
      }
      if (suspected?.size !== size) suspected = { size, atMs: performance.now() }
      return performance.now() - suspected.atMs > CUT_OFF_FOR_MS
    },
    overwritten() {
      const count = readSync(file.fd, bytes, 0, HEADER_BYTES, 0)
      const isDatabase =
        count === HEADER_BYTES && bytes.toString('latin1', 0, MAGIC.length) === MAGIC
      const counter = bytes.readUInt32BE(CHANGE_COUNTER_AT)
      if (!isDatabase) return 'other'
      if (counter < highest) return 'copy'
      highest = counter
      return null
    },
    close: file.close,
  }

  function sizeByHeader(): number {
    readSync(file.fd, bytes, 0, HEADER_BYTES, 0)
    const pageSize = bytes.readUInt16BE(PAGE_SIZE_AT)
    // 65,536 does not fit and is stored as 1.
    return bytes.readUInt32BE(PAGE_COUNT_AT) * (pageSize === 1 ? 65_536 : pageSize)
  }
}

/**
 * SQLite writes a header with new salts whenever it writes the log from its start again. With the
 * same header the log keeps its length, and its last frame stays unchanged or is replaced by one
 * with these salts. Otherwise another program has truncated the log, and SQLite has written after a
 * gap.
 */
function openLog(path: string): { isCutOff(): boolean; close(): void } {
  const file = openShared(path)
  const read = (at: number, length: number) => {
    const bytes = Buffer.alloc(length)
    return bytes.subarray(0, readSync(file.fd, bytes, 0, length, at))
  }
  let known = { size: 0, header: Buffer.alloc(0), frameAt: 0, frame: Buffer.alloc(0) }

  function isShorter(size: number): boolean {
    // SQLite truncates the log to this size after a burst.
    if (size < known.size && size < MAX_IDLE_LOG_BYTES) return true
    const frame = read(known.frameAt, FRAME_HEADER_BYTES)
    return (
      !frame.equals(known.frame) && !frame.subarray(8, 16).equals(known.header.subarray(16, 24))
    )
  }

  return {
    isCutOff() {
      const { size } = fstatSync(file.fd)
      const header = read(0, LOG_HEADER_BYTES)
      // SQLite may empty it: the next write starts it again.
      if (size < LOG_HEADER_BYTES || header.length < LOG_HEADER_BYTES) return false
      if ((header.readUInt32BE(0) & ~1) >>> 0 !== LOG_MAGIC) return true
      const isSuspect = header.equals(known.header) && isShorter(size)
      // Another process may have started the log again between two of these reads.
      if (isSuspect && read(0, LOG_HEADER_BYTES).equals(header)) return true
      const frameBytes = FRAME_HEADER_BYTES + header.readUInt32BE(LOG_PAGE_SIZE_AT)
      const frames = Math.floor((size - LOG_HEADER_BYTES) / frameBytes)
      const frameAt = frames === 0 ? 0 : LOG_HEADER_BYTES + (frames - 1) * frameBytes
      known = { size, header, frameAt, frame: read(frameAt, FRAME_HEADER_BYTES) }
      return false
    },
    close: file.close,
  }
}

/** The keys are device and inode. Only tests open one file several times in a process. */
const shared = new Map<string, { fd: number; users: number }>()

/**
 * One descriptor for all stores of a process on the same file, closed after the last of them.
 * Closing any descriptor of a file drops the locks that SQLite holds on it in this process.
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
