// Limits that several endpoints share: whether the next job of an endpoint may start, and which
// endpoint comes next when there is room. No I/O.
import type { RateLimit } from './endpoint.ts'
import {
  freeAt,
  fullAfterTaking,
  hasTokens,
  tokensAt,
  underNewLimit,
  wholeTokens,
} from './rate-bucket.ts'

export const MAX_LIMITS = 1_000
export const MAX_LIMITS_OF_ENDPOINT = 5
export const MAX_ENDPOINTS_OF_LIMIT = 200

/**
 * How long room is kept for an endpoint that a claim refused. Its claims ask again much sooner: one
 * that does not is paused, has no worker, or has no due job any more.
 */
export const ROOM_KEPT_MS = 2_000

/** The settings of a limit that a client chooses. */
export interface SharedLimitSettings {
  name: string
  /** Attempts in flight of all endpoints that name the limit; null: no limit. */
  concurrency: number | null
  rateLimit: RateLimit | null
}

/** An endpoint that waits for its turn at a limit. */
export interface Wait {
  endpoint: string
  /** Of its next job. */
  cost: number
  /** When a claim last asked for it. */
  askedAt: number
}

/** What claims change of a limit. */
export interface SharedLimitUse {
  /** When its bucket is full again, with fractions of milliseconds; null: it is full. */
  rateFullAt: number | null
  /** The endpoint that comes next is the first one. */
  waits: Wait[]
}

/** A limit as stored. Instants are epoch milliseconds by the store's clock. */
export interface SharedLimit extends SharedLimitSettings, SharedLimitUse {
  createdAt: number
  updatedAt: number
  /** Raised by changes of clients, not by claims. */
  version: number
}

/** What is computed of a limit when it is read. */
export interface LimitUse {
  /** In order of name. */
  endpoints: string[]
  /** Their running jobs, up to MAX_COUNT. */
  running: number
}

export type PutLimitResult =
  | { kind: 'created' | 'replaced'; limit: SharedLimit }
  /** `ifVersion` is not met; null: there is no such limit. */
  | { kind: 'stale'; version: number | null }
  | { kind: 'too_many_limits' }

export type DeleteLimitResult =
  | { kind: 'deleted' | 'not_found' }
  | { kind: 'stale'; version: number }
  /** An endpoint names it. */
  | { kind: 'in_use'; endpoint: string }

/** Why an endpoint cannot name these limits. */
export type LimitRefusal = { kind: 'unknown_limit' | 'too_many_endpoints'; limit: string }

/** What one claim may take of a limit, for all its endpoints. */
export interface SharedRoom {
  readonly name: string
  canTake(endpoint: string, cost: number): boolean
  take(endpoint: string, cost: number): void
  /**
   * The endpoint has a job that canTake refused: it waits for its turn. Returns when to ask again;
   * null: unknown.
   */
  refuse(endpoint: string, cost: number): number | null
  /**
   * What to store after the claim.
   *
   * @param costs of the jobs that were claimed, by endpoint, also of endpoints without the limit
   * @param at when they may be sent
   */
  after(costs: ReadonlyMap<string, number>, at: number): SharedLimitUse
}

/**
 * An endpoint leaves room for those that come before it: one job each. When it has taken a job, it
 * leaves room for all others that wait, and takes no more than its equal part of what was free.
 *
 * @param running counts the running jobs of all its endpoints, up to a limit
 */
