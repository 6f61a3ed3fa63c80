// API keys in requests: the check of API_KEYS that the API and the worker port share, and the
// errors of a request that is not authorized.
import { createHash } from 'node:crypto'
import { AppError } from '../errors.ts'

/**
 * Checks a request against API_KEYS. Returns null if its key is one of them; otherwise the hash of
 * its key.
 *
 * @throws AppError unauthorized if the request has no key
 */
type KeyCheck = (authorization: string | undefined) => string | null

export function createKeyCheck(apiKeys: string[]): KeyCheck {
  const hashes = new Set(apiKeys.map(hashOf))
  return (authorization) => {
    if (authorization === undefined) throw unauthorized('send Authorization: Bearer <key>')
    const hash = hashOf(bearerOf(authorization) ?? '')
    return hashes.has(hash) ? null : hash
  }
}

/** The token in an Authorization header of the scheme Bearer (RFC 6750), or null. */
export function bearerOf(authorization: string | undefined): string | null {
  return /^Bearer +(\S+)$/i.exec(authorization ?? '')?.[1] ?? null
}

/**
 * How keys are stored and compared: because of the hash, the time of a lookup reveals nothing about
 * a key.
 */
export function hashOf(key: string): string {
  return createHash('sha256').update(key).digest('base64')
}

export function unauthorized(detail: string): AppError {
  return new AppError('unauthorized', detail, { headers: { 'www-authenticate': 'Bearer' } })
}

export function forbidden(detail: string): AppError {
  return new AppError('forbidden', detail)
}
