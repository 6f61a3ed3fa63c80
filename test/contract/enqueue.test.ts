// The promises of enqueue: durable jobs, one job for each idempotency key, unchanged payloads.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { NewJob } from '../../src/job/job.ts'
import { DEFAULT_RETRY } from '../../src/job/retry-policy.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import {
  addEndpoint,
  bringTo,
  claimFrom,
  claimOne,
  enqueueOne,
  freshName,
  jobOf,
  newJob,
} from './fixtures.ts'

const KEY = { key: 'order-7', requestHash: 'hash-1' }

/** Parts of the messages of MongoDB and SQLite about a unique index. The messages quote the key. */
const MESSAGE_PARTS = [
  'index: _id_',
  'index: _id_ dup key: { _id: "job_01" }',
  'E11000 duplicate key error collection: posthorn.posthorn_jobs index: ',
  ' dup key: { : "',
  '" }',
  'keyPattern: { _id: 1 }',
  'index: idempotency',
  'index: dedupe ',
  'UNIQUE constraint failed: jobs.id',
  'SQLITE_CONSTRAINT_PRIMARYKEY',
  'database is locked',
]

const MEBIBYTE = 1024 * 1024

/** JSON texts that a parser, a driver or a text encoding would change. */
const PAYLOADS: Record<string, string | Buffer> = {
  'numbers that no double holds': '{"id":12345678901234567890,"x":1.10,"y":1e400,"z":-0}',
  'keys out of order and twice': '{"b":1,"a":2,"b":3,"__proto__":{"x":1}}',
  'white space': ' \r\n\t{ "a" :\t1 } \n',
  'NUL escapes': '{"a\\u0000b":"\\u0000"}',
  'lone surrogate escapes': '{"high":"\\ud800","low":"\\udfff"}',
  'operators and dots': '{"$where":"1","a.b":{"$gt":""},"_bsontype":"ObjectId"}',
  'other alphabets': '{"नाम":"चालान","emoji":"📯"}',
  'bytes that are not UTF-8': Buffer.from([0x22, 0x00, 0xff, 0xfe, 0x80, 0x22]),
  'one mebibyte': Buffer.from(JSON.stringify('x'.repeat(MEBIBYTE - 2))),
  'one digit': '0',
}

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  test.each(['succeeded', 'dead', 'cancelled'] as const)(
    'a key finds its job also when that is %s, and starts nothing',
    async (state) => {
      const { store } = place
      const endpoint = await addEndpoint(store)
      const { id } = await enqueueOne(store, endpoint, { idempotency: KEY })
      await bringTo(store, await claimOne(store, endpoint), state)
      const [repeat] = await store.enqueue([newJob(store, endpoint, { idempotency: KEY })])
      expect(repeat).toMatchObject({ kind: 'existing', job: { id, state } })
      expect(await claimFrom(store, endpoint, 1)).toEqual([])
    },
  )

  test.each(Object.entries(PAYLOADS))('a payload of %s stays byte for byte', async (_, given) => {
    const { store } = place
    const payload = Buffer.from(given)
    const endpoint = await addEndpoint(store)
    const { id } = await enqueueOne(store, endpoint, { payload })

    const job = await jobOf(store, id)
    expect(payload.equals(job.payload)).toBe(true)
    expect(job.payloadBytes).toBe(payload.byteLength)
    expect(payload.equals((await store.getPayload(id)) as Uint8Array)).toBe(true)
    const [claimed] = await claimFrom(store, endpoint, 1)
    expect(payload.equals(claimed?.payload as Uint8Array)).toBe(true)
  })

  test('a job is read back as enqueue returned it', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const now = store.clock.now()
    const answered = await enqueueOne(store, endpoint, {
      runAt: now + 60_000,
      expiresAt: now + 90_000,
      priority: 9,
      maxAttempts: 3,
      timeoutMs: 1_500,
      retry: { maxAttempts: 3, backoff: { type: 'schedule', delaysMs: [1, 2], jitter: 0.5 } },
      tags: ['a', 'ü'],
      metadata: { customer: '7', note: '"quoted"\n' },
      headers: { 'x-tenant': 'blue' },
      idempotency: KEY,
    })
    const read = await jobOf(store, answered.id)
    expect({ ...read, payload: Buffer.from(read.payload) }).toEqual(answered)
    expect(read).toMatchObject({ state: 'queued', attemptsLeft: 3, maxAttempts: 3, fence: 0 })
  })

  test('a job without a budget of its own takes the one its endpoint has at that moment', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store, { retry: { ...DEFAULT_RETRY, maxAttempts: 4 } })
    const job = await enqueueOne(store, endpoint)
    expect(job).toMatchObject({ maxAttempts: 4, attemptsLeft: 4 })
  })

  test('each job of a batch gets its own result', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const known = await enqueueOne(store, endpoint, { idempotency: KEY })
    const results = await store.enqueue([
      newJob(store, endpoint),
      newJob(store, freshName()),
      newJob(store, endpoint, { idempotency: KEY }),
      newJob(store, endpoint, { idempotency: { ...KEY, requestHash: 'hash-2' } }),
      newJob(store, endpoint, { idempotency: { key: 'new', requestHash: 'a' } }),
      newJob(store, endpoint, { idempotency: { key: 'new', requestHash: 'a' } }),
    ])
    expect(results.map(({ kind }) => kind)).toEqual([
      'inserted',
      'unknown_endpoint',
      'existing',
      'key_reused',
      'inserted',
      'existing',
    ])
    expect(results[2]).toMatchObject({ job: { id: known.id, idempotencyKey: KEY.key } })
    expect(results[3]).toEqual({ kind: 'key_reused', jobId: known.id })
    const [fresh, repeated] = [results[4], results[5]]
    expect(fresh?.kind === 'inserted' && repeated?.kind === 'existing').toBe(true)
    expect(repeated).toMatchObject({ job: { id: (fresh as { job: { id: string } }).job.id } })
  })

  test('a key may hold any text that a database says of a key that is taken', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const anyKey = fc
      .array(fc.oneof(fc.constantFrom(...MESSAGE_PARTS), fc.string({ maxLength: 12 })), {
        minLength: 1,
        maxLength: 6,
      })
      .map((parts) => parts.join(''))
      .filter((text) => text.length > 0 && text.length <= 256)
    await fc.assert(
      fc.asyncProperty(anyKey, fc.nat(), async (text, nonce) => {
        const key = `${text}${nonce}`
        const reject = { dedupe: { key: `${key}r`, mode: 'reject' as const } }
        const pairs: Partial<NewJob>[] = [
          { dedupe: { key, mode: 'keep' } },
          reject,
          { idempotency: { key, requestHash: 'same' } },
          { originKey: `outbox:["shop","outbox","${key}"]` },
        ]
        const jobs = pairs.flatMap((fields) => [
          newJob(store, endpoint, fields),
          newJob(store, endpoint, fields),
        ])
        const results = await store.enqueue(jobs)
        expect(results.map(({ kind }) => kind)).toEqual([
          ...['inserted', 'existing', 'inserted', 'dedupe_conflict'],
          ...['inserted', 'existing', 'inserted', 'existing'],
        ])
        for (const result of results) {
          const id = 'job' in result ? result.job.id : (result as { jobId: string }).jobId
          expect(await store.getJob(id)).not.toBeNull()
        }
        const again = { idempotency: { key, requestHash: 'another' } }
        expect(await store.enqueue([newJob(store, endpoint, again)])).toMatchObject([
          { kind: 'key_reused' },
        ])
      }),
      { numRuns: 25 },
    )
  })

  test('a job that is stored already is returned as it is, whatever keys it has now', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const dedupe = { key: 'index: _id_ dup key', mode: 'keep' as const }
    const job = newJob(store, endpoint, { dedupe })
    expect(await store.enqueue([job])).toMatchObject([{ kind: 'inserted' }])
    // The dedupe key is free again. Only the id shows that this is the same job.
    await store.cancel([job.id])
    expect(await store.enqueue([job])).toMatchObject([{ kind: 'inserted', job: { id: job.id } }])
    expect(await jobOf(store, job.id)).toMatchObject({ state: 'cancelled' })
  })

  test('a job that brings the id of another one is refused, and the other one stays', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const { id } = await enqueueOne(store, endpoint, { tags: ['first'] })
    const late = { id, originKey: 'outbox:["shop","outbox","1"]', tags: ['second'] }
    const results = await store.enqueue([newJob(store, endpoint, late), newJob(store, endpoint)])
    expect(results).toMatchObject([{ kind: 'id_taken', jobId: id }, { kind: 'inserted' }])
    expect(await jobOf(store, id)).toMatchObject({ tags: ['first'] })
  })

  test('an idempotency key belongs to its endpoint', async () => {
    const { store } = place
    const first = await enqueueOne(store, await addEndpoint(store), { idempotency: KEY })
    const second = await enqueueOne(store, await addEndpoint(store), { idempotency: KEY })
    expect(second.id).not.toBe(first.id)
  })

  test('one key enqueued fifty times at once makes one job, and all learn its id', async () => {
    const endpoint = await addEndpoint(place.store)
    const others = await Promise.all([place.open(), place.open()])
    const stores = [place.store, ...others]
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, i) => {
        const store = stores[i % stores.length] as typeof place.store
        return store.enqueue([newJob(store, endpoint, { idempotency: KEY })])
      }),
    )
    const results = answers.flat()
    expect(results.filter(({ kind }) => kind === 'inserted')).toHaveLength(1)
    expect(results.filter(({ kind }) => kind === 'existing')).toHaveLength(49)
    const ids = new Set(results.map((result) => 'job' in result && result.job.id))
    expect(ids.size).toBe(1)
    expect(await place.store.countJobs([endpoint])).toEqual([
      { queued: 1, running: 0, more: false },
    ])
  })

  test('an empty batch returns nothing', async () => {
    expect(await place.store.enqueue([])).toEqual([])
  })

  test('a full batch is stored in order of its jobs', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const jobs = Array.from({ length: 1_000 }, () => newJob(store, endpoint))
    const results = await store.enqueue(jobs)
    expect(results.map((result) => 'job' in result && result.job.id)).toEqual(
      jobs.map(({ id }) => id),
    )
    expect(await store.countJobs([endpoint])).toEqual([{ queued: 1_000, running: 0, more: false }])
  })
})
