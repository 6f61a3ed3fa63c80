// Waits for a condition, with a deadline. A test may let time pass in no other way.
import { setTimeout as sleep } from 'node:timers/promises'

const LOOK_INTERVAL_MS = 5
/**
 * A condition that asks a server takes CPU time, which other tests need. It is checked more rarely
 * the longer it has not held: the interval is this share of the time.
 */
const INTERVAL_SHARE = 0.1
const MAX_INTERVAL_MS = 100
const DEFAULT_DEADLINE_MS = 15_000

/** Resolves once the condition holds. Throws if it does not hold by the deadline. */
export async function until(
  condition: () => boolean | Promise<boolean>,
  deadlineMs = DEFAULT_DEADLINE_MS,
): Promise<void> {
  const beganAtMs = performance.now()
  while (true) {
    const holds = condition()
    if (await holds) return
    const waitedMs = performance.now() - beganAtMs
    if (waitedMs > deadlineMs) throw new Error(`not within ${deadlineMs} ms: ${condition}`)
    await sleep(typeof holds === 'boolean' ? LOOK_INTERVAL_MS : askIntervalMs(waitedMs))
  }
}

function askIntervalMs(waitedMs: number): number {
  return Math.min(MAX_INTERVAL_MS, Math.max(LOOK_INTERVAL_MS, waitedMs * INTERVAL_SHARE))
}
