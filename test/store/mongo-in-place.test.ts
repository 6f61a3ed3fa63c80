// A database is dropped while a process runs: without its indexes keys would not be unique.
import { MongoClient } from 'mongodb'
import { expect, test } from 'vitest'
import { StoreUnavailable } from '../../src/store/store-errors.ts'
import { addEndpoint, enqueueOne, newJob } from '../contract/fixtures.ts'
import { dropDatabase } from '../support/raw-store.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'

const dropped = useStore('mongo')
const emptied = useStore('mongo')

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
  const client = new MongoClient(emptied.url)
  await client.db().collection('posthorn_jobs').drop()
  await client.close()
  await until(async () => {
    const failure = await emptied.store.ready().catch((error: Error) => error)
    return failure instanceof StoreUnavailable && failure.message.includes('lacks the indexes')
  })
})
