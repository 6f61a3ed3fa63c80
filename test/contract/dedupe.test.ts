// The promises of dedupe keys: at most one queued or running job of an endpoint has the key. A
// request with the key does what its mode says, whatever other requests do at the same time.
import { describe, expect, test } from 'vitest'
import type { DedupeMode, Job } from '../../src/job/job.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { askFirstWithKey, askWithKey, DEDUPE_KEY } from './dedupe-requests.ts'
import {
  addEndpoint,
  bringTo,
  burial,
  claimFrom,
  claimOne,
  jobOf,
  laterAgain,
  leaseOf,
  newJob,
  passed,
  postponement,
  success,
  sweep,
} from './fixtures.ts'

const HOUR_MS = 3_600_000
const MODES: DedupeMode[] = ['keep', 'replace', 'reject']

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine, { retentionMs: 0, retentionDeadMs: 0 })

  test('keep returns the queued or running job that has the key', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const first = await askFirstWithKey(store, endpoint)
    expect(first.dedupeKey).toBe(DEDUPE_KEY)
    const other = await askWithKey(store, endpoint, 'keep', {
      payload: Buffer.from('2'),
      priority: 1,
    })
    expect(other).toEqual({ kind: 'existing', job: await jobOf(store, first.id) })
    expect(await jobOf(store, first.id)).toMatchObject({ priority: 5, version: 1 })
    await claimOne(store, endpoint)
    const running = await askWithKey(store, endpoint, 'keep')
    expect(running).toMatchObject({ kind: 'existing', job: { id: first.id, state: 'running' } })
  })

  test('reject refuses while a queued or running job has the key', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const { id } = await askFirstWithKey(store, endpoint)
    expect(await askWithKey(store, endpoint, 'reject')).toEqual({
      kind: 'dedupe_conflict',
      jobId: id,
    })
    await claimOne(store, endpoint)
    expect(await askWithKey(store, endpoint, 'reject')).toEqual({
      kind: 'dedupe_conflict',
      jobId: id,
    })
    expect((await store.countJobs([endpoint]))[0]).toMatchObject({ queued: 0, running: 1 })
  })

  test.each(MODES)('%s makes a job once the one before is final, or elsewhere', async (mode) => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    for (const state of ['succeeded', 'dead', 'cancelled'] as const) {
      const first = await askFirstWithKey(store, endpoint)
      await bringTo(store, await claimOne(store, endpoint), state)
      const next = await askWithKey(store, endpoint, mode)
      expect(next).toMatchObject({ kind: 'inserted', job: { dedupeKey: DEDUPE_KEY } })
      expect((await jobOf(store, first.id)).dedupeKey).toBe(DEDUPE_KEY)
      await store.cancel([(next as { job: Job }).job.id])
    }
    await askFirstWithKey(store, endpoint)
    expect((await askWithKey(store, await addEndpoint(store), mode)).kind).toBe('inserted')
  })

  test('replace gives a queued job what the request says, and lets the rest stand', async () => {
    const { store } = place
    const [endpoint, notified, other] = [
      await addEndpoint(store),
      await addEndpoint(store),
      await addEndpoint(store),
    ]
    const before = await askFirstWithKey(store, endpoint, {
      maxAttempts: 3,
      orderingKey: 'a',
      fairnessKey: 'tenant a',
      cost: 2,
      onFinish: { endpoint: notified, states: ['dead'] },
      tags: ['old'],
      headers: { 'x-old': '1' },
    })
    const now = store.clock.now()
    const fields = {
      payload: Buffer.from('{"n":22}'),
      runAt: now + HOUR_MS,
      expiresAt: now + 2 * HOUR_MS,
      priority: 9,
      tags: ['new'],
      metadata: { a: 'b' },
      headers: { 'x-new': '2' },
    }
    const result = await askWithKey(store, endpoint, 'replace', {
      ...fields,
      maxAttempts: 8,
      orderingKey: 'b',
      fairnessKey: 'tenant b',
      cost: 3,
      onFinish: { endpoint: other, states: ['succeeded'] },
    })
    const after = await jobOf(store, before.id)
    expect(result).toEqual({ kind: 'existing', job: after })
    const { payload, ...rest } = fields
    expect(after).toMatchObject({
      ...rest,
      firstRunAt: fields.runAt,
      payloadBytes: 8,
      id: before.id,
      createdAt: before.createdAt,
      maxAttempts: 3,
      attemptsLeft: 3,
      orderingKey: 'a',
      fairnessKey: 'tenant a',
      cost: 2,
      onFinish: before.onFinish,
      version: before.version + 1,
    })
    expect(Buffer.from(after.payload).equals(payload)).toBe(true)
    expect(await claimFrom(store, endpoint, 1)).toEqual([])
  })

  test('replace brings a job forward that was to come later, and due reports it', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    await askFirstWithKey(store, endpoint, { runAt: store.clock.now() + HOUR_MS })
    const since = store.clock.now() - 1
    await askWithKey(store, endpoint, 'replace')
    expect((await store.due(since)).endpoints).toContain(endpoint)
    expect(await claimFrom(store, endpoint, 1)).toHaveLength(1)
  })

  test('replace cancels a queued job that was attempted, and makes another', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const before = await askFirstWithKey(store, endpoint)
    await store.settle([laterAgain(store, await claimOne(store, endpoint))])
    expect(await askWithKey(store, endpoint, 'replace')).toMatchObject({ kind: 'inserted' })
    const after = await jobOf(store, before.id)
    expect(after).toMatchObject({ state: 'cancelled', dedupeKey: DEDUPE_KEY, failure: null })
    expect(after.attempts).toHaveLength(1)
  })

  test('replace supersedes a running job, which may still succeed or be buried', async () => {
    const { store } = place
    for (const [ending, state] of [
      [success, 'succeeded'],
      [burial, 'dead'],
    ] as const) {
      const endpoint = await addEndpoint(store)
      await askFirstWithKey(store, endpoint)
      const claimed = await claimOne(store, endpoint)
      expect(await askWithKey(store, endpoint, 'replace')).toMatchObject({ kind: 'inserted' })
      expect(await claimFrom(store, endpoint, 5)).toHaveLength(1)
      expect(await store.settle([ending(store, claimed)])).toEqual(['applied'])
      expect(await jobOf(store, claimed.jobId)).toMatchObject({ state })
    }
  })

  test.each([
    ['failed', laterAgain],
    ['was interrupted', postponement],
  ] as const)('a superseded job whose attempt %s is cancelled, not retried', async (_, ending) => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    await askFirstWithKey(store, endpoint)
    const claimed = await claimOne(store, endpoint)
    await askWithKey(store, endpoint, 'replace')
    const settlement = ending(store, claimed)
    expect(await store.settle([settlement])).toEqual(['applied'])
    const job = await jobOf(store, claimed.jobId)
    expect(job).toMatchObject({ state: 'cancelled', attempts: [settlement.attempt] })
    expect(await store.settle([settlement])).toEqual(['already_applied'])
    expect(await jobOf(store, claimed.jobId)).toEqual(job)
  })

  test('a superseded job that was not sent, or whose lease expired, is cancelled', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    await askFirstWithKey(store, endpoint)
    const released = await claimOne(store, endpoint)
    await askWithKey(store, endpoint, 'replace')
    expect(await store.release([leaseOf(released)])).toEqual(['applied'])
    expect(await jobOf(store, released.jobId)).toMatchObject({ state: 'cancelled', attempts: [] })
    const expired = await claimOne(store, endpoint, 1)
    await askWithKey(store, endpoint, 'replace')
    await passed(store, expired.claimedAt + 1)
    await sweep(store)
    expect(await jobOf(store, expired.jobId)).toMatchObject({
      state: 'cancelled',
      attempts: [{ outcome: 'lost' }],
    })
  })

  test('within one batch each request finds what those before it left', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const jobs = (['keep', 'keep', 'reject', 'replace', 'keep'] as const).map((mode, i) =>
      newJob(store, endpoint, { dedupe: { key: 'k', mode }, payload: Buffer.from(`${i}`) }),
    )
    const results = await store.enqueue(jobs)
    expect(results.map(({ kind }) => kind)).toEqual([
      'inserted',
      'existing',
      'dedupe_conflict',
      'existing',
      'existing',
    ])
    const id = jobs[0]?.id as string
    expect(results.slice(1).map((one) => ('job' in one ? one.job.id : one))).toEqual([
      id,
      { kind: 'dedupe_conflict', jobId: id },
      id,
      id,
    ])
    expect(Buffer.from((await jobOf(store, id)).payload).toString()).toBe('3')
    await claimOne(store, endpoint)
    const again = [7, 8].map((n) =>
      newJob(store, endpoint, {
        dedupe: { key: 'k', mode: 'replace' },
        payload: Buffer.from(`${n}`),
      }),
    )
    const [third, fourth] = await store.enqueue(again)
    expect([third?.kind, fourth?.kind]).toEqual(['inserted', 'existing'])
    expect(fourth).toMatchObject({ job: { id: again[0]?.id } })
    expect(Buffer.from((await jobOf(store, again[0]?.id as string)).payload).toString()).toBe('8')
  })

  test('a cancel and a burial give the key up, a retry by hand takes it again', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const first = await askFirstWithKey(store, endpoint)
    await store.cancel([first.id])
    const second = await askFirstWithKey(store, endpoint)
    expect(await store.retry([first.id])).toEqual([{ kind: 'dedupe_conflict', jobId: second.id }])
    expect((await jobOf(store, first.id)).state).toBe('cancelled')
    await store.cancel([second.id])
    expect(await store.retry([first.id])).toEqual([{ kind: 'applied' }])
    expect(await askWithKey(store, endpoint, 'keep')).toMatchObject({
      kind: 'existing',
      job: { id: first.id },
    })
    expect(await store.retry([second.id])).toEqual([{ kind: 'dedupe_conflict', jobId: first.id }])
  })

  test('a superseded job that is retried by hand is a job like any other again', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const first = await askFirstWithKey(store, endpoint)
    const claimed = await claimOne(store, endpoint)
    const next = await askWithKey(store, endpoint, 'replace')
    await store.settle([laterAgain(store, claimed)])
    await store.cancel([(next as { job: Job }).job.id])
    expect(await store.retry([first.id])).toEqual([{ kind: 'applied' }])
    await store.settle([laterAgain(store, await claimOne(store, endpoint))])
    expect((await jobOf(store, first.id)).state).toBe('queued')
  })
})
