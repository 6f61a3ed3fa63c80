// The promises of limits that endpoints share: exact over all processes and endpoints, endpoints
// take turns, and no endpoint waits when there is room.
import { describe, expect, test } from 'vitest'
import { newSecret } from '../../src/endpoint/endpoint.ts'
import {
  MAX_ENDPOINTS_OF_LIMIT,
  ROOM_KEPT_MS,
  type SharedLimit,
} from '../../src/endpoint/shared-limits.ts'
import type { ClaimedJob } from '../../src/job/job.ts'
import type { Store } from '../../src/store/store.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import {
  addEndpoint,
  claimFrom,
  enqueueMany,
  freshName,
  holderOf,
  LONG_LEASE_MS,
  passed,
  postponement,
  settingsOf,
  success,
  sweep,
} from './fixtures.ts'

const HOUR_MS = 3_600_000
/** A claim on MongoDB may remember for 0.4 s which limits an endpoint names. */
const REMEMBERED_MS = 450

let limitCount = 0

describe.each(ENGINES)('shared limits on %s', (engine) => {
  const place = useStore(engine)

  async function addLimit(
    fields: Partial<Pick<SharedLimit, 'concurrency' | 'rateLimit'>>,
    name = `limit-${++limitCount}`,
  ): Promise<string> {
    const settings = { concurrency: null, rateLimit: null, ...fields, name }
    const { kind } = await place.store.putLimit(settings, null)
    expect(['created', 'replaced']).toContain(kind)
    return name
  }

  async function limitOf(name: string): Promise<SharedLimit> {
    const [limit] = await place.store.limitsNamed([name])
    if (limit === undefined) throw new Error(`${name} is gone`)
    return limit
  }

  function addEndpoints(count: number, limits: string[]): Promise<string[]> {
    return Promise.all(Array.from({ length: count }, () => addEndpoint(place.store, { limits })))
  }

  async function settleAll(jobs: ClaimedJob[], store = place.store): Promise<void> {
    const results = await store.settle(jobs.map((job) => success(store, job)))
    expect(new Set(results)).toEqual(new Set(jobs.length === 0 ? [] : ['applied']))
  }

  async function runningAt(name: string): Promise<number> {
    return (await place.store.limitUse(name)).running
  }

  describe('concurrency', () => {
    test('counts the running jobs of all endpoints that name the limit', async () => {
      const limit = await addLimit({ concurrency: 10 })
      const [first = '', second = ''] = await addEndpoints(2, [limit])
      const other = await addEndpoint(place.store)
      for (const endpoint of [first, second, other]) await enqueueMany(place.store, endpoint, 20)
      const held = await claimFrom(place.store, first, 6)
      held.push(...(await claimFrom(place.store, second, 20)))
      expect(held).toHaveLength(10)
      expect(await place.store.limitUse(limit)).toEqual({
        endpoints: [first, second].sort(),
        running: 10,
      })
      const refused = await place.store.claim([{ endpoint: first, limit: 5 }], 5, holderOf())
      expect(refused.jobs).toEqual([])
      expect(refused.limited).toMatchObject([{ endpoint: first, limits: [limit] }])
      expect(await claimFrom(place.store, other, 20)).toHaveLength(20)
      await settleAll(held.splice(0, 4))
      expect(await runningAt(limit)).toBe(6)
      const shares = [first, second].map((endpoint) => ({ endpoint, limit: 20 }))
      const again = await place.store.claim(shares, 40, holderOf())
      expect(again.jobs).toHaveLength(4)
      expect(await runningAt(limit)).toBe(10)
    })

    test('is never exceeded by three processes, and endpoints with few jobs wait for few others', {
      timeout: 120_000,
    }, async () => {
      const most = 10
      const limit = await addLimit({ concurrency: most })
      const endpoints = await addEndpoints(3, [limit])
      const [busy = '', ...quiet] = endpoints
      const backlog = engine === 'sqlite' ? 10_000 : 1_000
      for (let left = backlog; left > 0; left -= 1_000) {
        await enqueueMany(place.store, busy, Math.min(left, 1_000))
      }
      const stores = [place.store, await place.open(), await place.open()]
      const begun: string[] = []
      const held = new Set<string>()
      let mostHeld = 0
      let quietSince = Number.POSITIVE_INFINITY
      const rounds = engine === 'sqlite' ? 150 : 60

      async function work(store: Store, i: number): Promise<void> {
        const mine: ClaimedJob[] = []
        for (let round = 0; round < rounds; round++) {
          if (i === 0 && round === 10) {
            quietSince = begun.length
            for (const endpoint of quiet) await enqueueMany(store, endpoint, 10)
          }
          // Every ninth claim of a process is lost: a sweep reclaims its jobs.
          const isLost = round % 9 === i
          const order = [
            ...endpoints.slice((round + i) % 3),
            ...endpoints.slice(0, (round + i) % 3),
          ]
          const shares = order.map((endpoint) => ({ endpoint, limit: 4 }))
          const leaseMs = isLost ? 1 : LONG_LEASE_MS
          const { jobs } = await store.claim(shares, 12, holderOf({ leaseMs }))
          begun.push(...jobs.map(({ endpoint }) => endpoint))
          if (isLost) {
            await sweep(store)
            continue
          }
          for (const { jobId } of jobs) held.add(jobId)
          mine.push(...jobs)
          mostHeld = Math.max(mostHeld, held.size)
          const done = mine.splice(0, 1 + (round % 3))
          for (const { jobId } of done) held.delete(jobId)
          await settleAll(done, store)
        }
        for (const { jobId } of mine) held.delete(jobId)
        await settleAll(mine, store)
      }
      await Promise.all(stores.map(work))
      expect(mostHeld).toBeLessThanOrEqual(most)
      expect(mostHeld).toBeGreaterThan(most / 2)
      const since = begun.slice(quietSince)
      for (const endpoint of quiet) {
        const places = since.flatMap((one, place) => (one === endpoint ? [place] : []))
        expect(places.length).toBeGreaterThanOrEqual(10)
        expect(places[9]).toBeLessThan(100)
      }
    })

    test('that is lowered, or newly named, interrupts nothing and lets nothing start', async () => {
      const limit = await addLimit({ concurrency: 8 })
      const [endpoint = ''] = await addEndpoints(1, [limit])
      const plain = await addEndpoint(place.store)
      for (const name of [endpoint, plain]) await enqueueMany(place.store, name, 20)
      const held = await claimFrom(place.store, endpoint, 8)
      const free = await claimFrom(place.store, plain, 4)
      await addLimit({ concurrency: 6 }, limit)
      const settings = settingsOf({ name: plain, limits: [limit] })
      const secrets = { given: null, fresh: newSecret() }
      expect((await place.store.putEndpoint(settings, secrets, null)).kind).toBe('replaced')
      await passed(place.store, place.store.clock.now() + REMEMBERED_MS)
      expect(await runningAt(limit)).toBe(12)
      await settleAll(held.splice(0, 6))
      for (const name of [endpoint, plain]) {
        expect(await claimFrom(place.store, name, 20)).toEqual([])
      }
      await settleAll([...held, ...free].splice(0, 1))
      const shares = [endpoint, plain].map((name) => ({ endpoint: name, limit: 20 }))
      expect((await place.store.claim(shares, 20, holderOf())).jobs).toHaveLength(1)
    })

    test('gives its next slot to the endpoint that was refused first', async () => {
      const limit = await addLimit({ concurrency: 2 })
      const [first = '', second = '', third = ''] = await addEndpoints(3, [limit])
      for (const endpoint of [first, second, third]) await enqueueMany(place.store, endpoint, 5)
      const held = await claimFrom(place.store, first, 2)
      for (const endpoint of [second, third, first]) {
        expect(await claimFrom(place.store, endpoint, 5)).toEqual([])
      }
      expect((await limitOf(limit)).waits.map(({ endpoint }) => endpoint)).toEqual([
        ...[second, third, first],
      ])
      await settleAll(held.splice(0, 1))
      // The slot is for the second endpoint.
      expect(await claimFrom(place.store, first, 5)).toEqual([])
      expect(await claimFrom(place.store, third, 5)).toEqual([])
      const [ofSecond] = await claimFrom(place.store, second, 5)
      expect(ofSecond?.endpoint).toBe(second)
      await settleAll(held)
      expect(await claimFrom(place.store, second, 5)).toEqual([])
      expect(await claimFrom(place.store, third, 5)).toHaveLength(1)
    })

    test('divides several free slots equally, and leaves none of them unused', async () => {
      const limit = await addLimit({ concurrency: 6 })
      const [first = '', second = ''] = await addEndpoints(2, [limit])
      await enqueueMany(place.store, first, 20)
      await enqueueMany(place.store, second, 4)
      const held = await claimFrom(place.store, first, 6)
      for (const name of [second, first]) {
        expect(await claimFrom(place.store, name, 20)).toEqual([])
      }
      await settleAll(held)
      const shares = [first, second].map((endpoint) => ({ endpoint, limit: 20 }))
      const parts = await place.store.claim(shares, 40, holderOf())
      const ofFirst = parts.jobs.filter(({ endpoint }) => endpoint === first)
      expect([ofFirst.length, parts.jobs.length]).toEqual([3, 6])
      await settleAll(parts.jobs)
      // The second endpoint has one more job, and the first one gets the rest at once.
      const rest = await place.store.claim(shares, 40, holderOf())
      expect(rest.jobs).toHaveLength(4)
      const again = rest.limited.filter(({ againAt }) => againAt <= place.store.clock.now())
      expect(again.map(({ endpoint }) => endpoint)).toEqual([first])
      expect((await place.store.claim(shares, 40, holderOf())).jobs).toHaveLength(2)
    })

    test('keeps no room for an endpoint that no longer asks', async () => {
      const limit = await addLimit({ concurrency: 1 })
      const [first = '', second = ''] = await addEndpoints(2, [limit])
      for (const endpoint of [first, second]) await enqueueMany(place.store, endpoint, 3)
      const held = await claimFrom(place.store, first, 1)
      expect(await claimFrom(place.store, second, 1)).toEqual([])
      await place.store.pauseEndpoint(second)
      await settleAll(held)
      expect(await claimFrom(place.store, first, 1)).toEqual([])
      await passed(place.store, place.store.clock.now() + ROOM_KEPT_MS)
      expect(await claimFrom(place.store, first, 1)).toHaveLength(1)
    })

    test('holds beside the limits of the endpoint and of each key', async () => {
      const limit = await addLimit({ concurrency: 6 })
      const perKey = { concurrency: 2, rateLimit: null }
      const keyed = await addEndpoint(place.store, { limits: [limit], perKey })
      const small = await addEndpoint(place.store, { limits: [limit], concurrency: 1 })
      for (const fairnessKey of ['a', 'b', 'c', 'd']) {
        await enqueueMany(place.store, keyed, 5, { fairnessKey })
      }
      await enqueueMany(place.store, small, 5)
      const [own] = await claimFrom(place.store, small, 5)
      const held: ClaimedJob[] = []
      for (let i = 0; i < 4; i++) held.push(...(await claimFrom(place.store, keyed, 20)))
      expect(held).toHaveLength(5)
      expect(await claimFrom(place.store, small, 5)).toEqual([])
      await settleAll(own === undefined ? [] : [own])
      // The other endpoint was refused before.
      expect(await claimFrom(place.store, small, 5)).toEqual([])
      held.push(...(await claimFrom(place.store, keyed, 20)))
      expect(held).toHaveLength(6)
      await settleAll(held)
      const begun: string[] = []
      for (const name of [small, keyed, small, keyed]) {
        begun.push(...(await claimFrom(place.store, name, 20)).map(({ endpoint }) => endpoint))
      }
      expect([begun.filter((name) => name === small).length, begun.length]).toEqual([1, 6])
    })
  })

  describe('a rate limit', () => {
    test('is used up by all endpoints together, by cost', async () => {
      const limit = await addLimit({ rateLimit: { count: 10, perMs: HOUR_MS } })
      const [first = '', second = ''] = await addEndpoints(2, [limit])
      await enqueueMany(place.store, first, 10, { cost: 2 })
      await enqueueMany(place.store, second, 10)
      expect(await claimFrom(place.store, first, 3)).toHaveLength(3)
      expect(await claimFrom(place.store, second, 10)).toHaveLength(4)
      const { limited } = await place.store.claim([{ endpoint: first, limit: 1 }], 1, holderOf())
      expect(limited).toMatchObject([{ endpoint: first, limits: [limit] }])
      expect(limited[0]?.againAt).toBeGreaterThan(place.store.clock.now() + HOUR_MS / 10)
    })

    test('lets a job pass that costs more than it holds, once it is full, and then has debt', async () => {
      const limit = await addLimit({ rateLimit: { count: 2, perMs: 400 } })
      const [large = '', small = ''] = await addEndpoints(2, [limit])
      await enqueueMany(place.store, large, 1, { cost: 4 })
      await enqueueMany(place.store, small, 20)
      expect(await claimFrom(place.store, small, 1)).toHaveLength(1)
      expect(await claimFrom(place.store, large, 1)).toEqual([])
      // A cheaper job does not pass it.
      expect(await claimFrom(place.store, small, 1)).toEqual([])
      await passed(place.store, place.store.clock.now() + 400)
      expect(await claimFrom(place.store, small, 1)).toEqual([])
      expect(await claimFrom(place.store, large, 1)).toHaveLength(1)
      expect(await claimFrom(place.store, small, 1)).toEqual([])
      const { rateFullAt } = await limitOf(limit)
      expect(rateFullAt).toBeGreaterThan(place.store.clock.now() + 500)
    })

    test('keeps its tokens when its settings change, and jobs that are released take them', async () => {
      const limit = await addLimit({ rateLimit: { count: 10, perMs: HOUR_MS } })
      const [endpoint = ''] = await addEndpoints(1, [limit])
      await enqueueMany(place.store, endpoint, 20)
      const jobs = await claimFrom(place.store, endpoint, 6)
      expect(jobs).toHaveLength(6)
      const [job] = jobs
      if (job !== undefined) await place.store.settle([postponement(place.store, job)])
      await addLimit({ rateLimit: { count: 6, perMs: HOUR_MS } }, limit)
      expect(await claimFrom(place.store, endpoint, 20)).toHaveLength(4)
    })
  })

  test('holds with several limits of an endpoint at the same time', async () => {
    const limits = [
      await addLimit({ concurrency: 5 }),
      await addLimit({ rateLimit: { count: 3, perMs: HOUR_MS } }),
    ]
    const both = await addEndpoint(place.store, { limits })
    const one = await addEndpoint(place.store, { limits: limits.slice(0, 1) })
    for (const endpoint of [both, one]) await enqueueMany(place.store, endpoint, 10)
    const held = await claimFrom(place.store, both, 10)
    expect(held).toHaveLength(3)
    // It waits for the second limit, and keeps no room at the first one.
    expect(await claimFrom(place.store, both, 10)).toEqual([])
    expect(await claimFrom(place.store, one, 10)).toHaveLength(2)
  })

  describe('the records', () => {
    const none = { concurrency: 3, rateLimit: null }

    test('are created, replaced by version, listed and deleted', async () => {
      const { store } = place
      const name = `record-${engine}`
      const rateLimit = { count: 5, perMs: 1_000 }
      expect(await store.putLimit({ ...none, name }, 4)).toEqual({ kind: 'stale', version: null })
      const created = await store.putLimit({ ...none, name }, 'none')
      expect(created).toMatchObject({
        kind: 'created',
        limit: { ...none, name, version: 1, waits: [], rateFullAt: null },
      })
      expect(await store.putLimit({ ...none, name }, 'none')).toEqual({ kind: 'stale', version: 1 })
      const changed = await store.putLimit({ name, concurrency: null, rateLimit }, 1)
      expect(changed).toMatchObject({
        kind: 'replaced',
        limit: { concurrency: null, rateLimit, version: 2 },
      })
      expect(await limitOf(name)).toEqual('limit' in changed ? changed.limit : null)
      await addLimit(none, `${name}.2`)
      const page = await store.listLimits(`record-${engine.slice(0, -1)}`, 1)
      expect(page.items.map((limit) => limit.name)).toEqual([name])
      expect(page.next).toBe(name)
      expect((await store.listLimits(name, 1)).items.map((limit) => limit.name)).toEqual([
        `${name}.2`,
      ])
      expect(await store.deleteLimit(name, 1)).toEqual({ kind: 'stale', version: 2 })
      expect(await store.deleteLimit(name, 2)).toEqual({ kind: 'deleted' })
      expect(await store.deleteLimit(name, null)).toEqual({ kind: 'not_found' })
      expect(await store.limitsNamed([name])).toEqual([])
    })

    test('are named by endpoints, and cannot be deleted then', async () => {
      const { store } = place
      const secrets = { given: null, fresh: newSecret() }
      const limits = [await addLimit(none), await addLimit(none)]
      const [first = '', second = ''] = limits
      const name = await addEndpoint(store, { limits: [second, first] })
      const [stored] = await store.endpointsNamed([name])
      expect(stored?.limits).toEqual([second, first])
      for (const limit of limits) {
        expect(await store.deleteLimit(limit, null)).toEqual({ kind: 'in_use', endpoint: name })
      }
      const unknown = settingsOf({ name, limits: [first, 'no-such-limit'] })
      expect(await store.putEndpoint(unknown, secrets, null)).toEqual({
        ...{ kind: 'unknown_limit', limit: 'no-such-limit' },
      })
      await store.putEndpoint(settingsOf({ name, limits: [first] }), secrets, null)
      expect(await store.deleteLimit(second, null)).toEqual({ kind: 'deleted' })
      await store.deleteEndpoint(name, { force: false, ifVersion: null })
      expect(await store.deleteLimit(first, null)).toEqual({ kind: 'deleted' })
    })

    test('are free when an endpoint with jobs is deleted', async () => {
      const limit = await addLimit(none)
      const [endpoint = ''] = await addEndpoints(1, [limit])
      await enqueueMany(place.store, endpoint, 3)
      await place.store.deleteEndpoint(endpoint, { force: true, ifVersion: null })
      await until(async () => {
        await sweep(place.store)
        return (await place.store.endpointsNamed([endpoint])).length === 0
      })
      expect(await place.store.deleteLimit(limit, null)).toEqual({ kind: 'deleted' })
    })

    test('have a limited number of endpoints', async () => {
      const limit = await addLimit(none)
      const names = Array.from({ length: MAX_ENDPOINTS_OF_LIMIT }, freshName)
      for (const name of names) await addEndpoint(place.store, { name, limits: [limit] })
      const secrets = { given: null, fresh: newSecret() }
      const more = await place.store.putEndpoint(settingsOf({ limits: [limit] }), secrets, null)
      expect(more).toEqual({ kind: 'too_many_endpoints', limit })
      const again = settingsOf({ name: names[0] ?? '', limits: [limit], description: 'changed' })
      expect((await place.store.putEndpoint(again, secrets, null)).kind).toBe('replaced')
    })
  })
})
