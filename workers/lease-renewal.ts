// Keeps the leases of attempts in flight: one batched write per third of a lease, and an abort for
// whoever could not be renewed in time.
import type { Logger } from 'pino'
import type { Lease } from '../src/job/job.ts'
import type { Store } from '../src/store/store.ts'

/** A request is aborted this much before its lease may lapse, so that it is over by then. */
const SAFETY_PART = 0.1
const RENEWALS_PER_LEASE = 3
const MAX_RENEW_BATCH = 1_000

type Abort = (outcome: 'lost' | 'cancelled' | 'interrupted') => void

export interface LeaseKeeper {
  /**
   * Watches over a lease; returns how to let go of it.
   *
   * @param claimedAtMs monotonic time taken before the claim: the lease began no earlier
   */
  keep(lease: Lease, claimedAtMs: number, abort: Abort): () => void
}

interface Kept {
  lease: Lease
  abort: Abort
  /** Monotonic: by now the request must be over, unless renewed. */
  abortAtMs: number
}

/**
 * Renews from start() to stop(). Times here are the worker's monotonic clock, never its wall
 * clock.
 */
export class LeaseRenewal implements LeaseKeeper {
  readonly #store: Pick<Store, 'renew'>
  readonly #leaseMs: number
  readonly #log: Logger
  readonly #kept = new Set<Kept>()
  #renewTimer: NodeJS.Timeout | null = null
  #abortTimer: NodeJS.Timeout | null = null
  #isRenewing = false

  constructor(store: Pick<Store, 'renew'>, leaseMs: number, log: Logger) {
    this.#store = store
    this.#leaseMs = leaseMs
    this.#log = log
  }

  start(): void {
    const everyMs = this.#leaseMs / RENEWALS_PER_LEASE
    this.#renewTimer = setInterval(() => void this.#renewAll(), everyMs)
    this.#abortTimer = setInterval(() => this.#abortLapsing(), everyMs * SAFETY_PART)
  }

  stop(): void {
    if (this.#renewTimer !== null) clearInterval(this.#renewTimer)
    if (this.#abortTimer !== null) clearInterval(this.#abortTimer)
  }

  keep(lease: Lease, claimedAtMs: number, abort: Abort): () => void {
    const kept = { lease, abort, abortAtMs: this.#abortAtMs(claimedAtMs) }
    this.#kept.add(kept)
    return () => {
      this.#kept.delete(kept)
    }
  }

  abortAll(outcome: 'interrupted'): void {
    for (const { abort } of this.#kept) abort(outcome)
  }

  async #renewAll(): Promise<void> {
    if (this.#isRenewing) return
    this.#isRenewing = true
    const all = [...this.#kept]
    for (let i = 0; i < all.length; i += MAX_RENEW_BATCH) {
      await this.#renew(all.slice(i, i + MAX_RENEW_BATCH))
    }
    this.#isRenewing = false
  }

  async #renew(batch: Kept[]): Promise<void> {
    const askedAtMs = performance.now()
    try {
      const results = await this.#store.renew(
        batch.map(({ lease }) => lease),
        this.#leaseMs,
      )
      batch.forEach((kept, i) => {
        // A lost lease is a cancelled job, or one that another worker has by now.
        if (results[i] === 'lease_lost') kept.abort('lost')
        else kept.abortAtMs = this.#abortAtMs(askedAtMs)
      })
    } catch (error) {
      this.#log.warn({ err: error, leases: batch.length }, 'renew.failed')
    }
  }

  #abortLapsing(): void {
    const nowMs = performance.now()
    for (const kept of this.#kept) {
      if (nowMs < kept.abortAtMs) continue
      const detail = 'it could not be renewed; its request is broken off before it lapses'
      this.#log.warn({ jobId: kept.lease.jobId, detail }, 'lease.lapsing')
      kept.abort('lost')
      // Said once: an outcome in hand stays here until the store takes it.
      kept.abortAtMs = Number.POSITIVE_INFINITY
    }
  }

  #abortAtMs(renewedAtMs: number): number {
    return renewedAtMs + this.#leaseMs * (1 - SAFETY_PART)
  }
}
