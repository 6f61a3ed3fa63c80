// Due times and leases go by the server's clock: that of the machine that asks may be anything.
import { MongoClient } from 'mongodb'
import { afterEach, expect, it, vi } from 'vitest'
import { addEndpoint, claimFrom, enqueueOne, jobOf } from '../contract/fixtures.ts'
import { useStore } from '../support/stores.ts'

const DAY_MS = 86_400_000
const LEASE_MS = 60_000
/** A round trip on a busy machine. */
const MARGIN_MS = 1_000

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
    const serverTime = (hello.localTime as Date).getTime()
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + skewMs })
    const store = await place.open()

    expect(Math.abs(store.clock.now() - serverTime)).toBeLessThan(MARGIN_MS)
    const endpoint = await addEndpoint(store)
    const { id } = await enqueueOne(store, endpoint)
    const later = await enqueueOne(store, endpoint, { runAt: serverTime + DAY_MS / 2 })
    const claimed = await claimFrom(store, endpoint, 10, LEASE_MS)

    expect(claimed.map(({ jobId }) => jobId)).toEqual([id])
    expect(await jobOf(store, later.id)).toMatchObject({ state: 'queued' })
    const { lease } = await jobOf(store, id)
    expect(Math.abs((lease?.expiresAt ?? 0) - LEASE_MS - serverTime)).toBeLessThan(2 * MARGIN_MS)
  },
)
