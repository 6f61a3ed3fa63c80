// The loop of a worker: looks for due jobs, claims as many as it has free slots, delivers each.
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { Endpoint } from '../src/endpoint/endpoint.ts'
import type { ClaimedJob } from '../src/job/job.ts'
import type { Lane, Store } from '../src/store/store.ts'
import { backOff } from './back-off.ts'
import type { EndpointCache } from './endpoint-cache.ts'
import { fairShares, type WarmLane } from './fair-shares.ts'
import { createWarmLanes, type WarmLanes } from './warm-lanes.ts'

export interface LoopParts {
  store: Store
  endpoints: EndpointCache
  /** One attempt (deliver-job.ts); resolves when its outcome is stored. */
  deliver: (
    job: ClaimedJob,
    endpoint: Endpoint,
    claimedAtMs: number,
    onEnded: () => void,
  ) => Promise<void>
  workerId: string
  concurrency: number
  leaseMs: number
  pollIntervalMs: number
  log: Logger
}

/** A job claimed longer ago than this is given back unsent: much may have changed since. */
const MAX_CLAIM_AGE_MS = 1_000
/** While lanes are warm, hints lead to a look this often, not each time. */
const LOOK_INTERVAL_MS = 20
const FIRST_RETRY_MS = 50
const MAX_RETRY_MS = 1_000

/** Claims from start() to stop(). */
export class DeliveryLoop {
  readonly #parts: LoopParts
  readonly #lanes: WarmLanes
  readonly #inFlightByEndpoint = new Map<string, number>()
  #inFlightCount = 0
  #unsettledCount = 0
  #isStopping = false
  #isHinted = true
  #lastLookAtMs = Number.NEGATIVE_INFINITY
  #wake: (() => void) | null = null
  #stopHints: (() => void) | null = null
  #running: Promise<void> | null = null

  constructor(parts: LoopParts) {
    this.#parts = parts
    this.#lanes = createWarmLanes(parts.store)
  }

  start(): void {
    this.#stopHints = this.#parts.store.onWork(() => {
      this.#isHinted = true
      this.#wake?.()
    })
    this.#running = this.#run()
  }

  /** Claims nothing more; resolves when no claim is under way. Attempts in flight go on. */
  async stop(): Promise<void> {
    this.#isStopping = true
    this.#stopHints?.()
    this.#wake?.()
    await this.#running
  }

  /** Attempts that are under way or whose outcome is not stored yet. */
  get unsettledCount(): number {
    return this.#unsettledCount
  }

  async #run(): Promise<void> {
    let failures = 0
    while (!this.#isStopping) {
      try {
        await this.#turn()
        failures = 0
      } catch (error) {
        this.#parts.log.warn({ err: error }, 'claim.failed')
        await backOff(failures++, FIRST_RETRY_MS, MAX_RETRY_MS)
      }
    }
  }

  async #turn(): Promise<void> {
    // What ended in one turn of the event loop frees slots together: one claim serves them all.
    await nextTurn()
    const freeSlots = this.#parts.concurrency - this.#inFlightCount
    if (freeSlots === 0) return this.#sleep(this.#parts.pollIntervalMs)
    if (this.#isLookDue()) await this.#look()
    const shares = fairShares(this.#warmLanes(), freeSlots)
    if (shares.length === 0) return this.#sleep(this.#untilNextLookMs())
    await this.#claim(shares)
  }

  *#warmLanes(): Iterable<WarmLane> {
    for (const endpoint of this.#lanes.inTurn()) {
      yield { endpoint, inFlightCount: this.#inFlightByEndpoint.get(endpoint) ?? 0 }
    }
  }

  #isLookDue(): boolean {
    const sinceLookMs = performance.now() - this.#lastLookAtMs
    if (sinceLookMs >= this.#parts.pollIntervalMs) return true
    const { store } = this.#parts
    const nextAt = this.#lanes.nextAt()
    const isNews = this.#isHinted || (nextAt !== null && nextAt <= store.clock.now())
    return isNews && (sinceLookMs >= LOOK_INTERVAL_MS || this.#lanes.isCold())
  }

  async #look(): Promise<void> {
    this.#isHinted = false
    this.#lastLookAtMs = performance.now()
    await this.#lanes.look()
  }

  #untilNextLookMs(): number {
    const { pollIntervalMs, store } = this.#parts
    const nextAt = this.#lanes.nextAt()
    if (this.#isHinted) return 0
    return nextAt === null ? pollIntervalMs : Math.min(pollIntervalMs, nextAt - store.clock.now())
  }

  async #claim(shares: Lane[]): Promise<void> {
    const { store, workerId, leaseMs, concurrency } = this.#parts
    const endpoints = await this.#parts.endpoints.current(shares.map(({ endpoint }) => endpoint))
    const lanes = shares.filter(({ endpoint }) => {
      const isUsable = endpoints.has(endpoint)
      if (!isUsable) this.#lanes.cool(endpoint)
      return isUsable
    })
    if (lanes.length === 0 || this.#isStopping) return
    const claimedAtMs = performance.now()
    const jobs = await store.claim(lanes, concurrency - this.#inFlightCount, { workerId, leaseMs })
    this.#rank(lanes, jobs)
    if (this.#isStopping || performance.now() - claimedAtMs > MAX_CLAIM_AGE_MS) {
      await this.#giveBack(jobs)
      return
    }
    for (const job of jobs) this.#start(job, endpoints.get(job.endpoint) as Endpoint, claimedAtMs)
  }

  /** Who gave all it was asked for may have more; who gave less has nothing more that is due. */
  #rank(lanes: Lane[], jobs: ClaimedJob[]): void {
    const taken = new Map<string, number>()
    for (const { endpoint } of jobs) taken.set(endpoint, (taken.get(endpoint) ?? 0) + 1)
    for (const { endpoint, limit } of lanes) {
      if ((taken.get(endpoint) ?? 0) < limit) this.#lanes.cool(endpoint)
      else this.#lanes.turn(endpoint)
    }
  }

  /** A slot is free once the request is over: while outcomes are stored, others are sent. */
  #start(job: ClaimedJob, endpoint: Endpoint, claimedAtMs: number): void {
    this.#count(endpoint.name, 1)
    this.#unsettledCount++
    const onEnded = () => {
      this.#count(endpoint.name, -1)
      this.#wake?.()
    }
    void this.#parts.deliver(job, endpoint, claimedAtMs, onEnded).finally(() => {
      this.#unsettledCount--
    })
  }

  #count(endpoint: string, change: 1 | -1): void {
    const count = (this.#inFlightByEndpoint.get(endpoint) ?? 0) + change
    if (count === 0) this.#inFlightByEndpoint.delete(endpoint)
    else this.#inFlightByEndpoint.set(endpoint, count)
    this.#inFlightCount += change
  }

  async #giveBack(jobs: ClaimedJob[]): Promise<void> {
    if (jobs.length === 0) return
    this.#parts.log.info({ jobs: jobs.length }, 'claim.released')
    await this.#parts.store.release(jobs)
  }

  /** Sleeps until woken, at most `ms`. */
  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(wake, Math.max(0, ms))
      const self = this
      function wake(): void {
        clearTimeout(timer)
        self.#wake = null
        resolve()
      }
      this.#wake = wake
    })
  }
}
