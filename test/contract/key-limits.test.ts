// The promises of limits for each fairness key: exact over all processes, blocking the key alone,
// and no job waits when there is room.
import { describe, expect, test } from 'vitest'
import { newSecret } from '../../src/endpoint/endpoint.ts'
import type { ClaimedJob } from '../../src/job/job.ts'
import type { Store } from '../../src/store/store.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import {
  acceptance,
  addEndpoint,
  burial,
  claimFrom,
  enqueueMany,
  enqueueOne,
  holderOf,
  jobOf,
  laterAgain,
  leaseOf,
  newJob,
  passed,
  postponement,
  settingsOf,
  success,
  sweep,
} from './fixtures.ts'

const HOUR_MS = 3_600_000
/** A claim on MongoDB may remember for 0.4 s which endpoints have keys and limits. */
const REMEMBERED_MS = 450

describe.each(ENGINES)('the concurrency of a key on %s', (engine) => {
  const place = useStore(engine)

  async function limitedTo(concurrency: number | null): Promise<string> {
    const perKey = concurrency === null ? null : { concurrency, rateLimit: null }
    return addEndpoint(place.store, { perKey })
  }

  async function putLimit(name: string, concurrency: number | null): Promise<void> {
    const perKey = concurrency === null ? null : { concurrency, rateLimit: null }
    const settings = settingsOf({ name, perKey })
    const { kind } = await place.store.putEndpoint(
      settings,
      { given: null, fresh: newSecret() },
      null,
    )
    expect(kind).toBe('replaced')
    if (engine === 'mongo') await passed(place.store, place.store.clock.now() + REMEMBERED_MS)
  }

  /** Claims until a claim returns nothing. */
  async function claimAll(endpoint: string, store = place.store): Promise<ClaimedJob[]> {
    const all: ClaimedJob[] = []
    for (;;) {
      const jobs = await claimFrom(store, endpoint, 20)
      if (jobs.length === 0) return all
      all.push(...jobs)
    }
  }

  async function keysOf(jobs: ClaimedJob[]): Promise<(string | null)[]> {
    const found = await Promise.all(jobs.map(({ jobId }) => jobOf(place.store, jobId)))
    return found.map(({ fairnessKey }) => fairnessKey)
  }

  async function countsByKey(jobs: ClaimedJob[]): Promise<Record<string, number>> {
    const keys = await keysOf(jobs)
    return Object.fromEntries(
      [...Map.groupBy(keys, String)].map(([key, some]) => [key, some.length]),
    )
  }

  test('limits each key by itself, and not the jobs without a key', async () => {
    const endpoint = await limitedTo(3)
    for (const key of ['a', 'b', 'c']) {
      await enqueueMany(place.store, endpoint, 100, { fairnessKey: key })
    }
    await enqueueMany(place.store, endpoint, 2, { fairnessKey: 'd' })
    await enqueueMany(place.store, endpoint, 10)
    const counts = await countsByKey(await claimAll(endpoint))
    expect(counts).toEqual({ a: 3, b: 3, c: 3, d: 2, null: 10 })
  })

  const ends: Record<string, (store: Store, job: ClaimedJob) => Promise<unknown>> = {
    succeeds: (store, job) => store.settle([success(store, job)]),
    'is dead': (store, job) => store.settle([burial(store, job)]),
    'is retried later': (store, job) =>
      store.settle([laterAgain(store, job, store.clock.now() + HOUR_MS)]),
    'is postponed': (store, job) => store.settle([postponement(store, job)]),
    'is released': (store, job) => store.release([leaseOf(job)]),
    'is cancelled': (store, job) => store.cancel([job.jobId]),
  }

  test('a claim passes over many keys at their limit', async () => {
    const endpoint = await limitedTo(1)
    const keys = Array.from({ length: 60 }, (_, i) => `key ${i}`)
    const enqueueOfEach = () =>
      place.store.enqueue(keys.map((fairnessKey) => newJob(place.store, endpoint, { fairnessKey })))
    await enqueueOfEach()
    expect(await claimAll(endpoint)).toHaveLength(keys.length)
    await enqueueOfEach()
    const { id } = await enqueueOne(place.store, endpoint, { fairnessKey: 'other' })
    const [job] = await claimFrom(place.store, endpoint, 1)
    expect(job?.jobId).toBe(id)
  })

  const removals: Record<string, (jobId: string) => Promise<unknown>> = {
    deleted: (jobId) => place.store.deleteJob(jobId),
    purged: async () => sweep(await place.open({ retentionMs: 0 })),
  }

  test.each(Object.keys(removals))('makes room when a job that has ended is %s', async (name) => {
    const endpoint = await limitedTo(1)
    const [, second] = await enqueueMany(place.store, endpoint, 2, { fairnessKey: 'a' })
    const [first] = (await claimAll(endpoint)) as [ClaimedJob]
    await place.store.settle([success(place.store, first)])
    await removals[name]?.(first.jobId)
    expect(await place.store.getJob(first.jobId)).toBeNull()
    expect((await claimAll(endpoint)).map(({ jobId }) => jobId)).toEqual([second])
  })

  test.each(Object.keys(ends))('makes room when a job of the key %s', async (name) => {
    const endpoint = await limitedTo(2)
    await enqueueMany(place.store, endpoint, 40, { fairnessKey: 'a' })
    const [first, second] = (await claimAll(endpoint)) as [ClaimedJob, ClaimedJob]
    expect(await claimAll(endpoint)).toEqual([])
    await ends[name]?.(place.store, first)
    expect(await claimAll(endpoint)).toHaveLength(1)
    await ends[name]?.(place.store, second)
    expect(await claimAll(endpoint)).toHaveLength(1)
    expect(await claimAll(endpoint)).toEqual([])
  })

  test('counts attempts that await completion, and those whose lease has expired', async () => {
    const endpoint = await limitedTo(2)
    await enqueueMany(place.store, endpoint, 9, { fairnessKey: 'a' })
    const [awaiting] = (await claimFrom(place.store, endpoint, 1)) as [ClaimedJob]
    await place.store.settle([acceptance(awaiting, place.store.clock.now() + HOUR_MS)])
    const [expired] = (await claimFrom(place.store, endpoint, 1, 1)) as [ClaimedJob]
    await passed(place.store, expired.claimedAt + 1)
    expect(await claimAll(endpoint)).toEqual([])
    await until(async () => (await sweep(place.store)).reclaimed === 1)
    expect(await claimAll(endpoint)).toHaveLength(1)
    await place.store.settle([success(place.store, awaiting)])
    expect(await claimAll(endpoint)).toHaveLength(1)
  })

  test('holds over all priorities of the key', async () => {
    const endpoint = await limitedTo(2)
    await enqueueMany(place.store, endpoint, 5, { fairnessKey: 'a', priority: 3 })
    const low = await claimAll(endpoint)
    expect(low).toHaveLength(2)
    const high = await enqueueMany(place.store, endpoint, 5, { fairnessKey: 'a', priority: 9 })
    expect(await claimAll(endpoint)).toEqual([])
    await place.store.settle(low.map((job) => success(place.store, job)))
    const next = await claimAll(endpoint)
    expect(next.map(({ jobId }) => jobId)).toEqual(high.slice(0, 2))
  })

  test('keeps the order of the key', async () => {
    const endpoint = await limitedTo(2)
    const ids = await enqueueMany(place.store, endpoint, 70, { fairnessKey: 'a' })
    const begun: string[] = []
    for (let i = 0; begun.length < 80 && i < 80; i++) {
      if (i === 5) ids.push(...(await enqueueMany(place.store, endpoint, 10, { fairnessKey: 'a' })))
      const jobs = await claimAll(endpoint)
      begun.push(...jobs.map(({ jobId }) => jobId))
      await place.store.settle(jobs.map((job) => success(place.store, job)))
    }
    expect(begun).toEqual(ids)
  })

  test('is set, changed and removed while jobs run', { timeout: 60_000 }, async () => {
    const endpoint = await limitedTo(null)
    await enqueueMany(place.store, endpoint, 100, { fairnessKey: 'a' })
    await enqueueMany(place.store, endpoint, 100, { fairnessKey: 'b' })
    const running = await claimFrom(place.store, endpoint, 6)
    await putLimit(endpoint, 4)
    const more = await countsByKey(await claimAll(endpoint))
    expect(more).toEqual({ a: 1, b: 1 })
    await putLimit(endpoint, 2)
    await place.store.settle(running.slice(0, 4).map((job) => success(place.store, job)))
    expect(await claimAll(endpoint)).toEqual([])
    await putLimit(endpoint, 3)
    expect(await claimAll(endpoint)).toHaveLength(2)
    await putLimit(endpoint, null)
    expect(await claimAll(endpoint)).toHaveLength(200 - 6 - 2 - 2)
  })

  test('says when to ask again while a key waits for room, and only then', async () => {
    const endpoint = await limitedTo(1)
    await enqueueMany(place.store, endpoint, 3, { fairnessKey: 'a' })
    await enqueueOne(place.store, endpoint, { fairnessKey: 'b' })
    const asked = place.store.clock.now()
    const claim = () => place.store.claim([{ endpoint, limit: 9 }], 9, holderOf())
    const { jobs, limited } = await claim()
    expect(jobs).toHaveLength(2)
    expect(limited.map(({ endpoint: name }) => name)).toEqual([endpoint])
    expect(limited[0]?.againAt).toBeGreaterThan(asked)
    await place.store.settle(jobs.map((job) => success(place.store, job)))
    const second = await claim()
    await place.store.settle(second.jobs.map((job) => success(place.store, job)))
    const third = await claim()
    expect(third.jobs).toHaveLength(1)
    expect(third.limited).toEqual([])
  })

  test('is found as due work by other processes when there is room again', async () => {
    const endpoint = await limitedTo(1)
    await enqueueMany(place.store, endpoint, 2, { fairnessKey: 'a' })
    const [first] = (await claimAll(endpoint)) as [ClaimedJob]
    const since = place.store.clock.now()
    await passed(place.store, since)
    await place.store.settle([success(place.store, first)])
    if (engine === 'sqlite') {
      expect((await place.store.due(since)).endpoints).toContain(endpoint)
    }
    expect((await place.store.due(null)).endpoints).toContain(endpoint)
  })

  test('with cancelled, expired and edited jobs, no job waits for ever', async () => {
    const endpoint = await limitedTo(1)
    await enqueueMany(place.store, endpoint, 3, { fairnessKey: 'a' })
    await enqueueMany(place.store, endpoint, 1, { fairnessKey: 'b' })
    const [running, other] = (await claimAll(endpoint)) as [ClaimedJob, ClaimedJob]
    const expiresAt = place.store.clock.now() + 200
    await enqueueMany(place.store, endpoint, 2, { fairnessKey: 'b', expiresAt })
    expect(await claimAll(endpoint)).toEqual([])
    const ids = await enqueueMany(place.store, endpoint, 4, { fairnessKey: 'a' })
    const queued = await place.store.listJobs({ endpoint, states: ['queued'], limit: 100 })
    const first = queued.items.findLast(({ id }) => !ids.includes(id))
    await place.store.cancel([first?.id as string])
    await place.store.edit(ids[0] as string, { priority: 9 }, null)
    await place.store.edit(ids[1] as string, { runAt: place.store.clock.now() + HOUR_MS }, null)
    expect(await claimAll(endpoint)).toEqual([])
    await passed(place.store, expiresAt)
    await sweep(place.store)
    await place.store.settle([running, other].map((job) => success(place.store, job)))
    const begun: string[] = []
    for (let i = 0; i < 10; i++) {
      const jobs = await claimAll(endpoint)
      expect(jobs.length).toBeLessThanOrEqual(1)
      begun.push(...jobs.map(({ jobId }) => jobId))
      await place.store.settle(jobs.map((job) => success(place.store, job)))
    }
    expect(begun[0]).toBe(ids[0])
    expect(begun).toHaveLength(4)
  })

  test('is never exceeded by three processes, though leases expire', {
    timeout: 120_000,
  }, async () => {
    const concurrency = 3
    const keyCount = 6
    const perKeyCount = engine === 'sqlite' ? 50 : 12
    const endpoint = await limitedTo(concurrency)
    const stores = [place.store, await place.open(), await place.open()]
    const keyOf = new Map<string, string>()
    for (let i = 0; i < keyCount; i++) {
      const key = `key ${i}`
      const fields = { fairnessKey: key, maxAttempts: 100, priority: 4 + (i % 2) }
      const ids = await enqueueMany(place.store, endpoint, perKeyCount, fields)
      for (const id of ids) keyOf.set(id, key)
    }
    const held = new Map<string, number>()
    const count = (jobs: ClaimedJob[], change: 1 | -1) => {
      for (const { jobId } of jobs) {
        const key = keyOf.get(jobId) as string
        held.set(key, (held.get(key) ?? 0) + change)
      }
      return Math.max(0, ...held.values())
    }
    let doneCount = 0
    let most = 0
    await Promise.all(
      stores.map(async (store, part) => {
        const mine: ClaimedJob[] = []
        for (let round = 0; doneCount < keyOf.size; round++) {
          const isLost = round % 8 === part
          const limit = 1 + (round % 10)
          const leaseMs = isLost ? 1 : HOUR_MS
          const { jobs } = await store.claim([{ endpoint, limit }], limit, holderOf({ leaseMs }))
          if (isLost) {
            await sweep(store)
            continue
          }
          mine.push(...jobs)
          most = Math.max(most, count(jobs, 1))
          if (mine.length === 0) await passed(store, store.clock.now())
          const ending = mine.splice(0, round % 3 === 0 ? 1 : mine.length)
          count(ending, -1)
          const results = await store.settle(ending.map((job) => success(store, job)))
          expect(results.every((result) => result === 'applied')).toBe(true)
          doneCount += results.length
        }
      }),
    )
    expect(doneCount).toBe(keyOf.size)
    expect(most).toBe(concurrency)
  })

  test('holds through random changes, and every job ends', { timeout: 120_000 }, async () => {
    const concurrency = 2
    const endpoint = await limitedTo(concurrency)
    let seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31))
    const message = `SEED=${seed}`
    const random = (below: number) => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) & 0x7fffffff
      return Math.floor((seed / 0x80000000) * below)
    }
    const running = new Map<string, { job: ClaimedJob; key: string }>()
    const open = new Map<string, string>()
    const one = <T>(from: T[]) => from[random(from.length)] as T
    const checkRunning = () => {
      const counts = Map.groupBy([...running.values()], ({ key }) => key)
      for (const [, some] of counts) expect(some.length, message).toBeLessThanOrEqual(concurrency)
    }
    const claim = async () => {
      for (const job of await claimFrom(place.store, endpoint, 1 + random(6))) {
        running.set(job.jobId, { job, key: open.get(job.jobId) as string })
      }
      checkRunning()
    }
    const end = async (outcome = random(6)) => {
      if (running.size === 0) return
      const { job } = one([...running.values()])
      running.delete(job.jobId)
      const name = Object.keys(ends)[outcome] as string
      if (name === 'is retried later') {
        await place.store.settle([laterAgain(place.store, job, place.store.clock.now() + 5)])
      } else {
        await ends[name]?.(place.store, job)
      }
      const { state } = await jobOf(place.store, job.jobId)
      if (state !== 'queued' && state !== 'running') open.delete(job.jobId)
    }
    const steps = engine === 'sqlite' ? 300 : 80
    for (let step = 0; step < steps; step++) {
      const choice = random(10)
      if (choice < 3) {
        const key = `key ${random(4)}`
        const fields = {
          ...{ fairnessKey: key, priority: 4 + random(2), maxAttempts: 50 },
          ...(random(4) === 0 ? { runAt: place.store.clock.now() + random(30) } : {}),
        }
        const jobs = Array.from({ length: 1 + random(5) }, () =>
          newJob(place.store, endpoint, fields),
        )
        await place.store.enqueue(jobs)
        for (const { id } of jobs) open.set(id, key)
      } else if (choice < 6) {
        await claim()
      } else if (choice < 8) {
        await end()
      } else if (open.size > 0) {
        const id = one([...open.keys()])
        if (running.has(id)) continue
        if (choice === 8) {
          const [result] = await place.store.cancel([id])
          if (result?.kind === 'applied') open.delete(id)
        } else {
          await place.store.edit(id, { priority: 4 + random(2) }, null)
        }
      }
    }
    await until(async () => {
      await claim()
      while (running.size > 0) await end(0)
      return open.size === 0
    })
    expect(open.size, message).toBe(0)
  })
})
