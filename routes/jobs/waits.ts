// Requests that wait: GET /jobs/:id?wait until a job is final, and claims until a job is due. All
// waits of a process share one read of the store, so that no wait uses a connection of the store.
import type { Socket } from 'node:net'
import type { ClaimedJob } from '../../src/job/job.ts'
import type { Store } from '../../src/store/store.ts'

/**
 * Limit of each kind of wait. Beyond it a wait ends at once, with the job as it is, or without a
 * job.
 */
const MAX_WAITS = 10_000

/** How often the jobs are looked up while a request waits for one. */
const FINAL_LOOK_INTERVAL_MS = 50
const MAX_IDS_PER_LOOK = 1_000
/** However many requests wait, these reads take at most a fifth of the time of this process. */
const REST_PER_LOOK = 4
/** If the store did not respond, the next read comes within this time. */
const MAX_FINAL_LOOK_INTERVAL_MS = 1_000
export interface JobWaits {
  /**
   * Resolves when the job is final or deleted, the time is over, the client has disconnected, or
   * the process stops.
   */
  untilFinal(id: string, waitMs: number, client: Socket): Promise<void>
  stop(): void
}

export function createJobWaits(store: Pick<Store, 'finalAmong'>): JobWaits {
  const endsById = new Map<string, Set<() => void>>()
  let waitCount = 0
  let timer: NodeJS.Timeout | null = null
  let isStopped = false

  async function look(): Promise<void> {
    const startedAtMs = performance.now()
    const ids = [...endsById.keys()]
    for (let i = 0; i < ids.length; i += MAX_IDS_PER_LOOK) {
      // If the store does not respond, no wait ends: each wait has its own deadline.
      const final = await store.finalAmong(ids.slice(i, i + MAX_IDS_PER_LOOK)).catch(() => [])
      for (const id of final) endsById.get(id)?.forEach((end) => void end())
    }
    const restMs = Math.min(
      MAX_FINAL_LOOK_INTERVAL_MS,
      Math.max(FINAL_LOOK_INTERVAL_MS, REST_PER_LOOK * (performance.now() - startedAtMs)),
    )
    timer = endsById.size === 0 ? null : setTimeout(() => void look(), restMs)
  }

  return {
    untilFinal(id, waitMs, client) {
      if (isStopped || waitCount >= MAX_WAITS || waitMs === 0) return Promise.resolve()
      return new Promise((resolve) => {
        const ends = endsById.get(id) ?? new Set()
        const end = () => {
          clearTimeout(deadline)
          client.off('close', end)
          ends.delete(end)
          if (ends.size === 0) endsById.delete(id)
          waitCount--
          resolve()
        }
        const deadline = setTimeout(end, waitMs)
        client.once('close', end)
        ends.add(end)
        endsById.set(id, ends)
        waitCount++
        timer ??= setTimeout(() => void look(), 0)
      })
    },
    stop() {
      isStopped = true
      if (timer !== null) clearTimeout(timer)
      for (const ends of [...endsById.values()]) for (const end of [...ends]) end()
    },
  }
}

/** How often due jobs are looked up while a claim waits and no write announces one. */
const DUE_LOOK_INTERVAL_MS = 250
/** The least time between reads, however often writes announce due jobs. */
const MIN_DUE_LOOK_INTERVAL_MS = 10
/** A read also covers this much of the past: a slow write makes its job visible late. */
const OVERLAP_MS = 5_000
/**
 * Each waiting claim is tried at least this often, because a resume or the end of a limit makes no
 * job due.
 */
const TRY_ALL_INTERVAL_MS = 1_000
/** Limit for one endpoint: thousands of claims for one job would block the store. */
const TRIED_AT_ONCE = 16

type Claim = () => Promise<ClaimedJob[]>

export interface PullWaits {
  /**
   * Claims jobs as soon as some are due. Returns none if the time is over, the client has
   * disconnected, or the process stops. Rejects as `claim` does.
   */
  untilClaimed(
    endpoint: string,
    claim: Claim,
    waitMs: number,
    client: Socket,
  ): Promise<ClaimedJob[]>
  stop(): void
}

interface Wait {
  endpoint: string
  claim: Claim
  end: (jobs: ClaimedJob[]) => void
  fail: (error: unknown) => void
  isClaiming: boolean
  isOver: boolean
}

/** Looks for due jobs from the first claim that waits until stop(). */
export class SharedPullWaits implements PullWaits {
  readonly #store: Pick<Store, 'due' | 'clock' | 'onWork'>
  readonly #waits = new Set<Wait>()
  #isStopped = false
  #stopListening: (() => void) | null = null
  #timer: NodeJS.Timeout | null = null
  #isLooking = false
  #lookedAtMs = 0
  #triedAllAtMs = 0

