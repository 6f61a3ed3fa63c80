// A relay is cut off right after one of its writes, and killed. Whichever write it was, the
// document becomes exactly one job, or is set aside once.
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { outboxDocument } from '../../src/client/client.ts'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { type MongoProxy, startMongoProxy } from '../support/mongo-proxy.ts'
import { until } from '../support/until.ts'
import { SLOW_MS, useOutbox } from './fixture.ts'

vi.setConfig({ testTimeout: 2 * SLOW_MS })

const fixture = useOutbox()
let proxy: MongoProxy

beforeEach(async () => {
  proxy = await startMongoProxy(fixture.posthorn.env.STORE_URL as string)
})
afterEach(() => proxy.stop())

/** Inserts the document. The write of the relay that contains this text is its last one. */
async function dieAfter(text: string, document: object): Promise<void> {
  const { posthorn, outbox } = fixture
  const worker = await posthorn.startWorker({ STORE_URL: proxy.url })
  await fixture.untilApiRests()
  proxy.cutAfter(text)
  await outbox.insertOne(document)
  await until(() => proxy.lostAnswers() === 1, SLOW_MS)
  await worker.stop('SIGKILL')
}

/** Starts another relay, which need not wait for the end of the dead relay's hold. */
async function goOn() {
  const { posthorn, outbox } = fixture
  const longAgo = new Date(Date.now() - 3_600_000)
  await outbox.updateMany({}, { $set: { 'posthornMove.at': longAgo } })
  return posthorn.startWorker()
}

it.each([
  ['it has taken the document', '\x03posthornMove\0', { jobs: 0, documents: 1 }],
  ['it has stored the job', 'outbox:[', { jobs: 1, documents: 1 }],
  ['it has removed the document', 'deletes', { jobs: 1, documents: 0 }],
])('a mover that dies once %s leaves exactly one job', async (moment, text, left) => {
  const { outbox, store, receiver } = fixture
  const before = { jobs: await fixture.jobCount(), requests: receiver.requests.length }
  // The `_id` is no job id, so only the origin key shows that the document was moved before.
  const payload = moment
  await dieAfter(text, { endpoint: 'work', payload })
  const jobsLeft = (await fixture.jobCount()) - before.jobs
  expect({ jobs: jobsLeft, documents: await outbox.countDocuments() }).toEqual(left)
  const worker = await goOn()
  await fixture.untilMoved()
  await receiver.waitFor(({ length }) => length > before.requests, SLOW_MS)
  await until(
    async () =>
      (await store.collection(COLLECTIONS.jobs).countDocuments({ state: { $ne: 'succeeded' } })) ===
      0,
    SLOW_MS,
  )
  expect(await fixture.jobCount()).toBe(before.jobs + 1)
  expect(receiver.requests.slice(before.requests).map(({ body }) => String(body))).toEqual([
    JSON.stringify(payload),
  ])
  await worker.stop()
})

it('a job that was cancelled and deleted before its document was is not made again', async () => {
  const { posthorn, outbox, receiver } = fixture
  const before = { jobs: await fixture.jobCount(), requests: receiver.requests.length }
  const document = outboxDocument({ endpoint: 'work', payload: 'unwanted' })
  await dieAfter('outbox:[', document)
  expect(await outbox.countDocuments()).toBe(1)
  const path = `/jobs/${document._id}`
  expect((await posthorn.request('POST', `${path}/cancel`)).body.state).toBe('cancelled')
  expect((await posthorn.request('DELETE', path)).status).toBe(204)
  const worker = await goOn()
  const next = outboxDocument({ endpoint: 'work', payload: 'wanted' })
  await outbox.insertOne({ ...next })
  await fixture.job(next._id, 'succeeded')
  expect(await fixture.jobCount()).toBe(before.jobs + 1)
  const sent = receiver.requests.slice(before.requests).map(({ body }) => String(body))
  expect(sent).toEqual(['"wanted"'])
  await worker.stop()
})

it('a mover that dies while it sets a document aside leaves it there once', async () => {
  const { shop, outbox, stats } = fixture
  const rejected = shop.collection('posthorn_outbox_rejected')
  await dieAfter('posthornError', { endpoint: 'nowhere', payload: 1 })
  expect([await rejected.countDocuments(), await outbox.countDocuments()]).toEqual([1, 1])
  const worker = await goOn()
  await fixture.untilMoved()
  expect((await stats()).setAside).toBe(1)
  expect((await rejected.findOne())?.posthornError.reason).toBe('endpoint_not_found')
  await worker.stop()
})
