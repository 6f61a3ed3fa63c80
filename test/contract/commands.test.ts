// What cancel, retry and the sweeper promise about jobs that nobody holds.
import { describe, expect, test } from 'vitest'
import { newJobId } from '../../src/job/job-id.ts'
import { MIN_KEY_LIFE_MS } from '../../src/store/store.ts'
import { ENGINES, useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import {
  addEndpoint,
  bringTo,
  burial,
  claimOne,
  enqueueMany,
  enqueueOne,
  jobOf,
  laterAgain,
  newJob,
  success,
  sweep,
} from './fixtures.ts'

const HOUR_MS = 3_600_000

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  test('cancel answers for each job what became of it', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const first = await enqueueOne(store, endpoint)
    const running = await claimOne(store, endpoint)
    const queued = await enqueueOne(store, endpoint)
    const unknown = newJobId(store.clock.now())
    expect(await store.cancel([queued.id, unknown, running.jobId])).toEqual([
      { kind: 'applied' },
      { kind: 'not_found' },
      { kind: 'applied' },
    ])
    expect(await store.cancel([queued.id])).toEqual([{ kind: 'refused', state: 'cancelled' }])
    const job = await jobOf(store, first.id)
    expect(job).toMatchObject({ state: 'cancelled', lease: null, failure: null })
    expect(job.attempts).toMatchObject([{ number: 1, outcome: 'cancelled', workerId: 'worker-1' }])
    expect((await jobOf(store, queued.id)).attempts).toEqual([])
  })

  test('retry gives a dead job a fresh budget, due now, and keeps its history and fence', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const soon = store.clock.now() + HOUR_MS
    const { id } = await enqueueOne(store, endpoint, { maxAttempts: 2, expiresAt: soon })
    await store.settle([laterAgain(store, await claimOne(store, endpoint))])
    await store.settle([burial(store, await claimOne(store, endpoint))])
    const dead = await jobOf(store, id)
    expect(dead.attemptsLeft).toBe(0)

    expect(await store.retry([id])).toEqual([{ kind: 'applied' }])
    const job = await jobOf(store, id)
    expect(job).toMatchObject({
      state: 'queued',
      attemptsLeft: 2,
      freeAttempts: 0,
      attemptCount: 2,
      finishedAt: null,
      failure: null,
      expiresAt: null,
      startedAt: dead.startedAt,
      attempts: dead.attempts,
      fence: 2,
    })
    expect(job.runAt).toBeGreaterThanOrEqual(dead.finishedAt ?? 0)
    const claimed = await claimOne(store, endpoint)
    expect(claimed).toMatchObject({ fence: 3, attemptNumber: 3, attemptsLeft: 1 })
    expect(claimed.firstRunAt).toBe(job.runAt)
  })

  test('retry answers for each job what hinders it', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const queued = await enqueueOne(store, endpoint)
    const ended = await addEndpoint(store)
    await enqueueOne(store, ended)
    const dead = await claimOne(store, ended)
    await bringTo(store, dead, 'dead')
    await store.deleteEndpoint(ended, { force: false, ifVersion: null })
    const unknown = newJobId(store.clock.now())
    expect(await store.retry([queued.id, dead.jobId, unknown])).toEqual([
      { kind: 'refused', state: 'queued' },
      { kind: 'unknown_endpoint' },
      { kind: 'not_found' },
    ])
  })

  test('a job retried is not purged for the end it had before', async () => {
    const { store } = place
    const brief = await place.open({ retentionMs: 0, retentionDeadMs: 0 })
    const endpoint = await addEndpoint(store)
    const createdAt = store.clock.now() - MIN_KEY_LIFE_MS - HOUR_MS
    const { id } = await enqueueOne(store, endpoint, { createdAt })
    await bringTo(brief, await claimOne(store, endpoint), 'dead')
    await store.retry([id])
    await sweep(brief)
    expect((await jobOf(store, id)).state).toBe('queued')
  })

  test('finalAmong names those that are final or gone', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const jobs = []
    for (const state of ['succeeded', 'dead', 'cancelled', 'running'] as const) {
      await enqueueOne(store, endpoint)
      const claimed = await claimOne(store, endpoint)
      await bringTo(store, claimed, state)
      jobs.push(claimed.jobId)
    }
    const queued = await enqueueOne(store, endpoint)
    const gone = newJobId(store.clock.now())
    const found = await store.finalAmong([...jobs, queued.id, gone])
    expect(found.toSorted()).toEqual([...jobs.slice(0, 3), gone].toSorted())
    expect(await store.finalAmong([])).toEqual([])
    expect(await store.getJob(gone)).toBeNull()
    expect(await store.getPayload(gone)).toBeNull()
  })

  test('an expired job is dead at the next sweep', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const { id } = await enqueueOne(store, endpoint, { expiresAt: store.clock.now() - 1 })
    await until(async () => (await sweep(store)).expired === 1)
    expect(await jobOf(store, id)).toMatchObject({
      state: 'dead',
      failure: { reason: 'expired' },
      attempts: [],
    })
  })

  test('a sweep finds no more of a kind than it was asked for', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    await enqueueMany(store, endpoint, 7, { expiresAt: store.clock.now() - 1 })
    const options = { limit: 5, reclaim: true }
    expect((await store.sweep(options)).expired).toBe(5)
    expect((await store.sweep(options)).expired).toBe(2)
    expect((await store.sweep(options)).expired).toBe(0)
  })
})

describe.each(ENGINES)('retention on %s', (engine) => {
  const place = useStore(engine, { retentionMs: 0, retentionDeadMs: HOUR_MS })

  test('final jobs go when their state’s retention is over, others stay', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const createdAt = store.clock.now() - MIN_KEY_LIFE_MS - HOUR_MS
    const ids: Record<string, string> = {}
    for (const state of ['succeeded', 'cancelled', 'dead', 'running', 'queued'] as const) {
      await enqueueOne(store, endpoint, { createdAt })
      const claimed = await claimOne(store, endpoint)
      await bringTo(store, claimed, state)
      ids[state] = claimed.jobId
    }
    await until(async () => {
      await sweep(store)
      const left = await Promise.all(Object.values(ids).map((id) => store.getJob(id)))
      return left.filter((job) => job !== null).length === 3
    })
    expect(await store.getJob(ids.succeeded as string)).toBeNull()
    expect(await store.getJob(ids.cancelled as string)).toBeNull()
  })

  test('a job and its key are kept for a day after it was made, whatever the retention', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const idempotency = { key: 'k', requestHash: 'h' }
    const { id } = await enqueueOne(store, endpoint, { idempotency })
    await store.settle([success(store, await claimOne(store, endpoint))])
    expect((await sweep(store)).purged).toBe(0)
    const [repeat] = await store.enqueue([newJob(store, endpoint, { idempotency })])
    expect(repeat).toMatchObject({ kind: 'existing', job: { id, state: 'succeeded' } })
  })
})
