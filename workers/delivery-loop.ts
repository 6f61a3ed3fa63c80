// The loop of a worker: it looks for due jobs, claims as many as it has free slots, and delivers
// each. Six rules decide when the next claim comes and how large it is. In the order of a turn:
//
// 1. Pacer (write-pacer.ts). A worker that is behind waits until half of its slots are free or
//    nothing more ends, so that one write to the store serves many jobs.
// 2. Slots (own-faults.ts). It uses fewer slots for a while after its machine ran out of
//    descriptors, ports or memory.
// 3. Store (affordableCount below). It holds no more jobs than the store can settle within half of
//    a lease at its present pace, and claims nothing while a renewal is due or a result waits.
// 4. Look (ready-endpoints.ts). It asks which endpoints have due jobs after a hint, at the next
//    known due time, and every POLL_INTERVAL, but spends at most a share of its time on that.
// 5. Shares (fair-shares.ts). Free slots are dealt out among the ready endpoints, so that one that
//    hangs cannot hold them all.
// 6. Size (src/batch-size.ts). A claim that took too long or failed is followed by a smaller one.
//
// On a healthy store rules 3 and 6 never apply. docs/decisions/0017 tells what they are for.
import type { Logger } from 'pino'
import { type BatchSize, createBatchSize } from '../src/batch-size.ts'
import { type Endpoint, endpointState } from '../src/endpoint/endpoint.ts'
import type { ClaimedJob } from '../src/job/job.ts'
import { PollLoop, waitBackOff } from '../src/loop.ts'
import { type Claim, type Lane, type Store, StoreUnavailable } from '../src/store/store.ts'
import { traceClaim } from '../src/tracing.ts'
import type { EndpointCache } from './endpoint-cache.ts'
import { fairShares, type ReadyEndpoint } from './fair-shares.ts'
import { createReadyEndpoints, type ReadyEndpoints } from './ready-endpoints.ts'
import type { WritePacer } from './write-pacer.ts'

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
  /** Renewals go before claims. */
  leases: { readonly isBehind: boolean }
  /** How many outcomes the store takes within so many milliseconds; null: not known yet. */
  affordable: (withinMs: number) => number | null
  /** How many of the slots may be used now. */
  slots: () => number
  /** Tells when to claim again. */
  pacer: WritePacer
  /** Told how many jobs each claim has brought. */
  onClaimed: (jobCount: number) => void
  log: Logger
}

/** A job claimed longer ago than this is given back unsent: much may have changed since. */
const MAX_CLAIM_AGE_MS = 1_000
/**
 * Until the first outcome is stored nobody knows how fast the store is: so many jobs a claim, and
 * none while outcomes wait. A worker that starts in an overload, or dies in it, costs little then.
 */
const FIRST_CLAIM = 10
/**
 * A claim is three commands whatever its size. On a store that is slow to read, smaller claims only
 * take longer for each job.
 */
const WORTH_CLAIM = 25
/** While outcomes are being stored, the next claim waits for this share of what can be settled. */
const WORTH_SHARE = 1 / 2
/** Attempts in flight and outcomes in hand, by slots: so memory is bounded on a fast endpoint. */
const MAX_IN_HAND = 4
/**
 * What a worker has in hand must be settled within this part of a lease, at the pace of the last
 * writes: with the claim before it, that is until its leases would be renewed (lease-renewal.ts).
 */
const SETTLE_PART = 1 / 2
/** Nothing is claimed while an outcome has waited for the store for so long. */
const MAX_OUTCOME_AGE = { ms: 500, part: 1 / 6 }
/** How soon it is looked again whether something may be claimed. */
const HELD_BACK_MS = 25
/** Jobs given back in one write at most. */
const MAX_RELEASE_BATCH = 100
/**
 * While endpoints are ready, hints lead to a look this often, not each time: every write of another
 * process is a hint, and each process would look after each write of all others.
 */
const LOOK_INTERVAL_MS = { least: 20, most: 5_000 }
/**
 * At most this share of the time goes to looks, whatever POLL_INTERVAL says: on a slow store they
 * would take the time that claims need. While no endpoint is ready there is nothing to claim.
 */
const LOOK_SHARE = { ready: 1 / 10, idle: 1 / 2 }
const BACK_OFF = { firstMs: 50, maxMs: 1_000 }

/** Claims from start() to stop(). */
export class DeliveryLoop {
  readonly #parts: LoopParts
  readonly #ready: ReadyEndpoints
  readonly #inFlightByEndpoint = new Map<string, number>()
  #inFlightCount = 0
  /** A claim that comes too late is of no use: the jobs are given back. */
  readonly #size: BatchSize
  readonly #releaseSize = createBatchSize(MAX_RELEASE_BATCH)
  #lateClaims = 0
  #unsettledCount = 0
  /** Attempts whose outcome is not stored yet, in the order in which they ended. */
  readonly #outcomes = new Set<{ endedAtMs: number }>()
  #isHinted = true
  #lastLookAtMs = Number.NEGATIVE_INFINITY
  #lookTookMs = 0
  readonly #loop: PollLoop
  #stopHints: (() => void) | null = null

