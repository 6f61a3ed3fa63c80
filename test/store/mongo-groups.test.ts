// What a crash at each point of an add, a count and a finish leaves in MongoDB, and that a sweep
// settles it (docs/decisions/0040-a-group-waits-for-every-add.md). And a group that another
// transaction holds: nothing waits for it.
import { MongoClient } from 'mongodb'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { NewGroup } from '../../src/job/groups.ts'
import { newGroupId, newJobId } from '../../src/job/job-id.ts'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { databaseName } from '../../src/store/mongo/connection.ts'
import type { GroupDocument } from '../../src/store/mongo/group-document.ts'
import type { JobDocument } from '../../src/store/mongo/job-document.ts'
import {
  addEndpoint,
  claimFrom,
  claimOne,
  enqueueMany,
  enqueueOne,
  jobOf,
  newJob,
  success,
  sweep,
  sweepClean,
} from '../contract/fixtures.ts'
import { useStore } from '../support/stores.ts'

const OLD = new Date(Date.now() - 60_000)

const place = useStore('mongo')
let client: MongoClient
beforeAll(async () => {
  client = await MongoClient.connect(place.url)
})
afterAll(() => client.close())

const groups = () =>
  client.db(databaseName(place.url)).collection<GroupDocument>(COLLECTIONS.groups)
const jobs = () => client.db(databaseName(place.url)).collection<JobDocument>(COLLECTIONS.jobs)

async function setUp(fields: Partial<NewGroup> = {}) {
  const { store } = place
  const [endpoint, notified] = [await addEndpoint(store), await addEndpoint(store)]
  const createdAt = store.clock.now()
  const id = newGroupId(createdAt)
  await store.createGroup({
    ...{ id, createdAt, name: null, metadata: {}, tags: [], fairnessKey: null, hops: 0 },
    ...{ closeAfterMs: null, idempotency: null },
    notices: [{ endpoint: notified, when: 'all_final' }],
    ...fields,
  })
  const read = async () => {
    const group = await store.getGroup(id)
    if (group === null) throw new Error('the group is gone')
    return group
  }
  const noticeCount = async () =>
    (await store.listJobs({ endpoint: notified, limit: 10 })).items.length
  return { store, endpoint, notified, id, read, noticeCount }
}

/** As an add leaves it that ended before it was confirmed. */
async function leaveTicket(groupId: string, ticket: string, jobIds: string[]): Promise<void> {
  await groups().updateOne(
    { _id: groupId },
    {
      $inc: { memberCount: jobIds.length, left: jobIds.length },
      $push: { adds: { id: ticket, at: OLD, jobIds } },
    },
  )
}

