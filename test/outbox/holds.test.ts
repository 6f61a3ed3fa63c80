// Several relays share an outbox: no relay takes a document that another one holds, before the hold
// ends.
import { randomBytes } from 'node:crypto'
import { type Collection, type Document, MongoClient } from 'mongodb'
import { afterAll, beforeAll, describe, expect, inject, it, vi } from 'vitest'
import { openMongoStore } from '../../src/store/mongo/store.ts'
import { OUTBOX_HOLD_MS, type Outbox } from '../../src/store/outbox.ts'
import { StoreUnavailable } from '../../src/store/store-errors.ts'
import { addEndpoint, enqueueOne } from '../contract/fixtures.ts'
import { type Rewrite, startRewritingProxy } from '../support/rewriting-proxy.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import { SLOW_MS } from './fixture.ts'

const isStandIn = inject('mongoEngine') === 'secantusd-rs'

vi.setConfig({ testTimeout: 2 * SLOW_MS })

describe('the documents of an outbox', () => {
  const name = { database: `shop-${randomBytes(6).toString('hex')}`, collection: 'outbox' }
  const place = useStore('mongo', { outbox: name })
  let client: MongoClient
  let waiting: Collection
  let first: Outbox
  let second: Outbox
  beforeAll(async () => {
    client = await new MongoClient(inject('mongoUrl')).connect()
    waiting = client.db(name.database).collection(name.collection)
    first = place.store.outbox as Outbox
    second = (await place.open()).outbox as Outbox
  })
  afterAll(async () => {
    await client.db(name.database).dropDatabase()
    await client.close()
  })

  it('are taken by one mover at a time, all of them', async () => {
    await waiting.insertMany(Array.from({ length: 60 }, (_, n) => ({ payload: n })))
    const shares = await Promise.all([first.take(40), second.take(40), first.take(40)])
    const rest = [...(await second.take(100))]
    const keys = [...shares.flat(), ...rest].map(({ originKey }) => originKey)
    expect(new Set(keys).size).toBe(60)
    expect(keys).toHaveLength(60)
    expect(await first.take(100)).toEqual([])
  })

  it('are taken by another when their mover died', async () => {
    const longAgo = new Date(Date.now() - OUTBOX_HOLD_MS - 60_000)
    await waiting.updateMany({ payload: { $lt: 5 } }, { $set: { 'posthornMove.at': longAgo } })
    const again = await second.take(100)
    expect(again).toHaveLength(5)
    expect(await second.remove(again)).toBe(5)
    expect(await second.remove(again)).toBe(0)
  })

  it('are removed by their holder alone: what is there since may be another document', async () => {
    await waiting.insertOne({ _id: 'slow' as never, payload: 1 })
    const slow = await first.take(100)
    const longAgo = new Date(Date.now() - OUTBOX_HOLD_MS - 60_000)
    await waiting.updateOne({ _id: 'slow' as never }, { $set: { 'posthornMove.at': longAgo } })
    const next = await second.take(100)
    expect([slow, next].map((some) => some.map(({ originKey }) => originKey))).toEqual([
      [slow[0]?.originKey],
      [slow[0]?.originKey],
    ])
    expect(await second.remove(next)).toBe(1)
    await waiting.insertOne({ _id: 'slow' as never, payload: 2 })
    expect(await first.remove(slow)).toBe(0)
    expect(await first.setAside([{ document: slow[0] as never, reason: 'r', message: 'm' }])).toBe(
      0,
    )
    expect(await waiting.deleteOne({ _id: 'slow' as never, payload: 2 })).toMatchObject({
      deletedCount: 1,
    })
  })

  it('stay when a job of another document with the same _id ends', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const moved = async (payload: number) => {
      await waiting.insertOne({ _id: `order-${payload}` as never, endpoint, payload })
      const [taken] = await first.take(100)
      if (taken?.request.kind !== 'body') throw new Error('a document that was not taken')
      const made = { originKey: taken.originKey, originHash: taken.request.hash }
      return (await enqueueOne(store, endpoint, made)).id
    }
    const same = await moved(1)
    const other = await moved(2)
    await waiting.updateOne({ _id: 'order-2' as never }, { $set: { payload: 3 } })
    await store.cancel([same, other])
    const left = await waiting.find({ endpoint }).toArray()
    expect(left.map(({ _id, payload }) => [_id, payload])).toEqual([['order-2', 3]])
    await waiting.deleteMany({ endpoint })
  })

  it('that are as large as MongoDB lets them be are set aside whole, and stop nothing', async () => {
    const fields = { endpoint: 'work', payload: '' }
    const overhead = 16 * 1_048_576 - 100
    await waiting.insertOne({ ...fields, payload: 'x'.repeat(overhead) })
    await waiting.insertOne({ ...fields, payload: 'small' })
    const taken = await first.take(100)
    const [large, ...others] = taken
    expect(large?.request).toEqual({ kind: 'unreadable', message: 'the document is too large' })
    expect(others.map(({ request }) => request.kind)).toEqual(['body'])
    const refused = taken.slice(0, 1).map((document) => ({ document, reason: 'r', message: 'm' }))
    // On a slow disk so large a write may take longer than a relay waits. The relay then tries
    // again.
    const setAside = () => first.setAside(refused).catch(() => 0)
    await until(async () => (await setAside()) === 1, SLOW_MS)
    const rejected = client.db(name.database).collection(`${name.collection}_rejected`)
    expect((await rejected.findOne())?.payload).toHaveLength(overhead)
    expect((await first.stats()).setAside).toBe(1)
  })

  describe('that cannot be set aside', () => {
    const refused = async () => {
      const taken = await first.take(100)
      return taken.map((document) => ({ document, reason: 'r', message: 'm' }))
    }
    const warned = () => place.warnings.filter(({ message }) => message === 'outbox.not_set_aside')
    const idsOf = async (collection: Collection) =>
      (await collection.find().sort({ _id: 1 }).toArray()).map(({ _id }) => _id)

    const rules: [string, Document][] = [
      ['a rule for documents', { collMod: 'outbox_rejected', validator: { a: { $ne: 7 } } }],
      [
        'a unique index',
        { createIndexes: 'outbox_rejected', indexes: [{ name: 'a', key: { a: 1 }, unique: true }] },
      ],
      [
        'an index of points',
        { createIndexes: 'outbox_rejected', indexes: [{ name: 'at', key: { at: '2dsphere' } }] },
      ],
    ]
    // The stand-in has no geospatial index.
    const known = isStandIn ? rules.slice(0, 2) : rules
    it.each(known)('because of %s stay, with a warning, and stop no others', async (_, command) => {
      const db = client.db(name.database)
      const rejected = db.collection(`${name.collection}_rejected`)
      await waiting.deleteMany({})
      await rejected.drop()
      await db.createCollection(rejected.collectionName)
      await rejected.insertOne({ _id: 'earlier' as never, a: 7 })
      await db.command(command)
      const before = warned().length
      const ids = ['one', 'three', 'two']
      const documents = ids.map((_id) => ({ _id: _id as never, a: _id, at: [1, 2] as unknown }))
      await waiting.insertMany(documents)
      await waiting.updateOne({ _id: 'two' as never }, { $set: { a: 7, at: 'nowhere' } })
      expect(await first.setAside(await refused())).toBe(2)
      expect(await idsOf(waiting)).toEqual(['two'])
      expect(await idsOf(rejected)).toEqual(['earlier', 'one', 'three'])
      expect(warned().length - before).toBe(1)
    })

    it('because the primary changed stay held, and are set aside by a repetition', async () => {
      await waiting.deleteMany({})
      await client.db(name.database).dropCollection(`${name.collection}_rejected`)
      const state = { code: 10_107, codeName: 'NotWritablePrimary', errmsg: 'not primary' }
      const rewrites: Record<string, Rewrite> = { aggregate: () => ({ ok: 0, ...state }) }
      const proxy = await startRewritingProxy(inject('mongoUrl'), rewrites)
      const url = proxy.url(new URL(place.url).pathname.slice(1))
      const warnings: string[] = []
      const store = await openMongoStore(url, {
        ...{ retentionMs: 60_000, retentionDeadMs: 60_000, encryptionKeys: [place.encryptionKey] },
        ...{ outbox: name, warn: (_: unknown, message: string) => void warnings.push(message) },
      })
      try {
        await waiting.insertMany([{ payload: 1 }, { payload: 2 }])
        const documents = await refused()
        const behind = store.outbox as Outbox
        await expect(behind.setAside(documents)).rejects.toThrow(StoreUnavailable)
        expect(await waiting.countDocuments()).toBe(2)
        delete rewrites.aggregate
        expect(await behind.setAside(documents)).toBe(2)
        expect(await waiting.countDocuments()).toBe(0)
        expect(warnings).toEqual([])
      } finally {
        await store.close()
        await proxy.stop()
      }
    })
  })
})
