// The upkeep: the sweep, the schedules and the outbox relay. One process does the upkeep of the
// whole system: the process that has the lease of one record in the store. Workers come first. An
// API is a stand-by: it takes the lease if no worker does, and loses it to the first worker that
// can do the upkeep.
//
// The lease saves work and protects nothing: every write of the upkeep is guarded, so two processes
// may do it at the same time while the lease changes hands (docs/decisions/0030).
import { randomUUID } from 'node:crypto'
import type { Logger } from 'pino'
import type { Config } from '../config.ts'
import { PollLoop } from '../loop.ts'
import type { Store } from '../store/store.ts'
import { StoreUnusable } from '../store/store-errors.ts'
import { mayTakeUpkeep, type UpkeepLease } from '../store/upkeep-lease.ts'
import { OutboxRelay } from './outbox-relay.ts'
import { Scheduler } from './scheduler.ts'
import { Sweeper } from './sweeper.ts'

/**
 * Another process takes over from one that died after this time, or after LEASE_DURATION if that
 * is shorter: the jobs of the dead process come back in time, whether or not it did the upkeep.
 */
const MAX_LEASE_MS = 2_400
/** The holder renews its lease after this part of it. */
const RENEW_PART = 5 / 6
/**
 * An API takes a free lease only after this time: workers read the lease when it ends, and come
 * first.
 */
const STANDBY_WAIT_MS = 400
/** Keeps processes from reading the lease at the same instant. */
const MAX_JITTER_MS = 50
/**
 * A process that waits for the lease also looks at it after a hint at work, at most this often. On
 * SQLite every write is a hint, and so is the one that gives the lease back.
 */
const HINTED_LOOK_EVERY_MS = 500
/** The rest after another process was quicker to take the lease. */
const OUTRUN_REST_MS = 100
/** The key of the API may change while this process has the lease. */
const CHECK_KEY_EVERY_MS = 30_000
/**
 * A read of the lease that takes longer had to wait for the store. Workers then waited, too, and
 * renew their leases late: no lease counts as expired until they have had time to renew.
 */
const SLOW_LOOK_MS = 250

interface Part {
  start(): void
  stop(): Promise<void>
}

interface Options {
  /** Names this process to people who read the record. */
  name: string
  /** The process is an API. */
  isStandby: boolean
  /** A process that lacks the encryption key cannot run the schedules. */
  lacksKey: () => boolean
  /** Called with the findings of one sweep, by kind. */
  onSwept: (counts: object) => void
  /** Called with the documents that left the outbox. */
  onOutbox: (counts: { moved: number; setAside: number }) => void
}

type Settings = Pick<
  Config,
  'LEASE_DURATION' | 'SWEEP_INTERVAL' | 'POLL_INTERVAL' | 'MAX_BODY_BYTES'
>

/** Takes part in the upkeep from start() to stop(). */
export class Upkeep {
  readonly #store: Store
  readonly #settings: Settings
  readonly #options: Options
  readonly #lease: UpkeepLease
  readonly #log: Logger
  readonly #loop: PollLoop
  /** The parts run while this process has the lease. */
  #parts: Part[] = []
  #isFreeForStandby = false
  /** By the monotonic clock: when this process looked at the lease of another one. */
  #lookedAtMs = Number.NEGATIVE_INFINITY
  #hintTimer: NodeJS.Timeout | null = null
  #stopListening = () => {}
  #keyCheckedAtMs = Number.NEGATIVE_INFINITY
  /** By the monotonic clock. Before this time no lease of a job counts as expired. */
  #reclaimFromMs = 0

