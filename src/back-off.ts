// Waiting before asking again something that failed.
import { setTimeout as sleep } from 'node:timers/promises'

/**
 * Waits firstMs, doubling with each try up to maxMs, half of it at random: who failed together
 * parts.
 */
export async function backOff(tries: number, firstMs: number, maxMs: number): Promise<void> {
  const fullMs = Math.min(firstMs * 2 ** tries, maxMs)
  await sleep(fullMs * (0.5 + Math.random() / 2))
}
