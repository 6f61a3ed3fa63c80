// What claims may take of a shared limit, whatever the endpoints ask for, and whenever.
import { array, assert, integer, nat, option, property, record, uniqueArray } from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { RateLimit } from '../../src/endpoint/endpoint.ts'
import { hasTokens } from '../../src/endpoint/rate-bucket.ts'
import {
  ROOM_KEPT_MS,
  type SharedLimit,
  type SharedLimitUse,
  sharedRoom,
  waitsAt,
} from '../../src/endpoint/shared-limits.ts'

const START = 1_760_000_000_000
const ENDPOINTS = ['a', 'b', 'c', 'd']
/** Two thousandths of a millisecond: doubles hold no finer instants. */
const ROUNDING_MS = 0.002
const LARGEST_COST = 30

const limits = record({
  concurrency: option(integer({ min: 1, max: 8 })),
  rateLimit: option(
    record({
      count: integer({ min: 1, max: 20 }),
      perMs: integer({ min: 100, max: 5_000 }),
    }),
  ),
})
const costs = array(integer({ min: 1, max: LARGEST_COST }), { maxLength: 4 })
/** What happens before a claim, and which endpoints it asks for, in its order. */
const claims = array(
  record({
    pauseMs: integer({ min: 0, max: 2_500 }),
    ended: nat({ max: 4 }),
    enqueued: record({ a: costs, b: costs, c: costs, d: costs }),
    asked: uniqueArray(record({ place: nat({ max: 3 }), jobs: integer({ min: 1, max: 6 }) }), {
      selector: ({ place }) => place,
      maxLength: 4,
    }),
  }),
  { minLength: 1, maxLength: 60 },
)

type Settings = Pick<SharedLimit, 'concurrency' | 'rateLimit'>
type Step = Parameters<Parameters<typeof claims.map>[0]>[0][number]

interface Claim {
  now: number
  /** Before it. */
  running: number
  use: SharedLimitUse
  /** The endpoints that asked and had a due job, with the cost of the first one. */
  due: Map<string, number>
  /** By endpoint, the costs of what started. */
  started: Map<string, number[]>
}

/** Plays the claims as a store does. */
function play(settings: Settings, steps: Step[]): Claim[] {
  const queues = new Map(ENDPOINTS.map((name): [string, number[]] => [name, []]))
  let now = START
  let running = 0
  let use: SharedLimitUse = { rateFullAt: null, waits: [] }
  return steps.map(({ pauseMs, ended, enqueued, asked }) => {
    now += pauseMs
    running = Math.max(0, running - ended)
    for (const [name, some] of Object.entries(enqueued)) queues.get(name)?.push(...some)
    const claim: Claim = { now, running, use, due: new Map(), started: new Map() }
    const counted = running
    const room = sharedRoom({ name: 'limit', ...settings, ...use }, () => counted, now)
    for (const { place, jobs } of asked) {
      const name = ENDPOINTS[place] as string
      const queue = queues.get(name) as number[]
      const taken: number[] = []
      if (queue[0] !== undefined) claim.due.set(name, queue[0])
      for (let cost = queue[0]; cost !== undefined && taken.length < jobs; cost = queue[0]) {
        if (!room.canTake(name, cost)) {
          room.refuse(name, cost)
          break
        }
        room.take(name, cost)
        taken.push(cost)
        queue.shift()
      }
      if (taken.length > 0) claim.started.set(name, taken)
    }
    running += [...claim.started.values()].flat().length
    use = room.after(new Map([...claim.started].map(([name, some]) => [name, sum(some)])), now)
    return claim
  })
}

const lineOf = ({ waits }: SharedLimitUse, now: number) =>
  waits.filter(({ askedAt }) => now - askedAt < ROOM_KEPT_MS)

const sum = (numbers: number[]) => numbers.reduce((total, one) => total + one, 0)

function forAll(check: (settings: Settings, claims: Claim[]) => void): void {
  assert(
    property(limits, claims, (settings, steps) => check(settings, play(settings, steps))),
    { numRuns: 500 },
  )
}

describe('a shared limit', () => {
  test('never lets more jobs run than its concurrency', () => {
    forAll(({ concurrency }, played) => {
      for (const { running, started } of played) {
        if (started.size === 0) continue
        const most = concurrency ?? Number.POSITIVE_INFINITY
        expect(running + [...started.values()].flat().length).toBeLessThanOrEqual(most)
      }
    })
  })

  test('gives in any stretch L at most max(count, largest cost) + count × L / per', () => {
    forAll(({ rateLimit }, played) => {
      if (rateLimit === null) return
      const { count, perMs } = rateLimit
      const all = played.flatMap(({ started }) => [...started.values()].flat())
      const largest = Math.max(count, ...all)
      for (const [i, first] of played.entries()) {
        let taken = 0
        for (const { now, started } of played.slice(i)) {
          taken += sum([...started.values()].flat())
          const stretchMs = now - first.now + ROUNDING_MS
          expect(taken).toBeLessThanOrEqual(largest + (count * stretchMs) / perMs)
        }
      }
    })
  })

  test('gives each other endpoint one turn at most before one that keeps asking', () => {
    forAll((_, played) => {
      for (const name of ENDPOINTS) {
        let hadTurn = new Set<string>()
        for (const [i, { now, due, started, use }] of played.entries()) {
          const { now: before } = played[i - 1] ?? { now }
          const waits = lineOf(use, now).some(({ endpoint }) => endpoint === name)
          const keepsAsking = waits && due.has(name) && now - before < ROOM_KEPT_MS
          if (!keepsAsking || started.has(name)) {
            hadTurn = new Set()
            continue
          }
          for (const other of started.keys()) {
            expect(hadTurn).not.toContain(other)
            hadTurn.add(other)
          }
        }
      }
    })
  })

  test('gives the first endpoint in line its room, if those before it asked 2 s ago or more', () => {
    forAll((settings, played) => {
      for (const { now, running, use, due, started } of played) {
        const line = lineOf(use, now)
        // Those that wait and do not ask in this claim are kept their room.
        if (due.size === 0 || line.some(({ endpoint }) => !due.has(endpoint))) continue
        const [first = ''] = [...line.map(({ endpoint }) => endpoint), ...due.keys()]
        const hasRoom = running < (settings.concurrency ?? Number.POSITIVE_INFINITY)
        const { rateLimit } = settings
        const cost = due.get(first) as number
        if (hasRoom && canPay(rateLimit, use.rateFullAt, now, cost)) {
          expect([...started.keys()]).toContain(first)
        }
      }
    })
  })

  test('lists those that wait, and forgets those that did not ask for 2 s', () => {
    forAll((_, played) => {
      for (const [i, { now, use }] of played.entries()) {
        const names = use.waits.map(({ endpoint }) => endpoint)
        expect(new Set(names).size).toBe(names.length)
        for (const { endpoint } of waitsAt(use, now)) {
          const asked = played.slice(0, i).findLast(({ due }) => due.has(endpoint))
          expect(asked?.now).toBeGreaterThan(now - ROOM_KEPT_MS)
        }
      }
    })
  })
})

function canPay(limit: RateLimit | null, fullAt: number | null, now: number, cost: number) {
  return limit === null || hasTokens(limit, fullAt, now, cost)
}
