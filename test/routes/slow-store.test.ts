// Requests that need more writes than a slow store can make in their time. Each gets a response in
// time that states what was done, and a repeat continues from there.
import { randomBytes } from 'node:crypto'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { Posthorn } from '../../src/client/client.ts'
import { openMongoStore } from '../../src/store/mongo/store.ts'
import type { Store } from '../../src/store/store.ts'
import { addEndpoint, enqueueMany } from '../contract/fixtures.ts'
import { type MongoProxy, startMongoProxy } from '../support/mongo-proxy.ts'
import { type ServedApp, serveApp } from '../support/served-app.ts'
import { createSlowDisk } from '../support/slow-writes.ts'
import { useStore } from '../support/stores.ts'

const encryptionKeys = [randomBytes(32)]
/** The promised time, doubled for a shared machine. */
const ANSWER_MS = 6_000
const MOST_REPEATS = 12

describe('a store that is slow to write', () => {
  const place = useStore('mongo', { encryptionKeys })
  const disk = createSlowDisk()
  let proxy: MongoProxy
  let store: Store
  let served: ServedApp

  beforeAll(async () => {
    proxy = await startMongoProxy(place.url, disk)
    const settings = { retentionMs: 60_000, retentionDeadMs: 60_000, encryptionKeys, warn() {} }
    store = await openMongoStore(proxy.url, settings)
    served = await serveApp({ store })
  })
  afterEach(() => disk.setDelay(0))
  afterAll(async () => {
    await served.close()
    await store.close()
    await proxy.stop()
  })

  async function post(path: string, body: object) {
    const sentAtMs = performance.now()
    const answer = await fetch(`${served.url}${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    })
    // biome-ignore lint/suspicious/noExplicitAny: each test reads fields of its own
    const json = (await answer.json()) as any
    expect(performance.now() - sentAtMs).toBeLessThan(ANSWER_MS)
    return { status: answer.status, json }
  }

  it('a bulk cancel is done after a few requests, each with a response in time', async () => {
    const endpoint = await addEndpoint(place.store)
    await enqueueMany(place.store, endpoint, 60)
    disk.setDelay(60)
    let affected = 0
    let repeats = 0
    let isMore = true
    while (isMore && repeats++ < MOST_REPEATS) {
      const { status, json } = await post('/jobs/cancel', { filter: { endpoint }, limit: 1_000 })
      expect([200, 503]).toContain(status)
      isMore = status === 503 || json.more === true
      if (status === 200) affected += json.affected
    }
    expect(isMore).toBe(false)
    const [counts] = await place.store.countJobs([endpoint])
    expect(counts).toMatchObject({ queued: 0, running: 0 })
    // A request that gets a 503 may have cancelled jobs. No response counts these.
    expect(affected).toBeGreaterThan(0)
  })

  it('a batch is stored as far as time allows, and says which items the client must send again', async () => {
    const endpoint = await addEndpoint(place.store)
    const jobs = Array.from({ length: 70 }, (_, i) => ({
      ...{ endpoint, payload: i, idempotencyKey: `item-${i}` },
    }))
    disk.setDelay(60)
    let status = 503
    let items: { status: number; error?: { code: string } }[] = []
    for (let repeats = 0; status === 503 && repeats < MOST_REPEATS; repeats++) {
      const answer = await post('/jobs/batch', { jobs })
      status = answer.status
      items = answer.json.items
    }
    expect(status).toBe(200)
    const refused = items.filter(({ error }) => error !== undefined)
    expect(refused.length).toBeGreaterThan(0)
    expect(refused.length).toBeLessThan(jobs.length)
    expect(new Set(refused.map(({ error }) => error?.code))).toEqual(new Set(['store_unavailable']))
    const posthorn = new Posthorn({ url: served.url })
    const stored = await posthorn.enqueueBatch(jobs)
    expect(stored.filter(({ id }) => id === undefined)).toEqual([])
    const [counts] = await place.store.countJobs([endpoint])
    expect(counts?.queued).toBe(70)
  })
})
