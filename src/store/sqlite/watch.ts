// Tells listeners that something may be due: this process's own writes at once, those of other
// processes by a look at `data_version` (sqlite.org/pragma.html), which costs a few microseconds.
import type { Connection } from './connection.ts'

/**
 * Half of it is what an idle worker's pick-up waits on average; a look costs far less than that.
 */
const LOOK_EVERY_MS = 3

export interface Watch {
  onWork(listener: () => void): () => void
  /** A write of this process made something claimable. */
  stir(): void
  stop(): void
}

export function createWatch(connection: Connection): Watch {
  const listeners = new Set<() => void>()
  let seenVersion: unknown = null
  let timer: NodeJS.Timeout | null = null
  let stirred = false

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

  function stop(): void {
    if (timer !== null) clearInterval(timer)
    timer = null
    listeners.clear()
  }

  return {
    onWork(listener) {
      // Wrapped, so that the same function given twice is two listeners.
      const own = () => listener()
      listeners.add(own)
      if (timer === null) {
        seenVersion = connection.peekVersion()
        timer = setInterval(look, LOOK_EVERY_MS)
        timer.unref()
      }
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
