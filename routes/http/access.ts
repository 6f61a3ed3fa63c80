// Who may ask: API keys and their scopes, and in local mode the guard that keeps web pages out.
import { createHash } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import { AppError } from '../../src/errors.ts'
import type { KeyScope, StoredKey } from '../../src/store/records.ts'
import type { StoredKeys } from '../stored-keys.ts'
import { trustConnection } from './connections.ts'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Answers without a key. */
    open?: boolean
    /** The scope that is enough; every route needs `admin` unless it says less. */
    scope?: KeyScope
  }
  interface FastifyRequest {
    /** The stored key that it came with; null: none, or one of the environment. */
    storedKey: StoredKey | null
  }
}

/**
 * The check that runs before every request. With no keys from the environment the API is in local
 * mode, whatever keys are stored; a key that is sent is checked even there.
 *
 * @param storedKeys those made with POST /keys
 */
export function createAccessCheck(
  apiKeys: string[],
  storedKeys: StoredKeys,
): (request: FastifyRequest) => Promise<void> | undefined {
  const adminHashes = new Set(apiKeys.map(hashOf))
  const localMode = apiKeys.length === 0
  return (request) => {
    if (localMode) refuseWebPages(request)
    const { open, scope: needed = 'admin' } = request.routeOptions.config
    if (open) return
    const { authorization } = request.headers
    if (authorization === undefined) {
      if (!localMode) throw unauthorized('send Authorization: Bearer <key>')
    } else {
      const hash = hashOf(bearerOf(authorization) ?? '')
      if (!adminHashes.has(hash)) return checkStored(request, hash, needed)
    }
    trustConnection(request.raw.socket)
  }

  function checkStored(request: FastifyRequest, hash: string, needed: KeyScope) {
    const found = storedKeys.find(hash)
    if (!(found instanceof Promise)) return judge(request, found, needed)
    return found.then((key) => judge(request, key, needed))
  }
}

function judge(request: FastifyRequest, key: StoredKey | null, needed: KeyScope): undefined {
  request.storedKey = key
  if (key === null) throw unauthorized('the key is not known')
  if (key.scope !== 'admin' && key.scope !== needed) {
    throw forbidden(`the key has the scope ${key.scope}; this needs ${needed}`)
  }
  trustConnection(request.raw.socket)
}

/** For the end of a wait: rejects with what is to be answered if the key was ended meanwhile. */
export type KeyRecheck = (request: FastifyRequest) => Promise<void>

export function createKeyRecheck(storedKeys: StoredKeys): KeyRecheck {
  return async ({ storedKey }) => {
    if (storedKey === null) return
    if ((await storedKeys.find(storedKey.hash)) === null) throw unauthorized('the key was ended')
  }
}

/** The token in an Authorization header of the scheme Bearer (RFC 6750), or null. */
export function bearerOf(authorization: string | undefined): string | null {
  return /^Bearer +(\S+)$/i.exec(authorization ?? '')?.[1] ?? null
}

/** How keys are stored and compared: a lookup's time then tells nothing about a key. */
export function hashOf(key: string): string {
  return createHash('sha256').update(key).digest('base64')
}

/** Whether a name or address, as in HOST or a Host header, can only be this machine. */
export function isLoopbackName(host: string): boolean {
  const name = host.toLowerCase()
  return name === 'localhost' || name === '::1' || name === '[::1]' || isLoopbackV4(name)
}

function isLoopbackV4(name: string): boolean {
  return /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(name)
}

/**
 * Local mode needs no key, so a page in the user's browser must not reach it: neither by a name
 * that was rebound to 127.0.0.1 (Host), nor across sites (Origin; Fetch Metadata,
 * w3.org/TR/fetch-metadata).
 */
function refuseWebPages(request: FastifyRequest): void {
  const { host = '' } = request.headers
  // Of several Node shows the first; RFC 9112, section 3.2, wants none of them taken.
  if (countOf('host', request.raw.rawHeaders) > 1) {
    const message = 'duplicate header'
    throw new AppError('invalid_request', `header/host: ${message}`, {
      errors: [{ path: 'header/host', message }],
    })
  }
  if (!isLoopbackName(host.replace(/:\d*$/, ''))) {
    throw forbidden(
      'in local mode the Host must be localhost, 127.0.0.0/8 or [::1]; set API_KEYS to listen elsewhere',
    )
  }
  const { origin } = request.headers
  if (origin !== undefined && origin !== `http://${host}`) {
    throw forbidden('in local mode the Origin must be that of the API itself')
  }
  const site = request.headers['sec-fetch-site']
  if (site === 'cross-site' || site === 'same-site') {
    throw forbidden('in local mode no other site may send requests')
  }
}

/** @param rawHeaders names and values in turn, as they came */
function countOf(name: string, rawHeaders: string[]): number {
  let count = 0
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const one = rawHeaders[i] as string
    if (one.length === name.length && one.toLowerCase() === name) count++
  }
  return count
}

export function unauthorized(detail: string): AppError {
  return new AppError('unauthorized', detail, { headers: { 'www-authenticate': 'Bearer' } })
}

function forbidden(detail: string): AppError {
  return new AppError('forbidden', detail)
}
