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
/** The log is written before its commit shows, and flushed in between. */
const LOOK_CLOSELY_EVERY_MS = 1
const LOOK_CLOSELY_FOR_MS = 30

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
  let closeTimer: NodeJS.Timeout | null = null
  let closelyUntilMs = 0

  function tell(): void {
    stirred = false
    for (const listener of [...listeners]) listener()
  }

  // Changes of this connection do not show in data_version: stir() tells of them.
  function look(): void {
    const version = connection.peekVersion()
    if (version === seenVersion || version === null) return
    seenVersion = version
    tell()
  }

  function lookClosely(): void {
    closelyUntilMs = performance.now() + LOOK_CLOSELY_FOR_MS
    closeTimer ??= setInterval(() => {
      look()
      if (performance.now() > closelyUntilMs) stopLookingClosely()
    }, LOOK_CLOSELY_EVERY_MS).unref()
  }

  function stopLookingClosely(): void {
    if (closeTimer !== null) clearInterval(closeTimer)
    closeTimer = null
  }

  function start(): void {
    seenVersion = connection.peekVersion()
    log = watchLog(path, lookClosely)
    timer = setInterval(look, log === null ? LOOK_EVERY_MS : LOOK_IN_CASE_EVERY_MS)
    timer.unref()
  }

  function stop(): void {
    if (timer !== null) clearInterval(timer)
    timer = null
    stopLookingClosely()
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
