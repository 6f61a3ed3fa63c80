// The parts of a worker on a store that is slower than the work: MongoDB with a disk that is slow
// for each document.
import { randomBytes } from 'node:crypto'
import pino from 'pino'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import type { ClaimedJob } from '../../src/job/job.ts'
import { MinuteStatReports } from '../../src/stats/minute-stat-reports.ts'
import { createMinuteStatsBuffer } from '../../src/stats/minute-stats-buffer.ts'
import { openMongoStore } from '../../src/store/mongo/store.ts'
import type { Store } from '../../src/store/store.ts'
import { DeliveryLoop } from '../../workers/delivery-loop.ts'
import { createEndpointCache } from '../../workers/endpoint-cache.ts'
import { LeaseRenewal } from '../../workers/lease-renewal.ts'
import { createSettler, type SettlerParts } from '../../workers/settler.ts'
import { WorkerReports } from '../../workers/worker-reports.ts'
import { createWritePacer } from '../../workers/write-pacer.ts'
import {
  addEndpoint,
  claimFrom,
  enqueueMany,
  holderOf,
  jobOf,
  leaseOf,
  success,
} from '../contract/fixtures.ts'
import { type MongoProxy, startMongoProxy } from '../support/mongo-proxy.ts'
import { createSlowDisk } from '../support/slow-writes.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'

const encryptionKeys = [randomBytes(32)]
const DEADLINE_MS = 30_000

