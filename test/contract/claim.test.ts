// The promises of claim and due: only due jobs, in order, within limits, and no endpoint is left
// out.
import { describe, expect, test } from 'vitest'
import type { ClaimedJob } from '../../src/job/job.ts'
import { StoreUnavailable } from '../../src/store/store-errors.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import {
  addEndpoint,
  claimFrom,
  claimOne,
  enqueueMany,
  enqueueOne,
  freshName,
  holderOf,
  jobOf,
  LONG_LEASE_MS,
  laterAgain,
  leaseOf,
  success,
} from './fixtures.ts'

const HOUR_MS = 3_600_000
const HOLDER = holderOf()
const NOTHING = { jobs: [], limited: [], unfinished: [] }

describe.each(ENGINES)('claim on %s', (engine) => {
  const place = useStore(engine)

  test('jobs of one endpoint come by priority, then by when they are due', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const now = store.clock.now()
    const wanted: string[] = []
    for (const [priority, age] of [
      [9, 1],
      [5, 30],
      [5, 20],
      [5, 10],
      [0, 99],
    ] as const) {
      wanted.push((await enqueueOne(store, endpoint, { priority, runAt: now - age })).id)
    }
    await enqueueOne(store, endpoint, { priority: 9, runAt: now + HOUR_MS })
    await enqueueOne(store, endpoint, { priority: 5, runAt: now + HOUR_MS })

    const first = await claimFrom(store, endpoint, 3)
    const rest = await claimFrom(store, endpoint, 10)
    expect(idsOf([...first, ...rest])).toEqual([
      wanted[0],
      wanted[1],
      wanted[2],
      wanted[3],
      wanted[4],
    ])
  })

  test('a job comes with the trace and the hops of the request that made it', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const trace = { traceparent: '00-1-2-01', tracestate: null }
    for (const origin of [
      { trace: null, hops: 0 },
      { trace, hops: 0 },
      { trace: null, hops: 3 },
      { trace, hops: 10 },
    ]) {
      await enqueueOne(store, endpoint, origin)
      expect(await claimOne(store, endpoint)).toMatchObject(origin)
    }
  })

  test('shares are taken in their order, each up to its limit, all up to the whole limit', async () => {
    const { store } = place
    const [first, second, third] = [
      await addEndpoint(store),
      await addEndpoint(store),
      await addEndpoint(store),
    ]
    for (const endpoint of [first, second, third]) await enqueueMany(store, endpoint, 10)
    const shares = [
      { endpoint: second, limit: 4 },
      { endpoint: first, limit: 3 },
      { endpoint: third, limit: 10 },
    ]
    const { jobs } = await store.claim(shares, 9, HOLDER)
    expect(jobs.map(({ endpoint }) => endpoint)).toEqual([
      ...Array(4).fill(second),
      ...Array(3).fill(first),
      ...Array(2).fill(third),
    ])
  })

  test('nothing is claimed for no shares, or a limit of none', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    await enqueueOne(store, endpoint)
    expect(await store.claim([], 10, HOLDER)).toEqual(NOTHING)
    expect(await store.claim([{ endpoint, limit: 0 }], 10, HOLDER)).toEqual(NOTHING)
    const none = await store.claim([{ endpoint, limit: 10 }], 0, HOLDER)
    expect(none).toEqual({ ...NOTHING, unfinished: [endpoint] })
  })

  test('endpoints that the limit of the claim cuts short may have more, others have not', async () => {
    const { store } = place
    const [first, second, empty] = [
      await addEndpoint(store),
      await addEndpoint(store),
      await addEndpoint(store),
    ]
    for (const endpoint of [first, second]) await enqueueMany(store, endpoint, 3)
    const shares = [empty, first, second].map((endpoint) => ({ endpoint, limit: 3 }))
    const cut = await store.claim(shares, 4, HOLDER)
    expect(cut.jobs).toHaveLength(4)
    expect(cut.unfinished).toEqual([second])
    const rest = await store.claim(shares, 9, HOLDER)
    expect(rest.jobs).toHaveLength(2)
    expect(rest.unfinished).toEqual([])
  })

  test('future and expired jobs, and jobs of unknown or deleted endpoints, are not claimed', async () => {
    const { store } = place
    const [open, deleting] = [await addEndpoint(store), await addEndpoint(store)]
    const now = store.clock.now()
    await enqueueOne(store, open, { runAt: now + HOUR_MS })
    await enqueueOne(store, open, { expiresAt: now - 1 })
    await enqueueOne(store, deleting)
    await store.deleteEndpoint(deleting, { force: true, ifVersion: null })
    const shares = [open, deleting, freshName()].map((endpoint) => ({ endpoint, limit: 10 }))
    expect(await store.claim(shares, 30, HOLDER)).toEqual(NOTHING)
  })

  test('a claimed job carries what its delivery needs', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const before = store.clock.now()
    const job = await enqueueOne(store, endpoint, {
      expiresAt: before + HOUR_MS,
      timeoutMs: 700,
      retry: { backoff: { type: 'schedule', delaysMs: [5], jitter: 0 } },
      headers: { 'x-tenant': 'blue' },
      maxAttempts: 3,
    })
    const claimed = await claimOne(store, endpoint)
    expect(claimed).toMatchObject({
      jobId: job.id,
      endpoint,
      fence: 1,
      attemptNumber: 1,
      attemptsLeft: 2,
      maxAttempts: 3,
      freeAttempts: 0,
      runAt: job.runAt,
      firstRunAt: job.runAt,
      expiresAt: job.expiresAt,
      timeoutMs: 700,
      retry: job.retry,
      headers: { 'x-tenant': 'blue' },
    })
    expect(claimed.claimedAt).toBeGreaterThanOrEqual(before)
    expect(claimed.leaseId.length).toBeGreaterThanOrEqual(12)
    expect(await jobOf(store, job.id)).toMatchObject({
      state: 'running',
      phase: 'sending',
      startedAt: claimed.claimedAt,
      attemptCount: 1,
      attemptsLeft: 2,
      lease: { workerId: 'worker-1', expiresAt: claimed.claimedAt + LONG_LEASE_MS },
    })
  })

  test('a job claimed again has the next fence, after a reschedule and after a release', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    await enqueueOne(store, endpoint)
    const first = await claimOne(store, endpoint)
    await store.settle([laterAgain(store, first)])
    const second = await claimOne(store, endpoint)
    await store.release([leaseOf(second)])
    const third = await claimOne(store, endpoint)
    expect([first, second, third].map(({ fence }) => fence)).toEqual([1, 2, 3])
    // The release returned the attempt, because nothing was sent.
    expect([first, second, third].map((job) => job.attemptNumber)).toEqual([1, 2, 2])
    expect(new Set([first, second, third].map(({ leaseId }) => leaseId)).size).toBe(3)
  })

  test('a job released before its first attempt was never started', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const before = await enqueueOne(store, endpoint)
    await store.release([leaseOf(await claimOne(store, endpoint))])
    const after = await jobOf(store, before.id)
    expect(after).toMatchObject({ state: 'queued', startedAt: null, attemptCount: 0, fence: 1 })
    expect(after.attemptsLeft).toBe(before.attemptsLeft)
  })

  test('eight claimers take all jobs, each job once', { timeout: 60_000 }, async () => {
    const { store } = place
    const shares = [await addEndpoint(store), await addEndpoint(store)]
    // The stand-in for mongod has one lock: with more claims, some get no response in time.
    const perEndpoint = engine === 'sqlite' ? 1_000 : 250
    for (const endpoint of shares) await enqueueMany(store, endpoint, perEndpoint)
    const stores = await Promise.all(Array.from({ length: 8 }, () => place.open()))
    const claimed: ClaimedJob[] = []
    async function claimAll(own: typeof store, i: number) {
      const order = i % 2 === 0 ? shares : shares.toReversed()
      const asked = order.map((endpoint) => ({ endpoint, limit: 25 }))
      // Another claimer may have taken the jobs that this one found, so an empty claim does not
      // show that none is left.
      await until(async () => {
        const holder = holderOf({ workerId: `worker-${i}` })
        try {
          claimed.push(...(await own.claim(asked, 25, holder)).jobs)
        } catch (error) {
          // On a busy machine a claim may fail. Its jobs are then released.
          if (!(error instanceof StoreUnavailable)) throw error
        }
        return claimed.length >= 2 * perEndpoint
      }, 50_000)
    }
    await Promise.all(stores.map(claimAll))
    expect(claimed).toHaveLength(2 * perEndpoint)
    expect(new Set(idsOf(claimed)).size).toBe(2 * perEndpoint)
  })
})

