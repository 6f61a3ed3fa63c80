import { describe, expect, it } from 'vitest'
import {
  closedUp,
  type KeyLine,
  type Lane,
  laneAfter,
  NEW_LANE,
  nextTurns,
  placeOf,
  type Turn,
  takeInTurn,
  turnsToGive,
} from '../../src/job/turns.ts'

interface LaneJob extends Turn {
  id: number
  cost: number
  dueAt: number
}

/** One lane in memory, kept by the rules as a store keeps it. */
class TestLane {
  lane: Lane = NEW_LANE
  now = 0
  /** In the order in which they began. */
  readonly begun: LaneJob[] = []
  readonly plain: LaneJob[] = []
  turns: LaneJob[] = []
  readonly outside = new Map<string, LaneJob[]>()
  readonly alarms = new Map<string, LaneJob>()
  #count = 0

  add(key: string | null, { cost = 1, dueAt = this.now } = {}): LaneJob {
    const id = this.#count++
    const job = { id, key: key ?? '', cost, dueAt, tag: 0, admitsNext: false }
    if (key === null) {
      this.plain.push(job)
      return job
    }
    const line = this.#line(key)
    const place = placeOf(job, line, this.lane.virtualTime, this.now)
    const alarm = this.alarms.get(key)
    if (place.kind === 'turn') this.turns.push(Object.assign(job, { tag: place.tag }))
    else if (place.kind === 'alarm') this.alarms.set(key, job)
    else this.#leave(job)
    if (alarm !== undefined && place.kind !== 'outside') {
      this.alarms.delete(key)
      if (place.kind === 'alarm') this.alarms.set(key, job)
      this.#leave(alarm)
    }
    this.#admitLater(key)
    return job
  }

  cancel(job: LaneJob): void {
    const { key } = job
    const others = this.outside.get(key)?.filter((other) => other !== job) ?? []
    this.outside.set(key, others)
    const at = this.turns.indexOf(job)
    if (this.alarms.get(key) === job) {
      this.alarms.delete(key)
      this.#give(key, 64)
    }
    if (at < 0) return
    this.turns.splice(at, 1)
    const left = this.turns.filter((turn) => turn.key === key).sort((a, b) => a.tag - b.tag)
    const tags = closedUp([withTurn(job)], left.map(withTurn), this.lane.virtualTime)
    left.forEach((turn, i) => {
      turn.tag = tags[i] as number
    })
    this.#give(key, 64)
  }

  /** Nothing was sent: it has its turn again. */
  release(job: LaneJob): void {
    this.begun.splice(this.begun.indexOf(job), 1)
    this.turns.push(job)
    const alarm = this.alarms.get(job.key)
    if (alarm !== undefined) this.#leave(alarm)
    this.alarms.delete(job.key)
    this.#admitLater(job.key)
  }

  /** Claims up to `limit` jobs. Returns how many it took. */
  claim(limit: number): number {
    const before = this.begun.length
    for (const [key, { dueAt }] of this.alarms) if (dueAt <= this.now) this.#give(key, 64)
    for (;;) {
      const left = limit - (this.begun.length - before)
      this.turns.sort((a, b) => a.tag - b.tag || a.id - b.id)
      const plain = this.plain.slice(0, left)
      const { picks } = takeInTurn(this.turns.slice(0, left), plain, this.lane, left)
      const jobs = picks.map(({ turn, plain: job }) => turn ?? job)
      this.begun.push(...jobs)
      this.turns = this.turns.filter((turn) => !jobs.includes(turn))
      this.plain.splice(0, jobs.filter(({ key }) => key === '').length)
      this.lane = laneAfter(this.lane, picks, this.plain.length > 0)
      const counts = new Map<string, number>()
      for (const { key, admitsNext } of jobs) {
        if (admitsNext) counts.set(key, (counts.get(key) ?? 0) + 1)
      }
      for (const [key, count] of counts) this.#give(key, turnsToGive(count, counts.size))
      if (jobs.length === 0 || this.begun.length - before >= limit) break
    }
    return this.begun.length - before
  }