describe('a worker on a store that is slow to write', () => {
  const place = useStore('mongo', { encryptionKeys })
  const disk = createSlowDisk()
  let proxy: MongoProxy
  /** This store uses the slow disk. place.store does not. */
  let store: Store
  let lines: { msg: string; [field: string]: unknown }[] = []
  const log = pino(
    { level: 'info' },
    { write: (line: string) => void lines.push(JSON.parse(line)) },
  )
  const logged = (msg: string) => lines.filter((line) => line.msg === msg)

  beforeAll(async () => {
    proxy = await startMongoProxy(place.url, disk)
    const settings = { retentionMs: 60_000, retentionDeadMs: 60_000, encryptionKeys, warn() {} }
    store = await openMongoStore(proxy.url, settings)
  })
  afterEach(() => {
    disk.setDelay(0)
    proxy.restore()
    lines = []
  })
  afterAll(async () => {
    await store.close()
    await proxy.stop()
  })

  async function claimed(count: number, leaseMs?: number): Promise<ClaimedJob[]> {
    const endpoint = await addEndpoint(place.store)
    await enqueueMany(place.store, endpoint, count)
    return claimFrom(place.store, endpoint, count, leaseMs)
  }

  function settlerOf(parts: Partial<SettlerParts> = {}) {
    const batches: number[] = []
    const settler = createSettler({
      ...{ store, pacer: createWritePacer(10), log, afterRenewals: async () => {} },
      onBatch: (size) => void batches.push(size),
      ...parts,
    })
    return { settler, batches }
  }

  it('settles in smaller batches what it cannot settle at once', async () => {
    const jobs = await claimed(30)
    const { settler, batches } = settlerOf()
    disk.setDelay(110)
    const results = await Promise.all(jobs.map((job) => settler.settle(success(store, job))))
    expect(results).not.toContain('lease_lost')
    expect(batches[0]).toBe(30)
    expect(Math.max(...batches.slice(1))).toBeLessThanOrEqual(15)
    // There is a line for each write that failed, not for each outcome.
    expect(logged('settle.failed').length).toBeLessThanOrEqual(2)
    // If 30 outcomes were settled one by one, they would take 3.3 s. The settler knows the pace of
    // the store by now.
    expect(settler.affordable(1_000)).toBeGreaterThan(1)
    expect(settler.affordable(1_000)).toBeLessThan(20)
  })

  it('reads back what was stored after its response was given up, and does not write it again', async () => {
    const [stored, open] = (await claimed(2)) as [ClaimedJob, ClaimedJob]
    expect(await store.settle([success(store, stored)])).toEqual(['applied'])
    const before = disk.documentCount
    const both = [success(store, stored), success(store, open)]
    expect(await store.settle(both, { isRepeat: true })).toEqual(['already_applied', 'applied'])
    expect(disk.documentCount - before).toBe(1)
    expect(await store.settle(both, { isRepeat: true })).toEqual(both.map(() => 'already_applied'))
    expect(disk.documentCount - before).toBe(1)
    expect((await jobOf(store, open.jobId)).attempts).toHaveLength(1)
  })

  it('renews the leases that end soonest first, and settles only then', async () => {
    const leaseMs = 30_000
    const jobs = await claimed(3, leaseMs)
    const events: string[] = []
    const watched: Pick<Store, 'renew' | 'settle'> = {
      async renew(leases, ms) {
        events.push(`renew ${leases.map(({ jobId }) => jobId)}`)
        const results = await store.renew(leases, ms)
        events.push('renewed')
        return results
      },
      settle(settlements, options) {
        events.push('settle')
        return store.settle(settlements, options)
      },
    }
    const renewal = new LeaseRenewal(watched, leaseMs, log)
    const ageMs = [12_000, 14_000, 13_000]
    const leases = jobs.map((job, i) =>
      renewal.keep(leaseOf(job), performance.now() - (ageMs[i] as number), () => {}),
    )
    const { settler } = settlerOf({ store: watched, afterRenewals: () => renewal.written() })
    disk.setDelay(100)
    renewal.start()
    try {
      await until(() => events.length > 0, DEADLINE_MS)
      expect(renewal.isBehind).toBe(true)
      await settler.settle(success(store, jobs[0] as ClaimedJob))
      const inOrder = [1, 2, 0].map((i) => jobs[i]?.jobId)
      expect(events).toEqual([`renew ${inOrder}`, 'renewed', 'settle'])
      expect(renewal.isBehind).toBe(false)
    } finally {
      renewal.stop()
      for (const lease of leases) lease.drop()
    }
  })

  it('renews for an outcome in hand later than for an attempt under way', async () => {
    const leaseMs = 60_000
    const jobs = await claimed(3, leaseMs)
    const renewed: string[] = []
    const watched: Pick<Store, 'renew'> = {
      renew(leases, ms) {
        renewed.push(...leases.map(({ jobId }) => jobId))
        return store.renew(leases, ms)
      },
    }
    const renewal = new LeaseRenewal(watched, leaseMs, log)
    const [underWay, ended, endedLongAgo] = [22_000, 32_000, 41_000].map((ageMs, i) =>
      renewal.keep(leaseOf(jobs[i] as ClaimedJob), performance.now() - ageMs, () => {}),
    )
    ended?.ended()
    endedLongAgo?.ended()
    renewal.start()
    try {
      await until(() => renewed.length > 0, DEADLINE_MS)
      expect(renewed).toEqual([jobs[2]?.jobId, jobs[0]?.jobId])
    } finally {
      renewal.stop()
      for (const lease of [underWay, ended, endedLongAgo]) lease?.drop()
    }
  })

  it('renews again within seconds of a failure, not only at the next third of a lease', async () => {
    const leaseMs = 60_000
    const [job] = (await claimed(1, leaseMs)) as [ClaimedJob]
    const expiresAt = async () => (await jobOf(place.store, job.jobId)).lease?.expiresAt ?? 0
    const before = await expiresAt()
    const renewal = new LeaseRenewal(store, leaseMs, log)
    let aborts = 0
    const lease = renewal.keep(leaseOf(job), performance.now() - 25_000, () => aborts++)
    proxy.stall()
    renewal.start()
    try {
      await until(() => logged('renew.failed').length > 0, DEADLINE_MS)
      proxy.restore()
      const mendedAtMs = performance.now()
      await until(async () => (await expiresAt()) > before, DEADLINE_MS)
      expect(performance.now() - mendedAtMs).toBeLessThan(leaseMs / 3 / 2)
      expect(aborts).toBe(0)
    } finally {
      renewal.stop()
      lease.drop()
    }
  })

  it('takes on no more than it can settle within its leases: no job is delivered again', async () => {
    const endpoint = await addEndpoint(place.store)
    await enqueueMany(place.store, endpoint, 90)
    const leaseMs = 2_000
    disk.setDelay(30)
    const renewal = new LeaseRenewal(store, leaseMs, log)
    const { settler } = settlerOf({ afterRenewals: () => renewal.written() })
    const deliveredIds: string[] = []
    const unsettled: number[] = []
    const loop: DeliveryLoop = new DeliveryLoop({
      ...{ store, workerId: 'worker-1', concurrency: 50, leaseMs, pollIntervalMs: 100, log },
      slots: () => 50,
      ...{ leases: renewal, affordable: settler.affordable, pacer: createWritePacer(50) },
      endpoints: createEndpointCache(store, () => {}),
      async deliver(job, _endpoint, claimedAtMs, onEnded) {
        const lease = renewal.keep(job, claimedAtMs, () => {})
        deliveredIds.push(job.jobId)
        unsettled.push(loop.unsettledCount)
        onEnded()
        await settler.settle(success(store, job))
        lease.drop()
      },
      onClaimed: () => {},
    })
    renewal.start()
    loop.start()
    try {
      await until(async () => {
        await place.store.sweep({ limit: 100, reclaim: true })
        const [counts] = await place.store.countJobs([endpoint])
        return counts?.queued === 0 && counts.running === 0
      }, DEADLINE_MS)
    } finally {
      await loop.stop()
      renewal.stop()
    }
    expect(new Set(deliveredIds).size).toBe(90)
    expect(deliveredIds).toHaveLength(90)
    // The number of writes that half of a lease has time for, at thirty writes a second.
    expect(Math.max(...unsettled)).toBeLessThanOrEqual(38)
  })

  it('reports that it lives less often than every 2 s', async () => {
    disk.setDelay(300)
    const askedAtMs: number[] = []
    const report = {
      id: 'slow',
      version: '1',
      startedAt: 0,
      concurrency: 1,
      inFlight: 0,
      keyIds: [],
    }
    const watched: Pick<Store, 'reportWorker' | 'removeWorker'> = {
      reportWorker(one) {
        askedAtMs.push(performance.now())
        return store.reportWorker(one)
      },
      removeWorker: (id) => store.removeWorker(id),
    }
    const reports = new WorkerReports(watched, () => report, log)
    reports.start()
    await until(() => askedAtMs.length > 1, DEADLINE_MS)
    await reports.stop()
    expect((askedAtMs[1] as number) - (askedAtMs[0] as number)).toBeGreaterThan(2_900)
    expect(logged('worker_report.failed')).toEqual([])
    expect(await place.store.listWorkers()).toEqual([])
  })

  it('reports minute statistics less often than asked', async () => {
    disk.setDelay(60)
    const askedAtMs: number[] = []
    const watched: Pick<Store, 'addMinuteStats'> = {
      addMinuteStats(stats, report) {
        askedAtMs.push(performance.now())
        return store.addMinuteStats(stats, report)
      },
    }
    const book = createMinuteStatsBuffer()
    const addOne = () => book.add('slow', 'succeeded', 1, place.store.clock.now())
    const reports = new MinuteStatReports(watched, book, log, 50)
    addOne()
    reports.start()
    await until(() => askedAtMs.length > 0, DEADLINE_MS)
    addOne()
    await until(() => askedAtMs.length > 1, DEADLINE_MS)
    await reports.stop()
    expect((askedAtMs[1] as number) - (askedAtMs[0] as number)).toBeGreaterThan(1_200)
  })

  it('gives back by its lease id what a claim took that got no response in time', async () => {
    const endpoint = await addEndpoint(place.store)
    await enqueueMany(place.store, endpoint, 12)
    disk.setDelay(1_500)
    const shares = [{ endpoint, limit: 12 }]
    const holder = holderOf({ withinMs: 1_000 })
    await expect(store.claim(shares, 12, holder)).rejects.toThrow('MongoDB')
    disk.setDelay(0)
    await until(async () => {
      const [counts] = await place.store.countJobs([endpoint])
      return counts?.queued === 12
    }, DEADLINE_MS)
    expect(await claimFrom(place.store, endpoint, 12)).toHaveLength(12)
  })
})
