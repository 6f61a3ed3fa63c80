// The promises of cancel, retry and the sweeper about jobs without a lease.
import { describe, expect, test } from 'vitest'
import type { ClaimedJob, NewJob } from '../../src/job/job.ts'
import { newJobId } from '../../src/job/job-id.ts'
import { MIN_KEY_LIFE_MS } from '../../src/job/retention.ts'
import type { Store } from '../../src/store/store.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import {
  addEndpoint,
  bringTo,
  burial,
  claimOne,
  enqueueAndClaim,
  enqueueMany,
  enqueueOne,
  jobOf,
  laterAgain,
  success,
  sweep,
} from './fixtures.ts'

const MINUTE_MS = 60_000
const HOUR_MS = 60 * MINUTE_MS

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  test('cancel returns the outcome for each job', async () => {
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

  test('retry returns for each job what prevents it', async () => {
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
    const { id } = await enqueueOne(store, endpoint)
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

type End = (
  store: Store,
  claimed: ClaimedJob,
) => ReturnType<typeof success> | ReturnType<typeof burial>

describe.each(ENGINES)('retention on %s', (engine) => {
  const place = useStore(engine, { retentionMs: HOUR_MS, retentionDeadMs: 2 * HOUR_MS })
  const idempotency = () => ({ key: newJobId(Date.now()), requestHash: 'h' })
  const isThere = async (id: string) => (await place.store.getJob(id)) !== null

  /** Makes a job that ended this long ago by the store's clock. */
  async function ended(agoMs: number, fields: Partial<NewJob> = {}, how: End = success) {
    const { store } = place
    const claimed = await enqueueAndClaim(store, fields)
    const finishedAt = store.clock.now() - agoMs
    const ending = how(store, claimed)
    expect(await store.settle([{ ...ending, attempt: { ...ending.attempt, finishedAt } }])).toEqual(
      ['applied'],
    )
    return claimed.jobId
  }

  test('each job is kept as long as its state says, and not longer', async () => {
    const { store } = place
    const kept = [
      await ended(HOUR_MS - MINUTE_MS),
      await ended(2 * HOUR_MS - MINUTE_MS, {}, burial),
    ]
    const gone = [await ended(HOUR_MS + 1), await ended(2 * HOUR_MS + 1, {}, burial)]
    const endpoint = await addEndpoint(store)
    const queued = await enqueueOne(store, endpoint, { createdAt: 1 })
    expect((await sweep(store)).purged).toBe(2)
    for (const id of [...kept, queued.id]) expect(await isThere(id)).toBe(true)
    for (const id of gone) expect(await isThere(id)).toBe(false)
  })

  test('one with an idempotency key is kept for a day after its end, whatever the retention', async () => {
    const { store } = place
    const keyed = () => ({ idempotency: idempotency() })
    const kept = await ended(MIN_KEY_LIFE_MS - MINUTE_MS, keyed())
    const gone = [
      await ended(MIN_KEY_LIFE_MS + 1, keyed()),
      await ended(MIN_KEY_LIFE_MS + 1, keyed(), burial),
    ]
    expect((await sweep(store)).purged).toBe(2)
    expect(await isThere(kept)).toBe(true)
    for (const id of gone) expect(await isThere(id)).toBe(false)
  })

  test('shortened or lengthened, it counts for the jobs that had ended before', async () => {
    const [longer, shorter] = await Promise.all([
      place.open({ retentionMs: 9 * HOUR_MS, retentionDeadMs: 9 * HOUR_MS }),
      place.open({ retentionMs: MINUTE_MS, retentionDeadMs: MINUTE_MS }),
    ])
    const ids = [await ended(5 * HOUR_MS), await ended(5 * HOUR_MS, {}, burial)]
    const fresh = [await ended(2 * MINUTE_MS), await ended(2 * MINUTE_MS, {}, burial)]
    await sweep(longer)
    for (const id of [...ids, ...fresh]) expect(await isThere(id)).toBe(true)
    await sweep(place.store)
    for (const id of ids) expect(await isThere(id)).toBe(false)
    for (const id of fresh) expect(await isThere(id)).toBe(true)
    await sweep(shorter)
    for (const id of fresh) expect(await isThere(id)).toBe(false)
  })

  test('of nothing, a job can be read until the sweep after the one that ends it', async () => {
    const brief = await place.open({ retentionMs: 0, retentionDeadMs: 0 })
    const endpoint = await addEndpoint(brief)
    const { id } = await enqueueOne(brief, endpoint, { expiresAt: brief.clock.now() - 1 })
    await until(async () => (await sweep(brief)).expired === 1)
    expect(await isThere(id)).toBe(true)
    await sweep(brief)
    expect(await isThere(id)).toBe(false)
  })
})
