// Keys made with POST /keys, as this process knows them: never older than an ended key may live on.
import type { StoredKey } from '../src/store/records.ts'
import type { Store } from '../src/store/store.ts'

/** An ended key is to be refused everywhere within 5 s. */
const MAX_AGE_MS = 2_000

export interface StoredKeys {
  /**
   * null: there is no such key. At once where the keys were read a moment ago: a wrong key is then
   * refused before any of the body is parsed.
   */
  find(hash: string): StoredKey | null | Promise<StoredKey | null>
  /** After a change by this process, which is to see it at once. */
  forget(): void
}

export function createStoredKeys(store: Pick<Store, 'listKeys'>): StoredKeys {
  let reading: Promise<Map<string, StoredKey>> | null = null
  /** What `reading` has come to; null: nothing yet. */
  let known: Map<string, StoredKey> | null = null
  let readAtMs = Number.NEGATIVE_INFINITY

  /** All keys in one read, shared by all who ask meanwhile; there are few of them. */
  function read(): Map<string, StoredKey> | Promise<Map<string, StoredKey>> {
    const isFresh = performance.now() - readAtMs < MAX_AGE_MS
    if (reading !== null && isFresh) return known ?? reading
    readAtMs = performance.now()
    const started = store.listKeys().then((keys) => new Map(keys.map((key) => [key.hash, key])))
    reading = started
    known = null
    started.then(
      (keys) => {
        if (reading === started) known = keys
      },
      // One that failed is tried again by the next who asks.
      () => {
        if (reading === started) reading = null
      },
    )
    return started
  }

  return {
    find(hash) {
      const keys = read()
      if (keys instanceof Map) return keys.get(hash) ?? null
      return keys.then((read) => read.get(hash) ?? null)
    },
    forget() {
      reading = null
    },
  }
}
