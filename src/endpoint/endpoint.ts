// What an endpoint is: a registered receiver, known by name. No I/O.
import { randomBytes } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import type { OnFinish } from '../job/job.ts'
import type { RetryPolicy } from '../job/retry-policy.ts'
import type { Ramp } from './health.ts'

export const ENDPOINT_NAME_SHAPE = /^[a-z0-9][a-z0-9._-]{0,63}$/

export const MAX_URL_LENGTH = 2_048
export const DEFAULT_TIMEOUT_MS = 15_000
export const MIN_TIMEOUT_MS = 100
export const MAX_TIMEOUT_MS = 15 * 60_000

export const DEFAULT_COMPLETION_TIMEOUT_MS = 15 * 60_000
export const DEFAULT_CIRCUIT_BREAKER: CircuitBreaker = { failures: 20, cooldownMs: 30_000 }

/** Attempts started over all workers: a bucket of `count`, refilled evenly within `perMs`. */
export interface RateLimit {
  count: number
  perMs: number
}

/** After so many failed attempts in a row the endpoint rests; then one attempt tries it. */
export interface CircuitBreaker {
  failures: number
  cooldownMs: number
}

/** What an answer with a status of 300 or more can be made to mean; `final`: dead at once. */
export const STATUS_CHOICES = ['retry', 'final', 'throttle'] as const
/** By status. */
export type StatusChoices = Record<string, (typeof STATUS_CHOICES)[number]>
export const MAX_STATUSES = 20

/** What a caller decides about an endpoint. */
export interface EndpointSettings {
  name: string
  /** null: its jobs are pulled, not sent. */
  url: string | null
  description: string
  headers: Record<string, string>
  timeoutMs: number
  retry: RetryPolicy
  /** Attempts in flight over all workers; null: no limit. */
  concurrency: number | null
  rateLimit: RateLimit | null
  /** `async`: a 202 means that the handler reports later. */
  completion: 'sync' | 'async'
  /** With async: how long after the 202, or the last heartbeat. */
  completionTimeoutMs: number
  /** What its jobs take as theirs when they are enqueued. */
  onFinish: OnFinish | null
  circuitBreaker: CircuitBreaker | null
  /** Single statuses that mean something else than they do to other endpoints. */
  statuses: StatusChoices
}

/** An endpoint as stored. Instants are epoch milliseconds by the store's clock. */
export interface Endpoint extends EndpointSettings {
  /** Being deleted: takes no job, its jobs are buried, then it is gone. */
  deleting: boolean
  /** Nothing is claimed until it is resumed; enqueueing goes on. */
  paused: boolean
  /** Like paused, and enqueueing is refused. null: it is not disabled. */
  disabledReason: 'gone' | null
  /** Nothing is claimed before this instant. In the past: it comes back from a rest. */
  restingUntil: number | null
  /** How far it has come back; null: no attempt has succeeded since its rest. */
  ramp: Ramp | null
  /** Failed attempts in a row, as the circuit breaker counts them. */
  failureCount: number
  /** When its rate limit lets the next attempt start; null: now, or it has none. */
  rateFreeAt: number | null
  /**
   * `whsec_` + base64; every delivery is signed with each of them, newest first. An older one is
   * here only until the overlap of its rotation ends.
   */
  secrets: string[]
  createdAt: number
  updatedAt: number
  /** Raised by what people change and by disabling; not by rests and counts. */
  version: number
}

/**
 * Whether to store these would change nothing: then no version is raised, and what others have read
 * stays true.
 *
 * @param secret null: none was given
 */
export function isSameEndpoint(
  stored: Endpoint,
  settings: EndpointSettings,
  secret: string | null,
): boolean {
  if (secret !== null && secret !== stored.secrets[0]) return false
  const fields = Object.keys(settings) as (keyof EndpointSettings)[]
  return fields.every((field) => isDeepStrictEqual(stored[field], settings[field]))
}

export type EndpointState = 'active' | 'paused' | 'disabled' | 'resting' | 'deleting'

/** The state that is shown: of several that hold the one that takes most to end. */
export function endpointState(endpoint: Endpoint, now: number): EndpointState {
  if (endpoint.deleting) return 'deleting'
  if (endpoint.disabledReason !== null) return 'disabled'
  if (endpoint.paused) return 'paused'
  return endpoint.restingUntil !== null && endpoint.restingUntil > now ? 'resting' : 'active'
}

/** Whether the breaker has tripped, and no attempt has succeeded since. */
export function isTripped(endpoint: Pick<Endpoint, 'circuitBreaker' | 'failureCount'>): boolean {
  const { circuitBreaker, failureCount } = endpoint
  return circuitBreaker !== null && failureCount >= circuitBreaker.failures
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

/** With a sixth the oldest would end before the time that its rotation promised. */
export const MAX_SECRETS = 5

/**
 * The secrets after a rotation, newest first, or the instant from which there is room for one more.
 *
 * @param valid the present ones, newest first; `until` null: not rotated out
 */
export function rotatedSecrets<T extends { until: number | null }>(
  valid: T[],
  newest: T,
  overlapMs: number,
  now: number,
): T[] | { fullUntil: number } {
  const overlapEnds = now + overlapMs
  const older = valid
    .map((one) => ({ ...one, until: Math.min(one.until ?? overlapEnds, overlapEnds) }))
    .filter(({ until }) => until > now)
  if (older.length < MAX_SECRETS) return [newest, ...older]
  return { fullUntil: Math.min(...older.map(({ until }) => until)) }
}

/** How a secret or a header value is shown once it was stored. */
export function hintOf(secret: string): string {
  return secret.slice(-4)
}
