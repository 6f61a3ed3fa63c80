// Stores how attempts ended, in batches as large as the store can take. Attempts that end during a
// write go into the next one. Renewals in progress go first.
import type { Logger } from 'pino'
import { createBatchSize } from '../src/batch-size.ts'
import { waitBackOff } from '../src/loop.ts'
import type { Settlement, SettleResult, Store } from '../src/store/store.ts'
import { StoreUnavailable } from '../src/store/store-errors.ts'
import type { WritePacer } from './write-pacer.ts'

/** Limit of outcomes in one write. The worker's unsettled jobs limit how many can wait. */
const MAX_SETTLE_BATCH = 500
const BACK_OFF = { firstMs: 50, maxMs: 1_000 }
/** At each write the pace keeps this share of its former value. */
const PACE_MEMORY = 0.7

interface Waiting {
  settlement: Settlement
  /** The store did not respond to a write with this outcome: it may be stored already. */
  isRepeat: boolean
  resolve: (result: SettleResult) => void
}

export interface Settler {
  /**
   * Resolves when the outcome is stored or refused. While the store is unavailable the write is
   * retried without limit: an outcome is never dropped, and writing it twice is harmless.
   */
  settle(settlement: Settlement): Promise<SettleResult>
  /** How many outcomes the store can take within this time, by its last writes; null: unknown. */
  affordable(withinMs: number): number | null
}

export interface SettlerParts {
  store: Pick<Store, 'settle'>
  /** Decides when to write. */
  pacer: Pick<WritePacer, 'next'>
  /** Resolves when the present write of renewals has ended, with success or not. */
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

  /** Whether the store responded. */
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

/** The outcomes stored per millisecond, as a decaying average. */
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