describe.each(ENGINES)('due on %s', (engine) => {
  const place = useStore(engine)

  test('names the endpoints whose jobs became due since the last look, and no future ones', async () => {
    const { store } = place
    const now = store.clock.now()
    const [past, recent, future, empty] = [
      await addEndpoint(store),
      await addEndpoint(store),
      await addEndpoint(store),
      await addEndpoint(store),
    ]
    await enqueueOne(store, past, { runAt: now - HOUR_MS })
    await enqueueOne(store, recent, { runAt: now - 1_000 })
    await enqueueOne(store, future, { runAt: now + HOUR_MS })
    await enqueueOne(store, future, { runAt: now + 2 * HOUR_MS })

    const all = await store.due(null)
    expect(all.endpoints).toEqual(expect.arrayContaining([past, recent, future]))
    expect(all.endpoints).not.toContain(empty)
    expect(all.nextAt).toBe(now + HOUR_MS)

    const since = await store.due(now - 5_000)
    expect(since.endpoints).toContain(recent)
    expect(since.endpoints).not.toContain(future)
    expect(since.nextAt).toBe(now + HOUR_MS)
  })

  test('names a job that was enqueued, rescheduled, released or retried just now', async () => {
    const { store } = place
    const endpoints = await Promise.all([1, 2, 3, 4].map(() => addEndpoint(store)))
    const [enqueued, rescheduled, released, retried] = endpoints as [string, string, string, string]
    const old = { runAt: store.clock.now() - HOUR_MS }
    await enqueueOne(store, rescheduled, old)
    await enqueueOne(store, retried, old)
    const claimed = await claimOne(store, rescheduled)
    const other = await claimOne(store, retried)
    await store.cancel([other.jobId])
    const since = store.clock.now() - 1

    await enqueueOne(store, enqueued)
    await enqueueOne(store, released)
    await store.settle([laterAgain(store, claimed, store.clock.now())])
    await store.retry([other.jobId])
    await store.release([leaseOf(await claimOne(store, released))])
    expect((await store.due(since)).endpoints).toEqual(expect.arrayContaining(endpoints))
  })

  test('leaves out no endpoint behind a large backlog of another', async () => {
    const { store } = place
    const since = store.clock.now() - 1
    const [large, small] = [await addEndpoint(store), await addEndpoint(store)]
    await enqueueMany(store, large, 1_000)
    await enqueueMany(store, large, 500)
    await enqueueOne(store, small)
    const { endpoints } = await store.due(since)
    expect(endpoints).toEqual(expect.arrayContaining([large, small]))
    expect(new Set(endpoints).size).toBe(endpoints.length)
  })

  test('does not name an endpoint all of whose jobs are running or final', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    await enqueueMany(store, endpoint, 2)
    const [first] = await claimFrom(store, endpoint, 2)
    await store.settle([success(store, first as ClaimedJob)])
    expect((await store.due(null)).endpoints).not.toContain(endpoint)
    expect((await store.due(store.clock.now() - HOUR_MS)).endpoints).not.toContain(endpoint)
  })
})

describe.each(ENGINES)('onWork on %s', (engine) => {
  const place = useStore(engine)

  test('reports a job that this or another process enqueued, until it is stopped', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const other = await place.open()
    let reportCount = 0
    const stop = store.onWork(() => {
      reportCount++
    })
    await enqueueOne(store, endpoint)
    await until(() => reportCount > 0)
    const before = reportCount
    // A hint can be missed, so the test repeats it until the listener gets one.
    await until(async () => {
      await enqueueOne(other, endpoint)
      return reportCount > before
    })
    stop()
    let heard = false
    const after = reportCount
    const stopOther = other.onWork(() => {
      heard = true
    })
    await until(async () => {
      await enqueueOne(store, endpoint)
      return heard
    })
    stopOther()
    expect(reportCount).toBe(after)
  })
})

function idsOf(claimed: ClaimedJob[]): string[] {
  return claimed.map(({ jobId }) => jobId)
}
