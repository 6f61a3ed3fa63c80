// Tells listeners that something may be due: this process's own writes at once, those of other
// processes by `data_version` (sqlite.org/pragma.html). It is looked at closely for a moment
// after the system says that the write-ahead log was written, and now and then in case it says
// nothing.
import { type FSWatcher, watch as watchFile } from 'node:fs'
import type { Connection } from './connection.ts'

/** For file systems that tell nothing. A look costs some microseconds, waking up for it more. */
const LOOK_EVERY_MS = 25
/** Where the system tells: a word of it may be lost. */
const LOOK_IN_CASE_EVERY_MS = 250
/**
 * The log is written before its commit shows, and flushed in between: what the system tells of is
 * looked for at once, then ever more seldom. So often again only for another word, and after news
 * not before a moment is over: where several workers are busy, their writes never end.
 */
const LOOK_CLOSELY_MS = { least: 1, growth: 1.3, most: 8, afterNews: 5, inAll: 30 }

export interface Watch {
  onWork(listener: () => void): () => void
  /** A write of this process made something claimable. */
  stir(): void
  stop(): void
}

/** @param path the database, open and in WAL mode: its log stays while it is open */
export function createWatch(connection: Connection, path: string): Watch {
  const listeners = new Set<() => void>()
  let seenVersion: unknown = null
  let timer: NodeJS.Timeout | null = null
  let log: FSWatcher | null = null
  let stirred = false
  const closeLooks = lookCloselyWhenTold(look, () => connection.writeCount)

  function tell(): void {
    stirred = false
    for (const listener of [...listeners]) listener()
  }

  // Changes of this connection do not show in data_version: stir() tells of them.
  function look(): boolean {
    const version = connection.peekVersion()
    if (version === seenVersion || version === null) return false
    seenVersion = version
    tell()
    return true
  }

  function start(): void {
    seenVersion = connection.peekVersion()
    log = watchLog(path, closeLooks.onWritten)
    timer = setInterval(look, log === null ? LOOK_EVERY_MS : LOOK_IN_CASE_EVERY_MS)
    timer.unref()
  }

  function stop(): void {
    if (timer !== null) clearInterval(timer)
    timer = null
    closeLooks.stop()
    log?.close()
    log = null
    listeners.clear()
  }

  return {
    onWork(listener) {
      // Wrapped, so that the same function given twice is two listeners.
      const own = () => listener()
      listeners.add(own)
      if (timer === null) start()
      return () => {
        listeners.delete(own)
        if (listeners.size === 0) stop()
      }
    },
    stir() {
      if (stirred || listeners.size === 0) return
      stirred = true
      setImmediate(tell)
    },
    stop,
  }
}

/** @param look whether there was news */
function lookCloselyWhenTold(look: () => boolean, writeCount: () => number) {
  const { least, growth, most, afterNews, inAll } = LOOK_CLOSELY_MS
  let timer: NodeJS.Timeout | null = null
  let waitMs: number = least
  let untilMs = 0
  let newsAtMs = Number.NEGATIVE_INFINITY
  let isToldAgain = false
  let seenWrites = 0

  function lookIn(ms: number): void {
    if (timer !== null) clearTimeout(timer)
    waitMs = ms
    timer = setTimeout(lookNow, ms).unref()
  }

  function lookNow(): void {
    timer = null
    const wasToldAgain = isToldAgain
    isToldAgain = false
    const isNews = look()
    const nowMs = performance.now()
    if (isNews) newsAtMs = nowMs
    // What the word was about has been seen, unless there was another since the last look.
    if (nowMs > untilMs || (isNews && !wasToldAgain)) return
    lookIn(isNews ? afterNews : Math.min(most, waitMs * growth))
  }

  return {
    onWritten() {
      const nowMs = performance.now()
      untilMs = nowMs + inAll
      isToldAgain = timer !== null
      // A write of this process is no news, and hides none for longer than the next look takes.
      const isOwn = writeCount() !== seenWrites
      seenWrites = writeCount()
      const soonestMs = Math.max(least, newsAtMs + afterNews - nowMs)
      if (timer === null || (!isOwn && soonestMs < waitMs)) lookIn(soonestMs)
    },
    stop() {
      if (timer !== null) clearTimeout(timer)
      timer = null
    },
  }
}

/** null where the system has no watch to give, as when its limit of them is reached. */
function watchLog(path: string, onWritten: () => void): FSWatcher | null {
  try {
    const watcher = watchFile(`${path}-wal`, { persistent: false }, onWritten)
    // Hints may be missed: the timer goes on.
    watcher.on('error', () => watcher.close())
    return watcher
  } catch {
    return null
  }
}
