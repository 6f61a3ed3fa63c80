// The sweep: finds expired leases, overdue and expired jobs, jobs of a deleted endpoint, pending
// finish effects, and jobs to purge.
import type { Logger } from 'pino'
import { createBatchSize } from '../batch-size.ts'
import { PollLoop } from '../loop.ts'
import type { SetBackLooks } from '../store/set-back-watch.ts'
import { STORE_DEADLINE_MS, type Store } from '../store/store.ts'
import { endOverdueJobs } from './overdue-jobs.ts'

/**
 * Limit of jobs of each kind in one sweep; a slow store gets fewer. A sweep that reaches the limit
 * is followed by another one without a rest.
 */
const SWEEP_LIMIT = 100
/** Sweeps take at most this share of the time, so that a slow store has time to settle jobs. */
const SWEEP_SHARE = 1 / 5
/**
 * The longest rest. Even on a slow store, expired leases and a clock that was set back must be
 * found in time.
 */
const MAX_REST_MS = 3_000
/** A sweep is several reads and writes, each with a deadline of its own. */
const SWEEP_VERBS = 4

type SweptStore = Pick<
  Store,
  'sweep' | 'clock' | 'overdue' | 'endOverdue' | 'endpointsNamed' | 'correctInstants'
>

/** Sweeps from start() to stop(). Two sweepers may run at once: every write is guarded. */
export class Sweeper {
  readonly #store: SweptStore
  readonly #intervalMs: number
  readonly #leaseMs: number
  readonly #onSwept: (counts: object) => void
  readonly #log: Logger
  readonly #size = createBatchSize(SWEEP_LIMIT, {
    deadlineMs: SWEEP_VERBS * STORE_DEADLINE_MS,
  })
  readonly #loop: PollLoop
  /** Duration of the last sweep. 0: the sweep failed, and the store may be back at any time. */
  #tookMs = 0
  /**
   * By the monotonic clock. Before this time no lease counts as expired: its holder could not renew
   * it.
   */
  #reclaimFromMs: number
  #isStoreLost = false
  readonly #setBack: SetBackLooks
  /**
   * By how much to correct the instants in the store. undefined: no correction is needed. null: the
   * amount is unknown, because the clock may have been set back while no sweeper ran.
   */
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
    this.#loop = new PollLoop({ turn: () => this.#sweepAll() })
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
      const overdue = swept.overdue === 0 ? 0 : await endOverdueJobs(this.#store, limit)
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
    // Holders renew every third of a lease: by then every live holder has renewed.
    this.#reclaimFromMs = performance.now() + this.#leaseMs / 3 + 1_000
  }
}