  constructor(parts: LoopParts) {
    this.#parts = parts
    this.#ready = createReadyEndpoints(parts.store)
    this.#size = createBatchSize(parts.concurrency, {
      deadlineMs: MAX_CLAIM_AGE_MS,
      worth: Math.min(WORTH_CLAIM, parts.concurrency),
    })
    const report = (err: unknown) => parts.log.warn({ err }, 'claim.failed')
    this.#loop = new PollLoop({
      turn: () => this.#turn(),
      onFailure: { backOff: BACK_OFF, report },
    })
  }

  start(): void {
    this.#stopHints = this.#parts.store.onWork(() => {
      this.#isHinted = true
      this.#loop.wake()
    })
    this.#loop.start()
  }

  /** Claims nothing more; resolves when no claim is under way. Attempts in flight go on. */
  async stop(): Promise<void> {
    this.#stopHints?.()
    await this.#loop.stop()
  }

  /** Attempts that are under way or whose outcome is not stored yet. */
  get unsettledCount(): number {
    return this.#unsettledCount
  }

  /** Attempts that ended and whose outcome is not stored yet. */
  get unstoredCount(): number {
    return this.#outcomes.size
  }

  get inFlightCount(): number {
    return this.#inFlightCount
  }

  /** The rest before the next turn, in ms. */
  async #turn(): Promise<number> {
    await this.#parts.pacer.next()
    const freeSlots = this.#parts.slots() - this.#inFlightCount
    if (freeSlots <= 0) return this.#parts.pollIntervalMs
    const room = Math.min(freeSlots, this.#affordableCount())
    if (room <= 0) return HELD_BACK_MS
    if (this.#isLookDue()) await this.#look()
    const shares = fairShares(this.#readyEndpoints(), Math.min(room, this.#size.limit))
    if (shares.length === 0) return this.#untilNextLookMs()
    await this.#claim(shares)
    return 0
  }

  /** How many jobs more than now the store can keep up with. */
  #affordableCount(): number {
    const { concurrency, leases, leaseMs, affordable } = this.#parts
    const [oldest] = this.#outcomes
    const ageMs = oldest === undefined ? 0 : performance.now() - oldest.endedAtMs
    const mostMs = Math.min(MAX_OUTCOME_AGE.ms, leaseMs * MAX_OUTCOME_AGE.part)
    if (leases.isBehind || ageMs > mostMs) return 0
    const settleable = affordable(leaseMs * SETTLE_PART)
    if (settleable === null) return oldest === undefined ? FIRST_CLAIM : 0
    // One always: a pace is only known by what is settled. Rounded: a claim of two costs a store
    // a quarter less for each job than a claim of one.
    const most = Math.min(Math.max(1, Math.round(settleable)), concurrency * MAX_IN_HAND)
    const more = most - this.#unsettledCount
    // On a slow store, what is being settled makes room for a larger claim.
    const isWorth = most >= concurrency || oldest === undefined || more >= most * WORTH_SHARE
    return isWorth ? more : 0
  }

  *#readyEndpoints(): Iterable<ReadyEndpoint> {
    for (const endpoint of this.#ready.inOrder()) {
      yield { endpoint, inFlightCount: this.#inFlightByEndpoint.get(endpoint) ?? 0 }
    }
  }

  #isLookDue(): boolean {
    const sinceLookMs = performance.now() - this.#lastLookAtMs
    if (sinceLookMs < this.#lookIntervalMs()) return false
    if (sinceLookMs >= this.#parts.pollIntervalMs) return true
    const nextAt = this.#ready.nextDueAt()
    return this.#isHinted || (nextAt !== null && nextAt <= this.#parts.store.clock.now())
  }

  async #look(): Promise<void> {
    this.#isHinted = false
    this.#lastLookAtMs = performance.now()
    await this.#ready.look()
    this.#lookTookMs = performance.now() - this.#lastLookAtMs
  }

  /** From the beginning of one look to that of the next, at least. */
  #lookIntervalMs(): number {
    const { least, most } = LOOK_INTERVAL_MS
    if (this.#ready.isEmpty()) return Math.min(most, this.#lookTookMs / LOOK_SHARE.idle)
    return Math.min(most, Math.max(least, this.#lookTookMs / LOOK_SHARE.ready))
  }

  #untilNextLookMs(): number {
    const { pollIntervalMs, store } = this.#parts
    const nextAt = this.#ready.nextDueAt()
    const untilDueMs = nextAt === null ? pollIntervalMs : nextAt - store.clock.now()
    const newsMs = this.#isHinted ? 0 : Math.min(pollIntervalMs, untilDueMs)
    const restMs = this.#lastLookAtMs + this.#lookIntervalMs() - performance.now()
    const deferredMs = this.#ready.untilDeferralEndsMs() ?? pollIntervalMs
    return Math.min(Math.max(newsMs, restMs), deferredMs)
  }

  async #claim(shares: Lane[]): Promise<void> {
    const { store, workerId, leaseMs } = this.#parts
    const endpoints = await this.#parts.endpoints.current(shares.map(({ endpoint }) => endpoint))
    const lanes = shares.filter(({ endpoint }) =>
      this.#mayBeAsked(endpoints.get(endpoint), endpoint),
    )
    if (lanes.length === 0 || this.#loop.isStopping) return
    const holder = { workerId, leaseMs, withinMs: MAX_CLAIM_AGE_MS }
    const claimedAtMs = performance.now()
    const wanted = this.#parts.slots() - this.#inFlightCount
    if (wanted <= 0) return
    const asked = lanes.reduce((sum, { limit }) => sum + limit, 0)
    const ask = () =>
      traceClaim(lanes.length, async (span) => {
        const found = await store.claim(lanes, wanted, { ...holder, pulls: false })
        span.setAttributes({ 'messaging.batch.message_count': found.jobs.length })
        return found
      })
    const claim = await this.#size.run(asked, ask, ({ jobs }) => jobs.length)
    this.#parts.onClaimed(claim.jobs.length)
    this.#parts.pacer.isBehind = claim.jobs.length >= Math.min(asked, wanted)
    this.#rank(lanes, claim)
    const tookMs = performance.now() - claimedAtMs
    const isLate = tookMs > MAX_CLAIM_AGE_MS
    if (this.#loop.isStopping || isLate) {
      await this.#giveBack(claim.jobs)
      if (isLate) await waitBackOff(this.#lateClaims++, BACK_OFF)
      return
    }
    this.#lateClaims = 0
    for (const job of claim.jobs) {
      this.#start(job, endpoints.get(job.endpoint) as Endpoint, claimedAtMs)
    }
  }

  /** An endpoint that may not be asked now is no longer ready. */
  #mayBeAsked(endpoint: Endpoint | undefined, name: string): boolean {
    const now = this.#parts.store.clock.now()
    // Jobs of an endpoint without a URL are pulled, not sent.
    if (
      endpoint !== undefined &&
      endpoint.url !== null &&
      endpointState(endpoint, now) === 'active'
    ) {
      return true
    }
    this.#ready.markDrained(name)
    const rests = endpoint !== undefined && endpointState(endpoint, now) === 'resting'
    if (rests) this.#ready.defer(name, (endpoint.restingUntil as number) - now)
    else if (endpoint !== undefined && endpoint.url !== null) this.#ready.defer(name)
    return false
  }

  /**
   * An endpoint that gave all it was asked for may have more due. One that gave less has nothing
   * left, unless a limit kept it back, or other workers were faster.
   */
  #rank(lanes: Lane[], { jobs, limited, unfinished }: Claim): void {
    const mayHaveMore = new Set(unfinished)
    const taken = new Map<string, number>()
    for (const { endpoint } of jobs) taken.set(endpoint, (taken.get(endpoint) ?? 0) + 1)
    for (const { endpoint, limit } of lanes) {
      const gaveAll = (taken.get(endpoint) ?? 0) >= limit
      if (gaveAll || mayHaveMore.has(endpoint)) this.#ready.moveToBack(endpoint)
      else this.#ready.markDrained(endpoint)
    }
    const now = this.#parts.store.clock.now()
    for (const { endpoint, againAt } of limited) this.#ready.defer(endpoint, againAt - now)
  }

  /** A slot is free once the request is over: while outcomes are stored, others are sent. */
  #start(job: ClaimedJob, endpoint: Endpoint, claimedAtMs: number): void {
    this.#count(endpoint.name, 1)
    this.#unsettledCount++
    const outcome = { endedAtMs: 0 }
    const onEnded = () => {
      outcome.endedAtMs = performance.now()
      this.#outcomes.add(outcome)
      this.#count(endpoint.name, -1)
      this.#parts.pacer.noteEnded()
      this.#loop.wake()
    }
    void this.#parts.deliver(job, endpoint, claimedAtMs, onEnded).finally(() => {
      this.#unsettledCount--
      this.#outcomes.delete(outcome)
      // Its place among the attempts of a limited endpoint is free only now that this is stored.
      if (this.#ready.endDeferral(endpoint.name)) this.#loop.wake()
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
    const endsAtMs = performance.now() + this.#parts.leaseMs
    let left = jobs
    let failures = 0
    while (left.length > 0) {
      const some = left.slice(0, this.#releaseSize.limit)
      try {
        await this.#releaseSize.run(some.length, () => this.#parts.store.release(some))
        left = left.slice(some.length)
        failures = 0
      } catch (error) {
        const isOver = this.#loop.isStopping || performance.now() > endsAtMs
        if (isOver || !(error instanceof StoreUnavailable)) throw error
        this.#parts.log.warn({ err: error, jobs: left.length }, 'release.failed')
        await waitBackOff(failures++, BACK_OFF)
      }
    }
  }
}
