// Majority reads that an election has made older than acknowledged writes (SERVER-53813). A proxy
// reads from a copy of the database that is older than the writes of the test. No verb may do harm
// then: report a lease as lost that is held, end a job, or run one twice.
import { randomBytes } from 'node:crypto'
import { type Document, MongoClient } from 'mongodb'
import { afterAll, beforeAll, beforeEach, describe, expect, inject, test } from 'vitest'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { connect } from '../../src/store/mongo/connection.ts'
import { openMongoStore, storeOn } from '../../src/store/mongo/store.ts'
import type { Outbox } from '../../src/store/outbox.ts'
import type { Store, StoreSettings } from '../../src/store/store.ts'
import { StoreUnavailable } from '../../src/store/store-errors.ts'
import {
  acceptance,
  addEndpoint,
  claimFrom,
  enqueueMany,
  enqueueOne,
  holderOf,
  jobOf,
  LONG_LEASE_MS,
  laterAgain,
  leaseOf,
  newJob,
  success,
  sweep,
} from '../contract/fixtures.ts'
import { type ElectionProxy, startElectionProxy } from '../support/election-proxy.ts'
import { databaseUrl } from '../support/mongo.ts'
import { commandIn } from '../support/wire-messages.ts'
import { readDocuments, restoreDocuments } from './documents.ts'

const DAY_MS = 86_400_000
const name = `test-${randomBytes(6).toString('hex')}`
const olderName = `${name}-older`
const settings: StoreSettings = {
  ...{ retentionMs: DAY_MS, retentionDeadMs: DAY_MS, warn: () => {} },
  encryptionKeys: [randomBytes(32)],
  outbox: { database: name, collection: 'outbox' },
}

let client: MongoClient
let proxy: ElectionProxy
/** Reads and writes without the proxy. */
let store: Store
/** Its majority reads are old, if `isOld` says so. */
let late: Store
let isOld: (command: Document) => boolean
let endpoint: string

beforeAll(async () => {
  client = await MongoClient.connect(inject('mongoUrl'))
  const url = databaseUrl(inject('mongoUrl'), name)
  store = await openMongoStore(url, settings)
  const olderUrl = databaseUrl(inject('mongoUrl'), olderName)
  await (await openMongoStore(olderUrl, { ...settings, outbox: null })).close()
  proxy = await startElectionProxy(url)
})

afterAll(async () => {
  await late?.close()
  await store?.close()
  await proxy?.stop()
  for (const one of [name, olderName]) await client.db(one).dropDatabase()
  await client.close()
})

beforeEach(async () => {
  await late?.close()
  proxy.decide = () => null
  late = await storeOn({ ...(await connect(proxy.url)), names: COLLECTIONS }, settings)
  endpoint = await addEndpoint(store)
  isOld = () => true
})

/** From now on, the chosen majority reads of `late` show the database as it is at this moment. */
async function startElection() {
  await restoreDocuments(client.db(olderName), await readDocuments(client.db(name)))
  proxy.decide = (_, message) => {
    const command = commandIn(message)
    const isRead = command !== null && ('find' in command || 'aggregate' in command)
    if (!isRead || command.readConcern?.level !== 'majority' || !isOld(command)) return null
    return { kind: 'old_read', database: olderName }
  }
}

/** Of two jobs that were claimed after the election, the lease of the second one is lost. */
async function claimTwo() {
  await enqueueMany(store, endpoint, 2)
  await startElection()
  const [held, lost] = await claimFrom(store, endpoint, 2)
  if (held === undefined || lost === undefined) throw new Error('two jobs were due')
  return { held, lost: { ...lost, fence: lost.fence + 1 } }
}

describe('a lease that is held', () => {
  test('renew', async () => {
    const { held, lost } = await claimTwo()
    expect(await late.renew([held, lost], LONG_LEASE_MS)).toEqual(['applied', 'lease_lost'])
  })

  test('heartbeat', async () => {
    const { held } = await claimTwo()
    const beat = { progress: null, extendMs: null, completionTimeoutMs: 1_000 }
    expect(await late.heartbeat(leaseOf(held), beat)).toMatchObject({ kind: 'applied' })
  })

  test('release', async () => {
    const { held, lost } = await claimTwo()
    expect(await late.release([held, lost])).toEqual(['applied', 'lease_lost'])
    expect(await jobOf(store, held.jobId)).toMatchObject({ state: 'queued' })
  })

  test('settle, also repeated', async () => {
    const { held, lost } = await claimTwo()
    const settlements = [success(store, held), success(store, lost)]
    const results = await late.settle(settlements, { isRepeat: true })
    expect(results).toEqual(['applied', 'lease_lost'])
    expect(await jobOf(store, held.jobId)).toMatchObject({ state: 'succeeded' })
  })

  test('settle, if the job was superseded', async () => {
    const dedupe = { key: 'a', mode: 'replace' } as const
    await enqueueOne(store, endpoint, { dedupe })
    await startElection()
    const [held] = await claimFrom(store, endpoint, 1)
    if (held === undefined) throw new Error('a job was due')
    await enqueueOne(store, endpoint, { dedupe })
    expect(await late.settle([laterAgain(store, held)])).toEqual(['applied'])
    expect(await jobOf(store, held.jobId)).toMatchObject({ state: 'cancelled' })
  })

  test('a result that a majority may not have is not confirmed', async () => {
    const { held } = await claimTwo()
    const settlement = acceptance(held, store.clock.now() + LONG_LEASE_MS)
    await store.settle([settlement])
    await expect(late.settle([settlement], { isRepeat: true })).rejects.toThrow(StoreUnavailable)
    isOld = () => false
    expect(await late.settle([settlement], { isRepeat: true })).toEqual(['already_applied'])
  })
})

