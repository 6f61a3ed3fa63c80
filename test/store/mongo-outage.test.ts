// The MongoDB store while the server is slow or unreachable, or makes a write but its response is
// lost.
import { randomBytes } from 'node:crypto'
import { MongoClient } from 'mongodb'
import {
  afterAll,
  afterEach,
  beforeAll,
  describe,
  expect,
  inject,
  it,
  onTestFinished,
} from 'vitest'
import type { End } from '../../src/store/ends.ts'
import { run, startDeadline } from '../../src/store/mongo/connection.ts'
import { openMongoStore } from '../../src/store/mongo/store.ts'
import type { Store, StoreSettings } from '../../src/store/store.ts'
import { StoreUnavailable } from '../../src/store/store-errors.ts'
import {
  addEndpoint,
  claimFrom,
  claimOne,
  enqueueOne,
  jobOf,
  newJob,
} from '../contract/fixtures.ts'
import { databaseUrl } from '../support/mongo.ts'
import { type MongoProxy, startMongoProxy } from '../support/mongo-proxy.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'

/** The deadline of a call, and the time that a busy machine may add. */
const DEADLINE_MS = 3_000 + 1_000
const LEASE_MS = 60_000
const LONGER_THAN_SOCKET_BUFFERS = 12_000_000

const encryptionKeys = [randomBytes(32)]
const SETTINGS: StoreSettings = {
  retentionMs: 1_000,
  retentionDeadMs: 1_000,
  encryptionKeys,
  warn: () => {},
}

describe('a store whose server can be cut off', () => {
  const place = useStore('mongo', { encryptionKeys })
  let proxy: MongoProxy
  /** This store uses the proxy. place.store does not. */
  let store: Store

  beforeAll(async () => {
    proxy = await startMongoProxy(place.url)
    store = await openMongoStore(proxy.url, SETTINGS)
  })
  afterEach(async () => {
    proxy.restore()
    await until(() => answers(store))
  })
  afterAll(async () => {
    await store.close()
    await proxy.stop()
  })

  it('says unavailable in time when it is cut off, and works again when it is back', async () => {
    const endpoint = await addEndpoint(place.store)
    proxy.cut()
    const startedAt = performance.now()
    await expect(enqueueOne(store, endpoint)).rejects.toThrow(StoreUnavailable)
    await expect(store.ready()).rejects.toThrow(StoreUnavailable)
    expect(performance.now() - startedAt).toBeLessThan(2 * DEADLINE_MS)

    proxy.restore()
    await until(() => answers(store))
    expect(await enqueueOne(store, endpoint)).toMatchObject({ state: 'queued' })
  })

  it('says unavailable in time when the server takes everything and answers nothing', async () => {
    const endpoint = await addEndpoint(place.store)
    proxy.stall()
    const startedAt = performance.now()
    const verbs = [
      enqueueOne(store, endpoint),
      claimFrom(store, endpoint, 1),
      store.getJob('job_none'),
      store.listJobs({ limit: 1 }),
      store.due(null),
    ]
    const results = await Promise.allSettled(verbs)
    expect(performance.now() - startedAt).toBeLessThan(DEADLINE_MS)
    for (const result of results) {
      expect(result).toMatchObject({ status: 'rejected', reason: { name: 'StoreUnavailable' } })
    }
  })

  it('says unavailable when the connection breaks amid a write', async () => {
    const client = await MongoClient.connect(proxy.url, { retryWrites: false })
    onTestFinished(() => client.close())
    const collection = client.db().collection('writes')
    await collection.insertOne({ note: 'the connection is open' })
    proxy.stopReading()
    const note = 'x'.repeat(LONGER_THAN_SOCKET_BUFFERS)
    const written = run(startDeadline(), () => collection.insertOne({ note }))
    setTimeout(proxy.cut, 500)
    await expect(written).rejects.toThrow('MongoDB did not execute a command')
  })

  it('a job whose insert was not answered is stored once, and told as inserted', async () => {
    const endpoint = await addEndpoint(place.store)
    const job = newJob(store, endpoint, { payload: Buffer.from('"lost-answer"') })
    const lostBefore = proxy.lostAnswers()
    proxy.loseAnswerTo('lost-answer')

    expect(await store.enqueue([job])).toMatchObject([{ kind: 'inserted', job: { id: job.id } }])

    expect(proxy.lostAnswers()).toBe(lostBefore + 1)
    const { items } = await place.store.listJobs({ endpoint, limit: 10 })
    expect(items.map(({ id }) => id)).toEqual([job.id])
  })

  it('a cancel that was stored but not answered is reported by its repeat, once', async () => {
    const endpoint = await addEndpoint(place.store)
    const { id } = await enqueueOne(place.store, endpoint)
    await claimOne(place.store, endpoint)
    const ends: End[] = []
    const stop = store.onEnd((end) => void ends.push(end))
    onTestFinished(stop)
    proxy.cutAfter('cancelled')

    await expect(store.cancel([id])).rejects.toThrow(StoreUnavailable)

    await until(async () => (await jobOf(place.store, id)).state === 'cancelled')
    expect(ends).toEqual([])
    proxy.restore()
    await until(() => answers(store))
    for (let i = 0; i < 2; i++) {
      expect(await store.cancel([id])).toEqual([{ kind: 'refused', state: 'cancelled' }])
    }
    expect(ends).toMatchObject([{ jobId: id, endpoint, attempt: { outcome: 'cancelled' } }])
  })

  it('a job whose claim was not answered comes back long before its lease would end', async () => {
    const endpoint = await addEndpoint(place.store)
    const { id } = await enqueueOne(place.store, endpoint)
    const lostBefore = proxy.lostAnswers()
    proxy.loseAnswerTo('leaseWorkerId')

    await expect(claimFrom(store, endpoint, 1, LEASE_MS)).rejects.toThrow(StoreUnavailable)

    expect(proxy.lostAnswers()).toBe(lostBefore + 1)
    await until(async () => (await jobOf(place.store, id)).state === 'queued')
    const returned = await jobOf(place.store, id)
    expect(returned).toMatchObject({
      attemptCount: 0,
      attemptsLeft: 10,
      startedAt: null,
      lease: null,
    })
    expect(returned.attempts).toEqual([])
    // The claim was applied: its fence is used, so that no two attempts ever have the same one.
    expect(returned.fence).toBe(1)
    expect(await claimOne(place.store, endpoint)).toMatchObject({ jobId: id, fence: 2 })
  })
})

it('another process hears of an enqueue long before its next poll', async () => {
  const url = databaseUrl(inject('mongoUrl'), `test-${randomBytes(6).toString('hex')}`)
  const [api, worker] = await Promise.all([
    openMongoStore(url, SETTINGS),
    openMongoStore(url, SETTINGS),
  ])
  let hints = 0
  const stop = worker.onWork(() => {
    hints += 1
  })
  const endpoint = await addEndpoint(api)
  // The stream may still be opening. It does not report an insert that comes before it is open.
  await until(async () => {
    await enqueueOne(api, endpoint)
    return hints > 0
  })
  stop()
  await Promise.all([api.close(), worker.close()])
})

async function answers(store: Store): Promise<boolean> {
  return store.ready().then(
    () => true,
    () => false,
  )
}
