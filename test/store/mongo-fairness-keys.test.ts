// What a page of fairness keys costs on MongoDB: commands and index entries, as the profiler of
// mongod counts them. A stand-in has no profiler.
import { type Db, MongoClient } from 'mongodb'
import { afterAll, beforeAll, expect, inject, it } from 'vitest'
import type { NewJob } from '../../src/job/job.ts'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { addEndpoint, newJob } from '../contract/fixtures.ts'
import { useStore } from '../support/stores.ts'

const place = useStore('mongo')
const IS_STAND_IN = inject('mongoEngine') === 'secantusd-rs'
const PAGE = 25
const BATCH = 1_000
let client: MongoClient
let db: Db

beforeAll(async () => {
  client = await MongoClient.connect(place.url)
  db = client.db()
})

afterAll(() => client.close())

async function endpointWith(count: number, fields: (i: number) => Partial<NewJob>) {
  const { store } = place
  const endpoint = await addEndpoint(store)
  for (let from = 0; from < count; from += BATCH) {
    const size = Math.min(BATCH, count - from)
    await store.enqueue(
      Array.from({ length: size }, (_, i) => newJob(store, endpoint, fields(from + i))),
    )
  }
  return endpoint
}

/** The index entries and documents that mongod reads meanwhile. */
async function readBy(work: () => Promise<unknown>) {
  await db.setProfilingLevel('all')
  const since = new Date()
  await work()
  await db.setProfilingLevel('off')
  const operations = await db
    .collection('system.profile')
    .find({ ns: `${db.databaseName}.${COLLECTIONS.jobs}`, ts: { $gte: since } })
    .toArray()
  const sum = (field: 'keysExamined' | 'docsExamined') =>
    operations.reduce((total, operation) => total + (operation[field] ?? 0), 0)
  return { entries: sum('keysExamined'), documents: sum('docsExamined') }
}

it.skipIf(IS_STAND_IN)('places and waits cost few index entries for each key', async () => {
  const keyCount = 50
  const endpoint = await endpointWith(2_000, (i) => ({ fairnessKey: `key ${i % keyCount}` }))
  const { items } = await place.store.listJobs({ endpoint, limit: 1 })
  const { entries, documents } = await readBy(async () => {
    const found = await place.store.placeInLine(endpoint, items[0]?.id ?? '')
    expect(found).toEqual({ jobsBefore: 2_000 / keyCount - 1, keyCount })
  })
  expect(entries).toBeLessThan(3 * keyCount)
  // The job itself.
  expect(documents).toBe(1)
  const byWait = await readBy(() => place.store.keysByWait(endpoint, null, 1))
  expect(byWait.entries).toBeLessThan(5 * keyCount)
  expect(byWait.documents).toBe(0)
})

it.skipIf(IS_STAND_IN)('a page with 5,000 keys reads as much as with 50', async () => {
  const few = await endpointWith(50, (i) => ({ fairnessKey: `key ${i}` }))
  const many = await endpointWith(5_000, (i) => ({ fairnessKey: `key ${i}` }))
  const costs: number[] = []
  for (const endpoint of [few, many]) {
    const { entries, documents } = await readBy(() =>
      place.store.fairnessKeysOf(endpoint, 'key 2', PAGE),
    )
    expect(documents).toBe(0)
    costs.push(entries)
  }
  const [ofFew = 0, ofMany = 0] = costs
  expect(ofFew).toBeGreaterThan(PAGE)
  // One step reads as many entries as it may.
  expect(ofMany).toBeLessThan(ofFew + 1_100)
})
