// The lease protocol, tried in every order of everything that can happen. With the guards of
// src/job/lifecycle.ts it has no violation, and without any one of these guards it has one.
// Variables such as MODEL_CLAIMS=3 MODEL_RENEWALS=1 search further than a usual run has time for.
import { describe, expect, onTestFinished, test } from 'vitest'
import { type EventName, type Guard, LIFECYCLE } from '../../src/job/lifecycle.ts'
import { guardOf as mongoGuardOf } from '../../src/store/mongo/guards.ts'
import { guardOf as sqliteGuardOf } from '../../src/store/sqlite/guards.ts'
import { RUN_LONG } from '../support/engines.ts'
import type { Bounds } from './lease-model.ts'
import { leaseModel } from './lease-moves.ts'
import { REAL_RULES, type Rules } from './lease-record.ts'
import { inWords, type SearchResult, search } from './search.ts'

const SEARCH_TIMEOUT_MS = 300_000

const SMALL: Bounds = { claims: 2, renewals: 1, cancels: 1, retries: 1, rollBacks: 1, lates: 1 }
/** More claims, but no renewals or late writes: otherwise there would be too many states. */
const LONG: Bounds = { claims: 3, renewals: 0, cancels: 0, retries: 1, rollBacks: 1, lates: 0 }
/** Every run tries the retry by hand with the bounds of LONG alone. */
const SMALL_IN_EVERY_RUN: Bounds = RUN_LONG ? SMALL : { ...SMALL, retries: 0 }
const NO_ROLL_BACK: Bounds = { ...SMALL, rollBacks: 0 }

const EVENTS_OF_LEASES = [
  'renew',
  'heartbeat',
  'await',
  'succeed',
  'reschedule',
  'postpone',
  'bury',
  'release',
  'reclaim',
  'bury_lost',
  'time_out',
  'bury_timed_out',
] as const satisfies EventName[]

/** The guards that the model knows. The other guards of these events always hold in it. */
const GUARDS_OF_LEASES: readonly Guard[] = [
  'holder',
  'lease_expired',
  'sending',
  'awaiting',
  'attempts_left',
  'no_attempts_left',
]

/** Runs the search and prints its result. */
function searched(name: string, changes: Partial<Rules>, bounds: Bounds): SearchResult {
  const result = search(leaseModel({ ...REAL_RULES, ...changes }, bounds))
  onTestFinished(() => console.log(inWords(name, result)))
  return result
}

describe('a lease proved by what the lifecycle says of holders', {
  timeout: SEARCH_TIMEOUT_MS,
}, () => {
  test('is proved by fence and lease id, the sweeper’s by these and the expiry', () => {
    expect(REAL_RULES).toMatchObject({
      holder: ['fence', 'lease id'],
      sweeper: ['fence', 'lease id', 'expiry'],
      provesExpiry: true,
    })
  })

  test('lets no stale result through, whatever is lost, late, killed or undone', () => {
    const result = searched('the real guard', {}, SMALL_IN_EVERY_RUN)
    expect(result).toMatchObject({ kind: 'holds', breaks: null })
    expect(result.stateCount).toBeGreaterThan(100_000)
  })

  test('lets none through over a life of three claims', () => {
    const result = searched('the real guard, three claims', {}, boundsOf(process.env))
    expect(result).toMatchObject({ kind: 'holds', breaks: null })
    expect(result.stateCount).toBeGreaterThan(50_000)
  })

  test('by the state alone is overtaken by a stale write', () => {
    const result = searched('guard by state alone', { holder: [] }, NO_ROLL_BACK)
    expect(result.breaks).toMatch(/by one whose lease is over$/)
  })

  test('that only a success does not prove takes a stale success', () => {
    const guards = LIFECYCLE.succeed.guards.filter((guard) => guard !== 'holder')
    const table = { ...LIFECYCLE, succeed: { ...LIFECYCLE.succeed, guards } }
    const bounds = { ...NO_ROLL_BACK, renewals: 0, lates: 0 }
    const result = searched('a success by state alone, nothing late', { table }, bounds)
    expect(result.breaks).toBe('succeed was applied by one whose lease is over')
  })

  test('by the fence alone is enough only as long as no claim is undone', () => {
    const holder = ['fence'] as const
    const safe = searched(
      'guard by fence, no claim undone',
      { holder },
      { ...NO_ROLL_BACK, lates: 0 },
    )
    expect(safe.kind).toBe('holds')
    const broken = searched('guard by fence alone', { holder }, SMALL)
    expect(broken.breaks).toMatch(/by one whose lease is over$/)
    expect(broken.path.join()).toContain('a failover undoes the claim')
  })

  test('does not help when a worker goes on after a renewal that matched nothing', () => {
    const result = searched('failed renewal ignored', { stopsOnLostLease: false }, NO_ROLL_BACK)
    expect(result.breaks).toMatch(/^two requests are out at once/)
  })

  test('does not help when the sweeper proves nothing of what it saw', () => {
    const unguarded = { sweeper: [], provesExpiry: false }
    const result = searched('sweeper without its guard', unguarded, NO_ROLL_BACK)
    expect(result.breaks).toMatch(/^reclaim ended a lease that had been renewed/)
  })

  test('needs the expiry as the sweeper saw it, or the proof that the present one has passed', () => {
    const sweeper = ['fence', 'lease id'] as const
    const result = searched('sweeper without the expiry', { sweeper, provesExpiry: false }, SMALL)
    expect(result.breaks).toMatch(/^reclaim ended a lease that had been renewed/)
  })
})

