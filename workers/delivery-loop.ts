// The loop of a worker: it looks for due jobs, claims as many as it has free slots, and delivers
// each. Six rules decide when the next claim comes and how large it is. In the order of a turn:
//
// 1. Pacer (write-pacer.ts). A worker that is behind waits until half of its slots are free or no
//    more attempts end, so that one write to the store serves many jobs.
// 2. Slots (own-faults.ts). The worker uses fewer slots for a while after its machine ran out of
//    file descriptors, ports or memory.
// 3. Store (affordableCount below). The worker holds no more jobs than the store can settle within
//    half of a lease at its present pace. It claims no jobs while a renewal is due or an outcome
//    has waited too long for the store.
// 4. Look (ready-endpoints.ts). The worker asks which endpoints have due jobs after a hint, at the
//    next known due time, and every POLL_INTERVAL (less often while it is idle and the store gives
//    a hint at all work). Looks take at most a share of its time.
// 5. Shares (fair-shares.ts). The free slots are divided among the ready endpoints, so that an
//    endpoint that hangs cannot hold them all.
// 6. Size (src/batch-size.ts). A claim that took too long or failed is followed by a smaller one.
//
// On a healthy store rules 3 and 6 never apply. docs/decisions/0017 gives the reasons for them.
import type { Logger } from 'pino'
import { type BatchSize, createBatchSize } from '../src/batch-size.ts'
import { type Endpoint, endpointState } from '../src/endpoint/endpoint.ts'
import type { ClaimedJob } from '../src/job/job.ts'
import { hintedPollMs, PollLoop, waitBackOff } from '../src/loop.ts'
import type { Claim, EndpointShare, Store } from '../src/store/store.ts'
import { StoreUnavailable, StoreUnusable } from '../src/store/store-errors.ts'
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
  /** Renewals have priority over claims. */
  leases: { readonly isBehind: boolean }
  /** How many outcomes the store can take within `withinMs`; null: not known yet. */
  affordable: (withinMs: number) => number | null
  /** How many of the slots may be used now. */
  slots: () => number
  /** Decides when to claim again. */
  pacer: WritePacer
  /** Called with the number of jobs of each claim. */
  onClaimed: (jobCount: number) => void
  log: Logger
}

/** A job that was claimed longer ago than this is released unsent: it may be out of date. */
const MAX_CLAIM_AGE_MS = 1_000
/**
 * The size of a claim until the first outcome is stored, because the speed of the store is unknown
 * until then. While outcomes wait there is no claim at all. A worker that starts during an
 * overload, or dies in it, therefore leaves few jobs behind.
 */
const FIRST_CLAIM = 10
/**
 * A claim is three commands, whatever its size. On a store that is slow to read, smaller claims
 * only take longer for each job.
 */
const LEAST_CLAIM = 25
/**
 * While outcomes are being stored, the next claim waits until it can be at least this share of the
 * jobs that the store can settle.
 */
const WORTH_SHARE = 1 / 2
/**
 * A store that settles fewer jobs than this in half of a lease is written to by one claim or one
 * settlement at a time. Both at once, from several workers, wait for each other so long that claims
 * come too late and are released.
 */
const FEW = 10
/** Limit of unsettled jobs for each slot: it bounds memory when an endpoint responds fast. */
const MAX_UNSETTLED_PER_SLOT = 4
/**
 * The store must be able to settle all jobs of a worker within this part of a lease, at the pace of
 * its last writes. Together with the claim, this ends before the leases of ended attempts are due
 * for renewal (lease-renewal.ts).
 */
const SETTLE_PART = 1 / 2
/** The worker claims no jobs while an outcome has waited longer than this for the store. */
const MAX_OUTCOME_AGE = { ms: 500, part: 1 / 6 }
/** The rest before the loop checks again whether the store has room for more jobs. */
const NO_ROOM_REST_MS = 25
/** Limit of jobs released in one write. */
const MAX_RELEASE_BATCH = 100
/**
 * While endpoints are ready, a hint leads to a look only after `least`. Every write of another
 * process is a hint; without the limit each process would look after each write of all others.
 */
