// Large payloads and results in the MongoDB store: they are stored apart from their jobs, before
// them, and deleted after them.
import { type CommandStartedEvent, type Db, type Document, Long, MongoClient } from 'mongodb'
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import type { ClaimedJob, NewJob } from '../../src/job/job.ts'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import type { BodyDocument, JobDocument } from '../../src/store/mongo/job-document.ts'
import { openDatabase } from '../../src/store/mongo/schema.ts'
import { storeOn } from '../../src/store/mongo/store.ts'
import type { Store } from '../../src/store/store.ts'
import {
  addEndpoint,
  claimFrom,
  claimOne,
  enqueueMany,
  enqueueOne,
  laterAgain,
  newJob,
  success,
  sweep,
} from '../contract/fixtures.ts'
import { needOf } from '../contract/lifecycle-cases/needs-cases.ts'
import { startRewritingProxy } from '../support/rewriting-proxy.ts'
import { useStore } from '../support/stores.ts'

const SMALL = 8_192
const LARGE = 8_193
const DAY_MS = 86_400_000

const place = useStore('mongo', { retentionMs: 0 })

let client: MongoClient
let db: Db
let store: Store
let endpoint: string

beforeAll(() => {
  client = new MongoClient(place.url)
  db = client.db()
})

afterAll(() => client.close())

beforeEach(async () => {
  store = place.store
  endpoint = await addEndpoint(store)
})

const bytes = (size: number, fill = 'x') => Buffer.from(`"${fill.repeat(size - 2)}"`)
const bodies = () => db.collection<BodyDocument>(COLLECTIONS.bodies)
const jobs = () => db.collection<JobDocument>(COLLECTIONS.jobs)
const bodyCount = () => bodies().countDocuments({ endpoint })

const enqueueLarge = (fields: Partial<NewJob> = {}) =>
  enqueueOne(store, endpoint, { payload: bytes(LARGE), ...fields })

const withResult = (claimed: ClaimedJob, size: number) => ({
  ...success(store, claimed),
  result: bytes(size).toString(),
})

test('8 KiB are in the job, and a byte more is not', async () => {
  const small = await enqueueOne(store, endpoint, { payload: bytes(SMALL) })
  expect(await bodyCount()).toBe(0)
  expect(await jobs().findOne({ _id: small.id })).toMatchObject({ payloadBytes: SMALL })

  const { id } = await enqueueLarge()
  const [body] = await bodies().find({ endpoint }).toArray()
  expect(body?._id.startsWith(`${id}.`)).toBe(true)
  const job = await jobs().findOne({ _id: id })
  expect(job).toMatchObject({ payload: null, payloadId: body?._id, payloadBytes: LARGE })
})

test('a result is in the job up to 8 KiB', async () => {
  for (const [size, count] of [
    [SMALL, 0],
    [LARGE, 1],
  ] as const) {
    const { id } = await enqueueOne(store, endpoint)
    await store.settle([withResult(await claimOne(store, endpoint), size)])
    expect(await bodyCount()).toBe(count)
    expect('resultId' in ((await jobs().findOne({ _id: id })) ?? {})).toBe(count > 0)
  }
})

describe('no body is left over', () => {
  test('by requests that another job already answers', async () => {
    const idempotency = { key: 'a', requestHash: 'h' }
    const first = await enqueueLarge({ idempotency })
    await store.enqueue(
      [
        { idempotency },
        { idempotency: { key: 'a', requestHash: 'other' } },
        { id: first.id },
        { dependsOn: ['job_00000000000000000000000000'] },
      ].map((fields) => newJob(store, endpoint, { payload: bytes(LARGE, 'y'), ...fields })),
    )
    expect(await bodyCount()).toBe(1)
    expect(Buffer.from((await store.getPayload(first.id)) ?? [])).toEqual(bytes(LARGE))
  })

  test.each(['keep', 'replace', 'reject'] as const)('by the dedupe mode %s', async (mode) => {
    const dedupe = { key: mode, mode }
    await enqueueLarge({ dedupe })
    await store.enqueue([newJob(store, endpoint, { payload: bytes(LARGE), dedupe })])
    expect(await bodyCount()).toBe(1)
    await store.enqueue([newJob(store, endpoint, { payload: bytes(SMALL), dedupe })])
    expect(await bodyCount()).toBe(mode === 'replace' ? 0 : 1)
  })

  test('by edits', async () => {
    const { id, version } = await enqueueLarge()
    await store.edit(id, { payload: bytes(LARGE, 'y') }, null)
    expect(await store.edit(id, { payload: bytes(LARGE) }, version)).toMatchObject({
      kind: 'stale',
    })
    expect(await bodyCount()).toBe(1)
    await store.edit(id, { payload: bytes(SMALL) }, null)
    expect(await bodyCount()).toBe(0)
  })

  test('by a lease that is over', async () => {
    await enqueueOne(store, endpoint)
    const claimed = await claimOne(store, endpoint)
    await store.settle([laterAgain(store, claimed)])
    expect(await store.settle([withResult(claimed, LARGE)])).toEqual(['lease_lost'])
    expect(await bodyCount()).toBe(0)
  })

  test('by a delete, and by a purge', async () => {
    for (const end of [(id: string) => store.deleteJob(id), () => sweep(store)]) {
      const { id } = await enqueueLarge()
      await store.settle([withResult(await claimOne(store, endpoint), LARGE)])
      expect(await bodyCount()).toBe(2)
      await end(id)
      expect(await bodyCount()).toBe(0)
    }
  })
})