describe('a job that was just enqueued', () => {
  test('is not final', async () => {
    await startElection()
    const [id = ''] = await enqueueMany(store, endpoint, 1)
    expect(await late.finalAmong([id])).toEqual([])
  })

  test('is due', async () => {
    await startElection()
    await enqueueOne(store, endpoint)
    expect((await late.due(null)).endpoints).toContain(endpoint)
    expect((await late.due(store.clock.now() - 1_000)).endpoints).toContain(endpoint)
  })

  test('can be depended on, also at an endpoint that was just created', async () => {
    await startElection()
    const created = await addEndpoint(store)
    const { id } = await enqueueOne(store, created)
    expect(await late.enqueue([newJob(store, created, { dependsOn: [id] })])).toMatchObject([
      { kind: 'inserted' },
    ])
  })

  test('does not fail the jobs that depend on it', async () => {
    // The states of dependencies are read in the time after the other reads of the sweep.
    isOld = ({ find, projection }) =>
      find === COLLECTIONS.jobs && Object.keys(projection ?? {}).join() === 'state'
    await startElection()
    const { id } = await enqueueOne(store, endpoint)
    const dependent = await enqueueOne(store, endpoint, { dependsOn: [id] })
    await client
      .db(name)
      .collection<Document & { _id: string }>(COLLECTIONS.jobs)
      .updateOne({ _id: dependent.id }, { $set: { recheckAt: new Date(0) } })
    await sweep(late)
    expect(await jobOf(store, dependent.id)).toMatchObject({ state: 'queued', failure: null })
  })

  test('keeps its endpoint from being deleted', async () => {
    await startElection()
    await enqueueOne(store, endpoint)
    const deleted = await late.deleteEndpoint(endpoint, { force: false, ifVersion: null })
    expect(deleted).toMatchObject({ kind: 'in_use' })
  })

  test('is not ended because its endpoint is new, too', async () => {
    isOld = ({ find }) => find === COLLECTIONS.endpoints
    await startElection()
    const created = await addEndpoint(store)
    const { id } = await enqueueOne(store, created)
    // The first sweep of a process looks for jobs without an endpoint.
    await sweep(late)
    expect(await jobOf(store, id)).toMatchObject({ state: 'queued' })
  })
})

test('a claim is admitted to each endpoint with a limit', async () => {
  isOld = ({ find }) => find === COLLECTIONS.endpoints
  const names = [
    await addEndpoint(store, { concurrency: 1 }),
    await addEndpoint(store, { concurrency: 1 }),
  ]
  for (const one of names) await enqueueOne(store, one)
  await startElection()
  const shares = names.map((one) => ({ endpoint: one, limit: 1 }))
  const { jobs } = await late.claim(shares, 2, holderOf())
  expect(jobs.map((job) => job.endpoint).sort()).toEqual(names.toSorted())
})

test('a schedule that has advanced is not due', async () => {
  const tickAt = store.clock.now() - 1_000
  const schedule = { name: 'hourly', endpoint, paused: false, settings: '{}' }
  await store.putSchedule({ ...schedule, payload: Buffer.from('1'), nextRunAt: tickAt }, 'none')
  await startElection()
  const nextRunAt = tickAt + DAY_MS
  await store.advanceSchedules([{ name: 'hourly', version: 1, tickAt, nextRunAt, lastError: null }])
  expect(await late.dueSchedules(10)).toEqual([])
})

test('a document of the outbox is copied before it is deleted', async () => {
  const outbox = client.db(name).collection<Document & { _id: string }>('outbox')
  await outbox.insertOne({ _id: 'one', endpoint, payload: 1 })
  await startElection()
  const documents = await (late.outbox as Outbox).take(10)
  expect(documents).toHaveLength(1)
  const refused = documents.map((document) => ({
    ...{ document, reason: 'invalid', message: 'no' },
  }))
  await (late.outbox as Outbox).setAside(refused as Parameters<Outbox['setAside']>[0])
  expect(await outbox.countDocuments()).toBe(0)
  const rejected = client.db(name).collection('outbox_rejected')
  expect(await rejected.countDocuments()).toBe(1)
})
