// The limits of fairness keys, and the settings of single keys: how many jobs of a key may start
// now. No I/O.
import { DEFAULT_COST } from '../job/job.ts'
import type { RateLimit } from './endpoint.ts'
import { freeAt, fullAfterTaking, hasTokens, wholeTokens } from './rate-bucket.ts'

export const MAX_WEIGHT = 100
export const DEFAULT_WEIGHT = 1
/** The most keys with settings that an endpoint may have. */
export const MAX_KEYS_WITH_SETTINGS = 10_000

/** A fairness key of an endpoint. */
export interface FairnessKey {
  endpoint: string
  key: string
}

/** Limits that hold for each fairness key by itself, over all workers. */
export interface KeyLimits {
  /** Attempts in flight of one key; null: no limit. */
  concurrency: number | null
  rateLimit: RateLimit | null
}

/** The settings of one key. An absent limit is that of the endpoint; null: no limit. */
export interface KeySettings {
  /** Its share among the keys that take turns. */
  weight: number
  concurrency?: number | null
  rateLimit?: RateLimit | null
  /** Nothing of the key is claimed. */
  paused: boolean
}

/** The stored settings of a key. */
export interface KeyRecord {
  key: string
  settings: KeySettings
  version: number
  updatedAt: number
}

export type PutKeyResult =
  | { kind: 'created' | 'replaced'; record: KeyRecord }
  /** `ifVersion` is not met; null: the key has no settings. */
  | { kind: 'stale'; version: number | null }
  | { kind: 'unknown_endpoint' | 'too_many_keys' }

export type DeleteKeyResult = { kind: 'deleted' | 'not_found' } | { kind: 'stale'; version: number }

/** What claims use of a key. */
export interface KeyState {
  settings: KeySettings | null
  /** When the bucket of its rate limit is full again; null: it is full. */
  rateFullAt: number | null
}

export const NEW_KEY: KeyState = { settings: null, rateFullAt: null }

export function weightOf({ settings }: Pick<KeyState, 'settings'>): number {
  return settings?.weight ?? DEFAULT_WEIGHT
}

/** How many jobs of a key may start, while one claim takes them. */
export interface KeyRoom {
  /** How many more may start, if each costs 1. */
  left(): number
  canTake(cost: number): boolean
  take(cost: number): void
  /**
   * When a job of this cost may start; null: when a job of the key has ended, or its settings have
   * changed.
   */
  freeAt(cost?: number): number | null
  /** The bucket after what was taken. */
  rateFullAt(): number | null
}

/**
 * @param perKey the limits of each key of the endpoint
 * @param running counts the running jobs of the key, up to a limit
 */
export function keyRoom(
  perKey: KeyLimits | null,
  { settings, rateFullAt }: KeyState,
  running: (limit: number) => number,
  now: number,
): KeyRoom {
  const { concurrency, rateLimit } = limitsOfKey(perKey, settings)
  const isPaused = settings?.paused === true
  let slots = Number.POSITIVE_INFINITY
  if (isPaused) slots = 0
  else if (concurrency !== null) slots = Math.max(0, concurrency - running(concurrency))
  let fullAt = rateFullAt
  const tokens = () =>
    rateLimit === null ? Number.POSITIVE_INFINITY : wholeTokens(rateLimit, fullAt, now)
  return {
    left: () => Math.min(slots, tokens()),
    canTake: (cost) => slots > 0 && (rateLimit === null || hasTokens(rateLimit, fullAt, now, cost)),
    take(cost) {
      slots -= 1
      if (rateLimit !== null) fullAt = fullAfterTaking(rateLimit, fullAt, now, cost)
    },
    freeAt: (cost = DEFAULT_COST) =>
      slots <= 0 || rateLimit === null ? null : freeAt(rateLimit, fullAt, now, cost),
    rateFullAt: () => fullAt,
  }
}

/** The limits that hold for a key. */
export function limitsOfKey(perKey: KeyLimits | null, settings: KeySettings | null): KeyLimits {
  const { concurrency = perKey?.concurrency ?? null, rateLimit = perKey?.rateLimit ?? null } =
    settings ?? {}
  return { concurrency, rateLimit }
}
