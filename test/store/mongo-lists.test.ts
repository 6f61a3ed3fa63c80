// Lists of the MongoDB store with more entries than one page may read: pages can be short or empty,
// but together they contain each job once.
import { type Document, MongoClient } from 'mongodb'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { newJobId } from '../../src/job/job-id.ts'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { type JobQuery, MAX_ENTRIES_PER_PAGE } from '../../src/store/store.ts'
import { addEndpoint, claimOne, enqueueMany, enqueueOne, newJob } from '../contract/fixtures.ts'
import { useStore } from '../support/stores.ts'

const START = Date.UTC(2026, 0, 1)
const MAX_PAGES = 50

const place = useStore('mongo')
let client: MongoClient

beforeAll(async () => {
  client = await MongoClient.connect(place.url)
})

afterAll(() => client.close())

const jobs = () => client.db().collection<{ _id: string } & Document>(COLLECTIONS.jobs)

test('queued jobs older than more succeeded ones than a page reads are found', async () => {
  const { store } = place
  const endpoint = await addEndpoint(store)
  const { id: oldest } = await enqueueOne(store, endpoint, { createdAt: START })
  const { id: newest } = await enqueueOne(store, endpoint)
  await addSucceeded(oldest, MAX_ENTRIES_PER_PAGE + 100)
  for (const query of [
    { endpoint, states: ['queued' as const] },
    { states: ['queued' as const] },
  ]) {
    const first = await store.listJobs({ ...query, limit: 10 })
    expect(first.items.map(({ id }) => id)).toEqual([newest])
    expect(first.next).not.toBeNull()
    expect(await idsOf({ ...query, limit: 10 })).toEqual([newest, oldest])
    const backwards = { ...query, oldestFirst: true, limit: 10 }
    expect(await idsOf(backwards)).toEqual([oldest, newest])
  }
  await jobs().deleteMany({ endpoint })
})

test('running jobs of few and of very many endpoints are listed together', async () => {
  const { store } = place
  const running: string[] = []
  for (const count of [3, 100]) {
    for (let i = 0; i < count; i++) {
      const endpoint = await addEndpoint(store)
      await enqueueMany(store, endpoint, 2)
      running.push((await claimOne(store, endpoint)).jobId)
    }
    const wanted = running.toSorted()
    expect(await idsOf({ states: ['running'], limit: 40 })).toEqual(wanted.toReversed())
    expect(await idsOf({ states: ['running'], limit: 40, oldestFirst: true })).toEqual(wanted)
  }
}, 60_000)

test('the key that created a job finds it, however many keys later requests add', async () => {
  const { store } = place
  const endpoint = await addEndpoint(store)
  const ask = async (key: string) => {
    const dedupe = { key: 'd', mode: 'keep' as const }
    const idempotency = { key, requestHash: 'h' }
    const [result] = await store.enqueue([newJob(store, endpoint, { dedupe, idempotency })])
    return result
  }
  const first = await ask('first')
  if (first?.kind !== 'inserted') throw new Error('the first request creates the job')
  const _id = first.job.id
  const added = Array.from({ length: 999 }, (_, i) => ({ key: `added ${998 - i}`, hash: 'h' }))
  await jobs().updateOne({ _id }, { $push: { keys: { $each: added } } as Document })
  expect(await ask('last')).toMatchObject({ kind: 'existing', job: { id: _id } })
  const stored = await jobs().findOne({ _id })
  const keys = ((stored?.keys ?? []) as { key: string }[]).map(({ key }) => key)
  expect(keys).toHaveLength(1_000)
  expect(keys.slice(0, 3)).toEqual(['first', 'last', 'added 998'])
  expect(keys.at(-1)).toBe('added 1')
  expect(await ask('first')).toMatchObject({ kind: 'existing', job: { id: _id } })
})

/** Writes final jobs directly, because thousands of deliveries would take too long. */
async function addSucceeded(likeId: string, count: number): Promise<void> {
  const like = await jobs().findOne({ _id: likeId })
  if (like === null) throw new Error(`${likeId} is not stored`)
  const copies = Array.from({ length: count }, (_, i) => ({
    ...like,
    _id: newJobId(START + 1_000 + i),
    state: 'succeeded',
    finishedAt: new Date(),
  }))
  await jobs().insertMany(copies)
}

/** Follows `next` to the end. Fails if there is no end. */
async function idsOf(query: JobQuery): Promise<string[]> {
  const ids: string[] = []
  let after: string | null = null
  for (let page = 0; page < MAX_PAGES; page++) {
    const found = await place.store.listJobs(after === null ? query : { ...query, after })
    ids.push(...found.items.map(({ id }) => id))
    after = found.next
    if (after === null) return ids
  }
  throw new Error(`no end after ${MAX_PAGES} pages`)
}
