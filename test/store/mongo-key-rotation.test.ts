// At its start a process encrypts again what an older key encrypted, however many pages of it there
// are.
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import type { Connection, MongoContext } from '../../src/store/mongo/connection.ts'
import type { EndpointDocument } from '../../src/store/mongo/endpoint-document.ts'
import { reencryptEndpoints, reencryptSchedules } from '../../src/store/mongo/key-rotation.ts'
import type { ScheduleDocument } from '../../src/store/mongo/schedules.ts'
import { openDatabase } from '../../src/store/mongo/schema.ts'
import { storeOn } from '../../src/store/mongo/store.ts'
import { createSecretBox } from '../../src/store/secret-box.ts'
import type { Store } from '../../src/store/store.ts'
import { rememberUndecryptableSchedules } from '../../src/store/undecryptable-schedules.ts'
import { addEndpoint } from '../contract/fixtures.ts'
import { databaseUrl } from '../support/mongo.ts'

const [OLD, NEW, OTHER] = [randomBytes(32), randomBytes(32), randomBytes(32)]
const SETTINGS = { retentionMs: 0, retentionDeadMs: 0, encryptionKeys: [OLD], warn: () => {} }
const COUNT = 7
const PAGE_SIZE = 2

let connection: Connection
let store: Store

beforeAll(async () => {
  const name = `test-${randomBytes(6).toString('hex')}`
  connection = await openDatabase(databaseUrl(inject('mongoUrl'), name))
  store = await storeOn(connection, SETTINGS)
  for (let i = 0; i < COUNT; i++) {
    const endpoint = await addEndpoint(store)
    const change = { name: `schedule-${i}`, endpoint, paused: false, settings: '{}' }
    await store.putSchedule({ ...change, payload: Buffer.from('{}'), nextRunAt: null }, null)
  }
})

afterAll(async () => {
  await connection.db.dropDatabase()
  await store.close()
})

function contextWith(keys: Buffer[]): MongoContext {
  const { db, names } = connection
  return {
    ...{ db, names, endpoints: db.collection(names.endpoints), clock: store.clock },
    ...{ box: createSecretBox(keys), settings: SETTINGS },
    undecryptable: rememberUndecryptableSchedules(() => {}),
  } as Partial<MongoContext> as MongoContext
}

test('a key that decrypts all but those beyond the first pages ends the start', async () => {
  const { db, names } = connection
  const endpoints = db.collection<EndpointDocument>(names.endpoints)
  const last = await endpoints.find().sort({ _id: -1 }).next()
  const id = last?._id ?? ''
  const lost = createSecretBox([OTHER]).seal('{}', id)
  await endpoints.updateOne({ _id: id }, { $set: { headers: lost } })
  const starting = reencryptEndpoints(contextWith([OLD]), PAGE_SIZE)
  await expect(starting).rejects.toThrow(`the stored secret of ${id}`)
  await endpoints.updateOne({ _id: id }, { $set: { headers: last?.headers ?? '' } })
})

test('after it, the new key alone decrypts every endpoint and every schedule', async () => {
  const { db, names } = connection
  const context = contextWith([NEW, OLD])
  await reencryptEndpoints(context, PAGE_SIZE)
  await reencryptSchedules(context, PAGE_SIZE)
  const box = createSecretBox([NEW])
  const endpoints = await db.collection<EndpointDocument>(names.endpoints).find().toArray()
  const schedules = await db.collection<ScheduleDocument>(names.schedules).find().toArray()
  expect([endpoints.length, schedules.length]).toEqual([COUNT, COUNT])
  for (const { headers, secrets } of endpoints) {
    expect([headers, ...secrets.map(({ sealed }) => sealed)].every(box.isCurrent)).toBe(true)
  }
  expect(schedules.every(({ settings }) => box.isCurrent(settings))).toBe(true)
})