test('a read that an election made older deletes no result that was stored', async () => {
  const proxy = await startRewritingProxy(place.url, {
    find: (reply, { projection, readConcern }) => {
      // Only settle reads this back, by a majority: these are the jobs as they were before.
      const isReadBack =
        'attempts.writeId' in (projection ?? {}) && readConcern?.level === 'majority'
      const jobsThen = (job: Document) => (isReadBack ? { ...job, attempts: [] } : job)
      const firstBatch = reply.cursor.firstBatch.map(jobsThen)
      // The proxy reads a long as a number, but the driver expects a long.
      return { ...reply, cursor: { ...reply.cursor, id: Long.ZERO, firstBatch } }
    },
  })
  onTestFinished(() => proxy.stop())
  const { store: own } = await openWatched(proxy.url(db.databaseName))
  await enqueueMany(store, endpoint, 2)
  const [claimed, lost] = await claimFrom(store, endpoint, 2)
  if (claimed === undefined || lost === undefined) throw new Error('two jobs were due')
  const results = await own.settle([
    withResult(claimed, LARGE),
    withResult({ ...lost, fence: lost.fence + 1 }, LARGE),
  ])
  expect(results).toEqual(['applied', 'lease_lost'])
  expect((await store.getJob(claimed.jobId))?.result).toBe(bytes(LARGE).toString())
  expect(await bodyCount()).toBe(1)
})

test('the inputs of a job count in the bytes of a claim, and leave no body behind', async () => {
  const first = await enqueueOne(store, endpoint)
  const sink = await addEndpoint(store)
  const { id, payloadBytes } = await enqueueOne(store, sink, { needs: [needOf(first.id)] })
  const result = JSON.stringify('x'.repeat(LARGE))
  await store.settle([{ ...success(store, await claimOne(store, endpoint)), result }])
  const stored = async () => await jobs().findOne({ _id: id })
  const inputsBytes = result.length + '{"inputs":{"input":}}'.length
  expect(await stored()).toMatchObject({
    payloadBytes: payloadBytes + inputsBytes,
    inputsId: expect.any(String),
  })
  for (let i = 0; i < 2; i++) {
    await store.cancel([id])
    expect(await store.retry([id])).toEqual([{ kind: 'applied' }])
    expect(await stored()).toMatchObject({ payloadBytes: payloadBytes + inputsBytes })
    expect(await store.getJob(id)).toMatchObject({ payloadBytes, inputsBytes })
  }
  await store.edit(id, { payload: Buffer.from('1') }, null)
  expect(await stored()).toMatchObject({ payloadBytes: 1 + inputsBytes })
  const inputBodies = () => bodies().countDocuments({ endpoint: sink })
  expect(await inputBodies()).toBe(1)
  await store.settle([success(store, await claimOne(store, sink))])
  await store.deleteJob(id)
  expect(await inputBodies()).toBe(0)
})

test('an edit gives a claim the payload of the version that it claims, old or new', async () => {
  const rounds = 20
  for (let round = 0; round < rounds; round++) {
    const { id } = await enqueueLarge()
    const edited = store.edit(id, { payload: bytes(LARGE, 'y') }, null)
    const [[claimed], { kind }] = await Promise.all([claimFrom(store, endpoint, 1), edited])
    const job = claimed ?? (await claimOne(store, endpoint))
    const sent = Buffer.from(job.payload).toString('utf8', 1, 2)
    expect(sent).toBe(kind === 'applied' ? 'y' : 'x')
    await store.settle([success(store, job)])
  }
  await sweep(store)
  expect(await bodyCount()).toBe(0)
})

