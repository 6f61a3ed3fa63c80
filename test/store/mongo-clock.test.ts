// Due times and leases follow the clock of the server, whatever the clock of the client shows.
import { MongoClient } from 'mongodb'
import { afterEach, expect, it, vi } from 'vitest'
import { addEndpoint, claimFrom, enqueueOne, jobOf } from '../contract/fixtures.ts'
import { useStore } from '../support/stores.ts'

const DAY_MS = 86_400_000
const LEASE_MS = 60_000
/** The time of a round trip on a busy machine. */
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