  /** What holds for every key at any time. */
  check(): void {
    for (const [key, outside] of this.outside) {
      const turns = this.turns.filter((turn) => turn.key === key)
      const alarm = this.alarms.get(key)
      if (outside.length > 0 && turns.length > 0) expect(turns.at(-1)?.admitsNext).toBe(true)
      if (outside.length > 0 && turns.length === 0) expect(alarm).toBeDefined()
      if (alarm !== undefined) expect(turns).toEqual([])
      expect(turns.length).toBeLessThanOrEqual(66)
    }
  }

  #line(key: string): KeyLine {
    const last = this.#lastTurn(key)
    const alarm = this.alarms.get(key)
    return {
      lastTurn: last?.tag ?? null,
      admitsNext: (last ?? alarm)?.admitsNext ?? false,
      alarmAt: alarm?.dueAt ?? null,
    }
  }

  #lastTurn(key: string): LaneJob | undefined {
    const ofKey = this.turns.filter((turn) => turn.key === key)
    return ofKey.sort((a, b) => a.tag - b.tag).at(-1)
  }

  #leave(job: LaneJob): void {
    const jobs = this.outside.get(job.key) ?? []
    this.outside.set(job.key, jobs)
    jobs.push(Object.assign(job, { tag: 0, admitsNext: false }))
    jobs.sort((a, b) => a.dueAt - b.dueAt || a.id - b.id)
  }

  #admitLater(key: string): void {
    const last = this.#lastTurn(key) ?? this.alarms.get(key)
    if (last !== undefined && (this.outside.get(key)?.length ?? 0) > 0) last.admitsNext = true
  }

  #give(key: string, most: number): void {
    const alarm = this.alarms.get(key)
    this.alarms.delete(key)
    if (alarm !== undefined) this.#leave(alarm)
    const outside = this.outside.get(key) ?? []
    const start = this.#lastTurn(key)?.tag ?? null
    const { virtualTime } = this.lane
    const tags = nextTurns(start, outside.slice(0, most), virtualTime, this.now)
    for (const tag of tags) this.turns.push(Object.assign(outside.shift() as LaneJob, { tag }))
    const given = this.turns.slice(this.turns.length - tags.length)
    for (const turn of given) turn.admitsNext = outside.length > 0
    if (this.#lastTurn(key) === undefined && outside.length > 0) {
      this.alarms.set(key, outside.shift() as LaneJob)
    }
    this.#admitLater(key)
  }
}

function withTurn({ tag, cost }: LaneJob) {
  return { turn: tag, cost }
}

const FLOOD = 2_000
const KEYS = 100
/** As the contract has it: 2 × (K + 1), and what is claimed at once. */
const bound = (limit: number) => 2 * (KEYS + 1) + limit

