// What an endpoint is: a registered receiver, known by name. No I/O.
import { randomBytes } from 'node:crypto'
import type { RetryPolicy } from '../job/retry-policy.ts'

export const ENDPOINT_NAME_SHAPE = /^[a-z0-9][a-z0-9._-]{0,63}$/

export const MAX_URL_LENGTH = 2_048
export const DEFAULT_TIMEOUT_MS = 15_000
export const MIN_TIMEOUT_MS = 100
export const MAX_TIMEOUT_MS = 15 * 60_000

/** What a caller decides about an endpoint. */
export interface EndpointSettings {
  name: string
  url: string
  description: string
  headers: Record<string, string>
  timeoutMs: number
  retry: RetryPolicy
}

/** An endpoint as stored. Instants are epoch milliseconds by the store's clock. */
export interface Endpoint extends EndpointSettings {
  /** Being deleted: takes no job, its jobs are buried, then it is gone. */
  deleting: boolean
  /** `whsec_` + base64; every delivery is signed with each of them, newest first. */
  secrets: string[]
  createdAt: number
  updatedAt: number
  /** Raised by every change. */
  version: number
}

const SECRET_PREFIX = 'whsec_'
const SECRET_BYTES = 32
const MIN_SECRET_BYTES = 24
const MAX_SECRET_BYTES = 64

/** A new signing secret in the form of Standard Webhooks 1.0.0. */
export function newSecret(): string {
  return SECRET_PREFIX + randomBytes(SECRET_BYTES).toString('base64')
}

/** The key bytes of a signing secret, or null when it is not `whsec_` + base64 of 24–64 bytes. */
export function secretKey(secret: string): Buffer | null {
  if (!secret.startsWith(SECRET_PREFIX)) return null
  const text = secret.slice(SECRET_PREFIX.length)
  const key = Buffer.from(text, 'base64')
  if (key.toString('base64') !== text) return null
  return key.length >= MIN_SECRET_BYTES && key.length <= MAX_SECRET_BYTES ? key : null
}

/** How a secret or a header value is shown once it was stored. */
export function hintOf(secret: string): string {
  return secret.slice(-4)
}
