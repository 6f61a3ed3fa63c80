// Records how attempts ended, in batches as large as the store can take: what ends while a write is
// in flight goes with the next. Renewals that are under way go first.
import type { Logger } from 'pino'
import { createBatchSize } from '../src/batch-size.ts'
import { waitBackOff } from '../src/loop.ts'
import type { Settlement, SettleResult } from '../src/store/settlement.ts'
import { type Store, StoreUnavailable } from '../src/store/store.ts'
import type { WritePacer } from './write-pacer.ts'

/** One write holds no more than this; what can wait is bounded by the attempts in flight. */
const MAX_SETTLE_BATCH = 500
const BACK_OFF = { firstMs: 50, maxMs: 1_000 }
/** Of what the pace was before, this share is kept at each write. */
const PACE_MEMORY = 0.7

interface Waiting {
  settlement: Settlement
  /** A write that held it was not answered: it may be stored by now. */
  isRepeat: boolean
  resolve: (result: SettleResult) => void
}

export interface Settler {
  /**
   * Resolves when the store has answered. A store that is away is asked again for as long as it
   * takes: a result in hand is never dropped, and writing it twice is harmless.
   */
  settle(settlement: Settlement): Promise<SettleResult>
  /** How many outcomes the store takes in so long, by the last writes; null: not known yet. */
  affordable(withinMs: number): number | null
}

export interface SettlerParts {
  store: Pick<Store, 'settle'>
  /** Tells when to write. */
  pacer: Pick<WritePacer, 'next'>
  /** Resolves when the renewals that are under way have been written, or have failed. */
  afterRenewals: () => Promise<void>
  /** Called with the number of outcomes of each write. */
  onBatch: (size: number) => void
  log: Logger
}

export function createSettler({
  store,
  pacer,
  afterRenewals,
  onBatch,
  log,
}: SettlerParts): Settler {
  let waiting: Waiting[] = []
  let isWriting = false
  const size = createBatchSize(MAX_SETTLE_BATCH)
  const pace = createPace()

  async function writeAll(): Promise<void> {
    isWriting = true
    let failures = 0
    for (await pacer.next(); waiting.length > 0; await pacer.next()) {
      await afterRenewals()
      const batch = waiting.slice(0, size.limit)
      waiting = waiting.slice(batch.length)
      if (await write(batch)) {
        failures = 0
        continue
      }
      waiting = [...batch.map((one) => ({ ...one, isRepeat: true })), ...waiting]
      await waitBackOff(failures++, BACK_OFF)
    }
    isWriting = false
  }

  /** Whether the store has answered. */
  async function write(batch: Waiting[]): Promise<boolean> {
    onBatch(batch.length)
    const startedAtMs = performance.now()
    const settlements = batch.map(({ settlement }) => settlement)
    const isRepeat = batch.some((one) => one.isRepeat)
    try {
      const results = await size.run(batch.length, () => store.settle(settlements, { isRepeat }))
      pace.note(batch.length, performance.now() - startedAtMs)
      batch.forEach(({ resolve }, i) => {
        resolve(results[i] as SettleResult)
      })
      return true
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error
      pace.note(0, performance.now() - startedAtMs)
      log.warn({ err: error, waiting: batch.length + waiting.length }, 'settle.failed')
      return false
    }
  }

  return {
    settle(settlement) {
      return new Promise((resolve) => {
        waiting.push({ settlement, isRepeat: false, resolve })
        if (!isWriting) void writeAll()
      })
    },
    affordable: pace.affordable,
  }
}

/** Outcomes by time, of which older ones count less and less. */
function createPace() {
  let count = 0
  let ms = 0
  return {
    note(writtenCount: number, tookMs: number): void {
      count = count * PACE_MEMORY + writtenCount
      ms = ms * PACE_MEMORY + tookMs
    },
    affordable: (withinMs: number) => (ms === 0 ? null : (count / ms) * withinMs),
  }
}