const LOOK_INTERVAL_MS = { least: 20, most: 5_000 }
/**
 * Looks take at most this share of the time, whatever POLL_INTERVAL says: on a slow store they
 * would take the time that claims need. `idle`: no endpoint is ready, so no claim needs the time.
 */
const LOOK_SHARE = { ready: 1 / 10, idle: 1 / 2 }
/** A worker is idle when it has had no attempt for this long. */
const IDLE_AFTER_MS = 5_000
/** The cause stays until the worker is restarted with another key. */
const KEY_LOG_EVERY_MS = 60_000
/** Longer than the interval of full looks: an endpoint with due jobs is found again before that. */
const KEY_MISSING_MS = 12_000
const BACK_OFF = { firstMs: 50, maxMs: 1_000 }

/** Claims jobs from start() to stop(). */
export class DeliveryLoop {
  readonly #parts: LoopParts
  readonly #ready: ReadyEndpoints
  readonly #inFlightByEndpoint = new Map<string, number>()
  #inFlightCount = 0
  /** The size of claims. The jobs of a claim that took too long are released. */
  readonly #size: BatchSize
  readonly #releaseSize = createBatchSize(MAX_RELEASE_BATCH)
  #lateClaims = 0
  #unsettledCount = 0
  /** Ended attempts whose outcome is not stored yet, in the order in which they ended. */
  readonly #outcomes = new Set<{ endedAtMs: number }>()
  #isHinted = true
  #lastLookAtMs = Number.NEGATIVE_INFINITY
  /** When there was an unsettled job last, as far as this loop has seen. */
  #busyAtMs = performance.now()
  #lookTookMs = 0
  #lacksKeyAtMs = Number.NEGATIVE_INFINITY
  #lastKeyLogMs = Number.NEGATIVE_INFINITY
  readonly #loop: PollLoop
  #stopHints: (() => void) | null = null

