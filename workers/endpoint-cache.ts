// Endpoints as this worker knows them. A change is to reach every worker within 1 s, and the store
// may remember for a moment as well: each has less than half of that.
import type { Endpoint } from '../src/endpoint/endpoint.ts'
import type { ApiMode } from '../src/store/records.ts'
import type { Store } from '../src/store/store.ts'

const MAX_AGE_MS = 400
const NEVER = Number.NEGATIVE_INFINITY
/** As many as a worker may meet within that age; older ones are dropped first. */
const MAX_ENTRIES = 20_000

export interface EndpointCache {
  /** Those of the names that are registered and not being deleted. */
  current(names: string[]): Promise<Map<string, Endpoint>>
  /** Its state has changed, as this worker knows. */
  forget(name: string): void
}

/**
 * @param onMode told what the API wrote of itself, at every look. It is read after the endpoints:
 *   one that only local mode allows was registered after that mode was written.
 * @param monotonicMs since this process began, which may be a moment ago
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
    forget(name) {
      known.delete(name)
    },
  }
}
