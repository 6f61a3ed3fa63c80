// Upkeep (sweep, schedules, outbox) by an API while no worker is live, by one API at a time. Every
// write of the upkeep is guarded, so two processes may do it at the same time while a worker
// starts.
import type { Logger } from 'pino'
import { PollLoop } from '../loop.ts'
import type { Store } from '../store/store.ts'
import { canDeliver } from '../store/worker-liveness.ts'

const LOOK_INTERVAL_MS = 1_500
/**
 * The upkeep begins after this many looks in a row without a live worker. A worker that was
 * suspended together with this process, as on a laptop, reports between two looks.
 */
const LOOKS_BEFORE_DUTY = 2
/** After this time another process takes over from one that died. */
const LEASE_MS = 3 * LOOK_INTERVAL_MS

interface Part {
  start(): void
  stop(): Promise<void>
}

type StandbyStore = Pick<
  Store,
  'clock' | 'listWorkers' | 'encryptionKeyIds' | 'takeUpkeep' | 'releaseUpkeep'
>

/** Looks for live workers from start() to stop(). */
export class StandbyUpkeep {
  readonly #store: StandbyStore
  readonly #holder: string
  readonly #createParts: (reclaimFromMs: number) => Part[]
  readonly #graceMs: number
  readonly #log: Logger
  readonly #loop: PollLoop
  #parts: Part[] = []
  #workerlessLooks = 0
  /** Monotonic: before this time no lease counts as expired: its holder could not renew it. */
  #reclaimFromMs = 0

  /**
   * @param holder names this process
   * @param createParts creates the parts that do the upkeep, each time that it begins
   * @param leaseMs of jobs: after an outage their holders get a third of it to renew
   */
  constructor(
    store: StandbyStore,
    {
      holder,
      leaseMs,
      createParts,
    }: { holder: string; leaseMs: number; createParts: (reclaimFromMs: number) => Part[] },
    log: Logger,
  ) {
    this.#store = store
    this.#holder = holder
    this.#createParts = createParts
    this.#graceMs = leaseMs / 3 + 1_000
    this.#log = log
    this.#loop = new PollLoop({ turn: () => this.#look(), firstRestMs: LOOK_INTERVAL_MS })
  }

  start(): void {
    this.#loop.start()
  }

  /** Resolves when no write is in progress. */
  async stop(): Promise<void> {
    await this.#loop.stop()
    if (this.#parts.length > 0) await this.#endDuty()
  }

  async #look(): Promise<number> {
    try {
      const isWanted = (await this.#isWorkerless()) && (await this.#takeLease())
      if (isWanted && this.#parts.length === 0) this.#beginDuty()
      if (!isWanted && this.#parts.length > 0) await this.#endDuty()
    } catch (error) {
      // The parts keep running: each waits for the store by itself.
      this.#workerlessLooks = 0
      this.#reclaimFromMs = performance.now() + LOOK_INTERVAL_MS + this.#graceMs
      this.#log.warn({ err: error }, 'upkeep.look_failed')
    }
    return LOOK_INTERVAL_MS
  }

  async #isWorkerless(): Promise<boolean> {
    const workers = await this.#store.listWorkers()
    const now = this.#store.clock.now()
    const keyIds = this.#store.encryptionKeyIds()
    // A worker without the key sweeps, but it cannot read the schedules.
    if (workers.some((worker) => canDeliver(worker, now, keyIds))) this.#workerlessLooks = 0
    else this.#workerlessLooks++
    return this.#parts.length > 0
      ? this.#workerlessLooks > 0
      : this.#workerlessLooks >= LOOKS_BEFORE_DUTY
  }

  #takeLease(): Promise<boolean> {
    return this.#store.takeUpkeep({ holder: this.#holder, leaseMs: LEASE_MS })
  }

  #beginDuty(): void {
    this.#log.info('upkeep.begun')
    this.#parts = this.#createParts(this.#reclaimFromMs)
    for (const part of this.#parts) part.start()
  }

  async #endDuty(): Promise<void> {
    await Promise.all(this.#parts.splice(0).map((part) => part.stop()))
    this.#log.info('upkeep.ended')
    try {
      await this.#store.releaseUpkeep(this.#holder)
    } catch (error) {
      // Another process takes over when the lease has expired.
      this.#log.warn({ err: error }, 'upkeep.release_failed')
    }
  }
}
