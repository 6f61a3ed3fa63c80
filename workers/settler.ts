// Records how attempts ended, in batches: what ends while a write is in flight goes with the next.
import type { Logger } from 'pino'
import { backOff } from '../src/back-off.ts'
import type { Settlement, SettleResult } from '../src/store/settlement.ts'
import { type Store, StoreUnavailable } from '../src/store/store.ts'
import type { Beat } from './beat.ts'

/** One write holds no more than this; what can wait is bounded by the attempts in flight. */
const MAX_SETTLE_BATCH = 500
const FIRST_RETRY_MS = 50
const MAX_RETRY_MS = 1_000

interface Waiting {
  settlement: Settlement
  resolve: (result: SettleResult) => void
}

export interface Settler {
  /**
   * Resolves when the store has answered. A store that is away is asked again for as long as it
   * takes: a result in hand is never dropped, and writing it twice is harmless.
   */
  settle(settlement: Settlement): Promise<SettleResult>
}

/**
 * @param beat says when to write
 * @param onBatch told how many outcomes each write holds
 */
export function createSettler(
  store: Pick<Store, 'settle'>,
  beat: Pick<Beat, 'next'>,
  onBatch: (size: number) => void,
  log: Logger,
): Settler {
  let waiting: Waiting[] = []
  let isWriting = false

  async function writeAll(): Promise<void> {
    isWriting = true
    for (await beat.next(); waiting.length > 0; await beat.next()) {
      const batch = waiting.slice(0, MAX_SETTLE_BATCH)
      waiting = waiting.slice(MAX_SETTLE_BATCH)
      onBatch(batch.length)
      const results = await write(batch.map(({ settlement }) => settlement))
      batch.forEach(({ resolve }, i) => {
        resolve(results[i] as SettleResult)
      })
    }
    isWriting = false
  }

  async function write(settlements: Settlement[]): Promise<SettleResult[]> {
    for (let tries = 0; ; tries++) {
      try {
        return await store.settle(settlements)
      } catch (error) {
        if (!(error instanceof StoreUnavailable)) throw error
        log.warn({ err: error, waiting: settlements.length + waiting.length }, 'settle.failed')
        await backOff(tries, FIRST_RETRY_MS, MAX_RETRY_MS)
      }
    }
  }

  return {
    settle(settlement) {
      return new Promise((resolve) => {
        waiting.push({ settlement, resolve })
        if (!isWriting) void writeAll()
      })
    },
  }
}
