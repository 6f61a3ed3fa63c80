// What must be right before the MongoDB store opens, and the sentence for whoever got it wrong.
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, expect, inject, it } from 'vitest'
import { databaseName } from '../../src/store/mongo/connection.ts'
import { openMongoStore } from '../../src/store/mongo/store.ts'
import type { StoreSettings } from '../../src/store/store.ts'
import { StoreUnavailable, StoreUnusable } from '../../src/store/store-errors.ts'
import { addEndpoint, claimOne, enqueueOne, jobOf, success } from '../contract/fixtures.ts'
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
  alone = await startOwnMongo({ standalone: true })
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
