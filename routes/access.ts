// Who may ask: API keys and their scopes, and in local mode the guard that keeps web pages out.
import { createHash } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import { AppError } from '../src/errors.ts'
import type { KeyScope } from '../src/store/records.ts'
import type { StoredKeys } from './stored-keys.ts'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Answers without a key. */
    open?: boolean
    /** The scope that is enough; every route needs `admin` unless it says less. */
    scope?: KeyScope
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
      if (localMode) return
      throw unauthorized('send Authorization: Bearer <key>')
    }
    const hash = hashOf(bearerOf(authorization) ?? '')
    if (!adminHashes.has(hash)) return checkStored(hash, needed)
  }

  async function checkStored(hash: string, needed: KeyScope): Promise<void> {
    const scope = await storedKeys.scopeOf(hash)
    if (scope === null) throw unauthorized('the key is not known')
    if (scope === 'admin' || scope === needed) return
    throw forbidden(`the key has the scope ${scope}; this needs ${needed}`)
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
    const message = 'stands twice'
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
