// Who may send a request: API keys and their scopes, a cache of the stored keys, and the log of
// refused requests.
import type { FastifyContextConfig, FastifyRequest } from 'fastify'
import type { AppError } from '../../src/errors.ts'
import { createKeyCheck, forbidden, unauthorized } from '../../src/http/access.ts'
import { refuseWebPages } from '../../src/http/loopback.ts'
import type { KeyScope, StoredKey } from '../../src/store/api-key.ts'
import type { Store } from '../../src/store/store.ts'
import { trustConnection } from './connections.ts'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The route needs no key. */
    open?: boolean
    /** The scope that is sufficient; default: `admin`. */
    scope?: KeyScope
  }
  interface FastifyRequest {
    /** The stored key of the request; null: none, or a key of API_KEYS. */
    storedKey: StoredKey | null
  }
}

/** The parts of a request by which access is checked. */
export interface AccessRequest {
  headers: FastifyRequest['headers']
  raw: FastifyRequest['raw']
  routeOptions: { config: FastifyContextConfig }
  storedKey: StoredKey | null
}

/**
 * The check that runs before every request. Without API_KEYS the API is in local mode, whatever
 * keys are stored; a key that is sent is checked even then.
 *
 * @param storedKeys keys created with POST /keys
 */
export function createAccessCheck(
  apiKeys: string[],
  storedKeys: StoredKeys,
): (request: AccessRequest) => Promise<void> | undefined {
  const unknownHashOf = createKeyCheck(apiKeys)
  const localMode = apiKeys.length === 0
  return (request) => {
    if (localMode) refuseWebPages(request)
    const { open, scope: needed = 'admin' } = request.routeOptions.config
    if (open) return
    const { authorization } = request.headers
    if (!localMode || authorization !== undefined) {
      const hash = unknownHashOf(authorization)
      if (hash !== null) return checkStored(request, hash, needed)
    }
    trustConnection(request.raw.socket)
  }

  function checkStored(request: AccessRequest, hash: string, needed: KeyScope) {
    const found = storedKeys.find(hash)
    if (!(found instanceof Promise)) return checkScope(request, found, needed)
    return found.then((key) => checkScope(request, key, needed))
  }
}

function checkScope(request: AccessRequest, key: StoredKey | null, needed: KeyScope): undefined {
  request.storedKey = key
  if (key === null) throw unauthorized('the key is unknown')
  if (key.scope !== 'admin' && key.scope !== needed) {
    throw forbidden(`the key has the scope ${key.scope}; this needs ${needed}`)
  }
  trustConnection(request.raw.socket)
}

/** Called at the end of a wait: rejects with the error to send if the key was revoked meanwhile. */
export type KeyRecheck = (request: FastifyRequest) => Promise<void>

export function createKeyRecheck(storedKeys: StoredKeys): KeyRecheck {
  return async ({ storedKey }) => {
    if (storedKey === null) return
    if ((await storedKeys.find(storedKey.hash)) === null) throw unauthorized('the key was revoked')
  }
}

/** A revoked key must be refused everywhere within 5 s. */
const MAX_AGE_MS = 2_000

export interface StoredKeys {
  /**
   * Returns null if there is no such key. Does not return a promise if the keys were read a moment
   * ago: then a wrong key is refused before the body is parsed.
   */
  find(hash: string): StoredKey | null | Promise<StoredKey | null>
  /** Called after a change of keys by this process, which must see the change at once. */
  forget(): void
}

export function createStoredKeys(store: Pick<Store, 'listKeys'>): StoredKeys {
  let reading: Promise<Map<string, StoredKey>> | null = null
  /** The result of `reading`; null: the read is in progress. */
  let known: Map<string, StoredKey> | null = null
  let readAtMs = Number.NEGATIVE_INFINITY

  /** Reads all keys, which are few. Requests that come during the read share it. */
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
      // After a failed read, the next request reads again.
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

/** Limit of the log of refused requests: a flood of wrong keys must not fill a disk. */
const MAX_LINES = 10
const WINDOW_MS = 10_000

/** Whether an error concerns the key or token: 401 and 403. */
export function isRefusal({ status }: AppError): boolean {
  return status === 401 || status === 403
}

/**
 * Logs a refused request. Beyond MAX_LINES requests are only counted, and the next line shows the
 * count.
 */
export function createRefusalLog(): (request: FastifyRequest, error: AppError) => void {
  let windowEndsAtMs = 0
  let lineCount = 0
  let unloggedCount = 0

  return (request, error) => {
    const nowMs = performance.now()
    if (nowMs >= windowEndsAtMs) {
      windowEndsAtMs = nowMs + WINDOW_MS
      lineCount = 0
    }
    if (lineCount >= MAX_LINES) {
      unloggedCount++
      return
    }
    lineCount++
    request.log.warn(
      {
        status: error.status,
        reason: error.message,
        method: request.method,
        // The URL is not logged, because it can contain a token.
        route: request.routeOptions.url ?? null,
        address: request.ip,
        keyId: request.storedKey?.id ?? null,
        requestId: request.id,
        unloggedCount,
      },
      'request.refused',
    )
    unloggedCount = 0
  }
}
