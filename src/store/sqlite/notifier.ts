// Notifies listeners that something may be due: at once after a write of this process, and after
// writes of other processes, which show in `pragma data_version` (sqlite.org/pragma.html). It is
// polled often for a moment after the system reports a write to the write-ahead log, and seldom
// otherwise, in case a report is lost.

import { type FSWatcher, watch } from 'node:fs'

/** The interval of polls in case a report of the system is lost, which may happen. */
const POLL_EVERY_MS = 250
/** The interval of polls if the system cannot watch the log: waking up is most of their cost. */
const POLL_UNWATCHED_EVERY_MS = 25
/**
 * A write to the log comes before its commit shows, with a flush in between. So polls follow a
 * report, with growing pauses, and again after each change that they find. Meanwhile the log is not
 * watched: the writes of several busy workers never pause, and each would wake all of them.
 */
const BURST_MS = { first: 1, growth: 1.3, most: 8, afterChange: 3, total: 30 }

export interface Notifier {
  onWork(listener: () => void): () => void
  /** A write of this process made something claimable. */
  notifyWork(): void
  stop(): void
}

/**
 * @param peekVersion changes when another connection has written; null: it cannot be read now
 * @param path the database, open and in WAL mode: its log exists while it is open
 */
export function createNotifier(peekVersion: () => number | null, path: string): Notifier {
  const listeners = new Set<() => void>()
  let seenVersion: unknown = null
  let timer: NodeJS.Timeout | null = null
  let isPlanned = false
  const bursts = pollAfterLogWrites(path, poll)

  function notifyAll(): void {
    isPlanned = false
    for (const listener of [...listeners]) listener()
  }

  /** Whether there was a change. Those of this connection do not show: see notifyWork(). */
  function poll(): boolean {
    const version = peekVersion()
    if (version === seenVersion || version === null) return false
    seenVersion = version
    notifyAll()
    return true
  }

  function start(): void {
    seenVersion = peekVersion()
    bursts.start()
    timer = setInterval(poll, POLL_EVERY_MS)
    timer.unref()
  }

  function stop(): void {
    if (timer !== null) clearInterval(timer)
    timer = null
    bursts.stop()
    listeners.clear()
  }

  return {
    onWork(listener) {
      // The listener is wrapped, so that the same function given twice is two listeners.
      const own = () => listener()
      listeners.add(own)
      if (timer === null) start()
      return () => {
        listeners.delete(own)
        if (listeners.size === 0) stop()
      }
    },
    notifyWork() {
      if (isPlanned || listeners.size === 0) return
      isPlanned = true
      setImmediate(notifyAll)
    },
    stop,
  }
}

/** @param poll whether there was a change */
function pollAfterLogWrites(path: string, poll: () => boolean) {
  const { first, growth, most, afterChange, total } = BURST_MS
  let log: FSWatcher | null = null
  let timer: NodeJS.Timeout | null = null
  let waitMs: number = first
  let untilMs = 0

  function watchAgain(): void {
    log = watchLog(path, onWritten)
    if (log === null) pollIn(POLL_UNWATCHED_EVERY_MS)
  }

  function onWritten(): void {
    log?.close()
    log = null
    untilMs = performance.now() + total
    pollIn(first)
  }

  function pollIn(ms: number): void {
    if (timer !== null) clearTimeout(timer)
    waitMs = ms
    timer = setTimeout(pollNow, ms).unref()
  }

  function pollNow(): void {
    timer = null
    const isChanged = poll()
    const nowMs = performance.now()
    if (isChanged) untilMs = nowMs + total
    if (nowMs < untilMs) {
      pollIn(isChanged ? afterChange : Math.min(most, waitMs * growth))
    } else if (log === null) {
      watchAgain()
      // A write from just before the watch began shows by then.
      if (log !== null) pollIn(most)
    }
  }

  return {
    start: watchAgain,
    stop() {
      if (timer !== null) clearTimeout(timer)
      timer = null
      log?.close()
      log = null
    },
  }
}

/** null if the system cannot watch, as when its limit of watches is reached. */
function watchLog(path: string, onWritten: () => void): FSWatcher | null {
  try {
    const watcher = watch(`${path}-wal`, { persistent: false }, onWritten)
    // A report may be missed: the rare polls continue.
    watcher.on('error', () => watcher.close())
    return watcher
  } catch {
    return null
  }
}
