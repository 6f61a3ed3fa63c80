// Lanes with work that may not be claimed now: of endpoints that are paused, disabled, resting or
// at a limit. Each is looked at again when that may have changed, since nothing becomes due then.

/** A resume is to reach every worker within a second; longer than what the endpoint cache keeps. */
const LOOK_AGAIN_MS = 450
/** Looked at again together; with more stopped lanes than this each comes less often. */
const MAX_AT_ONCE = 200
/** Beyond this a lane is forgotten here, and found again by a full look at all that is due. */
const MAX_STOPPED = 20_000

export interface StoppedLanes {
  /** @param inMs when to look again; undefined: nobody knows, so before long */
  stop(endpoint: string, inMs?: number): void
  /** Something of the endpoint ended: a limit may let the next one through. */
  mayGoOn(endpoint: string): boolean
  /** Those whose time has come; they are stopped no longer. */
  takeReady(): string[]
  /** Milliseconds until the next one; null: none is stopped. */
  untilNextMs(): number | null
}

export function createStoppedLanes(): StoppedLanes {
  /** Monotonic instants, in the order in which they were stopped. */
  const againAtMs = new Map<string, number>()
  return {
    stop(endpoint, inMs = LOOK_AGAIN_MS) {
      if (againAtMs.size >= MAX_STOPPED && !againAtMs.has(endpoint)) return
      againAtMs.delete(endpoint)
      // A longer rest may be ended by a resume: look in between.
      againAtMs.set(endpoint, performance.now() + Math.min(Math.max(1, inMs), LOOK_AGAIN_MS))
    },
    mayGoOn: (endpoint) => againAtMs.delete(endpoint),
    takeReady() {
      const nowMs = performance.now()
      const ready: string[] = []
      for (const [endpoint, atMs] of againAtMs) {
        if (atMs <= nowMs && ready.length < MAX_AT_ONCE) ready.push(endpoint)
      }
      for (const endpoint of ready) againAtMs.delete(endpoint)
      return ready
    },
    untilNextMs() {
      if (againAtMs.size === 0) return null
      let first = Number.POSITIVE_INFINITY
      for (const atMs of againAtMs.values()) if (atMs < first) first = atMs
      return first - performance.now()
    },
  }
}
