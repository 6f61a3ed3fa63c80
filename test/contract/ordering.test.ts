// The promises of ordering keys: the jobs of a key run one at a time, in the order in which they
// were enqueued. The next one starts only when the one before is final.
import { describe, expect, test } from 'vitest'
import type { ClaimedJob, NewJob } from '../../src/job/job.ts'
import type { Store } from '../../src/store/store.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import {
  addEndpoint,
  bringTo,
  burial,
  claimFrom,
  claimOne,
  enqueueMany,
  enqueueOne,
  jobOf,
  laterAgain,
  leaseOf,
  newJob,
  passed,
  success,
  sweep,
} from './fixtures.ts'

const HOUR_MS = 3_600_000
const KEY = { orderingKey: 'customer-7' }

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  /** Enqueues this many jobs of one key, in order. */
  async function line(count: number, fields: Partial<NewJob> = {}) {
    const endpoint = await addEndpoint(place.store)
    const ids = await enqueueMany(place.store, endpoint, count, { ...KEY, ...fields })
    return { endpoint, ids: ids as [string, string, ...string[]] }
  }

  async function claimedIds(endpoint: string): Promise<string[]> {
    return (await claimFrom(place.store, endpoint, 10)).map(({ jobId }) => jobId)
  }

  test('jobs of a key run one at a time, in their order, over three processes', {
    timeout: 90_000,
  }, async () => {
    const stores = [place.store, await place.open(), await place.open()]
    const endpoint = await addEndpoint(place.store)
    const keys = ['a', 'b', 'c', 'd', 'e']
    const jobs = Array.from({ length: 200 }, (_, i) =>
      // If priorities counted within a key, they would reverse the order.
      newJob(place.store, endpoint, { orderingKey: keys[i % 5] as string, priority: i % 10 }),
    )
    for (let at = 0; at < 200; at += 50) await place.store.enqueue(jobs.slice(at, at + 50))
    const keyOf = new Map(jobs.map(({ id, orderingKey }) => [id, orderingKey as string]))
    const seen: Record<string, string[]> = Object.fromEntries(keys.map((key) => [key, []]))
    const running = new Set<string>()
    let doneCount = 0

    async function work(store: Store): Promise<void> {
      await until(async () => {
        const claimed = await claimFrom(store, endpoint, 3)
        for (const { jobId } of claimed) {
          const key = keyOf.get(jobId) as string
          expect(running).not.toContain(key)
          running.add(key)
          seen[key]?.push(jobId)
        }
        for (const { jobId } of claimed) running.delete(keyOf.get(jobId) as string)
        const results = await store.settle(claimed.map((job) => success(store, job)))
        expect(results.every((result) => result === 'applied')).toBe(true)
        doneCount += results.length
        return doneCount === 200
      }, 80_000)
    }
    await Promise.all(stores.map(work))
    for (const key of keys) {
      expect(seen[key]).toEqual(jobs.filter((job) => job.orderingKey === key).map(({ id }) => id))
    }
  })

  test('a head that waits for its retry blocks the rest, and due does not list them', async () => {
    const { store } = place
    const { endpoint, ids } = await line(3)
    const head = await claimOne(store, endpoint)
    expect(head.jobId).toBe(ids[0])
    expect((await store.due(null)).endpoints).not.toContain(endpoint)
    await store.settle([laterAgain(store, head, store.clock.now() + HOUR_MS)])
    expect(await claimedIds(endpoint)).toEqual([])
    await sweep(store)
    expect(await claimedIds(endpoint)).toEqual([])
    const held = await Promise.all(ids.map(async (id) => (await jobOf(store, id)).isBlocked))
    expect(held).toEqual([false, true, true])
    expect(await store.headOfOrderingKey(endpoint, KEY.orderingKey)).toBe(ids[0])
  })

  test('a head that waits for its runAt holds the rest', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const runAt = store.clock.now() + 700
    const head = await enqueueOne(store, endpoint, { ...KEY, runAt })
    await enqueueOne(store, endpoint, KEY)
    expect(await claimedIds(endpoint)).toEqual([])
    await passed(store, runAt)
    expect(await claimedIds(endpoint)).toEqual([head.id])
  })

  test('a head that waits for a dependency has no turn, nor has anyone behind it', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const first = await enqueueOne(store, endpoint)
    const head = await enqueueOne(store, endpoint, { ...KEY, dependsOn: [first.id] })
    const behind = await enqueueOne(store, endpoint, KEY)
    const claimed = await claimOne(store, endpoint)
    expect(claimed.jobId).toBe(first.id)
    await sweep(store)
    expect(await claimedIds(endpoint)).toEqual([])
    await store.settle([success(store, claimed)])
    await until(() => isClaimable(store, head.id))
    const next = await claimOne(store, endpoint)
    expect(next.jobId).toBe(head.id)
    await store.settle([success(store, next)])
    await until(() => isClaimable(store, behind.id))
  })

  test.each(['succeeded', 'dead', 'cancelled'] as const)(
    'the next one is claimable at once when the head is %s',
    async (state) => {
      const { store } = place
      const { endpoint, ids } = await line(2)
      await bringTo(store, await claimOne(store, endpoint), state)
      expect(await store.headOfOrderingKey(endpoint, KEY.orderingKey)).toBe(ids[1])
      expect(await claimedIds(endpoint)).toEqual([ids[1]])
    },
  )

  test('the next one is claimable when the head expires, or its last lease expires', async () => {
    const { store } = place
    const { endpoint, ids } = await line(2, { maxAttempts: 1 })
    const expired = await claimOne(store, endpoint, 1)
    await passed(store, expired.claimedAt + 1)
    await sweep(store)
    expect(await claimedIds(endpoint)).toEqual([ids[1]])
    const brief = await line(1, { expiresAt: store.clock.now() - 1 })
    const behind = await enqueueOne(store, brief.endpoint, KEY)
    expect(await claimedIds(brief.endpoint)).toEqual([])
    await sweep(store)
    expect(await claimedIds(brief.endpoint)).toEqual([behind.id])
  })

  test('a head that was queued and is cancelled lets the next one go', async () => {
    const { store } = place
    const { endpoint, ids } = await line(3)
    await store.cancel([ids[0], ids[1]])
    expect(await claimedIds(endpoint)).toEqual([ids[2]])
    expect(await store.headOfOrderingKey(endpoint, 'other')).toBeNull()
  })

  test('one cancelled in the middle is passed over', async () => {
    const { store } = place
    const { endpoint, ids } = await line(3)
    await store.cancel([ids[1]])
    const head = await claimOne(store, endpoint)
    expect(await claimedIds(endpoint)).toEqual([])
    await store.settle([success(store, head)])
    expect(await claimedIds(endpoint)).toEqual([ids[2]])
  })

  test('a head keeps its turn through release, reschedule and reclaim', async () => {
    const { store } = place
    const { endpoint, ids } = await line(2)
    await store.release([leaseOf(await claimOne(store, endpoint))])
    const second = await claimOne(store, endpoint, 1)
    await passed(store, second.claimedAt + 1)
    await until(async () => (await sweep(store)).reclaimed === 1)
    const third = await claimOne(store, endpoint)
    await store.settle([laterAgain(store, third)])
    const fourth = await claimOne(store, endpoint)
    expect([second, third, fourth].map(({ jobId }) => jobId)).toEqual(Array(3).fill(ids[0]))
  })

  test('one retried by hand takes its old place before those that wait', async () => {
    const { store } = place
    const { endpoint, ids } = await line(3)
    await store.settle([burial(store, await claimOne(store, endpoint))])
    expect((await jobOf(store, ids[1])).isBlocked).toBe(false)
    await store.retry([ids[0]])
    expect((await jobOf(store, ids[1])).isBlocked).toBe(true)
    const order = []
    for (let i = 0; i < 3; i++) {
      const [claimed, ...others] = await claimFrom(store, endpoint, 5)
      expect(others).toEqual([])
      order.push(claimed?.jobId)
      await store.settle([success(store, claimed as ClaimedJob)])
    }
    expect(order).toEqual(ids)
  })

  test('one retried by hand waits for a later one that runs, then goes before the rest', async () => {
    const { store } = place
    const { endpoint, ids } = await line(3)
    await store.settle([burial(store, await claimOne(store, endpoint))])
    const later = await claimOne(store, endpoint)
    expect(later.jobId).toBe(ids[1])
    await store.retry([ids[0]])
    expect(await claimedIds(endpoint)).toEqual([])
    await store.settle([success(store, later)])
    expect(await claimedIds(endpoint)).toEqual([ids[0]])
  })

  test('jobs of other keys, of none, and of other endpoints do not wait', async () => {
    const { store } = place
    const { endpoint, ids } = await line(2)
    const other = await enqueueOne(store, endpoint, { orderingKey: 'customer-8' })
    const plain = await enqueueOne(store, endpoint)
    const elsewhere = await line(1)
    expect((await claimedIds(endpoint)).toSorted()).toEqual([ids[0], other.id, plain.id].toSorted())
    expect(await claimedIds(elsewhere.endpoint)).toEqual(elsewhere.ids)
  })

  test('a job that replaces a running one of its key waits behind it', async () => {
    const { store } = place
    const fields = { ...KEY, dedupe: { key: 'k', mode: 'replace' } } as const
    const { endpoint } = await line(1, fields)
    const superseded = await claimOne(store, endpoint)
    const next = await enqueueOne(store, endpoint, fields)
    expect(await claimedIds(endpoint)).toEqual([])
    await store.settle([laterAgain(store, superseded)])
    expect(await claimedIds(endpoint)).toEqual([next.id])
  })

  test('a held job expires like any other', async () => {
    const { store } = place
    const { endpoint } = await line(1)
    const expiresAt = store.clock.now() + 200
    const held = await enqueueOne(store, endpoint, { ...KEY, expiresAt })
    const last = await enqueueOne(store, endpoint, KEY)
    await passed(store, expiresAt)
    await sweep(store)
    expect((await jobOf(store, held.id)).failure?.reason).toBe('expired')
    await store.settle([success(store, await claimOne(store, endpoint))])
    expect(await claimedIds(endpoint)).toEqual([last.id])
  })

  test('held jobs go with their endpoint', async () => {
    const { store } = place
    const { endpoint, ids } = await line(3)
    await claimOne(store, endpoint)
    await store.deleteEndpoint(endpoint, { force: true, ifVersion: null })
    await until(async () => {
      await sweep(store)
      return (await store.endpointsNamed([endpoint])).length === 0
    })
    for (const id of ids) {
      expect((await jobOf(store, id)).failure?.reason).toBe('endpoint_gone')
    }
  })

  test('an enqueue while the head ends leaves no job behind for ever', async () => {
    const { store } = place
    const other = await place.open()
    for (let round = 0; round < 15; round++) {
      const { endpoint } = await line(1)
      const head = await claimOne(store, endpoint)
      const [, next] = await Promise.all([
        store.settle([success(store, head)]),
        enqueueOne(other, endpoint, KEY),
      ])
      await until(async () => {
        await sweep(store)
        return isClaimable(store, next.id)
      })
    }
  })

  test('of a claim and a retry of an earlier one at once, never two run', async () => {
    const { store } = place
    const other = await place.open()
    for (let round = 0; round < 15; round++) {
      const { endpoint, ids } = await line(2)
      await store.settle([burial(store, await claimOne(store, endpoint))])
      const [claimed] = await Promise.all([claimFrom(store, endpoint, 2), other.retry([ids[0]])])
      // The retried job is due by the clock of the other process, which may be a little ahead.
      await passed(store, (await jobOf(store, ids[0])).runAt)
      claimed.push(...(await claimFrom(other, endpoint, 2)))
      await sweep(store)
      claimed.push(...(await claimFrom(store, endpoint, 2)))
      expect(claimed).toHaveLength(1)
      await store.settle(claimed.map((job) => success(store, job)))
      expect(await claimFrom(store, endpoint, 2)).toHaveLength(1)
    }
  })
})

async function isClaimable(store: Store, id: string): Promise<boolean> {
  const { isBlocked, state } = await jobOf(store, id)
  return state === 'queued' && !isBlocked
}
