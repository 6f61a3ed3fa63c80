// Keys made with POST /keys, as this process knows them: never older than an ended key may live on.
import type { KeyScope, StoredKey } from '../src/store/records.ts'
import type { Store } from '../src/store/store.ts'

/** An ended key is to be refused everywhere within 5 s. */
const MAX_AGE_MS = 2_000

export interface StoredKeys {
  /** null: there is no such key. */
  scopeOf(hash: string): Promise<KeyScope | null>
  /** After a change by this process, which is to see it at once. */
  forget(): void
}

export function createStoredKeys(store: Pick<Store, 'listKeys'>): StoredKeys {
  let reading: Promise<Map<string, StoredKey>> | null = null
  let readAtMs = Number.NEGATIVE_INFINITY

  /** All keys in one read, shared by all who ask meanwhile; there are few of them. */
  function read(): Promise<Map<string, StoredKey>> {
    const isFresh = performance.now() - readAtMs < MAX_AGE_MS
    if (reading !== null && isFresh) return reading
    readAtMs = performance.now()
    const started = store.listKeys().then((keys) => new Map(keys.map((key) => [key.hash, key])))
    reading = started
    // One that failed is tried again by the next who asks.
    started.catch(() => {
      if (reading === started) reading = null
    })
    return started
  }

  return {
    async scopeOf(hash) {
      return (await read()).get(hash)?.scope ?? null
    },
    forget() {
      reading = null
    },
  }
}
