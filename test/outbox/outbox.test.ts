// Enqueues within a transaction of the application. If it aborts there is no job, if it commits
// there is exactly one, and the delivered payload is the inserted one.
import { Binary, Decimal128, Double, Int32, Long, ObjectId, UUID } from 'mongodb'
import { describe, expect, it, vi } from 'vitest'
import { outboxDocument } from '../../src/client/client.ts'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { SLOW_MS, useOutbox } from './fixture.ts'

vi.setConfig({ testTimeout: 2 * SLOW_MS })

describe('a job that is inserted into the outbox', () => {
  const fixture = useOutbox()

  it('comes to be when the transaction commits, and never when it aborts', async () => {
    const { posthorn, client, shop, outbox, receiver } = fixture
    await posthorn.startWorker()
    const order = async (isKept: boolean) => {
      const document = outboxDocument({ endpoint: 'work', payload: { kept: isKept } })
      const session = client.startSession()
      session.startTransaction()
      await shop.collection('orders').insertOne({ isKept }, { session })
      await outbox.insertOne({ ...document }, { session })
      await (isKept ? session.commitTransaction() : session.abortTransaction())
      await session.endSession()
      return document._id
    }
    const dropped = await order(false)
    const kept = await order(true)
    expect(await fixture.job(kept, 'succeeded')).toMatchObject({ payload: { kept: true } })
    expect((await posthorn.request('GET', `/jobs/${dropped}`)).status).toBe(404)
    expect(receiver.requests.map(({ body }) => String(body))).toEqual(['{"kept":true}'])
    await fixture.untilMoved()
  })

  it('is delivered with each BSON type in its JSON form', async () => {
    const { outbox, receiver } = fixture
    const before = receiver.requests.length
    const id = new ObjectId()
    const uuid = new UUID()
    await outbox.insertOne({
      _id: { tenant: 7, order: id },
      endpoint: 'work',
      payload: {
        'a.b': { $set: null },
        at: new Date('2026-11-24T08:30:00.000Z'),
        id,
        uuid,
        big: Long.fromString('9007199254740993'),
        int: new Int32(7),
        half: new Double(0.5),
        price: Decimal128.fromString('12.50'),
        bytes: new Binary(Buffer.from('hello')),
        list: ['ü', true],
      },
    })
    await receiver.waitFor((requests) => requests.length > before, SLOW_MS)
    expect(String(receiver.requests.at(-1)?.body)).toBe(
      `{"a.b":{"$set":null},"at":"2026-11-24T08:30:00.000Z","id":"${id.toHexString()}",` +
        `"uuid":"${uuid.toString()}","big":9007199254740993,"int":7,"half":0.5,` +
        '"price":"12.50","bytes":"aGVsbG8=","list":["ü",true]}',
    )
  })

  it('has the options of its document, and the exact bytes of payloadJson', async () => {
    const { posthorn, outbox } = fixture
    const runAt = new Date(Date.now() + 3_600_000)
    const document = outboxDocument({
      endpoint: 'work',
      rawPayload: '{"n": 1.0}',
      ...{ runAt: runAt.toISOString(), priority: 9, tags: ['a'], metadata: { order: '7' } },
      ...{ expiresIn: '1d', timeout: '5s', retry: { maxAttempts: 2 } },
      ...{ fairnessKey: 'tenant-7', cost: 4 },
    })
    // Drivers of other languages may write instants as dates.
    await outbox.insertOne({ ...document, runAt })
    const job = await fixture.job(document._id, 'queued')
    expect(job).toMatchObject({
      ...{ runAt: runAt.toISOString(), priority: 9, tags: ['a'], metadata: { order: '7' } },
      ...{ timeout: '5s', maxAttempts: 2, fairnessKey: 'tenant-7', cost: 4 },
      expiresAt: new Date(runAt.getTime() + 86_400_000).toISOString(),
    })
    const bytes = await fetch(`${posthorn.url()}/jobs/${document._id}/payload`)
    expect(await bytes.text()).toBe('{"n": 1.0}')
  })

  it('gets the result of a job that it needs', async () => {
    const { posthorn, outbox, receiver } = fixture
    receiver.answerWith({ body: '{"irn":12345678901234567890}' })
    const first = outboxDocument({ endpoint: 'work', payload: 1 })
    await outbox.insertOne(first)
    await fixture.job(first._id, 'succeeded')
    const needs = { irn: `${first._id}/result/irn` }
    const second = outboxDocument({ endpoint: 'work', payload: 2, needs })
    await outbox.insertOne(second)
    await fixture.job(second._id, 'succeeded')
    const request = receiver.requests.find(({ headers }) => headers['webhook-id'] === second._id)
    expect(request?.body.toString()).toBe('{"payload":2,"inputs":{"irn":12345678901234567890}}')
    receiver.answerWith(200)
    expect((await posthorn.request('GET', `/jobs/${second._id}/inputs`)).status).toBe(200)
  })

  it('keeps to its ordering key', async () => {
    const { outbox, receiver } = fixture
    const before = receiver.requests.length
    let running = 0
    let most = 0
    receiver.answerWith(async () => {
      most = Math.max(most, ++running)
      await new Promise((resolve) => setImmediate(resolve))
      running--
      return 200
    })
    const ordered = { endpoint: 'work', orderingKey: 'order-7' }
    await outbox.insertMany(Array.from({ length: 5 }, (_, payload) => ({ ...ordered, payload })))
    await receiver.waitFor(({ length }) => length === before + 5, SLOW_MS)
    expect(most).toBe(1)
  })

  it('is one, however often the document is inserted again', async () => {
    const { outbox, receiver, jobCount } = fixture
    const plain = { endpoint: 'work', payload: 'again' }
    const countBefore = await jobCount()
    const requestsBefore = receiver.requests.length
    for (let round = 0; round < 3; round++) {
      await outbox.insertMany([
        { _id: 'order-1', ...plain },
        { _id: 'job_01m86pd23fhfphdmym4dppx63p', ...plain },
      ])
      await fixture.untilMoved()
    }
    await receiver.waitFor((requests) => requests.length >= requestsBefore + 2, SLOW_MS)
    expect(await jobCount()).toBe(countBefore + 2)
    expect(receiver.requests.length).toBe(requestsBefore + 2)
  })
})

