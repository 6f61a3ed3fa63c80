// Renews the leases of attempts in flight and of outcomes that wait for the store. A lease is
// renewed after a part of its time; those that expire soonest go first, in writes as large as the
// store can take. An attempt whose lease could not be renewed in time is aborted.
import type { Logger } from 'pino'
import { createBatchSize } from '../src/batch-size.ts'
import type { Lease } from '../src/job/job.ts'
import type { Store } from '../src/store/store.ts'

/** A request is aborted this part of a lease before the lease expires, so that it ends in time. */
const SAFETY_PART = 0.1
/**
 * A lease is renewed when this part of it has passed. After the attempt has ended it is renewed
 * later: storing the outcome costs the store no more than a renewal, and usually comes first.
 */
const RENEW_PART = { inFlight: 1 / 3, ended: 2 / 3 }
/** A write also renews leases that are due this soon: one write instead of several. */
const TOGETHER_PART = 1 / 12
/** How often the leases are checked, as a part of a lease. */
const LOOK_PART = 1 / 30
const MAX_RENEW_BATCH = 1_000
/** The delay after a failed write: an election of some seconds must not use up the lease. */
const RETRY_MS = 1_000
const RETRY_PART = 1 / 10

type Abort = (outcome: 'lost' | 'cancelled' | 'interrupted') => void

export interface LeaseKeeper {
  /**
   * Renews a lease until it is dropped.
   *
   * @param claimedAtMs monotonic time before the claim: the lease began no earlier
   */
  keep(lease: Lease, claimedAtMs: number, abort: Abort): HeldLease
}

export interface HeldLease {
  /**
   * Whether enough of the lease is left to send. Compares monotonic times and depends on no timer:
   * CLOCK_MONOTONIC continues while a process is stopped, and when the process continues, sockets
   * run before the timer that would abort.
   */
  mayStillSend(): boolean
  /** The request is over; its outcome is not stored yet. */
  ended(): void
  /** Ends the renewal. */
  drop(): void
}

interface Kept {
  lease: Lease
  abort: Abort
  /** Monotonic time at which the lease began or was last renewed. */
  renewedAtMs: number
  renewPart: number
  /** Nothing is sent from now on, even if a late renewal succeeds. */
  isAborted: boolean
}

/** Renews from start() to stop(). All times are by the monotonic clock, never the wall clock. */
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
    const renewPart = RENEW_PART.inFlight
    const kept = { lease, abort, renewedAtMs: claimedAtMs, renewPart, isAborted: false }
    this.#kept.add(kept)
    return {
      mayStillSend: () => !kept.isAborted && kept.renewedAtMs > this.#expiringMs(),
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

  /** Whether a renewal is in progress or overdue. The worker claims no jobs meanwhile. */
  get isBehind(): boolean {
    return this.#writing !== null || this.#due(LOOK_PART).length > 0
  }

  /** Resolves when the present write of renewals has ended, with success or not. */
  async written(): Promise<void> {
    await this.#writing
  }

  #look(): void {
    this.#abortExpiring()
    if (this.#writing !== null || performance.now() < this.#retryAtMs) return
    if (this.#due(0).length > 0) this.#renewNext()
  }

  /** Writes until no lease is due, one write after the other. A settle may run between two. */
  #renewNext(): void {
    this.#writing = this.#renew(this.#due(-TOGETHER_PART).slice(0, this.#size.limit)).then(
      (isRenewed) => {
        this.#writing = null
        if (isRenewed && this.#due(0).length > 0) this.#renewNext()
      },
    )
  }

  /**
   * Leases that are due for renewal, those that expire soonest first.
   *
   * @param latePart how long they have been due, as a part of a lease; negative: due this soon
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
          // The job was cancelled or has another holder: this lease cannot be renewed any more.
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

  #abortExpiring(): void {
    const expiringMs = this.#expiringMs()
    for (const kept of this.#kept) {
      // Each lease is logged and aborted once; it stays here until its outcome is stored.
      if (kept.isAborted || kept.renewedAtMs > expiringMs) continue
      const detail = 'the lease could not be renewed; its request is aborted before it expires'
      this.#log.warn({ jobId: kept.lease.jobId, detail }, 'lease.lapsing')
      kept.abort('lost')
      kept.isAborted = true
    }
  }

  /** A lease that was last renewed at this time or before has expired or is about to. */
  #expiringMs(): number {
    return performance.now() - this.#leaseMs * (1 - SAFETY_PART)
  }
}
