// Finds what was left behind: lapsed leases, overdue and expired jobs, jobs of a vanished endpoint,
// aftermath left undone, old jobs.
import type { Logger } from 'pino'
import { createBatchSize } from '../batch-size.ts'
import { PollLoop } from '../loop.ts'
import type { SetBackLooks } from '../store/set-back-watch.ts'
import { MAX_ANSWER_MS, type Store } from '../store/store.ts'
import { endOverdueJobs } from './overdue-jobs.ts'

/**
 * One write of a sweep takes no more than this of a kind, and fewer of a store that is too slow for
 * so many; a full one is followed by another at once.
 */
const SWEEP_LIMIT = 100
/** At most this share of the time goes to sweeps: a slow store has jobs to settle. */
const SWEEP_SHARE = 1 / 5
/** However slow the store: lapsed leases and a clock that was set back must be found. */
const MAX_REST_MS = 3_000
/** A sweep is several looks and writes, each with a deadline of its own. */
const SWEEP_VERBS = 4

type SweptStore = Pick<
  Store,
  'sweep' | 'clock' | 'overdue' | 'endOverdue' | 'endpointsNamed' | 'correctInstants'
>

/** Sweeps from start() to stop(). Any number of sweepers may run; their guards keep them apart. */
export class Sweeper {
  readonly #store: SweptStore
  readonly #intervalMs: number
  readonly #leaseMs: number
  readonly #onSwept: (counts: object) => void
  readonly #log: Logger
  readonly #size = createBatchSize(SWEEP_LIMIT, {
    deadlineMs: SWEEP_VERBS * MAX_ANSWER_MS,
  })
  readonly #loop: PollLoop
  /** The last sweep that ended; 0: it failed, and the store may be back at any time. */
  #tookMs = 0
  /** Monotonic: until then nobody may have been able to renew, so no lease is taken for lapsed. */
  #reclaimFromMs: number
  #isStoreLost = false
  readonly #setBack: SetBackLooks
  /** What the store has to be told of its clock; null: it may have been set back before. */
  #toCorrectMs: number | null | undefined = null

  constructor(
    store: SweptStore,
    times: { intervalMs: number; leaseMs: number; reclaimFromMs?: number },
    onSwept: (counts: object) => void,
    log: Logger,
  ) {
    this.#onSwept = onSwept
    this.#store = store
    this.#setBack = store.clock.watchSetBack()
    this.#intervalMs = times.intervalMs
    this.#leaseMs = times.leaseMs
    this.#reclaimFromMs = times.reclaimFromMs ?? 0
    this.#log = log
    this.#loop = new PollLoop({ turn: () => this.#sweepAll(), firstRestMs: times.intervalMs })
  }

  start(): void {
    this.#loop.start()
  }

  async stop(): Promise<void> {
    await this.#loop.stop()
    this.#setBack.stop()
  }

  /** The rest before the next sweep, in ms. */
  async #sweepAll(): Promise<number> {
    let isFull = true
    this.#tookMs = 0
    while (isFull && !this.#loop.isStopping) isFull = await this.#sweepOnce()
    return Math.max(this.#intervalMs, Math.min(MAX_REST_MS, this.#tookMs / SWEEP_SHARE))
  }

  async #sweepOnce(): Promise<boolean> {
    const { limit } = this.#size
    try {
      await this.#correctInstants()
      const reclaim = !this.#isStoreLost && performance.now() >= this.#reclaimFromMs
      const startedAtMs = performance.now()
      const swept = await this.#store.sweep({ limit, reclaim })
      const overdue = await endOverdueJobs(this.#store, limit)
      const counts = { ...swept, overdue }
      this.#tookMs = performance.now() - startedAtMs
      this.#size.written(Math.max(...Object.values(counts)), this.#tookMs)
      this.#onSwept(counts)
      if (this.#isStoreLost) this.#onStoreBack()
      const found = Object.values(counts)
      if (found.some((count) => count > 0)) this.#log.info(counts, 'sweep.found')
      return found.some((count) => count >= limit)
    } catch (error) {
      this.#size.failed(limit)
      this.#isStoreLost = true
      this.#log.warn({ err: error }, 'sweep.failed')
      return false
    }
  }

  async #correctInstants(): Promise<void> {
    const setBackMs = this.#setBack.look()
    if (setBackMs > 0) this.#toCorrectMs = (this.#toCorrectMs ?? 0) + setBackMs
    if (this.#toCorrectMs === undefined) return
    const toCorrectMs = this.#toCorrectMs
    const corrected = await this.#store.correctInstants(toCorrectMs)
    this.#toCorrectMs = undefined
    if (corrected > 0) this.#log.warn({ corrected, setBackMs: toCorrectMs }, 'clock.set_back')
  }

  #onStoreBack(): void {
    this.#isStoreLost = false
    // Holders renew every third of a lease: by then whoever lives has renewed.
    this.#reclaimFromMs = performance.now() + this.#leaseMs / 3 + 1_000
  }
}
