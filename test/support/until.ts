// Waits for a condition, with a deadline. A test may let time pass in no other way.
import { setTimeout as sleep } from 'node:timers/promises'

const LOOK_INTERVAL_MS = 5
const DEFAULT_DEADLINE_MS = 15_000

/** Resolves once the condition holds. Throws if it does not hold by the deadline. */
export async function until(
  condition: () => boolean | Promise<boolean>,
  deadlineMs = DEFAULT_DEADLINE_MS,
): Promise<void> {
  const untilMs = performance.now() + deadlineMs
  while (!(await condition())) {
    if (performance.now() > untilMs) {
      throw new Error(`not within ${deadlineMs} ms: ${condition}`)
    }
    await sleep(LOOK_INTERVAL_MS)
  }
}
