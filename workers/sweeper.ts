// Finds what was left behind: lapsed leases, expired jobs, jobs of a vanished endpoint, old jobs.
import type { Logger } from 'pino'
import type { Store } from '../src/store/store.ts'

/**
 * One write of a sweep takes no more than this of a kind; a full one is followed by another at
 * once.
 */
const SWEEP_LIMIT = 500

/** Sweeps from start() to stop(). Any number of sweepers may run; their guards keep them apart. */
export class Sweeper {
  readonly #store: Pick<Store, 'sweep'>
  readonly #intervalMs: number
  readonly #leaseMs: number
  readonly #log: Logger
  #timer: NodeJS.Timeout | null = null
  #isStopping = false
  #sweeping: Promise<void> = Promise.resolve()
  /** Monotonic: until then nobody may have been able to renew, so no lease is taken for lapsed. */
  #reclaimFromMs = 0
  #isStoreLost = false

  constructor(
    store: Pick<Store, 'sweep'>,
    times: { intervalMs: number; leaseMs: number },
    log: Logger,
  ) {
    this.#store = store
    this.#intervalMs = times.intervalMs
    this.#leaseMs = times.leaseMs
    this.#log = log
  }

  start(): void {
    this.#timer = setTimeout(() => {
      this.#sweeping = this.#sweepAll()
    }, this.#intervalMs)
  }

  async stop(): Promise<void> {
    this.#isStopping = true
    if (this.#timer !== null) clearTimeout(this.#timer)
    await this.#sweeping
  }

  async #sweepAll(): Promise<void> {
    let isFull = true
    while (isFull && !this.#isStopping) isFull = await this.#sweepOnce()
    if (!this.#isStopping) this.start()
  }

  async #sweepOnce(): Promise<boolean> {
    try {
      const reclaim = !this.#isStoreLost && performance.now() >= this.#reclaimFromMs
      const counts = await this.#store.sweep({ limit: SWEEP_LIMIT, reclaim })
      if (this.#isStoreLost) this.#onStoreBack()
      const found = Object.values(counts)
      if (found.some((count) => count > 0)) this.#log.info(counts, 'sweep.found')
      return found.some((count) => count >= SWEEP_LIMIT)
    } catch (error) {
      this.#isStoreLost = true
      this.#log.warn({ err: error }, 'sweep.failed')
      return false
    }
  }

  #onStoreBack(): void {
    this.#isStoreLost = false
    // Holders renew every third of a lease: by then whoever lives has renewed.
    this.#reclaimFromMs = performance.now() + this.#leaseMs / 3 + 1_000
  }
}