  constructor(parts: LoopParts) {
    this.#parts = parts
    this.#ready = createReadyEndpoints(parts.store)
    this.#size = createBatchSize(parts.concurrency, {
      deadlineMs: MAX_CLAIM_AGE_MS,
      least: Math.min(LEAST_CLAIM, parts.concurrency),
    })
    this.#loop = new PollLoop({
      turn: () => this.#turn(),
      onFailure: { backOff: BACK_OFF, report: (error) => this.#report(error) },
    })
  }

  start(): void {
    this.#stopHints = this.#parts.store.onWork(() => {
      this.#isHinted = true
      this.#loop.wake()
    })
    this.#loop.start()
  }

  /** Stops claiming. Resolves when no claim is in progress; attempts in flight continue. */
  async stop(): Promise<void> {
    this.#stopHints?.()
    await this.#loop.stop()
  }

  /** Attempts in flight, or ended with an outcome that is not stored yet. */
  get unsettledCount(): number {
    return this.#unsettledCount
  }

  /** Attempts that ended with an outcome that is not stored yet. */
  get unstoredCount(): number {
    return this.#outcomes.size
  }

  /** This worker recently found an endpoint that none of its keys decrypts. */
  get lacksKey(): boolean {
    return performance.now() - this.#lacksKeyAtMs < KEY_MISSING_MS
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
    if (room <= 0) return NO_ROOM_REST_MS
    if (this.#isLookDue()) await this.#look()
    const shares = fairShares(this.#readyEndpoints(), Math.min(room, this.#size.limit))
    if (shares.length === 0) return this.#untilNextLookMs()
    await this.#claim(shares)
    return 0
  }

  /** How many more jobs than now the store can settle in time. */
  #affordableCount(): number {
    const { concurrency, leases, leaseMs, affordable } = this.#parts
    const [oldest] = this.#outcomes
    const ageMs = oldest === undefined ? 0 : performance.now() - oldest.endedAtMs
    const mostMs = Math.min(MAX_OUTCOME_AGE.ms, leaseMs * MAX_OUTCOME_AGE.part)
    if (leases.isBehind || ageMs > mostMs) return 0
    const settleable = affordable(leaseMs * SETTLE_PART)
    if (settleable === null) return oldest === undefined ? FIRST_CLAIM : 0
    // At least one, because only a settled job shows the pace. Rounded, because a claim of two
    // costs the store a quarter less for each job than a claim of one.
    const most = Math.min(Math.max(1, Math.round(settleable)), concurrency * MAX_UNSETTLED_PER_SLOT)
    const more = most - this.#unsettledCount
    if (oldest === undefined || most >= concurrency) return more
    // On a slow store, the writes in progress soon make room for a larger claim.
    return most >= FEW && more >= most * WORTH_SHARE ? more : 0
  }

  *#readyEndpoints(): Iterable<ReadyEndpoint> {
    for (const endpoint of this.#ready.inOrder()) {
      yield { endpoint, inFlightCount: this.#inFlightByEndpoint.get(endpoint) ?? 0 }
    }
  }

  #isLookDue(): boolean {
    const sinceLookMs = performance.now() - this.#lastLookAtMs
    if (sinceLookMs < this.#lookIntervalMs()) return false
    if (sinceLookMs >= this.#pollIntervalMs()) return true
    const nextAt = this.#ready.nextDueAt()
    return this.#isHinted || (nextAt !== null && nextAt <= this.#parts.store.clock.now())
  }

  /** The longest time between two looks. */
  #pollIntervalMs(): number {
    const { pollIntervalMs, store } = this.#parts
    if (this.#unsettledCount > 0) this.#busyAtMs = performance.now()
    const isIdle = performance.now() - this.#busyAtMs > IDLE_AFTER_MS
    return isIdle && store.hintsAtAllWork ? hintedPollMs(pollIntervalMs) : pollIntervalMs
  }

  async #look(): Promise<void> {
    this.#isHinted = false
    this.#lastLookAtMs = performance.now()
    await this.#ready.look()
    this.#lookTookMs = performance.now() - this.#lastLookAtMs
  }

  /** The least time from the beginning of one look to the beginning of the next. */
  #lookIntervalMs(): number {
    const { least, most } = LOOK_INTERVAL_MS
    if (this.#ready.isEmpty()) return Math.min(most, this.#lookTookMs / LOOK_SHARE.idle)
    return Math.min(most, Math.max(least, this.#lookTookMs / LOOK_SHARE.ready))
  }

  #untilNextLookMs(): number {
    const { store } = this.#parts
    const pollIntervalMs = this.#pollIntervalMs()
    const nextAt = this.#ready.nextDueAt()
    const untilDueMs = nextAt === null ? pollIntervalMs : nextAt - store.clock.now()
    const newsMs = this.#isHinted ? 0 : Math.min(pollIntervalMs, untilDueMs)
    const restMs = this.#lastLookAtMs + this.#lookIntervalMs() - performance.now()
    const deferredMs = this.#ready.untilDeferralEndsMs() ?? pollIntervalMs
    return Math.min(Math.max(newsMs, restMs), deferredMs)
  }

  async #claim(shares: EndpointShare[]): Promise<void> {
    const { store, workerId, leaseMs } = this.#parts
    const endpoints = await this.#parts.endpoints.current(shares.map(({ endpoint }) => endpoint))
    const open = shares.filter(({ endpoint }) =>
      this.#isClaimable(endpoints.get(endpoint), endpoint),
    )
    if (open.length === 0 || this.#loop.isStopping) return
    const holder = { workerId, leaseMs, withinMs: MAX_CLAIM_AGE_MS }
    const claimedAtMs = performance.now()
    const wanted = this.#parts.slots() - this.#inFlightCount
    if (wanted <= 0) return
    const asked = open.reduce((sum, { limit }) => sum + limit, 0)
    const ask = () =>
      traceClaim(open.length, async (span) => {
        const found = await store.claim(open, wanted, { ...holder, pulls: false })
        span.setAttributes({ 'messaging.batch.message_count': found.jobs.length })
        return found
      })
    const claim = await this.#size.run(asked, ask, ({ jobs }) => jobs.length)
    this.#parts.onClaimed(claim.jobs.length)
    this.#parts.pacer.isBehind = claim.jobs.length >= Math.min(asked, wanted)
    this.#rank(open, claim)
    const tookMs = performance.now() - claimedAtMs
    const isLate = tookMs > MAX_CLAIM_AGE_MS
    if (this.#loop.isStopping || isLate) {
      await this.#release(claim.jobs)
      if (isLate) await waitBackOff(this.#lateClaims++, BACK_OFF)
      return
    }
    this.#lateClaims = 0
    for (const job of claim.jobs) {
      this.#start(job, endpoints.get(job.endpoint) as Endpoint, claimedAtMs)
    }
  }

  #report(error: unknown): void {
    if (error instanceof StoreUnusable) this.#reportKeyMissing(undefined, error.message)
    else this.#parts.log.warn({ err: error }, 'claim.failed')
  }

  #reportKeyMissing(endpoint: string | undefined, reason: string): void {
    const nowMs = performance.now()
    this.#lacksKeyAtMs = nowMs
    if (nowMs - this.#lastKeyLogMs < KEY_LOG_EVERY_MS) return
    this.#lastKeyLogMs = nowMs
    const detail = `${reason}; this worker delivers none of its jobs until it is started with that key`
    this.#parts.log.error({ endpoint, detail }, 'worker.key_missing')
  }

  /** Whether jobs of the endpoint may be claimed now. If not, it is no longer ready. */
  #isClaimable(endpoint: Endpoint | undefined, name: string): boolean {
    const now = this.#parts.store.clock.now()
    const isPulled = endpoint?.url === null
    // The jobs of a pulled endpoint are not sent.
    if (endpoint !== undefined && !isPulled && endpointState(endpoint, now) === 'active') {
      if (endpoint.undecryptable === null) return true
      this.#reportKeyMissing(name, endpoint.undecryptable)
    }
    this.#ready.markDrained(name)
    const rests = endpoint !== undefined && endpointState(endpoint, now) === 'resting'
    if (rests) this.#ready.defer(name, (endpoint.restingUntil as number) - now)
    else if (endpoint !== undefined && (!isPulled || this.#mayHaveUrl(name))) {
      this.#ready.defer(name)
    }
    return false
  }

  /**
   * Whether a pulled endpoint may have got a URL. The store then makes a look find it, so that an
   * endpoint that was read after the last look is not read again and again.
   */
  #mayHaveUrl(name: string): boolean {
    return this.#parts.endpoints.readAtMs(name) < this.#lastLookAtMs
  }

  /**
   * An endpoint that filled its share may have more jobs due. One that returned fewer has none
   * left, unless a limit stopped the claim or other workers claimed at the same time.
   */
  #rank(open: EndpointShare[], { jobs, limited, unfinished }: Claim): void {
    const mayHaveMore = new Set(unfinished)
    const claimed = new Map<string, number>()
    for (const { endpoint } of jobs) claimed.set(endpoint, (claimed.get(endpoint) ?? 0) + 1)
    for (const { endpoint, limit } of open) {
      const isFilled = (claimed.get(endpoint) ?? 0) >= limit
      if (isFilled || mayHaveMore.has(endpoint)) this.#ready.moveToBack(endpoint)
      else this.#ready.markDrained(endpoint)
    }
    const now = this.#parts.store.clock.now()
    for (const { endpoint, againAt, limits } of limited) {
      this.#ready.defer(endpoint, againAt - now, limits)
    }
  }

  /** The slot becomes free when the request is over: the store write does not delay other jobs. */
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
      // The limits count the attempt until its outcome is stored.
      if (this.#ready.endDeferrals(endpoint)) this.#loop.wake()
    })
  }

  #count(endpoint: string, change: 1 | -1): void {
    const count = (this.#inFlightByEndpoint.get(endpoint) ?? 0) + change
    if (count === 0) this.#inFlightByEndpoint.delete(endpoint)
    else this.#inFlightByEndpoint.set(endpoint, count)
    this.#inFlightCount += change
  }

  async #release(jobs: ClaimedJob[]): Promise<void> {
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
