// The promises of the settings of single fairness keys: weights, limits of their own, and pauses.
import { describe, expect, test } from 'vitest'
import { newSecret, type RateLimit } from '../../src/endpoint/endpoint.ts'
import type { FairnessKey, KeySettings } from '../../src/endpoint/key-limits.ts'
import type { ClaimedJob } from '../../src/job/job.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import {
  addEndpoint,
  claimFrom,
  endpointOf,
  enqueueMany,
  passed,
  settingsOf,
  success,
} from './fixtures.ts'

/** A claim on MongoDB may remember for 0.4 s which endpoints have keys and limits. */
const REMEMBERED_MS = 450
const DEFAULTS: KeySettings = { weight: 1, paused: false }
const HOUR_MS = 3_600_000

describe.each(ENGINES)('the settings of a key on %s', (engine) => {
  const place = useStore(engine)

  const keyOf = new Map<string, string>()
  /** Another process may have remembered the endpoint. */
  async function known() {
    if (engine === 'mongo') await passed(place.store, place.store.clock.now() + REMEMBERED_MS)
  }

  async function put(key: FairnessKey, settings: Partial<KeySettings>) {
    const result = await place.store.putFairnessKey(key, { ...DEFAULTS, ...settings }, null)
    expect(['created', 'replaced']).toContain(result.kind)
    await known()
  }

  async function enqueue(endpoint: string, key: string, count: number, cost = 1) {
    for (let left = count; left > 0; left -= 100) {
      const fields = { fairnessKey: key, cost }
      const ids = await enqueueMany(place.store, endpoint, Math.min(left, 100), fields)
      for (const id of ids) keyOf.set(id, key)
    }
  }

  /** Claims and ends this many jobs. Returns how many of each key began. */
  async function deliver(endpoint: string, count: number): Promise<Record<string, number>> {
    const counts: Record<string, number> = {}
    for (let left = count; left > 0; ) {
      const jobs = await claimFrom(place.store, endpoint, Math.min(left, 10))
      if (jobs.length === 0) break
      left -= jobs.length
      for (const key of keysOf(jobs)) counts[key] = (counts[key] ?? 0) + 1
      await place.store.settle(jobs.map((job) => success(place.store, job)))
    }
    return counts
  }

  function keysOf(jobs: ClaimedJob[]): string[] {
    return jobs.map(({ jobId }) => keyOf.get(jobId) ?? 'none')
  }

  test('are stored, replaced and deleted by version', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const key = { endpoint, key: 'customer-7' }
    const settings = { ...DEFAULTS, weight: 5, concurrency: null }
    expect(await store.fairnessKeysNamed(endpoint, [key.key])).toEqual([])
    expect(await store.putFairnessKey(key, settings, 'any')).toEqual({
      kind: 'stale',
      version: null,
    })
    const created = await store.putFairnessKey(key, settings, 'none')
    expect(created).toMatchObject({ kind: 'created', record: { key: 'customer-7', version: 1 } })
    expect(await store.fairnessKeysNamed(endpoint, ['other', key.key])).toMatchObject([
      { key: key.key, settings, version: 1 },
    ])
    expect(await store.putFairnessKey(key, settings, 'none')).toEqual({ kind: 'stale', version: 1 })
    const paused = { ...DEFAULTS, paused: true }
    const replaced = await store.putFairnessKey(key, paused, 1)
    expect(replaced).toMatchObject({ kind: 'replaced', record: { version: 2, settings: paused } })
    expect(await store.deleteFairnessKey(key, 1)).toEqual({ kind: 'stale', version: 2 })
    expect(await store.deleteFairnessKey(key, 2)).toEqual({ kind: 'deleted' })
    expect(await store.fairnessKeysNamed(endpoint, [key.key])).toEqual([])
    expect(await store.deleteFairnessKey(key, null)).toEqual({ kind: 'not_found' })
    const unknown = { endpoint: 'nowhere', key: 'a' }
    expect(await store.putFairnessKey(unknown, settings, null)).toEqual({
      kind: 'unknown_endpoint',
    })
    expect((await endpointOf(store, endpoint)).version).toBe(1)
  })

  test('go with the endpoint', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    await store.putFairnessKey({ endpoint, key: 'a' }, { ...DEFAULTS, paused: true }, null)
    await store.deleteEndpoint(endpoint, { force: false, ifVersion: null })
    await addEndpoint(store, { name: endpoint })
    expect(await store.fairnessKeysNamed(endpoint, ['a'])).toEqual([])
    await enqueue(endpoint, 'a', 1)
    await known()
    expect(await claimFrom(store, endpoint, 1)).toHaveLength(1)
  })

  test('share the deliveries of keys with backlogs by weight', { timeout: 120_000 }, async () => {
    const deliveries = engine === 'sqlite' ? 4_000 : 800
    const weights = { small: 1, middle: 2, large: 5 }
    const endpoint = await addEndpoint(place.store)
    for (const [key, weight] of Object.entries(weights)) {
      await put({ endpoint, key }, { weight })
      await enqueue(endpoint, key, (deliveries * weight) / 8 + 200)
    }
    const counts = await deliver(endpoint, deliveries)
    for (const [key, weight] of Object.entries(weights)) {
      const share = (counts[key] ?? 0) / ((deliveries * weight) / 8)
      expect(share, key).toBeGreaterThan(0.95)
      expect(share, key).toBeLessThan(1.05)
    }
  })

  test('a weight that changes holds for jobs that wait', async () => {
    const endpoint = await addEndpoint(place.store)
    await enqueue(endpoint, 'a', 300)
    await enqueue(endpoint, 'b', 300)
    await deliver(endpoint, 20)
    await put({ endpoint, key: 'a' }, { weight: 4 })
    const heavier = await deliver(endpoint, 100)
    expect(heavier.a).toBeGreaterThanOrEqual(76)
    expect(heavier.a).toBeLessThanOrEqual(84)
    await place.store.deleteFairnessKey({ endpoint, key: 'a' }, null)
    await known()
    const equal = await deliver(endpoint, 100)
    expect(equal.a).toBeGreaterThanOrEqual(46)
    expect(equal.a).toBeLessThanOrEqual(54)
  })

  test('a paused key keeps its jobs, and saves nothing up', async () => {
    const endpoint = await addEndpoint(place.store)
    await enqueue(endpoint, 'a', 150)
    await enqueue(endpoint, 'b', 300)
    await put({ endpoint, key: 'a' }, { paused: true })
    expect(await deliver(endpoint, 100)).toEqual({ b: 100 })
    await put({ endpoint, key: 'a' }, {})
    const counts = await deliver(endpoint, 60)
    expect(counts.a).toBeGreaterThanOrEqual(28)
    expect(counts.a).toBeLessThanOrEqual(32)
    expect(await deliver(endpoint, 1_000)).toEqual({
      a: 150 - (counts.a ?? 0),
      b: expect.any(Number),
    })
  })

  test('replace the limits of the endpoint, each by itself', async () => {
    const perKey = { concurrency: 2, rateLimit: null }
    const endpoint = await addEndpoint(place.store, { perKey })
    for (const key of ['a', 'b', 'c', 'd']) await enqueue(endpoint, key, 10)
    await put({ endpoint, key: 'a' }, { concurrency: 1 })
    await put({ endpoint, key: 'b' }, { concurrency: null })
    await put({ endpoint, key: 'c' }, { weight: 3 })
    const claimed: ClaimedJob[] = []
    for (let jobs = await claimFrom(place.store, endpoint, 20); jobs.length > 0; ) {
      claimed.push(...jobs)
      jobs = await claimFrom(place.store, endpoint, 20)
    }
    const counts = Map.groupBy(keysOf(claimed), (key) => key)
    expect(Object.fromEntries([...counts].map(([key, some]) => [key, some.length]))).toEqual({
      ...{ a: 1, b: 10, c: 2, d: 2 },
    })
  })

  test('limit a key of an endpoint without limits', async () => {
    const endpoint = await addEndpoint(place.store)
    await enqueue(endpoint, 'a', 5)
    const [first] = await claimFrom(place.store, endpoint, 1)
    await put({ endpoint, key: 'a' }, { concurrency: 1 })
    expect(await claimFrom(place.store, endpoint, 5)).toEqual([])
    await place.store.settle([success(place.store, first as ClaimedJob)])
    expect(await claimFrom(place.store, endpoint, 5)).toHaveLength(1)
  })

  test('a key goes on when jobs end that a claim took before it knew of the limit', async () => {
    const other = await place.open()
    const endpoint = await addEndpoint(place.store)
    await enqueue(endpoint, 'a', 4)
    // On MongoDB it remembers for a moment that no key has a limit.
    const first = await claimFrom(other, endpoint, 1)
    await place.store.putFairnessKey({ endpoint, key: 'a' }, { ...DEFAULTS, concurrency: 2 }, null)
    const second = await claimFrom(other, endpoint, 1)
    expect(first).toHaveLength(1)
    expect(second).toHaveLength(1)
    await known()
    expect(await claimFrom(place.store, endpoint, 5)).toEqual([])
    await other.settle(second.map((job) => success(other, job)))
    expect(await claimFrom(place.store, endpoint, 5)).toHaveLength(1)
  })

  describe('the rate limit of a key', () => {
    test('holds for each key by itself, and a claim says when to ask again', async () => {
      const perMs = 1_000
      const perKey = { concurrency: null, rateLimit: { count: 4, perMs } }
      const endpoint = await addEndpoint(place.store, { perKey })
      await enqueue(endpoint, 'a', 30)
      await enqueue(endpoint, 'b', 2)
      await enqueueMany(place.store, endpoint, 3)
      const starts: number[] = []
      const byKey: Record<string, number> = {}
      const firstAt = place.store.clock.now()
      await until(async () => {
        const share = { endpoint, limit: 20 }
        const holder = { workerId: 'w', leaseMs: HOUR_MS, pulls: false }
        const { jobs, limited } = await place.store.claim([share], 20, holder)
        const keys = keysOf(jobs)
        jobs.forEach(({ claimedAt }, i) => {
          const key = keys[i] as string
          byKey[key] = (byKey[key] ?? 0) + 1
          if (key === 'a') starts.push(claimedAt)
        })
        if (starts.length < 30 && jobs.length === 0)
          expect(limited.map(({ endpoint: name }) => name)).toEqual([endpoint])
        const [{ againAt } = { againAt: 0 }] = limited
        await until(() => place.store.clock.now() >= Math.min(againAt, firstAt + 2_500))
        return place.store.clock.now() >= firstAt + 2_500
      })
      expect(byKey).toMatchObject({ b: 2, none: 3 })
      for (const [i, first] of starts.entries()) {
        for (const [j, last] of starts.entries()) {
          if (j < i) continue
          const most = 4 * (1 + (last - first + 1) / perMs)
          expect(j - i + 1).toBeLessThanOrEqual(most)
        }
      }
      // 4 at once, and 4 in each second after that.
      expect(starts.length).toBeGreaterThanOrEqual(9)
    })

    test('keeps its tokens when the limit changes', async () => {
      const limitedTo = (rateLimit: RateLimit) => ({ concurrency: null, rateLimit })
      const endpoint = await addEndpoint(place.store, {
        perKey: limitedTo({ count: 10, perMs: 60_000 }),
      })
      const changeTo = async (rateLimit: RateLimit) => {
        const settings = settingsOf({ name: endpoint, perKey: limitedTo(rateLimit) })
        await place.store.putEndpoint(settings, { given: null, fresh: newSecret() }, null)
        await known()
      }
      await enqueue(endpoint, 'a', 100, 9)
      expect(await deliver(endpoint, 100)).toEqual({ a: 1 })
      await changeTo({ count: 10, perMs: 24 * HOUR_MS })
      expect(await deliver(endpoint, 100)).toEqual({})
      // A token every 100 ms.
      await changeTo({ count: 1_000, perMs: 100_000 })
      await until(async () => (await deliver(endpoint, 1)).a === 1)
      expect((await deliver(endpoint, 100)).a ?? 0).toBeLessThan(60)
    })

    test('is used up by cost, also by more than the bucket holds', async () => {
      const perKey = { concurrency: null, rateLimit: { count: 10, perMs: HOUR_MS } }
      const endpoint = await addEndpoint(place.store, { perKey })
      await enqueue(endpoint, 'a', 5, 4)
      await enqueue(endpoint, 'b', 5, 25)
      await enqueue(endpoint, 'c', 20)
      const counts = await deliver(endpoint, 100)
      expect(counts).toEqual({ a: 2, b: 1, c: 10 })
    })

    test('lets no cheaper job of the key pass the next one', async () => {
      const perKey = { concurrency: null, rateLimit: { count: 10, perMs: HOUR_MS } }
      const endpoint = await addEndpoint(place.store, { perKey })
      await enqueue(endpoint, 'a', 1, 6)
      await enqueue(endpoint, 'a', 1, 5)
      await enqueue(endpoint, 'a', 1)
      expect(await deliver(endpoint, 100)).toEqual({ a: 1 })
    })

    test('of the endpoint is used up by cost, and no job passes the next one', async () => {
      const rateLimit = { count: 10, perMs: HOUR_MS }
      const endpoint = await addEndpoint(place.store, { rateLimit })
      const plain = await addEndpoint(place.store, { rateLimit })
      await enqueue(endpoint, 'a', 5, 4)
      await enqueueMany(place.store, plain, 1, { cost: 7 })
      await enqueueMany(place.store, plain, 1, { cost: 4 })
      await enqueueMany(place.store, plain, 1)
      expect(await deliver(endpoint, 100)).toEqual({ a: 2 })
      expect(await deliver(plain, 100)).toEqual({ none: 1 })
      const { limited } = await place.store.claim([{ endpoint: plain, limit: 5 }], 5, {
        workerId: 'w',
        leaseMs: HOUR_MS,
        pulls: false,
      })
      const waitMs = (limited[0]?.againAt ?? 0) - place.store.clock.now()
      // One token lacks of the four.
      expect(waitMs).toBeGreaterThan(HOUR_MS / 10 - 60_000)
      expect(waitMs).toBeLessThanOrEqual(HOUR_MS / 10)
    })
  })
})