describe('a sweep', () => {
  /** A payload as a crash leaves it, without its job, of this age. */
  const orphan = (jobId: string, agoMs: number): BodyDocument => ({
    _id: `${jobId}.${store.clock.now() - agoMs}.${Math.random()}`,
    endpoint,
    bytes: bytes(LARGE),
  })
  const age = async (id: string, field: 'payloadId' | 'resultId') => {
    const job = await jobs().findOne({ _id: id })
    const body = await bodies().findOne({ _id: job?.[field] ?? '' })
    if (body === null) throw new Error(`${id} has no ${field}`)
    const old = orphan(id, 2 * DAY_MS)
    await bodies().insertOne({ ...body, _id: old._id })
    await bodies().deleteOne({ _id: body._id })
    await jobs().updateOne({ _id: id }, { $set: { [field]: old._id } })
    return old._id
  }

  test('deletes bodies that no job names after a day, and no others', async () => {
    const queued = await enqueueLarge()
    const done = await enqueueOne(store, endpoint, { runAt: store.clock.now() - 1_000 })
    await store.settle([withResult(await claimOne(store, endpoint), LARGE)])
    const kept = [await age(queued.id, 'payloadId')]
    if ((await jobs().findOne({ _id: done.id, state: 'succeeded' })) !== null) {
      kept.push(await age(done.id, 'resultId'))
    }
    const young = orphan(queued.id, DAY_MS / 2)
    const old = orphan(queued.id, 2 * DAY_MS)
    const nobodys = orphan('job_00000000000000000000000000', 2 * DAY_MS)
    await bodies().insertMany([young, old, nobodys])

    const another = await place.open({ retentionMs: 30 * DAY_MS })
    await sweep(another)

    const left = (await bodies().find({ endpoint }).toArray()).map(({ _id }) => _id)
    expect(left.sort()).toEqual([...kept, young._id].sort())
  })

  test('of an idle process looks for them with one command, and only once a minute', async () => {
    const { store: own, sent } = await openWatched()
    for (let i = 0; i < 3; i++) await sweep(own)
    expect(sent.filter((command) => command.startsWith('find'))).toHaveLength(1)
  })
})

test('a job whose payload is missing is reported and not delivered', async () => {
  const { id } = await enqueueLarge()
  const [other] = await enqueueMany(store, endpoint, 1)
  await bodies().deleteMany({ endpoint })
  const claimed = await claimFrom(store, endpoint, 2)
  expect(claimed.map(({ jobId }) => jobId)).toEqual([other])
  expect(place.warnings).toContainEqual({
    fields: { jobId: id, endpoint },
    message: 'payload.missing',
  })
  await expect(store.getJob(id)).rejects.toThrow('is not stored')
})

test('a payload is stored before its job, and deleted after it', async () => {
  const { store: own, sent } = await openWatched()
  for (const end of [(id: string) => own.deleteJob(id), () => sweep(own)]) {
    sent.length = 0
    const { id } = await enqueueOne(own, endpoint, { payload: bytes(LARGE) })
    await own.settle([success(own, await claimOne(own, endpoint))])
    await end(id)
    expect(sent.filter((command) => !command.startsWith('find'))).toEqual([
      `insert ${COLLECTIONS.bodies}`,
      `insert ${COLLECTIONS.jobs}`,
      `delete ${COLLECTIONS.jobs}`,
      `delete ${COLLECTIONS.bodies}`,
    ])
  }
})

/** Opens another store and records its inserts, its deletes and the bodies that it reads. */
async function openWatched(url = place.url) {
  const connection = await openDatabase(url)
  const sent: string[] = []
  connection.client.on('commandStarted', ({ commandName, command }: CommandStartedEvent) => {
    const collection = command[commandName]
    const isWatched =
      collection === COLLECTIONS.bodies ||
      (collection === COLLECTIONS.jobs && ['insert', 'delete'].includes(commandName))
    if (isWatched) sent.push(`${commandName} ${collection}`)
  })
  const own = await storeOn(connection, {
    ...{ retentionMs: 0, retentionDeadMs: DAY_MS, encryptionKeys: [place.encryptionKey] },
    warn: () => {},
  })
  onTestFinished(() => own.close())
  return { store: own, sent }
}