describe('without one of its guards', { timeout: SEARCH_TIMEOUT_MS }, () => {
  const cases = EVENTS_OF_LEASES.flatMap((event) =>
    (LIFECYCLE[event].guards as readonly Guard[])
      .filter((guard) => GUARDS_OF_LEASES.includes(guard))
      .map((guard) => ({ event, guard })),
  )

  test.each(cases)('$event ($guard) does harm', ({ event, guard }) => {
    const guards = LIFECYCLE[event].guards.filter((one) => one !== guard)
    const table = { ...LIFECYCLE, [event]: { ...LIFECYCLE[event], guards } }
    const result = search(leaseModel({ ...REAL_RULES, table }, SMALL))
    expect(result.kind).toBe('broken')
  })

  test.each(['claim', 'cancel', 'retry'] as const)('%s from any state does harm', (event) => {
    const from = ['queued', 'running', 'succeeded', 'dead', 'cancelled'] as const
    const table = { ...LIFECYCLE, [event]: { ...LIFECYCLE[event], from } }
    expect(search(leaseModel({ ...REAL_RULES, table }, SMALL)).kind).toBe('broken')
  })
})

describe('the stores', () => {
  const now = new Date()
  const lease = { fence: 3, leaseId: 'abc', leaseExpiresAt: now }
  const held = EVENTS_OF_LEASES.filter((event) =>
    (LIFECYCLE[event].guards as readonly Guard[]).includes('holder'),
  )
  const swept = EVENTS_OF_LEASES.filter((event) => !held.includes(event))

  test.each(held)('write %s only where fence and lease id are the holder’s', (event) => {
    expect(mongoGuardOf(event, { now, lease })).toMatchObject({
      state: 'running',
      fence: 3,
      leaseId: 'abc',
    })
    expect(sqliteGuardOf(event)).toMatch(
      /^state = 'running' and fence = \$fence and lease_id = \$leaseId/,
    )
  })

  test.each(swept)('write %s only where fence, lease id and expiry are as seen', (event) => {
    const guard = mongoGuardOf(event, { now, lease })
    const leaseExpiresAt = { $eq: now, $lte: now }
    expect(guard).toMatchObject({ state: 'running', fence: 3, leaseId: 'abc', leaseExpiresAt })
    const sql = sqliteGuardOf(event, event.endsWith('out') ? 'awaiting' : 'sending')
    expect(sql).toMatch(
      /fence = \$fence and lease_id = \$leaseId.* and lease_(mono|wall) = \$\w+.*<= \$\w+/s,
    )
  })
})

/** LONG, with the bounds that the environment sets: MODEL_CLAIMS, MODEL_RENEWALS, MODEL_LATES … */
function boundsOf(environment: NodeJS.ProcessEnv): Bounds {
  const entries = Object.entries(LONG).map(([what, bound]) => {
    const asked = environment[`MODEL_${what.toUpperCase()}`]
    return [what, asked === undefined ? bound : Number(asked)]
  })
  return Object.fromEntries(entries) as Bounds
}
