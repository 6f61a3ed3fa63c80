// Detects that the store's clock was set back. Instants that were stored while it was ahead are
// then in the future, so that jobs and rests would wait too long.

/** A slewed clock or a delayed process causes smaller differences than this. */
const TOLERANCE_MS = 500

export interface SetBackWatch {
  /** Called whenever now() is read, with the offset from the monotonic clock of this process. */
  note(offsetMs: number): void
  /** Implements StoreClock.watchSetBack. */
  watch(): SetBackLooks
}

export interface SetBackLooks {
  /**
   * How far the clock was set back since the last call, in milliseconds; 0: it was not. It counts
   * every instant that now() has returned meanwhile, even if the clock was ahead for a moment only.
   */
  look(): number
  stop(): void
}

/**
 * @param offsetMs the present offset of the store's clock from the monotonic clock of this process
 */
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
