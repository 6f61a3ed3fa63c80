// The promises of PATCH and DELETE of a job: only the given fields change, and only before an
// attempt starts. A job is deleted only after its finish effects are complete.
import { describe, expect, test } from 'vitest'
import type { JobChange } from '../../src/job/edit.ts'
import type { Job, NewJob } from '../../src/job/job.ts'
import { newJobId } from '../../src/job/job-id.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import {
  addEndpoint,
  bringTo,
  claimFrom,
  claimOne,
  enqueueAndClaim,
  enqueueOne,
  jobOf,
  laterAgain,
  leaseOf,
  newJob,
} from './fixtures.ts'

const HOUR_MS = 3_600_000

describe.each(ENGINES)('an edit on %s', (engine) => {
  const place = useStore(engine)

  async function queued(fields: Partial<NewJob> = {}): Promise<Job> {
    const full = { tags: ['a'], metadata: { b: 'c' }, headers: { 'x-d': 'e' }, ...fields }
    return enqueueOne(place.store, await addEndpoint(place.store), full)
  }

  async function edited(id: string, change: JobChange): Promise<Job> {
    const result = await place.store.edit(id, change, null)
    if (result.kind !== 'applied') throw new Error(result.kind)
    expect(result.job).toEqual(await jobOf(place.store, id))
    return result.job
  }

  test.each([
    ['priority', { priority: 9 }],
    ['tags', { tags: ['x', 'y'] }],
    ['metadata', { metadata: { x: 'y' } }],
    ['no field', {}],
  ] as [string, JobChange][])('of %s leaves the rest as it is', async (_, change) => {
    const before = await queued()
    const after = await edited(before.id, change)
    expect(after).toEqual({ ...before, payload: after.payload, ...change, version: after.version })
    expect(after.payload).toEqual(new Uint8Array(before.payload))
    expect(after.version).toBe(before.version + 1)
  })

  test('of the payload is sent as it came, as long as nothing was sent', async () => {
    const { store } = place
    const { id, endpoint } = await queued()
    await store.release([leaseOf(await claimOne(store, endpoint))])
    const payload = Buffer.from('{"n":12345678901234567890}')
    const after = await edited(id, { payload })
    expect(after.payloadBytes).toBe(payload.byteLength)
    expect(payload.equals((await store.getPayload(id)) as Uint8Array)).toBe(true)
    const claimed = await claimOne(store, endpoint)
    expect(payload.equals(claimed.payload)).toBe(true)
    await store.settle([laterAgain(store, claimed)])
    const before = await jobOf(store, id)
    const refused = await store.edit(id, { payload: Buffer.from('2'), priority: 1 }, null)
    expect(refused).toEqual({ kind: 'already_sent' })
    expect(await jobOf(store, id)).toEqual(before)
    expect((await edited(id, { priority: 1 })).priority).toBe(1)
  })

  test('of runAt moves the first due time and the expiry along, before the first attempt', async () => {
    const { store } = place
    const now = store.clock.now()
    const { id, endpoint } = await queued({ expiresAt: now + HOUR_MS, runAt: now })
    const runAt = now + 5 * HOUR_MS
    const moved = { runAt, firstRunAt: runAt, expiresAt: now + 6 * HOUR_MS }
    expect(await edited(id, { runAt })).toMatchObject(moved)
    expect(await claimFrom(store, endpoint, 1)).toEqual([])
    const since = store.clock.now() - 1
    await edited(id, { runAt: store.clock.now() })
    expect((await store.due(since)).endpoints).toContain(endpoint)
    expect(await claimFrom(store, endpoint, 1)).toHaveLength(1)
  })

  test('of runAt after an attempt moves only the next one', async () => {
    const { store } = place
    const now = store.clock.now()
    const { id, endpoint } = await queued({ expiresAt: now + HOUR_MS, runAt: now })
    await store.settle([laterAgain(store, await claimOne(store, endpoint))])
    const runAt = now + HOUR_MS / 2
    const kept = { runAt, firstRunAt: now, expiresAt: now + HOUR_MS }
    expect(await edited(id, { runAt })).toMatchObject(kept)
  })

  test('of the expiry counts from the first due time', async () => {
    const { store } = place
    const now = store.clock.now()
    const { id, endpoint } = await queued({ runAt: now + HOUR_MS })
    const runAt = now + 2 * HOUR_MS
    expect(await edited(id, { expiresInMs: 60_000 })).toMatchObject({
      expiresAt: now + HOUR_MS + 60_000,
    })
    const both = await edited(id, { runAt, expiresInMs: 90_000 })
    expect(both).toMatchObject({ firstRunAt: runAt, expiresAt: runAt + 90_000 })
    expect((await edited(id, { expiresInMs: null })).expiresAt).toBeNull()
    await edited(id, { runAt: now })
    await store.settle([laterAgain(store, await claimOne(store, endpoint))])
    expect((await edited(id, { expiresInMs: HOUR_MS })).expiresAt).toBe(now + HOUR_MS)
  })

  test('of a job that is not queued is refused, and says what it is', async () => {
    const { store } = place
    for (const state of ['running', 'succeeded', 'dead', 'cancelled'] as const) {
      const claimed = await enqueueAndClaim(store)
      await bringTo(store, claimed, state)
      const before = await jobOf(store, claimed.jobId)
      const result = await store.edit(claimed.jobId, { priority: 1 }, null)
      expect(result).toEqual({ kind: 'refused', state })
      expect(await jobOf(store, claimed.jobId)).toEqual(before)
    }
    const unknown = newJobId(store.clock.now())
    expect(await store.edit(unknown, { priority: 1 }, null)).toEqual({ kind: 'not_found' })
  })

  test('with a version is made only on that version, without one always', async () => {
    const { store } = place
    const stores = [store, await place.open()]
    const { id, version } = await queued()
    const editAll = (ifVersion: number | null) =>
      Promise.all(
        Array.from({ length: 10 }, (_, i) =>
          (stores[i % 2] as typeof store).edit(id, { priority: i }, ifVersion),
        ),
      )
    const kinds = (await editAll(version)).map(({ kind }) => kind)
    expect(kinds.toSorted()).toEqual(['applied', ...Array(9).fill('stale')])
    expect(await store.edit(id, { priority: 1 }, version)).toEqual({
      kind: 'stale',
      version: version + 1,
    })
    const all = await editAll(null)
    expect(all.every(({ kind }) => kind === 'applied')).toBe(true)
    expect((await jobOf(store, id)).version).toBe(version + 11)
  })

  test('of a job that waits its turn leaves it waiting', async () => {
    const { store } = place
    const head = await queued({ orderingKey: 'k' })
    const { id } = await enqueueOne(store, head.endpoint, { orderingKey: 'k' })
    expect(await edited(id, { priority: 9, runAt: 1 })).toMatchObject({ isBlocked: true })
    const claimed = await claimFrom(store, head.endpoint, 5)
    expect(claimed.map(({ jobId }) => jobId)).toEqual([head.id])
  })

  test('and a claim at once: what is sent is what the response says', async () => {
    const { store } = place
    const other = await place.open()
    for (let round = 0; round < 20; round++) {
      const { id, endpoint } = await queued({ payload: Buffer.from('"old"') })
      const [claimed, { kind }] = await Promise.all([
        claimFrom(store, endpoint, 1),
        other.edit(id, { payload: Buffer.from('"new"') }, null),
      ])
      const late = await claimFrom(store, endpoint, 1)
      const sent = [...claimed, ...late].map(({ payload }) => Buffer.from(payload).toString())
      expect([kind, sent]).toEqual(
        kind === 'applied' ? ['applied', ['"new"']] : ['refused', ['"old"']],
      )
    }
  })
})