  constructor(store: Pick<Store, 'due' | 'clock' | 'onWork'>) {
    this.#store = store
  }

  async untilClaimed(
    endpoint: string,
    claim: Claim,
    waitMs: number,
    client: Socket,
  ): Promise<ClaimedJob[]> {
    const jobs = await claim()
    if (jobs.length > 0 || waitMs === 0) return jobs
    if (this.#isStopped || this.#waits.size >= MAX_WAITS) return jobs
    const { promise, resolve, reject } = Promise.withResolvers<ClaimedJob[]>()
    const wait = { endpoint, claim, end: resolve, fail: reject, isClaiming: false, isOver: false }
    const deadline = setTimeout(giveUp, waitMs, wait)
    const onClose = () => giveUp(wait)
    client.once('close', onClose)
    this.#add(wait)
    try {
      return await promise
    } finally {
      clearTimeout(deadline)
      client.off('close', onClose)
      this.#remove(wait)
    }
  }

  stop(): void {
    this.#isStopped = true
    this.#stopListening?.()
    if (this.#timer !== null) clearTimeout(this.#timer)
    for (const wait of this.#waits) giveUp(wait)
  }

  #add(wait: Wait): void {
    this.#waits.add(wait)
    this.#stopListening ??= this.#store.onWork(() => this.#onWork())
    if (this.#timer === null && !this.#isLooking) this.#planLook(MIN_DUE_LOOK_INTERVAL_MS)
  }

  #remove(wait: Wait): void {
    this.#waits.delete(wait)
    if (this.#waits.size > 0 || this.#timer === null) return
    clearTimeout(this.#timer)
    this.#timer = null
  }

  #planLook(inMs: number): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = setTimeout(() => void this.#look(), inMs)
  }

  #onWork(): void {
    if (this.#isLooking || this.#waits.size === 0) return
    const sinceLookMs = performance.now() - this.#lookedAtMs
    this.#planLook(Math.max(0, MIN_DUE_LOOK_INTERVAL_MS - sinceLookMs))
  }

  async #look(): Promise<void> {
    this.#timer = null
    this.#isLooking = true
    this.#lookedAtMs = performance.now()
    const names = await this.#namesToTry()
    const tried = [...this.#waits].filter(({ endpoint }) => names?.has(endpoint) ?? true)
    const byEndpoint = Map.groupBy(tried, ({ endpoint }) => endpoint)
    await Promise.all([...byEndpoint.values()].map(tryInTurn))
    this.#isLooking = false
    if (this.#waits.size > 0 && !this.#isStopped) this.#planLook(DUE_LOOK_INTERVAL_MS)
  }

  /** The endpoints whose claims are tried now; null: all endpoints. */
  async #namesToTry(): Promise<Set<string> | null> {
    if (performance.now() - this.#triedAllAtMs > TRY_ALL_INTERVAL_MS) {
      this.#triedAllAtMs = performance.now()
      return null
    }
    // If the store does not respond, no wait ends: each wait has its own deadline.
    const since = this.#store.clock.now() - OVERLAP_MS
    const found = await this.#store.due(since).catch(() => null)
    return new Set(found?.endpoints ?? [])
  }
}

/**
 * Tries the claim that waits longest first. If it finds nothing, the claims behind it find nothing
 * either.
 */
async function tryInTurn(waits: Wait[]): Promise<void> {
  for (let i = 0; i < waits.length; i += TRIED_AT_ONCE) {
    const tries = await Promise.all(waits.slice(i, i + TRIED_AT_ONCE).map(tryToClaim))
    if (tries.includes('nothing')) return
  }
}

async function tryToClaim(wait: Wait): Promise<'claimed' | 'nothing' | 'not tried'> {
  if (wait.isClaiming || wait.isOver) return 'not tried'
  wait.isClaiming = true
  try {
    const jobs = await wait.claim()
    if (jobs.length > 0 || wait.isOver) wait.end(jobs)
    return jobs.length > 0 ? 'claimed' : 'nothing'
  } catch (error) {
    wait.fail(error)
    return 'nothing'
  } finally {
    wait.isClaiming = false
  }
}

/** Ends a wait. If its claim is in progress, the jobs of that claim are still returned. */
function giveUp(wait: Wait): void {
  wait.isOver = true
  if (!wait.isClaiming) wait.end([])
}
