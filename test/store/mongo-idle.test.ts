// The cost of a MongoDB store while nothing happens: sweeps and blocked jobs.
import { randomBytes } from 'node:crypto'
import type { Collection, CommandStartedEvent, Document } from 'mongodb'
import { afterAll, beforeAll, beforeEach, expect, inject, it } from 'vitest'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { openDatabase } from '../../src/store/mongo/schema.ts'
import { storeOn } from '../../src/store/mongo/store.ts'
import type { Store } from '../../src/store/store.ts'
import { addEndpoint, enqueueMany, enqueueOne, jobOf, sweep } from '../contract/fixtures.ts'
import { databaseUrl } from '../support/mongo.ts'

const DAY_MS = 86_400_000
const BLOCKED = 1_000
/** More sweeps than one round over all blocked jobs takes. */
const SWEEPS = 10
/** A stand-in for MongoDB takes 10 ms or more for each write. */
const SLOW = { timeout: 120_000 }
const WRITES = new Set(['insert', 'update', 'delete', 'findAndModify', 'bulkWrite'])

const url = databaseUrl(inject('mongoUrl'), `test-${randomBytes(6).toString('hex')}`)
const encryptionKeys = [randomBytes(32)]
const sent: string[] = []
let store: Store
let jobs: Collection<Document & { _id: string }>
let endpoint: string

/**
 * Opens a store as a process does that has just started: its round over the blocked jobs has not
 * begun.
 */
async function open(): Promise<Store> {
  const connection = await openDatabase(url)
  connection.client.on('commandStarted', ({ commandName }: CommandStartedEvent) => {
    sent.push(commandName)
  })
  jobs = connection.db.collection(COLLECTIONS.jobs)
  const retention = { retentionMs: DAY_MS, retentionDeadMs: DAY_MS }
  return storeOn(connection, { ...retention, encryptionKeys, warn: () => {} })
}

beforeAll(async () => {
  store = await open()
  endpoint = await addEndpoint(store)
})
beforeEach(async () => {
  await store.close()
  store = await open()
})
afterAll(async () => {
  await jobs.drop()
  await store.close()
})

it('a sweep that finds nothing is one command', async () => {
  // From time to time a sweep also looks for jobs of deleted endpoints. This one does.
  await sweep(store)
  sent.length = 0
  for (let i = 0; i < SWEEPS; i++) await sweep(store)
  expect(sent).toEqual(Array.from({ length: SWEEPS }, () => 'aggregate'))
})

it('1,000 blocked jobs that nothing changed cost few reads and no write', SLOW, async () => {
  const delayed = { runAt: store.clock.now() + DAY_MS }
  const { id } = await enqueueOne(store, endpoint, delayed)
  for (let i = 0; i < BLOCKED / 100; i++) {
    await enqueueMany(store, endpoint, 100, { dependsOn: [id] })
  }
  // Jobs that were just enqueued are checked once. Waits until that is done.
  while ((await jobs.countDocuments({ recheckAt: { $exists: true } })) > 0) await sweep(store)
  await store.close()
  store = await open()
  sent.length = 0
  for (let i = 0; i < SWEEPS; i++) await sweep(store)
  expect(sent.filter((name) => WRITES.has(name))).toEqual([])
  // One round reads 200 jobs and their states five times. At most one round begins in ten seconds.
  expect(sent.filter((name) => name === 'find').length).toBeGreaterThanOrEqual(10)
  expect(sent.filter((name) => name === 'find').length).toBeLessThanOrEqual(2 * (5 + 1) + 2)
  await jobs.deleteMany({})
})

it('a round finds what a crash left undone, whichever job it is', SLOW, async () => {
  const waits = { runAt: store.clock.now() + DAY_MS }
  const [first, last] = [
    await enqueueOne(store, endpoint, waits),
    await enqueueOne(store, endpoint, waits),
  ]
  const [early = ''] = await enqueueMany(store, endpoint, 1, { dependsOn: [first.id] })
  await enqueueMany(store, endpoint, 250, { dependsOn: [last.id] })
  while ((await jobs.countDocuments({ recheckAt: { $exists: true } })) > 0) await sweep(store)
  // A final state without its finish effects, and without the mark that they are pending.
  const finish = { state: 'succeeded', finishedAt: new Date(store.clock.now()), hasKey: false }
  await jobs.updateOne({ _id: first.id }, { $set: finish, $unset: { effectsPending: '' } })
  await store.close()
  store = await open()
  let promoted = 0
  for (let i = 0; i < 3; i++) promoted += (await sweep(store)).promoted
  expect(promoted).toBe(1)
  expect(await jobOf(store, early)).toMatchObject({ state: 'queued', isBlocked: false })
})
