// The promises of concurrency and rate limits of an endpoint: exact over all processes and kinds of
// holders, and never tighter than they state.
import { describe, expect, test } from 'vitest'
import { newSecret, type RateLimit } from '../../src/endpoint/endpoint.ts'
import type { ClaimedJob } from '../../src/job/job.ts'
import type { LimitedEndpoint, Store } from '../../src/store/store.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import {
  acceptance,
  addEndpoint,
  claimFrom,
  claimOne,
  endpointOf,
  enqueueMany,
  enqueueOne,
  holderOf,
  LONG_LEASE_MS,
  passed,
  settingsOf,
  success,
  sweep,
} from './fixtures.ts'

const HOUR_MS = 3_600_000
const MONTH_MS = 30 * 24 * HOUR_MS
/** How much the clocks of two stores on one machine may differ. */
const CLOCK_MARGIN_MS = 60

describe.each(ENGINES)('concurrency on %s', (engine) => {
  const place = useStore(engine)

  test('is never exceeded by three processes, though leases expire', {
    timeout: 90_000,
  }, async () => {
    const concurrency = 7
    const stores = [place.store, await place.open(), await place.open()]
    const endpoint = await addEndpoint(place.store, { concurrency })
    const jobCount = engine === 'sqlite' ? 500 : 150
    await enqueueMany(place.store, endpoint, jobCount, { maxAttempts: 100 })
    const held = new Set<string>()
    let doneCount = 0
    let mostHeld = 0

    async function work(store: Store, i: number): Promise<void> {
      const mine: ClaimedJob[] = []
      for (let round = 0; doneCount < jobCount; round++) {
        // Every eighth claim is lost: its jobs are not settled, and a sweep reclaims them.
        const isLost = round % 8 === i
        const limit = 1 + (round % 10)
        const leaseMs = isLost ? 1 : LONG_LEASE_MS
        const share = { endpoint, limit }
        const { jobs: claimed, limited } = await store.claim([share], limit, holderOf({ leaseMs }))
        if (isLost) {
          await sweep(store)
          continue
        }
        for (const { jobId } of claimed) held.add(jobId)
        mine.push(...claimed)
        mostHeld = Math.max(mostHeld, held.size)
        const [counts] = await store.countJobs([endpoint])
        expect(counts?.running).toBeLessThanOrEqual(concurrency)
        const ending = mine.splice(0, round % 3 === 0 ? 1 : mine.length)
        for (const { jobId } of ending) held.delete(jobId)
        const results = await store.settle(ending.map((job) => success(store, job)))
        expect(results.every((result) => result === 'applied')).toBe(true)
        doneCount += results.length
        if (claimed.length === 0 && mine.length === 0) await askedToWait(store, limited)
      }
    }
    await Promise.all(stores.map(work))
    expect(doneCount).toBe(jobCount)
    expect(mostHeld).toBeLessThanOrEqual(concurrency)
    expect(mostHeld).toBeGreaterThan(1)
  })

  test('counts attempts that await completion, and those whose lease has expired', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store, { concurrency: 2 })
    await enqueueMany(store, endpoint, 5)
    const awaiting = await claimOne(store, endpoint)
    await store.settle([acceptance(awaiting, store.clock.now() + HOUR_MS)])
    const expired = await claimOne(store, endpoint, 1)
    await passed(store, expired.claimedAt + 1)
    expect(await claimFrom(store, endpoint, 5)).toEqual([])
    await until(async () => (await sweep(store)).reclaimed === 1)
    expect(await claimFrom(store, endpoint, 5)).toHaveLength(1)
    await store.settle([success(store, awaiting)])
    expect(await claimFrom(store, endpoint, 5)).toHaveLength(1)
  })

  test('is shared by those who pull and those who push', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store, { concurrency: 3 })
    await enqueueMany(store, endpoint, 9)
    const share = { endpoint, limit: 2 }
    const pulled = await store.claim([share], 2, holderOf({ pulls: true, workerId: 'puller' }))
    expect(pulled.jobs).toHaveLength(2)
    expect((await store.claim([share], 2, holderOf())).jobs).toHaveLength(1)
    expect((await store.claim([share], 2, holderOf({ pulls: true }))).jobs).toEqual([])
  })

  test('limits its own endpoint only, and a claim says when to ask that one again', async () => {
    const { store } = place
    const limited = await addEndpoint(store, { concurrency: 2 })
    const free = await addEndpoint(store)
    for (const endpoint of [limited, free]) await enqueueMany(store, endpoint, 5)
    const shares = [limited, free].map((endpoint) => ({ endpoint, limit: 4 }))
    const asked = store.clock.now()
    const first = await store.claim(shares, 10, holderOf())
    const claimedFrom = first.jobs.map(({ endpoint }) => endpoint)
    expect(claimedFrom).toEqual([limited, limited, free, free, free, free])
    expect(first.limited.map(({ endpoint }) => endpoint)).toEqual([limited])
    expect(first.limited[0]?.againAt).toBeGreaterThan(asked)
    expect(first.limited[0]?.againAt).toBeLessThan(store.clock.now() + 5_000)
    await store.settle(first.jobs.slice(0, 1).map((job) => success(store, job)))
    expect(await claimFrom(store, limited, 5)).toHaveLength(1)
  })

  test('that is not reached is not reported', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store, { concurrency: 10 })
    await enqueueMany(store, endpoint, 4)
    const share = { endpoint, limit: 2 }
    expect((await store.claim([share], 5, holderOf())).limited).toEqual([])
    const { jobs, limited } = await store.claim([{ endpoint, limit: 8 }], 8, holderOf())
    expect(jobs).toHaveLength(2)
    expect(limited).toEqual([])
  })

  test('that is changed holds from the next claim on', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store, { concurrency: 1 })
    await enqueueMany(store, endpoint, 9)
    expect(await claimFrom(store, endpoint, 9)).toHaveLength(1)
    await putLimits(store, endpoint, { concurrency: 4 })
    expect(await claimFrom(store, endpoint, 9)).toHaveLength(3)
    await putLimits(store, endpoint, { concurrency: 2 })
    expect(await claimFrom(store, endpoint, 9)).toEqual([])
    await putLimits(store, endpoint, { concurrency: null })
    expect(await claimFrom(store, endpoint, 9)).toHaveLength(5)
  })
})