export function sharedRoom(
  limit: Pick<SharedLimit, 'name' | 'concurrency' | 'rateLimit' | keyof SharedLimitUse>,
  running: (limit: number) => number,
  now: number,
): SharedRoom {
  const { name, concurrency, rateLimit, rateFullAt } = limit
  const waits = waitsAt(limit, now)
  /** By endpoint, how many jobs it took, and their cost. */
  const taken = new Map<string, { jobs: number; cost: number }>()
  /** By endpoint, the cost of its job. */
  const refused = new Map<string, number>()
  let slots = Number.POSITIVE_INFINITY
  if (concurrency !== null) slots = Math.max(0, concurrency - running(concurrency))
  let fullAt = rateFullAt
  const slotsBefore = slots
  const tokensBefore = rateLimit === null ? 0 : tokensAt(rateLimit, fullAt, now)

  const hasItsPart = (endpoint: string, cost: number) => {
    const own = taken.get(endpoint)
    const others = waits.filter((wait) => wait.endpoint !== endpoint).length
    if (own === undefined || others === 0) return false
    const parts = others + 1
    if (own.jobs >= Math.ceil(slotsBefore / parts)) return true
    return rateLimit !== null && own.cost + cost > Math.ceil(tokensBefore / parts)
  }
  /** Those for which the endpoint leaves room. */
  const before = (endpoint: string) => {
    const place = waits.findIndex((wait) => wait.endpoint === endpoint)
    const isBehindAll = place === -1 || taken.has(endpoint)
    const others = isBehindAll ? waits : waits.slice(0, place)
    return others.filter((wait) => wait.endpoint !== endpoint && !taken.has(wait.endpoint))
  }
  return {
    name,
    canTake(endpoint, cost) {
      if (hasItsPart(endpoint, cost)) return false
      const costs = [cost, ...before(endpoint).map((wait) => wait.cost)]
      return (
        slots >= costs.length && (rateLimit === null || haveTokens(rateLimit, fullAt, now, costs))
      )
    },
    take(endpoint, cost) {
      const { jobs, cost: sum } = taken.get(endpoint) ?? { jobs: 0, cost: 0 }
      taken.set(endpoint, { jobs: jobs + 1, cost: sum + cost })
      slots -= 1
      if (rateLimit !== null) fullAt = fullAfterTaking(rateLimit, fullAt, now, cost)
    },
    refuse(endpoint, cost) {
      refused.set(endpoint, cost)
      if (slots <= 0) return null
      // The others may leave the rest of their parts.
      if (hasItsPart(endpoint, cost)) return now
      return rateLimit === null ? null : freeAt(rateLimit, fullAt, now, cost)
    },
    after(costs, at) {
      const started = [...taken.keys()].filter((endpoint) => costs.has(endpoint))
      const sum = started.reduce((total, endpoint) => total + (costs.get(endpoint) ?? 0), 0)
      return {
        rateFullAt: rateLimit === null ? rateFullAt : bucketAfter(rateLimit, rateFullAt, at, sum),
        waits: lineAfter(waits, new Set(started), refused, now),
      }
    },
  }
}

/** Without a job it changes only if the clock was set back: it would be in debt until then. */
function bucketAfter(
  limit: RateLimit,
  fullAt: number | null,
  at: number,
  cost: number,
): number | null {
  const after = fullAfterTaking(limit, fullAt, at, cost)
  return cost > 0 || after < (fullAt ?? 0) - 1 ? after : fullAt
}

/** Whether jobs of all these costs may start now. */
function haveTokens(
  limit: RateLimit,
  fullAt: number | null,
  now: number,
  [cost = 0, ...others]: number[],
): boolean {
  if (others.length === 0) return hasTokens(limit, fullAt, now, cost)
  const sum = [cost, ...others].reduce((total, one) => total + Math.min(one, limit.count), 0)
  return tokensAt(limit, fullAt, now) >= sum
}

/**
 * Who took a job, and has more, goes to the end.
 *
 * @param refused by endpoint, the cost of its next job
 */
function lineAfter(
  waits: Wait[],
  started: ReadonlySet<string>,
  refused: ReadonlyMap<string, number>,
  now: number,
): Wait[] {
  const stay = waits
    .filter(({ endpoint }) => !started.has(endpoint))
    .map((wait) => {
      const cost = refused.get(wait.endpoint)
      return cost === undefined ? wait : { ...wait, cost, askedAt: now }
    })
  const staying = new Set(stay.map(({ endpoint }) => endpoint))
  const join = [...refused]
    .filter(([endpoint]) => !staying.has(endpoint))
    .map(([endpoint, cost]) => ({ endpoint, cost, askedAt: now }))
  return [...stay, ...join]
}

/** The endpoints that wait now. */
export function waitsAt({ waits }: Pick<SharedLimit, 'waits'>, now: number): Wait[] {
  return waits.filter(({ askedAt }) => Math.abs(now - askedAt) < ROOM_KEPT_MS)
}

/** When its bucket is full again after a change of its settings. @param before null: it is new */
export function underNewSettings(
  before: Pick<SharedLimit, 'rateLimit' | 'rateFullAt'> | null,
  { rateLimit }: SharedLimitSettings,
  now: number,
): number | null {
  if (before === null || before.rateLimit === null || rateLimit === null) return null
  return underNewLimit(before.rateLimit, rateLimit, before.rateFullAt, now)
}

/** The tokens that its bucket has now; null: it has no rate limit. */
export function tokensLeft(
  { rateLimit, rateFullAt }: Pick<SharedLimit, 'rateLimit' | 'rateFullAt'>,
  now: number,
): number | null {
  return rateLimit === null ? null : wholeTokens(rateLimit, rateFullAt, now)
}
