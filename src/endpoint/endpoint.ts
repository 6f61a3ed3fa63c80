// The endpoint: a registered receiver with a name. No I/O.
import { randomBytes } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import type { OnFinish } from '../job/job.ts'
import type { RetryPolicy } from '../job/retry-policy.ts'
import { withLowerNames } from './extra-headers.ts'
import type { Ramp } from './health.ts'
import type { KeyLimits } from './key-limits.ts'
import type { LimitRefusal } from './shared-limits.ts'

export const ENDPOINT_NAME_SHAPE = /^[a-z0-9][a-z0-9._-]{0,63}$/

export const MAX_URL_LENGTH = 2_048
export const DEFAULT_TIMEOUT_MS = 15_000
export const MIN_TIMEOUT_MS = 100
export const MAX_TIMEOUT_MS = 15 * 60_000

export const DEFAULT_COMPLETION_TIMEOUT_MS = 15 * 60_000
export const DEFAULT_CIRCUIT_BREAKER: CircuitBreaker = { failures: 20, cooldownMs: 30_000 }

/**
 * Limits how many attempts may start, over all workers: a bucket of `count` tokens, refilled evenly
 * within `perMs`.
 */
export interface RateLimit {
  count: number
  perMs: number
}

/**
 * After `failures` failed attempts in a row the circuit opens for the cooldown; then one attempt
 * tests the endpoint.
 */
export interface CircuitBreaker {
  failures: number
  cooldownMs: number
}

/**
 * The meanings that a status of 300 or more can be given; `final`: the job becomes dead at once.
 */
export const STATUS_CHOICES = ['retry', 'final', 'throttle'] as const
/** Each key is a status. */
export type StatusChoices = Record<string, (typeof STATUS_CHOICES)[number]>
export const MAX_STATUSES = 20

/** The settings of an endpoint that a client chooses. */
export interface EndpointSettings {
  name: string
  /** null: a pulled endpoint, whose workers claim its jobs. */
  url: string | null
  description: string
  headers: Record<string, string>
  timeoutMs: number
  retry: RetryPolicy
  /** Attempts in flight over all workers; null: no limit. */
  concurrency: number | null
  rateLimit: RateLimit | null
  /** Beside the limits of the endpoint. They do not hold for jobs without a key. */
  perKey: KeyLimits | null
  /** The names of the limits that it shares with other endpoints (shared-limits.ts). */
  limits: string[]
  /** `async`: a 202 means that the handler reports later. */
  completion: 'sync' | 'async'
  /** With async completion: the time limit after the 202 or the last heartbeat. */
  completionTimeoutMs: number
  /** The default for the jobs of the endpoint, read when they are enqueued. */
  onFinish: OnFinish | null
  circuitBreaker: CircuitBreaker | null
  /** Statuses whose meaning differs from the default. */
  statuses: StatusChoices
}

/** An endpoint as stored. Instants are epoch milliseconds by the store's clock. */
export interface Endpoint extends EndpointSettings {
  /**
   * The endpoint is being deleted: it accepts no jobs, its jobs become dead, then its record is
   * deleted.
   */
  deleting: boolean
  /** Nothing is claimed until the endpoint is resumed; enqueueing continues. */
  paused: boolean
  /**
   * Nothing is claimed, as with a pause, and enqueueing is refused. null: the endpoint is not
   * disabled.
   */
  disabledReason: 'gone' | null
  /**
   * Nothing is claimed before this instant. If it is past, the endpoint is recovering from a rest.
   */
  restingUntil: number | null
  /** How far the endpoint has recovered; null: no attempt has succeeded since its rest. */
  ramp: Ramp | null
  /** Failed attempts in a row, as the circuit breaker counts them. */
  failureCount: number
  /** When the rate limit lets the next attempt start; null: now, or there is no rate limit. */
  rateFreeAt: number | null
  /**
   * `whsec_` + base64, newest first. Every delivery is signed with each of them. An older secret
   * stays only until the overlap of its rotation ends.
   */
  secrets: string[]
  /**
   * Why no key of this process decrypts the secrets and headers, as a message to the operator; both
   * are then empty. null: they are decrypted.
   */
  undecryptable: string | null
  /** The id of the key that encrypted its secrets. */
  keyId: string
  createdAt: number
  updatedAt: number
  /** Raised by changes of clients and by disabling, but not by rests and counts. */
  version: number
}

export interface EndpointCounts {
  queued: number
  running: number
  more: boolean
}

export type PutEndpointResult =
  | { kind: 'created' | 'replaced'; endpoint: Endpoint }
  /** `ifVersion` is not met; null: there is no such endpoint. */
  | { kind: 'stale'; version: number | null }
  | { kind: 'being_deleted' }
  | LimitRefusal

export type DeleteEndpointResult =
  | { kind: 'deleted' | 'deleting' | 'not_found' }
  | { kind: 'in_use'; counts: EndpointCounts; scheduleName: string | null }
  | { kind: 'stale'; version: number }

/**
 * Whether these settings equal the stored ones. If they do, the version is not raised, and a
 * version that another client has read stays valid.
 *
 * @param secret null: the request gives none
 */
export function isSameEndpoint(
  stored: Endpoint,
  settings: EndpointSettings,
  secret: string | null,
): boolean {
  if (secret !== null && secret !== stored.secrets[0]) return false
  const { headers, ...others } = settings
  const fields = Object.keys(others) as (keyof typeof others)[]
  return (
    fields.every((field) => isDeepStrictEqual(stored[field], others[field])) &&
    isDeepStrictEqual(withLowerNames(stored.headers), withLowerNames(headers))
  )
}

/** Whether workers must look at its jobs now, which were pulled until this change. */
export function startsDeliveries(
  before: Pick<EndpointSettings, 'url'> | null,
  after: Pick<EndpointSettings, 'url'>,
): boolean {
  return before !== null && before.url === null && after.url !== null
}

export type EndpointState = 'active' | 'paused' | 'disabled' | 'resting' | 'deleting'

/** The state to show. If several states apply, it is the one that takes most to end. */
export function endpointState(endpoint: Endpoint, now: number): EndpointState {
  if (endpoint.deleting) return 'deleting'
  if (endpoint.disabledReason !== null) return 'disabled'
  if (endpoint.paused) return 'paused'
  return endpoint.restingUntil !== null && endpoint.restingUntil > now ? 'resting' : 'active'
}

/** Whether the circuit breaker has tripped and no attempt has succeeded since. */
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

/** The key bytes of a signing secret, or null if it is not `whsec_` + base64 of 24–64 bytes. */
export function secretKey(secret: string): Buffer | null {
  if (!secret.startsWith(SECRET_PREFIX)) return null
  const text = secret.slice(SECRET_PREFIX.length)
  const key = Buffer.from(text, 'base64')
  if (key.toString('base64') !== text) return null
  return key.length >= MIN_SECRET_BYTES && key.length <= MAX_SECRET_BYTES ? key : null
}

/**
 * The most secrets that are valid at once. A sixth would end the oldest one before its promised
 * overlap.
 */
export const MAX_SECRETS = 5

/**
 * The secrets after a rotation, newest first. If there are too many, returns when there is room for
 * one more.
 *
 * @param valid the current secrets, newest first; `until` null: not rotated out
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

/** Returns the only part of a stored secret or header value that is shown. */
export function hintOf(secret: string): string {
  return secret.slice(-4)
}
