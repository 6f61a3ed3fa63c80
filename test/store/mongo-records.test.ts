// The records of the MongoDB store other than jobs: each query has its index, and old records are
// deleted.
import { randomBytes } from 'node:crypto'
import type { Db, Document } from 'mongodb'
import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { MINUTE_STATS_KEPT_MS } from '../../src/store/minute-stats.ts'
import { openDatabase } from '../../src/store/mongo/schema.ts'
import { OLDEST_LOOKED_AT } from '../../src/store/mongo/stats.ts'
import { storeOn } from '../../src/store/mongo/store.ts'
import { MAX_COUNT, type Store } from '../../src/store/store.ts'
import { WORKER_KEPT_MS } from '../../src/store/worker-liveness.ts'
import { addEndpoint, claimFrom, enqueueMany } from '../contract/fixtures.ts'
import { databaseUrl } from '../support/mongo.ts'

const HOUR_MS = 3_600_000

let db: Db
let store: Store
const sent: Document[] = []

beforeAll(async () => {
  const url = databaseUrl(inject('mongoUrl'), `test-${randomBytes(6).toString('hex')}`)
  const connection = await openDatabase(url)
  db = connection.db
  store = await storeOn(connection, {
    retentionMs: 0,
    retentionDeadMs: 0,
    encryptionKeys: [randomBytes(32)],
    warn: () => {},
  })
  connection.client.on('commandStarted', ({ command }) => sent.push(command))
})

afterAll(async () => {
  await db.dropDatabase()
  await store.close()
})

async function sentBy(work: () => Promise<unknown>): Promise<Document[]> {
  sent.length = 0
  await work()
  return [...sent]
}

async function indexOf(collection: string, name: string): Promise<Document | undefined> {
  const indexes = await db.collection(collection).indexes()
  return indexes.find((index) => index.name === name)
}

test('old statistics and workers are removed by MongoDB itself', async () => {
  expect(await indexOf(COLLECTIONS.minuteStats, 'by_minute')).toMatchObject({
    key: { minute: 1 },
    expireAfterSeconds: MINUTE_STATS_KEPT_MS / 1_000,
  })
  expect(await indexOf(COLLECTIONS.workers, 'seen')).toMatchObject({
    key: { seenAt: 1 },
    expireAfterSeconds: WORKER_KEPT_MS / 1_000,
  })
})

test('MongoDB removes a key without settings when its bucket is full and its rest is over', async () => {
  expect(await indexOf(COLLECTIONS.fairnessKeys, 'unneeded')).toMatchObject({
    ...{ key: { expiresAt: 1 }, expireAfterSeconds: 0 },
  })
  const rateLimit = { count: 1, perMs: 2 * HOUR_MS }
  const endpoint = await addEndpoint(store, { perKey: { concurrency: null, rateLimit } })
  const key = { endpoint, key: 'a' }
  const begin = store.clock.now()
  const stored = () => db.collection(COLLECTIONS.fairnessKeys).findOne({})
  /** Epoch milliseconds; null: it stays. */
  const expiresAt = async () => (await stored())?.expiresAt?.getTime() ?? null

  await store.reportKeyHealth([{ ...key, succeeded: [], throttle: { until: null } }])
  expect(await expiresAt()).toBeGreaterThan(begin + HOUR_MS)
  expect(await expiresAt()).toBeLessThan(begin + 2 * HOUR_MS)
  await enqueueMany(store, endpoint, 1, { fairnessKey: 'a' })
  await store.putFairnessKey(key, { weight: 2, paused: false }, null)
  await claimFrom(store, endpoint, 1)
  expect(await expiresAt()).toBeNull()
  await store.deleteFairnessKey(key, null)
  expect(await expiresAt()).toBeGreaterThan(begin + 2 * HOUR_MS)
  const until = begin + 5 * HOUR_MS
  await store.reportKeyHealth([{ ...key, succeeded: [], throttle: { until } }])
  expect(await expiresAt()).toBeGreaterThan(until + HOUR_MS)
  await store.resumeEndpoint(endpoint)
  expect(await stored()).not.toHaveProperty('rest')
  expect(await expiresAt()).toBeLessThan(begin + 3 * HOUR_MS)
})

test('an idle look for due schedules is one command, in the order of its index', async () => {
  const [command, ...others] = await sentBy(() => store.dueSchedules(500))
  expect(others).toEqual([])
  expect(command).toMatchObject({ find: COLLECTIONS.schedules, filter: { paused: false } })
  expect(Object.keys(command?.filter ?? {})).toEqual(['paused', 'nextRunAt'])
  expect([...(command?.sort ?? [])]).toEqual([['nextRunAt', 1]])
  expect(await indexOf(COLLECTIONS.schedules, 'due')).toMatchObject({
    key: { paused: 1, nextRunAt: 1 },
  })
})

test('moves of many schedules are few commands', async () => {
  const endpoint = await addEndpoint(store)
  const change = { endpoint, paused: false, settings: '{}', payload: Buffer.from('1') }
  const names = Array.from({ length: 20 }, (_, i) => `schedule-${i}`)
  for (const name of names) await store.putSchedule({ ...change, name, nextRunAt: 1_000 }, null)
  const due = await store.dueSchedules(100)
  expect(due.map(({ name }) => name).sort()).toEqual(names.sort())
  const moves = due.map(({ name, version }) => ({
    name,
    version,
    tickAt: 1_000,
    nextRunAt: null,
    lastError: null,
  }))
  const commands = await sentBy(() => store.advanceSchedules(moves))
  expect(commands).toHaveLength(1)
  expect(await store.dueSchedules(100)).toEqual([])
})

test('statistics count up to their limit, with a few names in each command', async () => {
  const name = await addEndpoint(store)
  await enqueueMany(store, name, 3)
  const names = Array.from({ length: 100 }, (_, i) => (i === 50 ? name : `nobody-${i}`))
  // Five commands find which endpoints have jobs, one counts the jobs of these, and one finds
  // which have fairness keys.
  expect(await sentBy(() => store.statsOf(names))).toHaveLength(7)
  const [counts, ...others] = await sentBy(() => store.statsOf(names.slice(45, 55)))
  expect(others).toHaveLength(1)
  const commands = counts === undefined ? [] : [counts]
  const stages = commands.flatMap(({ pipeline }): Document[] => pipeline).flatMap(stagesOf)
  const limits = stages.flatMap(({ $limit }) => ($limit === undefined ? [] : [$limit]))
  expect(limits).toHaveLength(110)
  expect(new Set(limits)).toEqual(new Set([MAX_COUNT + 1, OLDEST_LOOKED_AT]))
  const matches = stages.flatMap(({ $match }) => ($match === undefined ? [] : [$match]))
  expect(matches).toHaveLength(110)
  for (const match of matches) expect(Object.keys(match)).toEqual(expect.arrayContaining(SCOPE))
})

const SCOPE = ['endpoint', 'state']

function stagesOf(stage: Document): Document[] {
  return stage.$unionWith === undefined ? [stage] : stage.$unionWith.pipeline
}
