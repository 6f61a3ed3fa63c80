// Real failovers: a replica set of three mongods whose primary is killed again and again under
// load. Acknowledged jobs are kept, and each is done once.
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { MongoClient } from 'mongodb'
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { openMongoStore } from '../../src/store/mongo/store.ts'
import type { Store, StoreSettings } from '../../src/store/store.ts'
import { StoreUnavailable } from '../../src/store/store-errors.ts'
import { addEndpoint, claimFrom, newJob, success } from '../contract/fixtures.ts'
import { databaseUrl, startMongoSet } from '../support/mongo.ts'
import type { MongodSet } from '../support/mongod.ts'
import { until } from '../support/until.ts'

const KILLS = 5
/** Enqueues that must succeed between one kill and the next. */
const ACKNOWLEDGED_BETWEEN = 200
const CLAIM_LIMIT = 100
const LEASE_MS = 30_000
const RECOVERY_MS = 60_000
/** The time for the remaining jobs after the enqueues have stopped. */
const DRAIN_MS = 300_000
const DAY_MS = 86_400_000

const SETTINGS: StoreSettings = {
  retentionMs: DAY_MS,
  retentionDeadMs: DAY_MS,
  encryptionKeys: [randomBytes(32)],
  warn: () => {},
}

describe.runIf(inject('mongoEngine') === 'mongod')('a set of three, its primary killed', () => {
  let set: MongodSet
  let client: MongoClient
  const stores: Store[] = []
  /** Job ids by idempotency key. */
  const acknowledged = new Map<string, string>()
  let isStopped = false

  beforeAll(async () => {
    set = await startMongoSet()
    client = await new MongoClient(databaseUrl(set.url, 'posthorn')).connect()
    const url = databaseUrl(set.url, 'posthorn')
    for (let i = 0; i < 3; i++) stores.push(await openMongoStore(url, SETTINGS))
  }, RECOVERY_MS)
  afterAll(async () => {
    isStopped = true
    await Promise.allSettled(stores.map((store) => store.close()))
    await client?.close()
    await set?.stop()
  })

  /** Enqueues with each key until the enqueue is acknowledged. */
  async function enqueueUntilStopped(store: Store, endpoint: string, name: string) {
    for (let i = 0; !isStopped; i++) {
      const idempotency = { key: `${name}-${i}`, requestHash: 'hash' }
      const [result] = await repeated(() =>
        store.enqueue([newJob(store, endpoint, { idempotency })]),
      )
      if (result === undefined || !('job' in result)) throw new Error(`refused: ${result?.kind}`)
      acknowledged.set(idempotency.key, result.job.id)
    }
  }

  async function workUntilStopped(store: Store, endpoint: string) {
    while (!isStopped) {
      await store.sweep({ limit: 100, reclaim: true }).catch(ignoreOutage)
      if ((await workOnce(store, endpoint)) === 0) await sleep(20)
    }
  }

  async function workOnce(store: Store, endpoint: string): Promise<number> {
    const claim = claimFrom(store, endpoint, CLAIM_LIMIT, LEASE_MS)
    const jobs = (await claim.catch(ignoreOutage)) ?? []
    if (jobs.length > 0) await repeated(() => store.settle(jobs.map((job) => success(store, job))))
    return jobs.length
  }

  async function killPrimaries() {
    for (let kill = 0; kill < KILLS; kill++) {
      await moreAcknowledged()
      const { primary } = await client.db('admin').command({ hello: 1 })
      const member = set.members.get(primary)
      if (member === undefined) throw new Error(`no member is called ${primary}`)
      await member.kill()
      await moreAcknowledged()
      await member.restart()
    }
  }

  async function moreAcknowledged() {
    const enough = acknowledged.size + ACKNOWLEDGED_BETWEEN
    await until(() => acknowledged.size >= enough, RECOVERY_MS)
  }

  it('loses no job that was acknowledged, makes none twice, and all of them succeed', async () => {
    const [first, second, third] = stores as [Store, Store, Store]
    const endpoint = await addEndpoint(first)
    await Promise.all([
      enqueueUntilStopped(first, endpoint, 'first'),
      enqueueUntilStopped(second, endpoint, 'second'),
      workUntilStopped(second, endpoint),
      workUntilStopped(third, endpoint),
      killPrimaries().finally(() => {
        isStopped = true
      }),
    ])
    await until(async () => {
      await first.sweep({ limit: 100, reclaim: true }).catch(ignoreOutage)
      await workOnce(first, endpoint)
      const [count] = await first.countJobs([endpoint])
      return count?.queued === 0 && count.running === 0
    }, DRAIN_MS)

    const jobs = client.db().collection(COLLECTIONS.jobs, { readConcern: { level: 'majority' } })
    const stored = await jobs.find().toArray()
    const idByKey = new Map(stored.map((job) => [job.idempotencyKey, String(job._id)]))
    expect(idByKey).toEqual(acknowledged)
    expect(stored).toHaveLength(acknowledged.size)
    expect(new Set(stored.map(({ state }) => state))).toEqual(new Set(['succeeded']))
  })
})

/** Repeats the call until it succeeds: an outage does not count as a result. */
async function repeated<T>(call: () => Promise<T>): Promise<T> {
  for (;;) {
    const done = await call().then((value) => ({ value }), ignoreOutage)
    if (done !== undefined) return done.value
    await sleep(50)
  }
}

function ignoreOutage(error: unknown): undefined {
  if (!(error instanceof StoreUnavailable)) throw error
}
