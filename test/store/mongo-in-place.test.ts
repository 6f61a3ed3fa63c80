// A database is dropped while a process runs: without its indexes keys would not be unique.
import { MongoClient } from 'mongodb'
import { expect, test } from 'vitest'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { StoreUnavailable } from '../../src/store/store-errors.ts'
import { addEndpoint, enqueueOne, newJob } from '../contract/fixtures.ts'
import { dropDatabase } from '../support/raw-store.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'

const dropped = useStore('mongo')
const emptied = useStore('mongo')
const withoutEndpoints = useStore('mongo')
const withDuplicates = useStore('mongo')

test('a dropped database refuses every verb, is not ready, and says so', async () => {
  const { store } = dropped
  const endpoint = await addEndpoint(store)
  await enqueueOne(store, endpoint)
  await store.ready()
  await dropDatabase(dropped.url)
  const refusal = async () => {
    try {
      await store.enqueue([newJob(store, endpoint)])
      return null
    } catch (error) {
      return error
    }
  }
  await until(async () => (await refusal()) !== null)
  expect(await refusal()).toMatchObject({ name: 'StoreUnavailable', kind: 'removed' })
  await expect(store.ready()).rejects.toThrow(StoreUnavailable)
  await expect(store.listJobs({ limit: 1 })).rejects.toThrow(/was dropped or replaced/)
  // The report of a worker contains them, whether or not the report can be written.
  expect(store.encryptionKeyIds()).toEqual(expect.any(Array))
  expect(dropped.warnings.map(({ message }) => message)).toContain('store.lost')
})

test('a collection that lost its unique indexes is not ready', async () => {
  await withClient(emptied.url, (client) => client.db().collection(COLLECTIONS.jobs).drop())
  await until(async () => {
    const failure = await emptied.store.ready().catch((error: Error) => error)
    return failure instanceof StoreUnavailable && failure.message.includes('lacks the indexes')
  })
})

test.each(['endpoints', 'schedules', 'keys'] as const)(
  'a dropped collection of %s is noticed',
  async (kind) => {
    const { store, url, warnings } = withoutEndpoints
    const endpoint = await addEndpoint(store)
    await store.ready()
    const aside = `${COLLECTIONS[kind]}_aside`
    await withClient(url, (client) => client.db().renameCollection(COLLECTIONS[kind], aside))
    // Without a probe of readiness, an endpoint that is not found leads to a look.
    const job = newJob(store, endpoint)
    const ask = async () => {
      await (kind === 'endpoints' ? store.enqueue([job]) : store.ready())
    }
    const isSaid = (error: unknown) =>
      String(error).includes(`${COLLECTIONS[kind]} was dropped or replaced`)
    await until(() => ask().then(() => false, isSaid))
    expect(warnings.at(-1)?.message).toBe('store.lost')
    await withClient(url, (client) =>
      client.db().renameCollection(aside, COLLECTIONS[kind], { dropTarget: true }),
    )
    const isReady = () =>
      store.ready().then(
        () => true,
        () => false,
      )
    await until(isReady)
    expect(warnings.at(-1)?.message).toBe('store.back')
  },
)

test('a restart after jobs with one key were stored says what to do, and deletes none', async () => {
  const { store, url, open, warnings } = withDuplicates
  const endpoint = await addEndpoint(store)
  await enqueueOne(store, endpoint, { dedupe: { key: 'one', mode: 'keep' } })
  await withClient(url, async (client) => {
    const jobs = client.db().collection<{ _id: string }>(COLLECTIONS.jobs)
    const [job] = await jobs.find().toArray()
    await jobs.drop()
    // The two writes come before the check, as two requests can.
    await jobs.insertMany([
      { ...job, _id: 'job_1' },
      { ...job, _id: 'job_2' },
    ])
  })
  await expect(open()).rejects.toThrow(
    /posthorn_jobs cannot be created: documents in it have the same endpoint and dedupeHolder, .*delete all but one/,
  )
  await until(() => warnings.some(({ message }) => message === 'store.lost'))
  await withClient(url, async (client) => {
    const jobs = client.db().collection<{ _id: string }>(COLLECTIONS.jobs)
    expect(await jobs.countDocuments()).toBe(2)
    await jobs.deleteOne({ _id: 'job_2' })
  })
  await open()
})

async function withClient(url: string, work: (client: MongoClient) => Promise<unknown>) {
  const client = new MongoClient(url)
  try {
    await work(client)
  } finally {
    await client.close()
  }
}
