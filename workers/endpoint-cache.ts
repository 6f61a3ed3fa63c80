// Caches endpoints for a worker. A change must reach every worker within 1 s, and the store may
// cache endpoints too, so each of the two caches keeps them for less than half of that.
import type { Endpoint } from '../src/endpoint/endpoint.ts'
import type { ApiMode } from '../src/store/api-mode.ts'
import type { Store } from '../src/store/store.ts'

const MAX_AGE_MS = 400
const NEVER = Number.NEGATIVE_INFINITY
/** More endpoints than a worker uses within that age. The oldest entries are dropped first. */
const MAX_ENTRIES = 20_000

export interface EndpointCache {
  /** The endpoints with these names that are registered and not being deleted. */
  current(names: string[]): Promise<Map<string, Endpoint>>
  /** When it was read, by the monotonic clock: changes since then are not known. */
  readAtMs(name: string): number
  /** Drops an endpoint whose state this worker has changed. */
  forget(name: string): void
}

/**
 * @param onMode called with the stored mode of the API, at every read. The mode is read after the
 *   endpoints, because an endpoint that only local mode allows is registered after the API stored
 *   that mode.
 * @param monotonicMs milliseconds since this process began, which can be close to 0
 */
export function createEndpointCache(
  store: Pick<Store, 'endpointsNamed' | 'readApiMode'>,
  onMode: (mode: ApiMode | null) => void,
  monotonicMs = () => performance.now(),
): EndpointCache {
  const known = new Map<string, { endpoint: Endpoint | null; readAtMs: number }>()

  async function read(names: string[]): Promise<void> {
    const readAtMs = monotonicMs()
    const found = await store.endpointsNamed(names)
    onMode(await store.readApiMode())
    const byName = new Map(found.map((endpoint) => [endpoint.name, endpoint]))
    for (const name of names) {
      known.delete(name)
      known.set(name, { endpoint: byName.get(name) ?? null, readAtMs })
    }
    for (const name of known.keys()) {
      if (known.size <= MAX_ENTRIES) break
      known.delete(name)
    }
  }

  return {
    async current(names) {
      const oldestAtMs = monotonicMs() - MAX_AGE_MS
      const isFresh = (name: string) => (known.get(name)?.readAtMs ?? NEVER) >= oldestAtMs
      const stale = names.filter((name) => !isFresh(name))
      if (stale.length > 0) await read(stale)
      const usable = new Map<string, Endpoint>()
      for (const name of names) {
        const endpoint = known.get(name)?.endpoint
        if (endpoint && !endpoint.deleting) usable.set(name, endpoint)
      }
      return usable
    },
    readAtMs: (name) => known.get(name)?.readAtMs ?? NEVER,
    forget(name) {
      known.delete(name)
    },
  }
}