describe('a job whose document is still there', () => {
  const fixture = useOutbox()

  it('is not deleted before its document, so that it is never made twice', async () => {
    const { posthorn, outbox, store, receiver, jobCount } = fixture
    const worker = await posthorn.startWorker()
    const document = outboxDocument({ endpoint: 'work', payload: 1 })
    await outbox.insertOne({ ...document })
    await fixture.job(document._id, 'succeeded')
    await fixture.untilMoved()
    await worker.stop('SIGKILL')
    // A worker that was killed between its two writes leaves this state, if the job has continued
    // meanwhile.
    await outbox.insertOne({ ...document })
    await store
      .collection(COLLECTIONS.jobs)
      .updateOne({ _id: document._id as never }, { $set: { effectsPending: true } })
    expect((await posthorn.request('DELETE', `/jobs/${document._id}`)).status).toBe(204)
    expect(await outbox.countDocuments()).toBe(0)
    await posthorn.startWorker()
    const next = outboxDocument({ endpoint: 'work', payload: 2 })
    await outbox.insertOne({ ...next })
    await fixture.job(next._id, 'succeeded')
    expect(await jobCount()).toBe(1)
    expect(receiver.requests.map(({ body }) => String(body))).toEqual(['1', '2'])
  })
})

describe('a document while no worker lives', () => {
  const fixture = useOutbox()

  it('is made a job by the API, which delivers nothing', async () => {
    const { outbox, receiver } = fixture
    const document = outboxDocument({ endpoint: 'work', payload: 1 })
    await outbox.insertOne({ ...document })
    await fixture.job(document._id, 'queued')
    await fixture.untilMoved()
    expect(receiver.requests).toEqual([])
  })
})