describe('a process that ends', () => {
  it('after it registered an add: the group is not final before a sweep has taken it back', async () => {
    const { store, endpoint, id, read, noticeCount } = await setUp()
    await enqueueOne(store, endpoint, { group: id })
    await leaveTicket(id, 'ticket', [newJobId(store.clock.now()), newJobId(store.clock.now())])
    await store.settle([success(store, await claimOne(store, endpoint))])
    await store.closeGroup(id)
    expect(await read()).toMatchObject({ state: 'closed', memberCount: 3 })
    await sweepClean(store)
    expect(await read()).toMatchObject({ state: 'succeeded', memberCount: 1, finishes: 1 })
    expect(await noticeCount()).toBe(1)
  })

  it('after a part of the insert: the group keeps what is stored', async () => {
    const { store, endpoint, id, read } = await setUp()
    const [stored = ''] = await enqueueMany(store, endpoint, 2, { group: id })
    // As if the second one was not confirmed, and a third one was not inserted.
    await jobs().updateOne({ _id: stored }, { $set: { groupAdd: 'ticket' } })
    await groups().updateOne({ _id: id }, { $inc: { memberCount: -1, left: -1 } })
    await leaveTicket(id, 'ticket', [stored, newJobId(store.clock.now())])
    await store.closeGroup(id)
    await sweepClean(store)
    expect(await read()).toMatchObject({ state: 'closed', memberCount: 2 })
    const claimed = await claimFrom(store, endpoint, 10)
    await store.settle(claimed.map((job) => success(store, job)))
    expect(await read()).toMatchObject({ state: 'succeeded', counts: { succeeded: 2 } })
  })

  it('after a member of an unconfirmed add was counted and deleted: it stays counted', async () => {
    const { store, endpoint, id, read } = await setUp()
    const job = await enqueueOne(store, endpoint, { group: id })
    await jobs().updateOne({ _id: job.id }, { $set: { groupAdd: 'ticket' } })
    await groups().updateOne({ _id: id }, { $inc: { memberCount: -1, left: -1 } })
    await leaveTicket(id, 'ticket', [job.id])
    await store.settle([success(store, await claimOne(store, endpoint))])
    expect(await store.deleteJob(job.id)).toEqual({ kind: 'applied' })
    await sweepClean(store)
    await store.closeGroup(id)
    expect(await read()).toMatchObject({
      ...{ state: 'succeeded', memberCount: 1, counts: { succeeded: 1 } },
    })
  })

  it('and inserts after a sweep has settled its add: the job counts nowhere', async () => {
    const { store, endpoint, id, read, noticeCount } = await setUp()
    const late = newJobId(store.clock.now())
    await leaveTicket(id, 'ticket', [late])
    await enqueueOne(store, endpoint, { group: id })
    await sweepClean(store)
    expect(await read()).toMatchObject({ memberCount: 1 })
    const { id: model } = await enqueueOne(store, endpoint)
    const document = await jobs().findOne({ _id: model })
    if (document === null) throw new Error('the job is gone')
    const member = { group: id, groupAdd: 'ticket', effectsPending: true as const }
    await jobs().insertOne({ ...document, ...member, _id: late })
    await store.closeGroup(id)
    const claimed = await claimFrom(store, endpoint, 10)
    expect(claimed.map(({ jobId }) => jobId)).toContain(late)
    await store.settle(claimed.map((job) => success(store, job)))
    await sweepClean(store)
    expect(await read()).toMatchObject({
      ...{ state: 'succeeded', memberCount: 1, counts: { succeeded: 1 } },
    })
    expect(await jobOf(store, late)).toMatchObject({ state: 'succeeded', group: null })
    expect(await noticeCount()).toBe(1)
  })

  it('after a member became final: a sweep counts it', async () => {
    const { store, endpoint, id, read, noticeCount } = await setUp()
    const job = await enqueueOne(store, endpoint, { group: id })
    await store.closeGroup(id)
    const set = { state: 'succeeded' as const, finishedAt: OLD, finishes: 1 }
    await jobs().updateOne({ _id: job.id }, { $set: set })
    await sweepClean(store)
    expect(await read()).toMatchObject({ state: 'succeeded', counts: { succeeded: 1 } })
    expect(await noticeCount()).toBe(1)
  })

  it('after the count of the last member, or the finish: a sweep finishes it, or enqueues the notice', async () => {
    const { store, id, read, noticeCount } = await setUp()
    await groups().updateOne({ _id: id }, { $set: { state: 'closed' } })
    await sweepClean(store)
    expect(await read()).toMatchObject({ state: 'succeeded', finishes: 1 })
    await groups().updateOne({ _id: id }, { $set: { effectsPending: true } })
    await sweepClean(store)
    expect(await noticeCount()).toBe(1)
    expect(await groups().findOne({ _id: id })).not.toHaveProperty('effectsPending')
  })
})

describe('while another transaction holds the group', () => {
  it('settlements are stored, and a sweep counts their members later', async () => {
    const { store, endpoint, id, read } = await setUp()
    await enqueueMany(store, endpoint, 3, { group: id })
    await store.closeGroup(id)
    const claimed = await claimFrom(store, endpoint, 2)
    const session = client.startSession()
    session.startTransaction()
    await groups().updateOne({ _id: id }, { $inc: { left: 0 }, $set: { hops: 1 } }, { session })
    const settled = await store.settle(claimed.map((job) => success(store, job)))
    expect(settled).toEqual(['applied', 'applied'])
    expect(await claimFrom(store, endpoint, 1)).toHaveLength(1)
    await sweep(store)
    await session.abortTransaction()
    await session.endSession()
    expect((await read()).counts.succeeded).toBe(0)
    await sweepClean(store)
    expect((await read()).counts.succeeded).toBe(2)
  })

  it('an add is stored once the transaction has ended', async () => {
    const { store, endpoint, id, read } = await setUp()
    const session = client.startSession()
    session.startTransaction()
    await groups().updateOne({ _id: id }, { $set: { hops: 1 } }, { session })
    const adding = store.enqueue([newJob(store, endpoint, { group: id })])
    await store.getGroup(id)
    await session.commitTransaction()
    await session.endSession()
    expect(await adding).toMatchObject([{ kind: 'inserted' }])
    expect((await read()).memberCount).toBe(1)
  })
})
