// To a client a large payload or result is the same as a small one, whatever the store does with
// it.
import { describe, expect, test } from 'vitest'
import type { Job, NewJob } from '../../src/job/job.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import {
  addEndpoint,
  claimFrom,
  claimOne,
  enqueueOne,
  jobOf,
  laterAgain,
  newJob,
  success,
  sweep,
} from './fixtures.ts'

const SIZES = [
  ['8 KiB', 8_192],
  ['a byte more', 8_193],
  ['100 KiB', 102_400],
] as const

/** Returns JSON of exactly this size. Each call returns another text. */
function bytesOf(size: number): Buffer {
  fill += 1
  const start = `{"fill":${fill},"text":"é`
  return Buffer.from(`${start}${'x'.repeat(size - Buffer.byteLength(start) - 2)}"}`)
}

let fill = 0

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine, { retentionMs: 0 })

  const expectPayload = async (id: string, payload: Uint8Array) => {
    const { store } = place
    expect(Buffer.compare((await store.getPayload(id)) as Uint8Array, payload)).toBe(0)
    const job = await jobOf(store, id)
    expect(Buffer.compare(job.payload, payload)).toBe(0)
    expect(job.payloadBytes).toBe(payload.byteLength)
    const { payload: _, result: __, resultTruncated: ___, ...others } = job
    expect(await store.getJobWithAttempts(id)).toEqual(others)
  }

  async function queued(size: number, fields: Partial<NewJob> = {}): Promise<Job> {
    const payload = bytesOf(size)
    return enqueueOne(place.store, await addEndpoint(place.store), { payload, ...fields })
  }

  describe.each(SIZES)('a payload of %s', (_, size) => {
    test('is claimed and read byte for byte, attempt after attempt', async () => {
      const { store } = place
      const { id, endpoint, payload } = await queued(size)
      for (let attempt = 1; attempt <= 2; attempt++) {
        const claimed = await claimOne(store, endpoint)
        expect(Buffer.compare(claimed.payload, payload)).toBe(0)
        await store.settle([laterAgain(store, claimed)])
      }
      await expectPayload(id, payload)
      const { items } = await store.listJobs({ endpoint, limit: 1 })
      expect(items[0]?.payloadBytes).toBe(size)
    })

    test('can be edited to any other size', async () => {
      const { store } = place
      const { id, endpoint } = await queued(size)
      for (const [, other] of SIZES) {
        const payload = bytesOf(other)
        const result = await store.edit(id, { payload, priority: 7 }, null)
        if (result.kind !== 'applied') throw new Error(result.kind)
        expect(Buffer.compare(result.job.payload, payload)).toBe(0)
        await expectPayload(id, payload)
      }
      const result = await store.edit(id, { priority: 9 }, null)
      const { payload } = await jobOf(store, id)
      expect(result).toMatchObject({ kind: 'applied', job: { payload } })
      expect(Buffer.compare((await claimOne(store, endpoint)).payload, payload)).toBe(0)
    })

    test('is that of the first request if its key is used again', async () => {
      const { store } = place
      const idempotency = { key: 'key', requestHash: 'hash' }
      const { id, endpoint, payload } = await queued(size, { idempotency })
      const again = newJob(store, endpoint, { payload: bytesOf(size), idempotency })
      expect(await store.enqueue([again])).toMatchObject([{ kind: 'existing', job: { id } }])
      await expectPayload(id, payload)
      expect(await claimFrom(store, endpoint, 2)).toHaveLength(1)
    })

    test('is replaced by a later request with the same dedupe key', async () => {
      const { store } = place
      const dedupe = { key: 'key', mode: 'replace' } as const
      const { id, endpoint } = await queued(size, { dedupe })
      for (const [, other] of SIZES) {
        const payload = bytesOf(other)
        const [result] = await store.enqueue([newJob(store, endpoint, { payload, dedupe })])
        if (result?.kind !== 'existing') throw new Error(result?.kind)
        expect(result.job.id).toBe(id)
        expect(Buffer.compare(result.job.payload, payload)).toBe(0)
        await expectPayload(id, payload)
      }
    })

    test('is kept by a later request with the same dedupe key', async () => {
      const { store } = place
      const dedupe = { key: 'key', mode: 'keep' } as const
      const { endpoint, payload } = await queued(size, { dedupe })
      const idempotency = { key: 'other', requestHash: 'hash' }
      for (const fields of [{}, { idempotency }]) {
        const later = newJob(store, endpoint, { payload: bytesOf(size), dedupe, ...fields })
        const [result] = await store.enqueue([later])
        if (result?.kind !== 'existing') throw new Error(result?.kind)
        expect(Buffer.compare(result.job.payload, payload)).toBe(0)
      }
    })

    test('is gone with its job, deleted or purged', async () => {
      const { store } = place
      for (const end of [
        async (id: string) => expect(await store.deleteJob(id)).toEqual({ kind: 'applied' }),
        async () => void (await sweep(store)),
      ]) {
        const { id, endpoint } = await queued(size)
        await store.settle([success(store, await claimOne(store, endpoint))])
        await end(id)
        expect(await store.getPayload(id)).toBeNull()
        expect(await store.getJob(id)).toBeNull()
      }
    })
  })

  test.each(SIZES)(
    'a result of %s is stored once, even if it is reported again',
    async (_, size) => {
      const { store } = place
      const { id, endpoint } = await queued(100)
      const result = bytesOf(size).toString()
      const end = { ...success(store, await claimOne(store, endpoint)), result }
      expect(await store.settle([end])).toEqual(['applied'])
      expect(await jobOf(store, id)).toMatchObject({ result, resultTruncated: false })
      expect(await store.settle([end])).toEqual(['already_applied'])
      expect(await store.settle([end], { isRepeat: true })).toEqual(['already_applied'])
      expect(await store.settle([{ ...end, fence: end.fence + 1 }])).toEqual(['lease_lost'])
      expect(await jobOf(store, id)).toMatchObject({ result })
    },
  )
})