describe.each([1, 10, 100])('claims of %d jobs', (limit) => {
  const waits = (lane: TestLane, dueAt: Map<LaneJob, number>) =>
    lane.begun.flatMap((job, at) => (dueAt.has(job) ? [at - (dueAt.get(job) as number)] : []))

  it.each(['before', 'after', 'during'] as const)(
    'a flood beside keys with a job each that came %s it',
    (when) => {
      const lane = new TestLane()
      const dueAt = new Map<LaneJob, number>()
      const addSmall = (i: number) => dueAt.set(lane.add(`small ${i}`), lane.begun.length)
      if (when === 'before') for (let i = 0; i < KEYS; i++) addSmall(i)
      for (let i = 0; i < FLOOD; i++) lane.add('flood')
      if (when === 'after') for (let i = 0; i < KEYS; i++) addSmall(i)
      for (let i = 0; when === 'during' && i < KEYS; i++) {
        lane.claim(3)
        addSmall(i)
      }
      while (lane.begun.length < 4 * KEYS + limit) lane.claim(limit)
      const found = waits(lane, dueAt)
      expect(found).toHaveLength(KEYS)
      expect(Math.max(...found)).toBeLessThan(bound(limit))
    },
  )

  it('cancelled jobs cost the rest of their key nothing', () => {
    const lane = new TestLane()
    const jobs = Array.from({ length: 200 }, () => lane.add('many'))
    for (let i = 0; i < 400; i++) lane.add('other')
    for (const job of jobs.slice(0, 199)) lane.cancel(job)
    lane.claim(limit)
    expect(lane.begun.findIndex(({ key }) => key === 'many')).toBeLessThan(Math.min(2, limit + 1))
    lane.check()
  })

  it('a key that becomes due after 10,000 of another alternates with it', () => {
    const lane = new TestLane()
    for (let i = 0; i < 500; i++) lane.add('late', { dueAt: 1_000 })
    for (let i = 0; i < 1_500; i++) lane.add('other')
    while (lane.begun.length < 500) lane.claim(limit)
    lane.now = 1_000
    const from = lane.begun.length
    while (lane.begun.length < from + 400) lane.claim(limit)
    const names = lane.begun.slice(from, from + 400).map(({ key }) => key)
    expect(longestRun(names)).toBeLessThanOrEqual(2)
  })

  it('jobs without a key take turns as one key', () => {
    const lane = new TestLane()
    for (let i = 0; i < 5_000; i++) lane.add(null)
    while (lane.begun.length < 1_000) lane.claim(limit)
    const from = lane.begun.length
    lane.add('one')
    lane.claim(2)
    expect(lane.begun.slice(from).map(({ key }) => key)).toContain('one')
    for (let i = 0; i < 300; i++) lane.add('flood')
    while (lane.begun.length < from + 500) lane.claim(limit)
    const plain = lane.begun.slice(from + 2, from + 402).filter(({ key }) => key === '')
    expect(plain.length).toBeGreaterThan(190)
    expect(plain.length).toBeLessThan(210)
  })

  it('shares are equal in cost', () => {
    const lane = new TestLane()
    for (let i = 0; i < 1_500; i++) {
      lane.add('a', { cost: 1 + (i % 7) })
      lane.add('b', { cost: 10 })
      lane.add(null, { cost: 2 })
    }
    while (lane.begun.length < 1_500) lane.claim(limit)
    const shares = ['a', 'b', ''].map((key) =>
      lane.begun.filter((job) => job.key === key).reduce((sum, { cost }) => sum + cost, 0),
    )
    const mean = shares.reduce((sum, share) => sum + share) / shares.length
    for (const share of shares) expect(Math.abs(share / mean - 1)).toBeLessThan(0.05)
  })
})

it('a job that is released begins next, and gives the others of its key no credit', () => {
  const lane = new TestLane()
  lane.add('released')
  lane.claim(1)
  const [job] = lane.begun
  for (let i = 0; i < 1_000; i++) lane.add('other')
  lane.claim(500)
  lane.release(job as LaneJob)
  for (let i = 0; i < 100; i++) lane.add('released')
  const from = lane.begun.length
  const { virtualTime } = lane.lane
  lane.claim(20)
  const names = lane.begun.slice(from).map(({ key }) => key)
  expect(names[0]).toBe('released')
  expect(lane.lane.virtualTime).toBeGreaterThan(virtualTime)
  expect(longestRun(names)).toBeLessThanOrEqual(2)
})

it('jobs without a key save nothing up while a costly one waits', () => {
  const lane = new TestLane()
  for (let i = 0; i < 1_000; i++) lane.add('other')
  lane.add(null, { cost: 500 })
  while (lane.begun.length < 400) lane.claim(10)
  expect(lane.plain.splice(0)).toHaveLength(1)
  for (let i = 0; i < 100; i++) lane.add(null)
  while (lane.begun.length < 440) lane.claim(10)
  expect(longestRun(lane.begun.slice(400).map(({ key }) => key))).toBeLessThanOrEqual(2)
})

it('a new key with each delivery does not delay a key with a backlog', () => {
  const lane = new TestLane()
  for (let i = 0; i < 50; i++) lane.add('backlog')
  for (let i = 0; i < 2_000; i++) {
    lane.add(`once ${i}`)
    lane.claim(1)
  }
  expect(lane.begun.filter(({ key }) => key === 'backlog')).toHaveLength(50)
})

