// The `_id` of a document proves nothing about its content: every inserted document becomes a job
// or is set aside, and no stored job is lost because of it.
import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import {
  BSON,
  BSONRegExp,
  BSONSymbol,
  Code,
  Decimal128,
  type Document,
  Double,
  Int32,
  Long,
  MaxKey,
  MinKey,
  ObjectId,
  Timestamp,
  UUID,
} from 'mongodb'
import { expect, it, vi } from 'vitest'
import { outboxDocument } from '../../src/client/client.ts'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { until } from '../support/until.ts'
import { SLOW_MS, useOutbox } from './fixture.ts'

vi.setConfig({ testTimeout: 2 * SLOW_MS })

const fixture = useOutbox()
const rejected = () => fixture.shop.collection<Document>('posthorn_outbox_rejected')
const jobs = () => fixture.store.collection<Document>(COLLECTIONS.jobs)

/** Everything in a collection, byte for byte. */
async function bytesOf(collection: { find: typeof fixture.outbox.find }): Promise<string[]> {
  const raw = await collection.find({}, { raw: true, sort: { _id: 1 } }).toArray()
  return raw.map((one) => Buffer.from(one as unknown as Uint8Array).toString('hex'))
}

const VALUES = fc.oneof(
  fc.constantFrom<unknown>(
    ...[new Timestamp({ t: 1, i: 2 }), new BSONRegExp('(?i)posthorn', 'x'), /a/g],
    ...[new MinKey(), new MaxKey(), new Code('x'), new Code('x', { a: 1 }), new BSONSymbol('s')],
    ...[Long.MAX_VALUE, new Int32(-1), new Double(Number.NaN), Decimal128.fromString('NaN')],
    ...[new ObjectId(), new UUID(), new Date(8.64e15), Buffer.from('x'), null, true, '', 0.1],
    { $ref: 'orders', $id: 1 },
  ),
  fc.jsonValue({ maxDepth: 2 }),
)
const FIELDS = fc.dictionary(
  fc.constantFrom('payload', 'payloadJson', 'priority', 'delay', 'a.b', '$set', 'posthornError'),
  VALUES,
  { maxKeys: 3 },
)
const IDS = fc.oneof(
  fc.constantFrom('', '$where', 'a.b', 'posthorn_jobs', '__proto__', 0, -1, true, null),
  fc.string({ unit: 'grapheme', maxLength: 40 }).filter((text) => !text.includes('\0')),
  fc.integer(),
  fc.constant(null).map(() => new ObjectId()),
  fc.constant(null).map(() => new UUID()),
  fc.constant(null).map(() => new Date(Math.floor(Math.random() * 1e12))),
  fc.constant(null).map(() => outboxDocument({ endpoint: 'work', payload: 1 })._id),
  fc.constant(null).map(() => ({ order: Long.fromNumber(Math.random() * 1e15), x: 'a'.repeat(9) })),
  fc.constant(null).map(() => 'x'.repeat(1_100) + randomBytes(4).toString('hex')),
)

it('whatever the ids and fields of documents, each becomes one job or is set aside as it is', async () => {
  const { posthorn, shop, store, outbox, untilMoved } = fixture
  await shop.collection('orders').insertMany([{ order: 1 }, { order: 2 }])
  const taken = await posthorn.request('POST', '/jobs', {
    ...{ endpoint: 'work', payload: 'first', delay: '1h' },
  })
  const stays = ['endpoints', 'schedules', 'keys'] as const
  const untouched = () =>
    Promise.all([
      bytesOf(shop.collection('orders')),
      ...stays.map((name) => bytesOf(store.collection(COLLECTIONS[name]))),
    ])
  const before = await untouched()
  const drawn = fc.sample(fc.tuple(IDS, FIELDS), 150)
  const byId = new Map(drawn.map(([id, fields]) => [JSON.stringify([id]), { id, fields }]))
  byId.set('api', { id: taken.body.id, fields: { payload: 'second' } })
  const documents = [...byId.values()].map(({ id, fields }, n) => ({
    ...{ _id: id, endpoint: 'work', runAt: new Date(Date.now() + 86_400_000) },
    ...{ tags: [`n-${n}`], ...(n % 3 === 0 ? { payload: n } : {}), ...fields },
  }))
  await outbox.insertMany(documents)
  await posthorn.startWorker()
  await untilMoved()
  for (const [n, { _id }] of documents.entries()) {
    const tags = [`n-${n}`]
    const aside = await rejected().find({ tags }, { bsonRegExp: true }).toArray()
    const jobCount = await jobs().countDocuments({ tags })
    expect([n, jobCount + aside.length]).toEqual([n, 1])
    if (aside.length === 0) continue
    expect(aside[0]?.posthornError.reason).toEqual(expect.any(String))
    if ('posthornError' in (documents[n] as object)) continue
    const projection = { posthornError: 0 }
    const [left] = await rejected().find({ tags }, { raw: true, projection }).toArray()
    const inserted = BSON.serialize(documents[n] as object)
    expect([_id, Buffer.compare(left as never, inserted)]).toEqual([_id, 0])
  }
  expect(await untouched()).toEqual(before)
  const first = await posthorn.request('GET', `/jobs/${taken.body.id}/payload`)
  expect(first.body).toBe('first')
})

it('a document with the _id of an earlier one and other content is set aside, and so is a third', async () => {
  const { outbox, jobCount, untilMoved } = fixture
  const before = await jobCount()
  const insert = async (payload: string, more: object = {}) => {
    await outbox.insertOne({ _id: 'order-7', endpoint: 'work', payload, delay: '1h', ...more })
    await untilMoved()
  }
  await insert('a')
  await insert('a')
  expect(await jobCount()).toBe(before + 1)
  await insert('b')
  await insert('b')
  await insert('c', { posthornError: { reason: 'of an earlier try' } })
  expect(await jobCount()).toBe(before + 1)
  const found = await rejected()
    .find({ payload: { $in: ['a', 'b', 'c'] } })
    .toArray()
  expect(found.map(({ _id, payload }) => [_id, payload])).toEqual([
    ['order-7', 'b'],
    [{ id: 'order-7', sha256: expect.stringMatching(/^[0-9a-f]{64}$/) }, 'c'],
  ])
  for (const { posthornError } of found) {
    expect(posthornError.reason).toBe('invalid_request')
    expect(posthornError.message).toMatch(/^_id: job job_.* was not made from this document; give/)
  }
})

it('a document with the id of a job and another endpoint is set aside', async () => {
  const { posthorn, receiver, outbox, jobCount, untilMoved } = fixture
  await posthorn.endpoint('other', receiver.url)
  const document = outboxDocument({ endpoint: 'work', payload: 1, delay: '1h' })
  await outbox.insertOne({ ...document })
  await until(async () => (await outbox.countDocuments()) === 0, SLOW_MS)
  const before = await jobCount()
  await outbox.insertOne({ ...document, endpoint: 'other' })
  await untilMoved()
  expect(await jobCount()).toBe(before)
  expect(await rejected().findOne({ _id: document._id as never })).toMatchObject({
    endpoint: 'other',
    posthornError: { message: expect.stringContaining('was not made from this document') },
  })
})
