// The limits of fairness keys, and the settings of single keys: how many jobs of a key may start
// now, also while it rests and recovers (key-rest.ts). No I/O.
import { DEFAULT_COST } from '../job/job.ts'
import { AHEAD_TOLERANCE_MS } from '../job/set-back.ts'
import type { AttemptCounts } from './admission.ts'
import type { RateLimit } from './endpoint.ts'
import { type KeyRest, keyRestsUntil, keySlotsAfterRest, restInForce } from './key-rest.ts'
import { freeAt, fullAfterTaking, hasTokens, tokensAt, wholeTokens } from './rate-bucket.ts'

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

/** What is stored of a key that has settings or a rest. */
export interface KeyRecord extends Pick<KeyState, 'settings' | 'rest'> {
  key: string
  /** 0: it has no settings. */
  version: number
  /** null: it has no settings. */
  updatedAt: number | null
}

export type PutKeyResult =
  | { kind: 'created' | 'replaced'; record: KeyRecord }
  /** `ifVersion` is not met; null: the key has no settings. */
  | { kind: 'stale'; version: number | null }
  | { kind: 'unknown_endpoint' | 'too_many_keys' }

export type DeleteKeyResult = { kind: 'deleted' | 'not_found' } | { kind: 'stale'; version: number }

/**
 * The bucket of the rate limit of a key. It refills by the limit that holds, which may be another
 * one than when tokens were taken.
 */
export interface KeyBucket {
  /** When tokens were last taken. */
  at: number
  /** Those that it had then, with fractions; below 0: it was in debt. */
  tokens: number
  /** When it is full again by the limit of then, with fractions of milliseconds. */
  fullAt: number
}

/** What claims use of a key. */
export interface KeyState {
  settings: KeySettings | null
  /** null: it is full. */
  bucket: KeyBucket | null
  /** null: it does not rest, and need not recover from a rest. */
  rest: KeyRest | null
}

/** A key as a claim would find it. */
export interface CountedKey extends KeyState {
  running: number
  /** Jobs that count for the recovery of the key from its rest; 0: it need not recover. */
  sending: number
}

export const NEW_KEY: KeyState = { settings: null, bucket: null, rest: null }

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
   * When a job of this cost may start, at the latest; null: when a job of the key has ended, or its
   * settings have changed.
   */
  freeAt(cost?: number): number | null
  /**
   * The bucket after jobs of this cost have started; null: it has not changed.
   *
   * @param at when the jobs may be sent
   */
  bucketAfter(cost: number, at: number): KeyBucket | null
  /** Of all jobs that were taken. */
  takenCost(): number
  /** The key rests or recovers: the success of its jobs is reported. */
  isRecovering: boolean
}

/**
 * @param perKey the limits of each key of the endpoint
 * @param counts of the jobs of the key
 */
export function keyRoom(
  perKey: KeyLimits | null,
  { settings, bucket, rest: stored }: KeyState,
  counts: AttemptCounts,
  now: number,
): KeyRoom {
  const { concurrency, rateLimit } = limitsOfKey(perKey, settings)
  const isPaused = settings?.paused === true
  const rest = restInForce(stored, now)
  const restsUntil = keyRestsUntil(rest, now)
  let slots = Number.POSITIVE_INFINITY
  if (isPaused || restsUntil !== null) slots = 0
  else {
    const back = keySlotsAfterRest(rest, now)
    if (concurrency !== null) slots = concurrency - counts.running(concurrency)
    if (back !== null) {
      slots = Math.min(slots, back.slots - counts.sendingSince(back.since, back.slots))
    }
    slots = Math.max(0, slots)
  }
  /** When a key without slots has some, if no job of it ends before. */
  const slotsAt = isPaused ? null : (restsUntil ?? rest?.ramp?.endsAt ?? null)
  const fullAtBefore = rateLimit === null ? null : fullAtUnder(rateLimit, bucket, now)
  let fullAt = fullAtBefore
  let takenCost = 0
  const tokens = () =>
    rateLimit === null ? Number.POSITIVE_INFINITY : wholeTokens(rateLimit, fullAt, now)
  return {
    left: () => Math.min(slots, tokens()),
    canTake: (cost) => slots > 0 && (rateLimit === null || hasTokens(rateLimit, fullAt, now, cost)),
    take(cost) {
      slots -= 1
      takenCost += cost
      if (rateLimit !== null) fullAt = fullAfterTaking(rateLimit, fullAt, now, cost)
    },
    freeAt(cost = DEFAULT_COST) {
      if (slots <= 0) return slotsAt
      return rateLimit === null ? null : freeAt(rateLimit, fullAt, now, cost)
    },
    bucketAfter: (cost, at) =>
      rateLimit === null || cost === 0 ? null : taken(rateLimit, fullAtBefore, at, cost),
    takenCost: () => takenCost,
    isRecovering: rest !== null,
  }
}

function taken(limit: RateLimit, fullAtBefore: number | null, at: number, cost: number): KeyBucket {
  const fullAt = fullAfterTaking(limit, fullAtBefore, at, cost)
  return { at, tokens: tokensAt(limit, fullAt, at), fullAt }
}

/** null: it is full, or the clock was set back since tokens were taken. */
function fullAtUnder(
  { count, perMs }: RateLimit,
  bucket: KeyBucket | null,
  now: number,
): number | null {
  if (bucket === null || bucket.at > now + AHEAD_TOLERANCE_MS) return null
  return bucket.at + (Math.max(0, count - bucket.tokens) * perMs) / count
}

/** The limits that hold for a key. */
export function limitsOfKey(perKey: KeyLimits | null, settings: KeySettings | null): KeyLimits {
  const { concurrency = perKey?.concurrency ?? null, rateLimit = perKey?.rateLimit ?? null } =
    settings ?? {}
  return { concurrency, rateLimit }
}
