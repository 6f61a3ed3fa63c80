// Due times and leases follow the clock of the server, whatever the clock of the client shows.
import { MongoClient } from 'mongodb'
import { afterEach, expect, it, onTestFinished, vi } from 'vitest'
import { startClock } from '../../src/store/mongo/clock.ts'
import { addEndpoint, claimFrom, enqueueOne, jobOf } from '../contract/fixtures.ts'
import { startMongoProxy } from '../support/mongo-proxy.ts'
import { createSlowDisk } from '../support/slow-writes.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'

const DAY_MS = 86_400_000
const LEASE_MS = 60_000
/** The time of a round trip on a busy machine. */
const MARGIN_MS = 1_000

/** Three such responses come within the deadline of the store. */
const SLOW_MS = 500
/** What half a round trip on a busy machine can add to an exact estimate. */
const EXACT_MS = 100

const place = useStore('mongo')

afterEach(() => {
  vi.useRealTimers()
})

it.each([DAY_MS, -DAY_MS])(
  'a wall clock that is wrong by %d ms changes nothing',
  async (skewMs) => {
    const client = new MongoClient(place.url)
    const hello = await client.db('admin').command({ hello: 1 })
    await client.close()
    const askedAt = performance.now()
    const askedTime = (hello.localTime as Date).getTime()
    const serverTime = () => askedTime + performance.now() - askedAt
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + skewMs })
    const store = await place.open()

    expect(Math.abs(store.clock.now() - serverTime())).toBeLessThan(MARGIN_MS)
    const endpoint = await addEndpoint(store)
    const { id } = await enqueueOne(store, endpoint)
    const later = await enqueueOne(store, endpoint, { runAt: askedTime + DAY_MS / 2 })
    const claimed = await claimFrom(store, endpoint, 10, LEASE_MS)

    expect(claimed.map(({ jobId }) => jobId)).toEqual([id])
    expect(await jobOf(store, later.id)).toMatchObject({ state: 'queued' })
    const { lease } = await jobOf(store, id)
    expect(Math.abs((lease?.expiresAt ?? 0) - LEASE_MS - serverTime())).toBeLessThan(2 * MARGIN_MS)
  },
)

it('a clock that starts while the server is slow becomes exact later', async () => {
  const proxy = await startMongoProxy(place.url, createSlowDisk())
  onTestFinished(() => proxy.stop())
  const client = await new MongoClient(proxy.url).connect()
  onTestFinished(() => client.close())
  proxy.slow(SLOW_MS)
  const clock = await startClock(client)
  onTestFinished(() => clock.stop())
  // Only responses are slow. The estimate takes half of the round trip for the way of the request.
  expect(Date.now() - clock.now()).toBeGreaterThan(SLOW_MS / 2 - EXACT_MS)
  proxy.restore()
  await until(() => Math.abs(Date.now() - clock.now()) < EXACT_MS, 30_000)
}, 60_000)
