// Processes on MongoDB that claim from one endpoint at the same time try different jobs, and pass
// over no fairness key. A limit that they share keeps none of them waiting for long.
import { MongoClient } from 'mongodb'
import { expect, it, onTestFinished } from 'vitest'
import { ASK_AGAIN_MS } from '../../src/endpoint/admission.ts'
import type { Store } from '../../src/store/store.ts'
import {
  addEndpoint,
  claimFrom,
  enqueueMany,
  enqueueOne,
  holderOf,
  success,
} from '../contract/fixtures.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'

const place = useStore('mongo')
const CLAIMERS = 3
const SLOTS = 16
const BATCH = 500
const FLOOD = 4 * BATCH
const KEYS = 20
/** A claim of each that does not see the new job, and two while the next one sees it. */
const HANDLED = 3 * CLAIMERS * SLOTS

it('a new key waits only for the claims of the moment', { timeout: 60_000 }, async () => {
  const { store } = place
  const stores = [store, await place.open(), await place.open()]
  const endpoint = await addEndpoint(store)
  for (let i = 0; i < FLOOD; i += BATCH) {
    await enqueueMany(store, endpoint, BATCH, { fairnessKey: 'flood' })
  }
  const begun: string[] = []
  const dueAt = new Map<string, number>()
  let isOver = false
  const claimAll = async (own: Store) => {
    while (!isOver && begun.length < FLOOD) {
      const jobs = await claimFrom(own, endpoint, SLOTS)
      begun.push(...jobs.map(({ jobId }) => jobId))
      await own.settle(jobs.map((job) => success(own, job)))
    }
  }
  const claimers = stores.map(claimAll)
  for (let i = 0; i < KEYS; i++) {
    const { id } = await enqueueOne(store, endpoint, { fairnessKey: `key ${i}` })
    const { length } = begun
    dueAt.set(id, length)
    await until(() => begun.length > length + SLOTS)
  }
  await until(() => [...dueAt.keys()].every((id) => begun.includes(id)))
  isOver = true
  await Promise.all(claimers)

  const waits = [...dueAt].map(([id, at]) => begun.indexOf(id) - at)
  expect(Math.max(...waits)).toBeLessThanOrEqual(HANDLED)
})

it('a claim asks again soon for a shared limit whose admission another one holds', async () => {
  const { store } = place
  const name = 'shared'
  await store.putLimit({ name, concurrency: 1, rateLimit: null }, null)
  const endpoint = await addEndpoint(store, { limits: [name] })
  await enqueueOne(store, endpoint)
  const client = await MongoClient.connect(place.url)
  onTestFinished(() => client.close())
  const held = { admissionHolder: 'another', admissionUntil: new Date(Date.now() + 3_600_000) }
  const limits = client.db().collection<{ _id: string }>('posthorn_limits')
  await limits.updateOne({ _id: name }, { $set: held })
  const askedAt = store.clock.now()

  const { jobs, limited } = await store.claim([{ endpoint, limit: 1 }], 1, holderOf())

  expect(jobs).toEqual([])
  expect(limited).toMatchObject([{ endpoint, limits: [name] }])
  const tookMs = store.clock.now() - askedAt
  expect((limited[0]?.againAt ?? 0) - askedAt).toBeLessThan(tookMs + ASK_AGAIN_MS / 2)
})