  constructor(store: Store, settings: Settings, options: Options, log: Logger) {
    this.#store = store
    this.#settings = settings
    this.#options = options
    this.#lease = {
      holder: `${options.name}/${randomUUID()}`,
      isStandby: options.isStandby,
      leaseMs: Math.min(MAX_LEASE_MS, settings.LEASE_DURATION),
    }
    this.#log = log
    // If a worker and an API start together, the worker comes first.
    const firstRestMs = options.isStandby ? this.#lease.leaseMs / 2 : 0
    this.#loop = new PollLoop({ turn: () => this.#turn(), firstRestMs })
  }

  start(): void {
    // A stand-by would open a change stream for this, or poll a file.
    if (!this.#options.isStandby) this.#stopListening = this.#store.onWork(() => this.#onHint())
    this.#loop.start()
  }

  /** Resolves when no write is in progress. Another process may take over at once. */
  async stop(): Promise<void> {
    this.#stopListening()
    if (this.#hintTimer !== null) clearTimeout(this.#hintTimer)
    await this.#loop.stop()
    if (this.#parts.length > 0) await this.#end()
  }

  #onHint(): void {
    if (this.#hintTimer !== null || this.#parts.length > 0) return
    const waitMs = this.#lookedAtMs + HINTED_LOOK_EVERY_MS - performance.now()
    this.#hintTimer = setTimeout(
      () => {
        this.#hintTimer = null
        if (this.#parts.length === 0) this.#loop.wake()
      },
      Math.max(0, waitMs),
    )
    this.#hintTimer.unref()
  }

  async #turn(): Promise<number> {
    const startedAtMs = performance.now()
    try {
      const isOurs = this.#parts.length > 0
      const restMs = await (isOurs ? this.#renewOrEnd() : this.#takeIfFree())
      const tookMs = performance.now() - startedAtMs
      return Math.max(0, isOurs ? restMs - tookMs : restMs)
    } catch (error) {
      // The parts keep running: each of them waits for the store by itself.
      this.#giveTimeToRenew()
      this.#log.warn({ err: error }, 'upkeep.look_failed')
      return this.#renewEveryMs
    }
  }

  get #renewEveryMs(): number {
    return this.#lease.leaseMs * RENEW_PART
  }

  async #renewOrEnd(): Promise<number> {
    if ((await this.#isAble()) && (await this.#store.takeUpkeep(this.#lease))) {
      return this.#renewEveryMs
    }
    await this.#end()
    return OUTRUN_REST_MS
  }

  async #takeIfFree(): Promise<number> {
    const lookedAtMs = performance.now()
    this.#lookedAtMs = lookedAtMs
    const known = await this.#store.upkeepLease()
    const now = this.#store.clock.now()
    if (known !== null && !mayTakeUpkeep(known, this.#lease, now)) {
      this.#isFreeForStandby = false
      return known.expiresAt - now + Math.random() * MAX_JITTER_MS
    }
    if (this.#options.isStandby && !this.#isFreeForStandby) {
      this.#isFreeForStandby = true
      return STANDBY_WAIT_MS
    }
    if (!(await this.#isAble())) return this.#renewEveryMs
    if (!(await this.#store.takeUpkeep(this.#lease))) return OUTRUN_REST_MS
    this.#isFreeForStandby = false
    if (performance.now() - lookedAtMs > SLOW_LOOK_MS) this.#giveTimeToRenew()
    if (!this.#loop.isStopping) this.#begin()
    else await this.#release()
    return this.#renewEveryMs
  }

  /**
   * Whether this process has the key of the stored secrets. Throws if the store does not respond.
   */
  async #isAble(): Promise<boolean> {
    if (this.#options.lacksKey()) return false
    const nowMs = performance.now()
    if (nowMs - this.#keyCheckedAtMs < CHECK_KEY_EVERY_MS) return true
    try {
      await this.#store.listEndpoints(null, 1)
    } catch (error) {
      if (error instanceof StoreUnusable) return false
      throw error
    }
    this.#keyCheckedAtMs = nowMs
    return true
  }

  /**
   * Gives holders of leases time to renew. They renew after a third of a lease, and retry within a
   * second.
   */
  #giveTimeToRenew(): void {
    this.#reclaimFromMs = performance.now() + this.#settings.LEASE_DURATION / 3 + 1_000
  }

  #begin(): void {
    this.#log.info('upkeep.begun')
    this.#parts = this.#createParts()
    for (const part of this.#parts) part.start()
  }

  #createParts(): Part[] {
    const store = this.#store
    const log = this.#log
    const { onSwept, onOutbox: onMoved } = this.#options
    const { LEASE_DURATION: leaseMs, SWEEP_INTERVAL: intervalMs } = this.#settings
    const { POLL_INTERVAL: pollIntervalMs, MAX_BODY_BYTES: maxBodyBytes } = this.#settings
    const sweeper = new Sweeper(
      store,
      { intervalMs, leaseMs, reclaimFromMs: this.#reclaimFromMs },
      onSwept,
      log,
    )
    const parts = [sweeper, new Scheduler(store, log)]
    const { outbox } = store
    if (outbox === null) return parts
    const relay = new OutboxRelay({ store, outbox, log, onMoved, maxBodyBytes, pollIntervalMs })
    return [...parts, relay]
  }

  async #end(): Promise<void> {
    await Promise.all(this.#parts.splice(0).map((part) => part.stop()))
    this.#log.info('upkeep.ended')
    await this.#release()
  }

  async #release(): Promise<void> {
    try {
      await this.#store.releaseUpkeep(this.#lease.holder)
    } catch (error) {
      // Another process takes over when the lease has expired.
      this.#log.warn({ err: error }, 'upkeep.release_failed')
    }
  }
}
