// The promises of fairness keys: the keys of an endpoint take turns, and no customer's flood delays
// the others.
import { describe, expect, test } from 'vitest'
import type { ClaimedJob, NewJob } from '../../src/job/job.ts'
import type { Store } from '../../src/store/store.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import {
  addEndpoint,
  claimFrom,
  claimOne,
  enqueueMany,
  enqueueOne,
  jobOf,
  laterAgain,
  leaseOf,
  newJob,
  passed,
  success,
  sweep,
} from './fixtures.ts'

const HOUR_MS = 3_600_000
/** Jobs of a key that have turns before any is claimed. */
const TURNS = 64
const BATCH = 100
/** Jobs that are claimed at once. */
const SLOTS = 10
const SIZES = { sqlite: { flood: 2_000, keys: 100 }, mongo: { flood: 300, keys: 20 } }
/** A claim on MongoDB may remember for 0.4 s that an endpoint has no keys. */
const KEYS_KNOWN_MS = 450

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)
  const { flood: FLOOD, keys: KEYS } = SIZES[engine]

  async function enqueue(
    endpoint: string,
    key: string | null,
    count: number,
    fields: Partial<NewJob> = {},
  ) {
    const ids: string[] = []
    for (let left = count; left > 0; left -= BATCH) {
      const part = { fairnessKey: key, ...fields }
      ids.push(...(await enqueueMany(place.store, endpoint, Math.min(left, BATCH), part)))
    }
    return ids
  }

  /** A lane whose jobs are claimed in parts and succeed. */
  async function lane() {
    const endpoint = await addEndpoint(place.store)
    const begun: ClaimedJob[] = []
    const keyOf = new Map<string, string | null>()
    const dueAt = new Map<string, number>()
    return {
      endpoint,
      begun,
      async add(key: string | null, count = 1, fields: Partial<NewJob> = {}) {
        const ids = await enqueue(endpoint, key, count, fields)
        for (const id of ids) {
          keyOf.set(id, key)
          dueAt.set(id, begun.length)
        }
        return ids
      },
      async claim(count: number) {
        const until = begun.length + count
        while (begun.length < until) {
          const jobs = await claimFrom(place.store, endpoint, Math.min(SLOTS, until - begun.length))
          if (jobs.length === 0) return
          begun.push(...jobs)
          await place.store.settle(jobs.map((job) => success(place.store, job)))
        }
      },
      keys: (from = 0) => begun.slice(from).map(({ jobId }) => keyOf.get(jobId) ?? null),
      /** The most jobs that began between the enqueue and the start of one of these. */
      longestWait(ids: string[]) {
        const at = new Map(begun.map(({ jobId }, i) => [jobId, i]))
        return Math.max(
          ...ids.map((id) => (at.get(id) ?? Number.POSITIVE_INFINITY) - (dueAt.get(id) as number)),
        )
      },
    }
  }

  const BOUND = 2 * (KEYS + 1) + SLOTS

  test.each(['before', 'after', 'during', 'after half of it was cancelled'] as const)(
    'a flood beside keys that come %s',
    { timeout: 60_000 },
    async (when) => {
      const { add, claim, longestWait } = await lane()
      const small: string[] = []
      const addSmall = async (i: number) => small.push(...(await add(`small ${i}`)))
      if (when === 'before') for (let i = 0; i < KEYS; i++) await addSmall(i)
      const flood = await add('flood', FLOOD)
      if (when.startsWith('after half')) {
        await claim(50)
        const half = flood.slice(50, 50 + FLOOD / 2)
        for (let at = 0; at < half.length; at += BATCH) {
          await place.store.cancel(half.slice(at, at + BATCH))
        }
      }
      if (when.startsWith('after')) for (let i = 0; i < KEYS; i++) await addSmall(i)
      for (let i = 0; when === 'during' && i < KEYS; i++) {
        await claim(3)
        await addSmall(i)
      }
      await claim(3 * KEYS)
      expect(small).toHaveLength(KEYS)
      expect(longestWait(small)).toBeLessThan(BOUND)
    },
  )

  test('of two keys whose turns come at once, the one that was due first starts', async () => {
    const endpoint = await addEndpoint(place.store)
    const runAt = place.store.clock.now() + 60
    const first = await enqueueOne(place.store, endpoint, { fairnessKey: 'b', runAt })
    await passed(place.store, runAt)
    const second = await enqueueOne(place.store, endpoint, { fairnessKey: 'a' })
    const jobs = await claimFrom(place.store, endpoint, 2)
    expect(jobs.map(({ jobId }) => jobId)).toEqual([first.id, second.id])
  })

  test('jobs of another priority do not count', async () => {
    const { add, claim, keys, begun } = await lane()
    await add('busy', 400, { priority: 9 })
    await add('flood', 300)
    await claim(400)
    const from = begun.length
    await add('small', 3)
    await claim(12)
    expect(keys(from).filter((key) => key === 'small')).toHaveLength(3)
    await add('late', 1, { priority: 9 })
    await claim(1)
    expect(keys().at(-1)).toBe('late')
  })

  test('a new key with each job does not delay a key with a backlog', {
    timeout: 60_000,
  }, async () => {
    const { add, claim, keys } = await lane()
    await add('backlog', 20)
    for (let i = 0; i < 300; i++) {
      await add(`once ${i}`)
      await claim(1)
    }
    expect(keys().filter((key) => key === 'backlog')).toHaveLength(20)
  })

  test('jobs without a key take turns as one key', async () => {
    const { add, claim, keys, begun } = await lane()
    await add(null, 1_000)
    await claim(100)
    await add('one')
    await passed(place.store, place.store.clock.now() + KEYS_KNOWN_MS)
    await claim(2)
    expect(keys(100)).toContain('one')
    await add('flood', 200)
    const from = begun.length
    await claim(100)
    const plain = keys(from).filter((key) => key === null)
    expect(plain.length).toBeGreaterThanOrEqual(49)
    expect(plain.length).toBeLessThanOrEqual(51)
  })

  test('keys share by cost', async () => {
    const { add, claim, keys } = await lane()
    await add('cheap', 400)
    await add('dear', 400, { cost: 3 })
    await claim(200)
    const count = keys().filter((key) => key === 'dear').length
    expect(count).toBeGreaterThanOrEqual(48)
    expect(count).toBeLessThanOrEqual(52)
  })

  test('within a key, jobs begin in the order in which they became due', async () => {
    const { endpoint, add, claim, begun } = await lane()
    const now = place.store.clock.now()
    const ids = await add('a', 150)
    const [early] = await add('a', 1, { runAt: now - HOUR_MS })
    const later = await add('a', 20, { runAt: now + HOUR_MS })
    await claim(200)
    expect(begun.map(({ jobId }) => jobId)).toHaveLength(151)
    expect(begun.map(({ jobId }) => jobId).filter((id) => id !== early)).toEqual(ids)
    for (const id of later) expect((await jobOf(place.store, id)).state).toBe('queued')
    const { nextAt } = await place.store.due(null)
    expect(nextAt).toBe(now + HOUR_MS)
    expect(await claimFrom(place.store, endpoint, 10)).toEqual([])
  })

  test('delayed jobs begin when they are due', async () => {
    const { add, claim, begun, keys } = await lane()
    const at = place.store.clock.now() + 400
    await add('b', 50, { runAt: at + 200 })
    await add('b', 50, { runAt: at })
    await add('a', 100)
    await claim(10)
    await passed(place.store, at)
    const from = begun.length
    await claim(20)
    expect(keys(from).filter((key) => key === 'b').length).toBeGreaterThanOrEqual(9)
    await passed(place.store, at + 200)
    await claim(500)
    expect(begun).toHaveLength(200)
  })

  test.each([
    { slow: 'of cost 20', cost: 20, weight: 1, most: 21 },
    { slow: 'beside a key of weight 40', cost: 1, weight: 40, most: 41 },
  ])('a delayed job $slow begins in its turn', async ({ cost, weight, most }) => {
    const { endpoint, add, claim, keys, begun } = await lane()
    const settings = { weight, paused: false }
    if (weight > 1) await place.store.putFairnessKey({ endpoint, key: 'flood' }, settings, null)
    await add('flood', 100)
    const at = place.store.clock.now() + 100
    await add('slow', 1, { cost, runAt: at })
    await passed(place.store, at + KEYS_KNOWN_MS)
    // One after the other, so that each claim looks at it again.
    while (begun.length <= most) await claim(1)
    expect(keys()).toContain('slow')
  })

  test.each(['first', 'middle', 'last', 'every'] as const)(
    'the %s turn is cancelled',
    async (which) => {
      const { add, claim, begun, keys } = await lane()
      const ids = await add('a', 100)
      await add('b', 100)
      const gone = {
        first: ids.slice(0, 1),
        middle: ids.slice(20, 50),
        last: ids.slice(63, 64),
        every: ids.slice(0, 64),
      }[which]
      await place.store.cancel(gone)
      await claim(40)
      const a = keys().filter((key) => key === 'a')
      expect(Math.abs(a.length - 20)).toBeLessThanOrEqual(1)
      await claim(200)
      expect(begun).toHaveLength(200 - gone.length)
    },
  )

  test('a released job has its turn again, a retried one goes to the end', async () => {
    const { endpoint, add, claim, begun } = await lane()
    await add('a', 100)
    const [first, second] = (await claimFrom(place.store, endpoint, 2)) as [ClaimedJob, ClaimedJob]
    await place.store.release([leaseOf(first)])
    await place.store.settle([laterAgain(place.store, second, place.store.clock.now())])
    await claim(1)
    expect(begun[0]?.jobId).toBe(first.jobId)
    await claim(200)
    expect(begun).toHaveLength(100)
    expect(begun.at(-1)?.jobId).toBe(second.jobId)
  })

  test('a job that is edited changes its lane', async () => {
    const { endpoint, add, claim, begun } = await lane()
    const ids = await add('a', 100)
    const [turn, outside] = [ids[5], ids[90]] as [string, string]
    await place.store.edit(turn, { priority: 9 }, null)
    await place.store.edit(outside, { priority: 9 }, null)
    const later = place.store.clock.now() + HOUR_MS
    await place.store.edit(ids[6] as string, { runAt: later }, null)
    await claim(2)
    expect(begun.map(({ jobId }) => jobId).sort()).toEqual([turn, outside].sort())
    await claim(200)
    expect(begun).toHaveLength(99)
    expect(await claimFrom(place.store, endpoint, 1)).toEqual([])
  })

  test('jobs that expire make room', async () => {
    const { add, claim, begun } = await lane()
    const expiresAt = place.store.clock.now() + 300
    await add('a', 64, { expiresAt })
    await add('a', 50)
    await passed(place.store, expiresAt)
    await sweep(place.store)
    await claim(200)
    expect(begun).toHaveLength(50)
  })

  test('with an ordering key and with dependencies', async () => {
    const { endpoint, add, claim, begun } = await lane()
    await add('a', 70)
    const first = await enqueueOne(place.store, endpoint, { fairnessKey: 'b', orderingKey: 'o' })
    const second = await enqueueOne(place.store, endpoint, { fairnessKey: 'b', orderingKey: 'o' })
    const { id } = await enqueueOne(place.store, endpoint, {
      fairnessKey: 'c',
      dependsOn: [second.id],
    })
    await claim(200)
    expect(begun).toHaveLength(73)
    const order = begun.map(({ jobId }) => jobId)
    expect(order.indexOf(first.id)).toBeLessThan(order.indexOf(second.id))
    expect(order.indexOf(second.id)).toBeLessThan(order.indexOf(id))
  })

  test('jobs that wait for a turn are counted, listed and found due', async () => {
    const { endpoint, add } = await lane()
    await add('a', 100)
    await add('b', 100, { runAt: place.store.clock.now() + HOUR_MS })
    const [stats] = await place.store.statsOf([endpoint])
    expect(stats).toMatchObject({ queued: 200, due: 100, running: 0 })
    const page = await place.store.listJobs({ endpoint, states: ['queued'], limit: 200 })
    expect(page.items).toHaveLength(200)
    expect(page.items.every(({ isBlocked }) => !isBlocked)).toBe(true)
    const { endpoints } = await place.store.due(place.store.clock.now() - 60_000)
    expect(endpoints).toContain(endpoint)
  })

  test('a lost lease, a retry by hand and a deleted endpoint', async () => {
    const { endpoint, add, claim, begun } = await lane()
    const ids = await add('a', 100)
    const lost = await claimOne(place.store, endpoint, 1)
    await passed(place.store, place.store.clock.now() + 10)
    await sweep(place.store)
    expect((await jobOf(place.store, lost.jobId)).state).toBe('queued')
    await place.store.cancel([ids[99] as string])
    await claim(200)
    expect(begun).toHaveLength(99)
    await place.store.retry([ids[99] as string])
    await claim(5)
    expect(begun).toHaveLength(100)
    const left = await add('a', 100)
    await place.store.deleteEndpoint(endpoint, { force: true, ifVersion: null })
    await until(async () => {
      await sweep(place.store)
      return (await place.store.endpointsNamed([endpoint])).length === 0
    })
    for (const id of left) expect((await jobOf(place.store, id)).state).toBe('dead')
  })

  test('a job of the batch that takes away the last turn of its key leaves no job outside', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const dedupe = { key: 'd', mode: 'replace' } as const
    const jobOfKey = (fields: Partial<NewJob> = {}) =>
      newJob(store, endpoint, { fairnessKey: 'a', ...fields })
    await enqueue(endpoint, 'a', TURNS - 1)
    await store.enqueue([jobOfKey({ dedupe })])

    // The first one is outside, and then gets the turn of the job that moves. The last is outside.
    await store.enqueue([jobOfKey(), jobOfKey({ dedupe, priority: 9 }), jobOfKey()])

    let count = 0
    for (let jobs = await claimFrom(store, endpoint, SLOTS); jobs.length > 0; ) {
      count += jobs.length
      jobs = await claimFrom(store, endpoint, SLOTS)
    }
    expect(count).toBe(TURNS + 2)
  })

  test('several processes enqueue, cancel and claim, and no job stays outside', {
    timeout: 90_000,
  }, async () => {
    const endpoint = await addEndpoint(place.store)
    const stores = [place.store, await place.open(), await place.open()]
    const begun = new Set<string>()
    const cancelling = new Set<string>()
    const cancelled = new Set<string>()
    const all: string[] = []
    const claimSome = async (store: Store) => {
      const jobs = await claimFrom(store, endpoint, 7)
      for (const { jobId } of jobs) {
        expect(begun.has(jobId)).toBe(false)
        begun.add(jobId)
      }
      const results = await store.settle(jobs.map((job) => success(store, job)))
      results.forEach((result, i) => {
        const isCancelled = cancelling.has(jobs[i]?.jobId ?? '')
        expect(result === 'applied' || isCancelled).toBe(true)
      })
    }
    await Promise.all(
      stores.map(async (store, part) => {
        for (let i = 0; i < 15; i++) {
          const key = `key ${(part + i) % 3}`
          const jobs = Array.from({ length: i % 5 === 0 ? 40 : 1 }, () =>
            newJob(store, endpoint, { fairnessKey: key, priority: 5 + (i % 2) }),
          )
          await store.enqueue(jobs)
          all.push(...jobs.map(({ id }) => id))
          await claimSome(store)
          const [first] = jobs
          if (i % 3 !== 0 || first === undefined) continue
          cancelling.add(first.id)
          const [result] = await store.cancel([first.id])
          if (result?.kind === 'applied') cancelled.add(first.id)
        }
      }),
    )
    await until(async () => {
      await claimSome(place.store)
      return new Set([...begun, ...cancelled]).size === all.length
    })
  })

  test('another process claims the same turns', async () => {
    const { endpoint, add } = await lane()
    const other = await place.open()
    await add('a', 100)
    await other.enqueue([newJob(other, endpoint, { fairnessKey: 'b' })])
    const jobs = await claimFrom(other, endpoint, 2)
    expect(jobs).toHaveLength(2)
    const keys = await Promise.all(
      jobs.map(async ({ jobId }) => (await jobOf(other, jobId)).fairnessKey),
    )
    expect(keys.sort()).toEqual(['a', 'b'])
  })
})