it('a key whose last turn was claimed loses nothing to those claimed with it', () => {
  const lane = new TestLane()
  lane.add('dear', { cost: 20 })
  for (let i = 0; i < 26; i++) lane.add('dear')
  for (let i = 0; i < 67; i++) lane.add('other')
  lane.add('dear', { cost: 20 })
  while (lane.claim(7) > 0);
  const starts = lane.begun.flatMap(({ key }, at) => (key === 'dear' ? [at] : []))
  const [before, last] = starts.slice(-2) as [number, number]
  expect(last - before - 1).toBeLessThanOrEqual(20 + 1)
})

it('keys with equal backlogs get a limited number of turns in one claim', () => {
  const lane = new TestLane()
  const keys = Array.from({ length: 50 }, (_, i) => `key ${i}`)
  for (let i = 0; i < 200; i++) for (const key of keys) lane.add(key)
  let given = 0
  while (lane.begun.length < 5_000) {
    const before = lane.turns.length
    lane.claim(50)
    given = Math.max(given, lane.turns.length - before + 50)
  }
  expect(given).toBeLessThanOrEqual(256)
})

it.each([1, 2])('any order of requests, seed %d', (seed) => {
  const random = createRandom(seed)
  for (let round = 0; round < 50; round++) playAtRandom(random)
})

/** While a key waits, each other key begins at most two jobs of cost 1. */
function playAtRandom(random: (below: number) => number): void {
  const lane = new TestLane()
  const keys = ['a', 'b', 'c', 'd']
  /** For each key with a due job: how many jobs of each other key began since then. */
  const waiting = new Map<string, Map<string, number>>()
  const lastOf = new Map<string, LaneJob>()
  const open: LaneJob[] = []
  for (let step = 0; step < 150; step++) {
    const key = keys[random(4)] as string
    const action = random(10)
    if (action < 4) {
      for (let i = random(4) === 0 ? 100 : 1; i > 0; i--) {
        open.push(lane.add(key, random(4) === 0 ? { dueAt: lane.now + random(20) } : {}))
      }
    } else if (action < 8) {
      const from = lane.begun.length
      const { virtualTime } = lane.lane
      lane.claim(1 + random(8))
      expect(lane.lane.virtualTime).toBeGreaterThanOrEqual(virtualTime)
      for (const job of lane.begun.slice(from)) {
        const { key: begun } = job
        waiting.delete(begun)
        const last = lastOf.get(begun)
        if (last !== undefined) expect(isAfter(job, last)).toBe(true)
        lastOf.set(begun, job)
        for (const [waits, counts] of waiting) {
          const count = (counts.get(begun) ?? 0) + 1
          counts.set(begun, count)
          expect(count, `${begun} before ${waits}`).toBeLessThanOrEqual(2)
        }
      }
    } else if (action === 8) {
      const job = open[random(open.length)]
      if (job !== undefined && !lane.begun.includes(job)) lane.cancel(job)
    } else {
      lane.now += random(10)
    }
    lane.check()
    for (const name of keys) {
      if (!lane.turns.some((turn) => turn.key === name)) waiting.delete(name)
      else if (!waiting.has(name)) waiting.set(name, new Map())
    }
  }
}

/** In a key: the order of the instants at which the jobs became due, then of ids. */
function isAfter(job: LaneJob, other: LaneJob): boolean {
  return job.dueAt > other.dueAt || (job.dueAt === other.dueAt && job.id > other.id)
}

function longestRun(names: string[]): number {
  let longest = 0
  let run = 0
  names.forEach((name, i) => {
    run = name === names[i - 1] ? run + 1 : 1
    longest = Math.max(longest, run)
  })
  return longest
}

/** Whole numbers from 0, the same for the same seed (the generator of POSIX's rand). */
function createRandom(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31
    return Math.floor((state / 2 ** 31) * below)
  }
}