describe.each(ENGINES)('the deletion of a job on %s', (engine) => {
  const place = useStore(engine)

  test('takes a final one with all it had, and no other', async () => {
    const { store } = place
    for (const state of ['succeeded', 'dead', 'cancelled'] as const) {
      const claimed = await enqueueAndClaim(store)
      await bringTo(store, claimed, state)
      expect(await store.deleteJob(claimed.jobId)).toEqual({ kind: 'applied' })
      expect(await store.getJob(claimed.jobId)).toBeNull()
      expect(await store.getPayload(claimed.jobId)).toBeNull()
      expect(await store.deleteJob(claimed.jobId)).toEqual({ kind: 'not_found' })
      expect(await store.finalAmong([claimed.jobId])).toEqual([claimed.jobId])
    }
    for (const state of ['queued', 'running'] as const) {
      const claimed = await enqueueAndClaim(store)
      await bringTo(store, claimed, state)
      expect(await store.deleteJob(claimed.jobId)).toEqual({ kind: 'refused', state })
      expect((await jobOf(store, claimed.jobId)).state).toBe(state)
    }
  })

  test('at another version than the one that is named changes nothing', async () => {
    const { store } = place
    const claimed = await enqueueAndClaim(store)
    await bringTo(store, claimed, 'succeeded')
    const { version } = await jobOf(store, claimed.jobId)
    expect(await store.deleteJob(claimed.jobId, version - 1)).toEqual({ kind: 'stale', version })
    expect((await jobOf(store, claimed.jobId)).version).toBe(version)
    expect(await store.deleteJob(claimed.jobId, version)).toEqual({ kind: 'applied' })
    expect(await store.deleteJob(claimed.jobId, version)).toEqual({ kind: 'not_found' })
  })

  test('lets its keys be used again', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const fields = {
      idempotency: { key: 'k', requestHash: 'h' },
      dedupe: { key: 'd', mode: 'keep' },
      originKey: 'o',
      orderingKey: 'line',
    } as const
    const { id } = await enqueueOne(store, endpoint, fields)
    await store.cancel([id])
    await store.deleteJob(id)
    const [again] = await store.enqueue([newJob(store, endpoint, fields)])
    expect(again).toMatchObject({ kind: 'inserted', job: { isBlocked: false } })
    expect(await claimFrom(store, endpoint, 1)).toHaveLength(1)
  })
})