describe.each(ENGINES)('a rate on %s', (engine) => {
  const place = useStore(engine)

  test('is never exceeded by three processes, and is used', { timeout: 60_000 }, async () => {
    const rateLimit = { count: 20, perMs: 500 }
    const stores = [place.store, await place.open(), await place.open()]
    const endpoint = await addEndpoint(place.store, { rateLimit })
    await enqueueMany(place.store, endpoint, 500)
    const startedAt: number[] = []
    const firstAt = place.store.clock.now()
    await Promise.all(
      stores.map((store, i) =>
        until(async () => {
          const share = { endpoint, limit: 1 + 3 * i }
          const { jobs, limited } = await store.claim([share], share.limit, holderOf())
          startedAt.push(...jobs.map((job) => job.claimedAt))
          await askedToWait(store, limited)
          return store.clock.now() > firstAt + 3_000
        }),
      ),
    )
    expectWithin(startedAt, rateLimit)
    // 20 at once and 40 each second make 140 in 3 s. A busy machine claims fewer, but more than the
    // first ones.
    expect(startedAt.length).toBeGreaterThan(25)
  })

  test('lets through what its bucket holds, and no more until the next token', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store, { rateLimit: { count: 5, perMs: MONTH_MS } })
    await enqueueMany(store, endpoint, 20)
    expect((await endpointOf(store, endpoint)).rateFreeAt).toBeNull()
    const first = await claimFrom(store, endpoint, 2)
    expect(first).toHaveLength(2)
    const share = { endpoint, limit: 10 }
    const { jobs, limited } = await store.claim([share], 10, holderOf())
    expect(jobs).toHaveLength(3)
    expect(limited).toMatchObject([{ endpoint }])
    // The end of an attempt frees no token: the limit counts starts.
    await store.settle([...first, ...jobs].map((job) => success(store, job)))
    expect(await claimFrom(store, endpoint, 10)).toEqual([])
  })

  test('says when the next attempt may start, and that one may start then', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store, { rateLimit: { count: 2, perMs: 1_600 } })
    await enqueueMany(store, endpoint, 9)
    const asked = store.clock.now()
    const { jobs, limited } = await store.claim([{ endpoint, limit: 9 }], 9, holderOf())
    expect(jobs).toHaveLength(2)
    const againAt = limited[0]?.againAt as number
    expect(againAt).toBeGreaterThanOrEqual(asked + 800 - CLOCK_MARGIN_MS)
    expect(againAt).toBeLessThanOrEqual(store.clock.now() + 800)
    const { rateFreeAt } = await endpointOf(store, endpoint)
    expect(Math.abs((rateFreeAt ?? 0) - againAt)).toBeLessThan(CLOCK_MARGIN_MS)
    await passed(store, againAt)
    expect(await claimFrom(store, endpoint, 9)).toHaveLength(1)
  })

  test('is not used up by claims that find nothing', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store, { rateLimit: { count: 3, perMs: MONTH_MS } })
    for (let i = 0; i < 5; i++) expect(await claimFrom(store, endpoint, 3)).toEqual([])
    await enqueueOne(store, endpoint)
    expect(await claimFrom(store, endpoint, 3)).toHaveLength(1)
    await enqueueMany(store, endpoint, 5)
    expect(await claimFrom(store, endpoint, 5)).toHaveLength(2)
  })

  test('that is changed begins with no more than is left and than the new one allows', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store, { rateLimit: { count: 10, perMs: MONTH_MS } })
    await enqueueMany(store, endpoint, 30)
    await putLimits(store, endpoint, { rateLimit: { count: 2, perMs: MONTH_MS } })
    expect(await claimFrom(store, endpoint, 5)).toHaveLength(2)
    await putLimits(store, endpoint, { rateLimit: { count: 1_000, perMs: MONTH_MS } })
    expect(await claimFrom(store, endpoint, 5)).toEqual([])
    await putLimits(store, endpoint, { rateLimit: null })
    expect(await claimFrom(store, endpoint, 5)).toHaveLength(5)
  })

  test('and concurrency hold together', async () => {
    const { store } = place
    const rateLimit = { count: 5, perMs: MONTH_MS }
    const endpoint = await addEndpoint(store, { rateLimit, concurrency: 3 })
    await enqueueMany(store, endpoint, 9)
    const first = await claimFrom(store, endpoint, 9)
    expect(first).toHaveLength(3)
    await store.settle(first.map((job) => success(store, job)))
    expect(await claimFrom(store, endpoint, 9)).toHaveLength(2)
  })
})

/**
 * Waits as a worker does that knows when to ask again, but only briefly, because slots become free.
 */
async function askedToWait(store: Store, [share]: LimitedEndpoint[]): Promise<void> {
  if (share === undefined) return
  const waitUntil = Math.min(share.againAt, store.clock.now() + 50)
  await until(() => store.clock.now() >= waitUntil)
}

async function putLimits(
  store: Store,
  name: string,
  limits: Parameters<typeof settingsOf>[0],
): Promise<void> {
  const settings = settingsOf({ ...limits, name })
  const { kind } = await store.putEndpoint(settings, { given: null, fresh: newSecret() }, null)
  expect(kind).toBe('replaced')
}

/** Checks that in any period of L ms no more than count × (1 + L / per) attempts start. */
function expectWithin(instants: number[], { count, perMs }: RateLimit): void {
  const sorted = instants.toSorted((a, b) => a - b)
  for (const [from, first] of sorted.entries()) {
    for (const [to, last] of sorted.entries()) {
      if (to < from) continue
      const lengthMs = last - first + CLOCK_MARGIN_MS
      expect(to - from + 1).toBeLessThanOrEqual(count * (1 + lengthMs / perMs))
    }
  }
}
