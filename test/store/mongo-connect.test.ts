// The conditions that must hold before the MongoDB store opens, and the message if one does not.
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, expect, inject, it, onTestFinished } from 'vitest'
import { databaseName, open } from '../../src/store/mongo/connection.ts'
import { openMongoStore } from '../../src/store/mongo/store.ts'
import type { StoreSettings } from '../../src/store/store.ts'
import { StoreUnavailable, StoreUnusable } from '../../src/store/store-errors.ts'
import { addEndpoint, claimOne, enqueueOne, jobOf, success } from '../contract/fixtures.ts'
import { startElectionProxy } from '../support/election-proxy.ts'
import { databaseUrl, type RunningMongo, startOwnMongo } from '../support/mongo.ts'
import { freePort } from '../support/mongo-server.ts'

const SETTINGS: StoreSettings = {
  retentionMs: 1_000,
  retentionDeadMs: 1_000,
  encryptionKeys: [randomBytes(32)],
  warn: () => {},
}

let alone: RunningMongo

beforeAll(async () => {
  alone = await startOwnMongo({ standalone: true, inMemory: true })
})
afterAll(() => alone.stop())

it('a server that runs alone is refused, and the sentence says what to do', async () => {
  const opening = openMongoStore(alone.url, SETTINGS)
  await expect(opening).rejects.toThrow(StoreUnusable)
  await expect(opening).rejects.toThrow(/--replSet/)
})

it('a server that runs alone is used when the URL says directConnection=true', async () => {
  const url = `${databaseUrl(alone.url, 'posthorn')}?directConnection=true`
  const store = await openMongoStore(url, SETTINGS)
  const endpoint = await addEndpoint(store)
  const { id } = await enqueueOne(store, endpoint)
  const claimed = await claimOne(store, endpoint)
  expect(await store.settle([success(store, claimed)])).toEqual(['applied'])
  expect(await jobOf(store, id)).toMatchObject({ state: 'succeeded' })
  await store.close()
})

it('without an encryption key it does not open, and names the setting', async () => {
  const opening = openMongoStore(inject('mongoUrl'), { ...SETTINGS, encryptionKeys: null })
  await expect(opening).rejects.toThrow(StoreUnusable)
  await expect(opening).rejects.toThrow(/ENCRYPTION_KEY/)
})

it('where nothing listens it says so within seconds, and tells no password', async () => {
  const url = `mongodb://user:planted-password@127.0.0.1:${await freePort()}/posthorn`
  const startedAt = performance.now()
  const error = await openMongoStore(url, SETTINGS).catch((cause: unknown) => cause)
  expect(error).toBeInstanceOf(StoreUnavailable)
  expect(`${error} ${(error as Error).cause}`).not.toContain('planted-password')
  expect(performance.now() - startedAt).toBeLessThan(10_000)
})

it('a URL that is none is refused', async () => {
  await expect(openMongoStore('mongodb://', SETTINGS)).rejects.toThrow(StoreUnusable)
})

it('the database is the one in the path of the URL, else posthorn', () => {
  expect(databaseName('mongodb://127.0.0.1:27017')).toBe('posthorn')
  expect(databaseName('mongodb://127.0.0.1/?replicaSet=rs0')).toBe('posthorn')
  expect(databaseName('mongodb://user:pw@a:1,b:2/jobs?replicaSet=rs0')).toBe('jobs')
  expect(databaseName('mongodb+srv://cluster.example/my%20jobs')).toBe('my jobs')
})

it('a server of before MongoDB 5.0 is refused, and the sentence names what is supported', async () => {
  const proxy = await startElectionProxy(databaseUrl(inject('mongoUrl'), 'posthorn'))
  onTestFinished(() => proxy.stop())
  proxy.hello = { maxWireVersion: 9 }
  const opening = openMongoStore(proxy.url, SETTINGS)
  await expect(opening).rejects.toThrow(StoreUnusable)
  await expect(opening).rejects.toThrow(/needs MongoDB 5.0 or later/)
})

it('the URL cannot weaken the reads and writes', async () => {
  const weak = 'w=0&journal=false&wtimeoutMS=1&readConcernLevel=local&retryWrites=false'
  const [plain, weakened] = await Promise.all(
    ['', `${weak}&retryReads=false&readPreference=secondary`].map(async (query) => {
      const url = new URL(inject('mongoUrl'))
      for (const [name, value] of new URLSearchParams(query)) url.searchParams.set(name, value)
      const { client } = await open(url.href, { retryWrites: true })
      await client.close()
      const { writeConcern, readConcern, readPreference, retryWrites, retryReads } = client.options
      return { writeConcern, readConcern, readPreference, retryWrites, retryReads }
    }),
  )
  expect(weakened).toEqual(plain)
  expect(plain).toMatchObject({
    writeConcern: { w: 'majority', journal: true },
    readConcern: { level: 'majority' },
    ...{ retryWrites: true, retryReads: true },
  })
})
