// Counts of jobs, endpoints and workers. One read of the store serves all requests of a few
// seconds.
import { type Endpoint, endpointState } from '../../src/endpoint/endpoint.ts'
import type { DeletedEndpointStats, EndpointStats, QueueSnapshot } from '../../src/stats/metrics.ts'
import { MAX_STATS_NAMES, STORE_DEADLINE_MS, type Store } from '../../src/store/store.ts'
import { StoreUnavailable } from '../../src/store/store-errors.ts'
import { canDeliver } from '../../src/store/worker-liveness.ts'

/** A snapshot is usually at most 5 s old. One second of this is left for the count itself. */
const MAX_AGE_MS = 4_000
/** Each endpoint has secrets to decrypt, which blocks this thread. */
const ENDPOINTS_PER_PAGE = 500

type Counted = Pick<
  Store,
  | 'clock'
  | 'listEndpoints'
  | 'endpointsNamed'
  | 'statsOf'
  | 'deletedEndpoints'
  | 'listWorkers'
  | 'encryptionKeyIds'
>

export interface Snapshots {
  /**
   * The snapshot of all endpoints, at most a few seconds old. Throws StoreUnavailable. With
   * thousands of endpoints that have jobs, a count may take longer than a request waits. The
   * response is then the previous snapshot; its asOf shows its age.
   */
  ofAll(): Promise<QueueSnapshot>
  /** A new snapshot of one endpoint; empty if it does not exist. */
  ofOne(name: string): Promise<QueueSnapshot>
}

export function createSnapshots(store: Counted): Snapshots {
  let latest: { snapshot: QueueSnapshot; atMs: number } | null = null
  let looking: Promise<QueueSnapshot> | null = null
  /** Whether the store has responded since the current count began. */
  let hasResponded = false

  async function look(): Promise<QueueSnapshot> {
    hasResponded = false
    try {
      const asOf = store.clock.now()
      const liveWorkers = await countLive(store, asOf)
      hasResponded = true
      const { endpoints, more } = await endpointsOf(store)
      const stats = await statsByEndpoint(store, endpoints, asOf)
      const deleted = await deletedEndpointStats(store, await store.deletedEndpoints())
      const snapshot = { asOf, endpoints: stats, more, liveWorkers, deleted }
      latest = { snapshot, atMs: performance.now() }
      return snapshot
    } finally {
      looking = null
    }
  }

  return {
    async ofAll() {
      if (latest !== null && performance.now() - latest.atMs < MAX_AGE_MS) return latest.snapshot
      looking ??= look()
      const inTime = await withinDeadline(looking)
      if (inTime !== null) return inTime
      // Each read of the count has a deadline of its own, so the count is slow, but the store does
      // respond.
      if (latest !== null && hasResponded) return latest.snapshot
      throw new StoreUnavailable(`the store took more than ${STORE_DEADLINE_MS} ms to count`)
    },
    async ofOne(name) {
      const asOf = store.clock.now()
      const liveWorkers = await countLive(store, asOf)
      const endpoints = await store.endpointsNamed([name])
      const stats = await statsByEndpoint(store, endpoints, asOf)
      const isDeleted = endpoints.length === 0
      const deleted = isDeleted ? await deletedEndpointStats(store, [name]) : []
      return { asOf, endpoints: stats, more: false, liveWorkers, deleted }
    },
  }
}

/** Returns null if the work is not finished within the time that a request waits. */
async function withinDeadline<T>(work: Promise<T>): Promise<T | null> {
  const late = Promise.withResolvers<null>()
  const timer = setTimeout(() => late.resolve(null), STORE_DEADLINE_MS)
  try {
    return await Promise.race([work, late.promise])
  } finally {
    clearTimeout(timer)
  }
}

async function countLive(store: Counted, now: number): Promise<number> {
  const workers = await store.listWorkers()
  const keyIds = store.encryptionKeyIds()
  return workers.filter((worker) => canDeliver(worker, now, keyIds)).length
}

async function endpointsOf(store: Counted): Promise<{ endpoints: Endpoint[]; more: boolean }> {
  const endpoints: Endpoint[] = []
  let after: string | null = null
  do {
    const room = Math.min(ENDPOINTS_PER_PAGE, MAX_STATS_NAMES - endpoints.length)
    const page = await store.listEndpoints(after, room)
    endpoints.push(...page.items)
    after = page.next
  } while (after !== null && endpoints.length < MAX_STATS_NAMES)
  return { endpoints, more: after !== null }
}

/** The deleted endpoints that have dead jobs. */
async function deletedEndpointStats(
  store: Counted,
  names: string[],
): Promise<DeletedEndpointStats[]> {
  const stats = await store.statsOf(names)
  const named = stats.map(({ dead, more }, i) => ({ name: names[i] as string, dead, more }))
  return named.filter(({ dead }) => dead > 0)
}

async function statsByEndpoint(
  store: Counted,
  endpoints: Endpoint[],
  now: number,
): Promise<EndpointStats[]> {
  const stats = await store.statsOf(endpoints.map(({ name }) => name))
  return endpoints.map((endpoint, i) => {
    const found = stats[i]
    if (found === undefined) throw new Error(`statsOf left out ${endpoint.name}`)
    return { name: endpoint.name, state: endpointState(endpoint, now), ...found }
  })
}
