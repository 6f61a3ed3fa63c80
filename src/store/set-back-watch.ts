// Tells when the store's clock was set back. Instants that were stored while it was ahead then lie
// in the future, where nobody looks at them again in time.

/** A clock that is slewed, and a process that is late, are within this. */
const TOLERANCE_MS = 500

export interface SetBackWatch {
  /** An instant was told: so far it is from the monotonic clock of this process. */
  note(offsetMs: number): void
  /** Of StoreClock. */
  watch(): SetBackLooks
}

export interface SetBackLooks {
  /**
   * How far the clock was set back since the look before, in milliseconds; 0: it was not. Every
   * instant that now() told in between counts, however short the clock was ahead.
   */
  look(): number
  stop(): void
}

/** @param offsetMs of the store's clock from the monotonic clock of this process, now */
export function createSetBackWatch(offsetMs: () => number): SetBackWatch {
  const watchers = new Set<{ highestMs: number }>()
  return {
    note(noted) {
      for (const watcher of watchers) if (noted > watcher.highestMs) watcher.highestMs = noted
    },
    watch() {
      const watcher = { highestMs: offsetMs() }
      watchers.add(watcher)
      return {
        look() {
          const current = offsetMs()
          const setBackMs = Math.round(watcher.highestMs - current)
          watcher.highestMs = current
          return setBackMs > TOLERANCE_MS ? setBackMs : 0
        },
        stop() {
          watchers.delete(watcher)
        },
      }
    },
  }
}
