// What the store holds, in figures: one look serves all who ask within a few seconds.
import { setImmediate as nextTurn } from 'node:timers/promises'
import { type Endpoint, endpointState } from '../src/endpoint/endpoint.ts'
import type { EndpointFigures, QueueSnapshot } from '../src/metrics.ts'
import { isLive } from '../src/store/records.ts'
import { MAX_ANSWER_MS, type Store, StoreUnavailable } from '../src/store/store.ts'

/** An answer is at most 5 s old (docs: api, "The rest"); a second is left for the look itself. */
const MAX_AGE_MS = 4_000
/** Further ones, by name, are left out. */
export const MAX_SNAPSHOT_ENDPOINTS = 1_000
/** Counted in one call of the store, so that no call holds it for long. */
const ENDPOINTS_PER_LOOK = 20
const ENDPOINTS_PER_PAGE = 100

type Counted = Pick<Store, 'clock' | 'listEndpoints' | 'statsOf' | 'listWorkers'>

/** Reads the figures, or repeats those of a moment ago. Throws StoreUnavailable. */
export function createQueueSnapshot(store: Counted): () => Promise<QueueSnapshot> {
  let latest: { snapshot: QueueSnapshot; atMs: number } | null = null
  let looking: Promise<QueueSnapshot> | null = null

  async function look(): Promise<QueueSnapshot> {
    const atMs = performance.now()
    const asOf = store.clock.now()
    const workers = await store.listWorkers()
    const liveWorkers = workers.filter((worker) => isLive(worker, asOf)).length
    const snapshot = { asOf, endpoints: await figuresOfAll(store, asOf), liveWorkers }
    latest = { snapshot, atMs }
    return snapshot
  }

  return async () => {
    if (latest !== null && performance.now() - latest.atMs < MAX_AGE_MS) return latest.snapshot
    looking ??= look().finally(() => {
      looking = null
    })
    return inTime(looking)
  }
}

/** A look is many calls of the store; each may take as long, but together they may not. */
async function inTime<T>(work: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>()
  const timer = setTimeout(() => {
    late.reject(new StoreUnavailable(`the store took more than ${MAX_ANSWER_MS} ms to count`))
  }, MAX_ANSWER_MS)
  try {
    return await Promise.race([work, late.promise])
  } finally {
    clearTimeout(timer)
  }
}

async function figuresOfAll(store: Counted, now: number): Promise<EndpointFigures[]> {
  const endpoints: Endpoint[] = []
  let after: string | null = null
  do {
    const page = await store.listEndpoints(after, ENDPOINTS_PER_PAGE)
    endpoints.push(...page.items)
    after = page.next
  } while (after !== null && endpoints.length < MAX_SNAPSHOT_ENDPOINTS)

  const figures: EndpointFigures[] = []
  for (let i = 0; i < endpoints.length; i += ENDPOINTS_PER_LOOK) {
    const some = endpoints.slice(i, i + ENDPOINTS_PER_LOOK)
    const stats = await store.statsOf(some.map(({ name }) => name))
    for (const [j, endpoint] of some.entries()) {
      const found = stats[j]
      if (found === undefined) throw new Error(`statsOf left out ${endpoint.name}`)
      figures.push({ name: endpoint.name, state: endpointState(endpoint, now), ...found })
    }
    // SQLite counts on this thread; requests go first.
    await nextTurn()
  }
  return figures
}
