// The promises of dedupe keys when several processes use one at the same time, and the promises to
// the idempotency keys of such requests.
import { describe, expect, test } from 'vitest'
import type { DedupeMode } from '../../src/job/job.ts'
import { MIN_KEY_LIFE_MS } from '../../src/job/retention.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { askFirstWithKey, askWithKey } from './dedupe-requests.ts'
import {
  addEndpoint,
  claimFrom,
  claimOne,
  enqueueOne,
  jobOf,
  newJob,
  success,
  sweep,
} from './fixtures.ts'

const HOUR_MS = 3_600_000
const MODES: DedupeMode[] = ['keep', 'replace', 'reject']

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  test('two jobs retried at once that had the key: one gets it', async () => {
    const { store } = place
    const other = await place.open()
    for (let round = 0; round < 10; round++) {
      const endpoint = await addEndpoint(store)
      const first = await askFirstWithKey(store, endpoint)
      await store.cancel([first.id])
      const second = await askFirstWithKey(store, endpoint)
      await store.cancel([second.id])
      const answers = await Promise.all([store.retry([first.id]), other.retry([second.id])])
      expect(
        answers
          .flat()
          .map(({ kind }) => kind)
          .toSorted(),
      ).toEqual(['applied', 'dedupe_conflict'])
    }
  })

  test.each(MODES)('twenty requests at once by %s make one job', async (mode) => {
    const stores = [place.store, await place.open()]
    const endpoint = await addEndpoint(place.store)
    const results = await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        askWithKey(stores[i % 2] as typeof place.store, endpoint, mode),
      ),
    )
    expect(results.filter(({ kind }) => kind === 'inserted')).toHaveLength(1)
    const wanted = mode === 'reject' ? 'dedupe_conflict' : 'existing'
    expect(results.filter(({ kind }) => kind === wanted)).toHaveLength(19)
    const ids = results.map((one) => ('job' in one ? one.job.id : 'jobId' in one && one.jobId))
    expect(new Set(ids).size).toBe(1)
  })

  test('of a replacement and a claim at once, what is sent is what the response says', async () => {
    const { store } = place
    const other = await place.open()
    for (let round = 0; round < 20; round++) {
      const endpoint = await addEndpoint(store)
      const first = await askFirstWithKey(store, endpoint, { payload: Buffer.from('"old"') })
      const [claimed, answer] = await Promise.all([
        claimFrom(store, endpoint, 1),
        askWithKey(other, endpoint, 'replace', { payload: Buffer.from('"new"') }),
      ])
      const sent = claimed.map(({ jobId, payload }) => [jobId, Buffer.from(payload).toString()])
      if (answer.kind === 'existing') {
        expect([[], [[first.id, '"new"']]]).toContainEqual(sent)
        expect((await store.countJobs([endpoint]))[0]).toMatchObject({ queued: 1 - sent.length })
        continue
      }
      expect(answer.kind).toBe('inserted')
      expect(sent).toEqual([[first.id, '"old"']])
      expect((await store.countJobs([endpoint]))[0]).toMatchObject({ queued: 1, running: 1 })
    }
  })
})

describe.each(ENGINES)('a dedupe hit on %s', (engine) => {
  const place = useStore(engine, { retentionMs: 0, retentionDeadMs: 0 })
  const keyOf = (key: string, requestHash = 'hash-1') => ({ key, requestHash })

  test.each(['keep', 'replace'] as const)('by %s adds its idempotency key', async (mode) => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const dedupe = { key: 'k', mode }
    const first = await enqueueOne(store, endpoint, { dedupe, idempotency: keyOf('one') })
    const jobs = ['two', 'three'].map((key) =>
      newJob(store, endpoint, { dedupe, idempotency: keyOf(key) }),
    )
    const hits = await store.enqueue(jobs)
    expect(hits.map(({ kind }) => kind)).toEqual(['existing', 'existing'])
    // The repeats find the job by their keys, although another job has the dedupe key by then.
    await store.cancel([first.id])
    await enqueueOne(store, endpoint, { dedupe })
    const repeats = await store.enqueue([
      ...jobs.map((job) => ({ ...job, id: newJob(store, endpoint).id })),
      newJob(store, endpoint, { dedupe, idempotency: keyOf('two', 'hash-2') }),
    ])
    expect(repeats).toMatchObject([
      { kind: 'existing', job: { id: first.id, state: 'cancelled', idempotencyKey: 'one' } },
      { kind: 'existing', job: { id: first.id } },
      { kind: 'key_reused', jobId: first.id },
    ])
  })

  test('gives its key back when the job is deleted', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const dedupe = { key: 'k', mode: 'keep' } as const
    const first = await enqueueOne(store, endpoint, { dedupe })
    const request = { dedupe, idempotency: keyOf('late') }
    await store.enqueue([newJob(store, endpoint, request)])
    await store.cancel([first.id])
    await store.deleteJob(first.id)
    const second = await enqueueOne(store, endpoint, { idempotency: keyOf('late', 'hash-2') })
    expect(second.idempotencyKey).toBe('late')
  })

  test('keeps the job for a day more, because it has got a key', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const createdAt = store.clock.now() - MIN_KEY_LIFE_MS - HOUR_MS
    const dedupe = { key: 'k', mode: 'keep' } as const
    const kept = await enqueueOne(store, endpoint, { createdAt, dedupe })
    await store.enqueue([newJob(store, endpoint, { dedupe, idempotency: keyOf('late') })])
    await store.settle([success(store, await claimOne(store, endpoint))])
    const purged = await enqueueOne(store, endpoint, { createdAt })
    await store.cancel([purged.id])
    await sweep(store)
    expect(await store.getJob(purged.id)).toBeNull()
    expect((await jobOf(store, kept.id)).state).toBe('succeeded')
  })

  test('is looked for only after the idempotency key', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const known = await enqueueOne(store, endpoint, { idempotency: keyOf('one') })
    const holder = await enqueueOne(store, endpoint, { dedupe: { key: 'k', mode: 'keep' } })
    const [result] = await store.enqueue([
      newJob(store, endpoint, {
        dedupe: { key: 'k', mode: 'replace' },
        idempotency: keyOf('one'),
        priority: 0,
      }),
    ])
    expect(result).toMatchObject({ kind: 'existing', job: { id: known.id } })
    expect(await jobOf(store, holder.id)).toMatchObject({ priority: 5, version: 1 })
  })
})
