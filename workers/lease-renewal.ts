// Keeps the leases of attempts in flight, and of outcomes that wait for the store. Each is renewed
// after a part of its time, those that end soonest first, in writes as large as the store can take.
// An attempt whose lease could not be renewed in time is aborted.
import type { Logger } from 'pino'
import { createBatchSize } from '../src/batch-size.ts'
import type { Lease } from '../src/job/job.ts'
import type { Store } from '../src/store/store.ts'

/** A request is aborted this much before its lease may lapse, so that it is over by then. */
const SAFETY_PART = 0.1
/**
 * A lease is renewed when this part of it has passed; that of an outcome in hand later: to store
 * the outcome costs the store no more than to renew, and mostly comes before.
 */
const RENEW_PART = { underWay: 1 / 3, ended: 2 / 3 }
/** With the first that is due go those that will be so soon: one write instead of several. */
const TOGETHER_PART = 1 / 12
/** How often leases are looked at, as a part of a lease. */
const LOOK_PART = 1 / 30
const MAX_RENEW_BATCH = 1_000
/** After a failure: an election of some seconds must not cost the next third of a lease as well. */
const RETRY_MS = 1_000
const RETRY_PART = 1 / 10

type Abort = (outcome: 'lost' | 'cancelled' | 'interrupted') => void

export interface LeaseKeeper {
  /**
   * Watches over a lease until it is dropped.
   *
   * @param claimedAtMs monotonic time taken before the claim: the lease began no earlier
   */
  keep(lease: Lease, claimedAtMs: number, abort: Abort): HeldLease
}

export interface HeldLease {
  /**
   * Compares monotonic times and depends on no timer: CLOCK_MONOTONIC runs on while a process is
   * stopped, and in a process that goes on, sockets run before the timer that would abort.
   */
  mayStillSend(): boolean
  /** The request is over, and its outcome is to be stored. */
  ended(): void
  drop(): void
}

interface Kept {
  lease: Lease
  abort: Abort
  /** Monotonic: when its time began to run. */
  renewedAtMs: number
  renewPart: number
  /** Nothing is sent any more, even if a late renewal succeeds. */
  isAborted: boolean
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
  readonly #size = createBatchSize(MAX_RENEW_BATCH)
  #timer: NodeJS.Timeout | null = null
  #writing: Promise<void> | null = null
  #retryAtMs = 0

  constructor(store: Pick<Store, 'renew'>, leaseMs: number, log: Logger) {
    this.#store = store
    this.#leaseMs = leaseMs
    this.#log = log
  }

  start(): void {
    this.#timer = setInterval(() => this.#look(), this.#leaseMs * LOOK_PART)
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer)
  }

  keep(lease: Lease, claimedAtMs: number, abort: Abort): HeldLease {
    const renewPart = RENEW_PART.underWay
    const kept = { lease, abort, renewedAtMs: claimedAtMs, renewPart, isAborted: false }
    this.#kept.add(kept)
    return {
      mayStillSend: () => !kept.isAborted && kept.renewedAtMs > this.#lapsingMs(),
      ended: () => {
        kept.renewPart = RENEW_PART.ended
      },
      drop: () => {
        this.#kept.delete(kept)
      },
    }
  }

  abortAll(outcome: 'interrupted'): void {
    for (const { abort } of this.#kept) abort(outcome)
  }

  /** A renewal is under way, or should be: nothing new is taken on meanwhile. */
  get isBehind(): boolean {
    return this.#writing !== null || this.#due(LOOK_PART).length > 0
  }

  /** Resolves when the write of renewals that is under way has ended, whatever it came to. */
  async written(): Promise<void> {
    await this.#writing
  }

  #look(): void {
    this.#abortLapsing()
    if (this.#writing !== null || performance.now() < this.#retryAtMs) return
    if (this.#due(0).length > 0) this.#renewNext()
  }

  /** One write after the other until none is due; between two of them a settle has its turn. */
  #renewNext(): void {
    this.#writing = this.#renew(this.#due(-TOGETHER_PART).slice(0, this.#size.limit)).then(
      (isRenewed) => {
        this.#writing = null
        if (isRenewed && this.#due(0).length > 0) this.#renewNext()
      },
    )
  }

  /**
   * Those that end soonest first.
   *
   * @param latePart how long they must have been due, as a part of a lease; negative: will be
   */
  #due(latePart: number): Kept[] {
    const nowMs = performance.now()
    const isDue = ({ renewedAtMs, renewPart }: Kept) =>
      renewedAtMs <= nowMs - this.#leaseMs * (renewPart + latePart)
    return [...this.#kept].filter(isDue).sort((a, b) => a.renewedAtMs - b.renewedAtMs)
  }

  async #renew(batch: Kept[]): Promise<boolean> {
    const askedAtMs = performance.now()
    try {
      const results = await this.#size.run(batch.length, () =>
        this.#store.renew(
          batch.map(({ lease }) => lease),
          this.#leaseMs,
        ),
      )
      batch.forEach((kept, i) => {
        if (results[i] === 'applied') kept.renewedAtMs = askedAtMs
        else {
          // A cancelled job, or one that another worker has by now: nothing is left to renew.
          kept.renewedAtMs = Number.POSITIVE_INFINITY
          kept.isAborted = true
          kept.abort('lost')
        }
      })
      return true
    } catch (error) {
      this.#log.warn({ err: error, leases: batch.length }, 'renew.failed')
      this.#retryAtMs = performance.now() + Math.min(RETRY_MS, this.#leaseMs * RETRY_PART)
      return false
    }
  }

  #abortLapsing(): void {
    const lapsingMs = this.#lapsingMs()
    for (const kept of this.#kept) {
      // Said once: an outcome in hand stays here until the store takes it.
      if (kept.isAborted || kept.renewedAtMs > lapsingMs) continue
      const detail = 'it could not be renewed; its request is aborted before it lapses'
      this.#log.warn({ jobId: kept.lease.jobId, detail }, 'lease.lapsing')
      kept.abort('lost')
      kept.isAborted = true
    }
  }

  /** A lease whose time began to run by then has lapsed, or will so soon. */
  #lapsingMs(): number {
    return performance.now() - this.#leaseMs * (1 - SAFETY_PART)
  }
}
