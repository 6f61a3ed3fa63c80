// Tells when the store's clock was set back. Instants that were stored while it was ahead then lie
// in the future, where nobody looks at them again in time.
import type { StoreClock } from '../store/store.ts'

/** A clock that is slewed, and a process that is late, are within this. */
const TOLERANCE_MS = 500

/** How far back since the last call, by the monotonic clock; 0: it was not. */
export function watchForSetBack(clock: StoreClock): () => number {
  let lastNow = clock.now()
  let lastMs = performance.now()
  return () => {
    const now = clock.now()
    const nowMs = performance.now()
    const setBackMs = Math.round(nowMs - lastMs - (now - lastNow))
    lastNow = now
    lastMs = nowMs
    return setBackMs > TOLERANCE_MS ? setBackMs : 0
  }
}
