// Tells listeners that something may be due: this process's own writes at once, those of other
// processes by `data_version` (sqlite.org/pragma.html). It is looked at closely for a moment
// after the system says that the write-ahead log was written, and now and then in case it says
// nothing.

import { type FSWatcher, watch as watchFile } from 'node:fs'

/** In case a word of the system is lost, which may happen. */
const LOOK_IN_CASE_EVERY_MS = 250
/** Where the system tells nothing. A look costs some microseconds, waking up for it more. */
const LOOK_UNTOLD_EVERY_MS = 25
/**
 * The log is written before its commit shows, and flushed in between: a word of the system is
 * followed by looks, ever more seldom, and so is news. Meanwhile the system is not listened to:
 * where several workers are busy their writes never end, and each would wake all of them.
 */
const LOOK_CLOSELY_MS = { first: 1, growth: 1.3, most: 8, afterNews: 3, inAll: 30 }

export interface Watch {
  onWork(listener: () => void): () => void
  /** A write of this process made something claimable. */
  stir(): void
  stop(): void
}

/**
 * @param peekVersion changes when another connection has written; null: it cannot be asked now
 * @param path the database, open and in WAL mode: its log stays while it is open
 */
export function createWatch(peekVersion: () => number | null, path: string): Watch {
  const listeners = new Set<() => void>()
  let seenVersion: unknown = null
  let timer: NodeJS.Timeout | null = null
  let stirred = false
  const closeLooks = lookCloselyWhenTold(path, look)

  function tell(): void {
    stirred = false
    for (const listener of [...listeners]) listener()
  }

  // Changes of this connection do not show in data_version: stir() tells of them.
  function look(): boolean {
    const version = peekVersion()
    if (version === seenVersion || version === null) return false
    seenVersion = version
    tell()
    return true
  }

  function start(): void {
    seenVersion = peekVersion()
    closeLooks.start()
    timer = setInterval(look, LOOK_IN_CASE_EVERY_MS)
    timer.unref()
  }

  function stop(): void {
    if (timer !== null) clearInterval(timer)
    timer = null
    closeLooks.stop()
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
function lookCloselyWhenTold(path: string, look: () => boolean) {
  const { first, growth, most, afterNews, inAll } = LOOK_CLOSELY_MS
  let log: FSWatcher | null = null
  let timer: NodeJS.Timeout | null = null
  let waitMs: number = first
  let untilMs = 0

  function listen(): void {
    log = watchLog(path, onWritten)
    if (log === null) lookIn(LOOK_UNTOLD_EVERY_MS)
  }

  function onWritten(): void {
    log?.close()
    log = null
    untilMs = performance.now() + inAll
    lookIn(first)
  }

  function lookIn(ms: number): void {
    if (timer !== null) clearTimeout(timer)
    waitMs = ms
    timer = setTimeout(lookNow, ms).unref()
  }

  function lookNow(): void {
    timer = null
    const isNews = look()
    const nowMs = performance.now()
    if (isNews) untilMs = nowMs + inAll
    if (nowMs < untilMs) {
      lookIn(isNews ? afterNews : Math.min(most, waitMs * growth))
    } else if (log === null) {
      listen()
      // What was written just before it was listened to shows by then.
      if (log !== null) lookIn(most)
    }
  }

  return {
    start: listen,
    stop() {
      if (timer !== null) clearTimeout(timer)
      timer = null
      log?.close()
      log = null
    },
  }
}

/** null where the system has no watch to give, as when its limit of them is reached. */
function watchLog(path: string, onWritten: () => void): FSWatcher | null {
  try {
    const watcher = watchFile(`${path}-wal`, { persistent: false }, onWritten)
    // Hints may be missed: the looks in case go on.
    watcher.on('error', () => watcher.close())
    return watcher
  } catch {
    return null
  }
}
