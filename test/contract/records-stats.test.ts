// Statistics by the minute and counts by endpoint, on both stores.
import { describe, expect, test } from 'vitest'
import { dueAt } from '../../src/job/job.ts'
import {
  DURATION_BOUNDS_MS,
  MAX_MINUTE_STATS_ADDED,
  type MinuteStats,
} from '../../src/store/minute-stats.ts'
import { MAX_STATS_NAMES } from '../../src/store/store.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import {
  addEndpoint,
  burial,
  claimFrom,
  claimOne,
  enqueueMany,
  enqueueOne,
  freshName,
  leaseOf,
  success,
  sweep,
} from './fixtures.ts'

const MINUTE_MS = 60_000
const CLOCKS_DIFFER_MS = 50
const NONE = {
  ...{ queued: 0, due: 0, running: 0, dead: 0, keysDue: 0 },
  ...{ oldestDueAt: null, more: false },
}

describe.each(ENGINES)('minute statistics on %s', (engine) => {
  const place = useStore(engine)
  const thisMinute = () => Math.floor(place.store.clock.now() / MINUTE_MS) * MINUTE_MS

  /** Statistics with `ended` attempts in the first bucket and one in the last. */
  function minuteStatsOf(endpoint: string, minute: number, ended = 1): MinuteStats {
    const durations = Array<number>(DURATION_BOUNDS_MS.length + 1).fill(0)
    durations[0] = ended
    durations[DURATION_BOUNDS_MS.length] = 1
    return { minute, endpoint, succeeded: ended, failed: 1, durations }
  }

  let reportCount = 0
  /** Adds the statistics as a report of its own. */
  const add = (stats: MinuteStats[], store = place.store) =>
    store.addMinuteStats(stats, { writer: 'test', number: ++reportCount })

  const sinceOf = async (endpoint: string, instant: number) =>
    (await place.store.minuteStatsSince(instant, endpoint)).stats

  test('statistics of one minute and endpoint add up, whichever process adds', async () => {
    const [name, another] = [freshName(), freshName()]
    const minute = thisMinute()
    const stores = [place.store, await place.open(), await place.open()]
    await Promise.all(
      Array.from({ length: 12 }, (_, i) =>
        stores[i % 3]?.addMinuteStats(
          [minuteStatsOf(name, minute, 2), minuteStatsOf(another, minute)],
          {
            writer: `writer-${i}`,
            number: 1,
          },
        ),
      ),
    )
    const [sum, ...others] = await sinceOf(name, minute)
    const { durations } = minuteStatsOf(name, minute)
    durations[0] = 24
    durations[DURATION_BOUNDS_MS.length] = 12
    expect(sum).toEqual({ minute, endpoint: name, succeeded: 24, failed: 12, durations })
    expect(others).toEqual([])
    expect(await sinceOf(another, minute)).toMatchObject([{ succeeded: 12, failed: 12 }])
  })

  test('statistics are read from the minute that holds the instant on, oldest first', async () => {
    const name = freshName()
    const minutes = [3, 1, 2, 0].map((ago) => thisMinute() - ago * MINUTE_MS)
    await add(minutes.map((minute) => minuteStatsOf(name, minute)))
    const [oldest = 0, ...later] = minutes.toSorted()
    const all = await sinceOf(name, oldest + MINUTE_MS - 1)
    expect(all.map(({ minute }) => minute)).toEqual([oldest, ...later])
    expect((await sinceOf(name, oldest + MINUTE_MS)).map(({ minute }) => minute)).toEqual(later)
    await add([])
  })

  test('a report of as many rows as are taken is added as a whole, and a larger one refused', async () => {
    const minute = thisMinute()
    const rows = Array.from({ length: MAX_MINUTE_STATS_ADDED }, (_, i) =>
      minuteStatsOf(`many-${i}`, minute),
    )
    await add(rows)
    const { stats, more } = await place.store.minuteStatsSince(minute, null)
    expect(more).toBe(false)
    const found = stats.map(({ endpoint }) => endpoint)
    expect(found.filter((name) => name.startsWith('many-'))).toHaveLength(rows.length)
    await expect(add([...rows, minuteStatsOf('many-more', minute)])).rejects.toThrow(RangeError)
  })
})

describe.each(ENGINES)('statistics on %s', (engine) => {
  const place = useStore(engine)

  test('jobs are counted by endpoint and state, in order of the names', async () => {
    const { store } = place
    const [busy, idle] = [await addEndpoint(store), await addEndpoint(store)]
    const now = store.clock.now()
    await enqueueMany(store, busy, 2, { runAt: now - 1_000, priority: 9 })
    await enqueueMany(store, busy, 1, { runAt: now - 9_000, priority: 0 })
    await enqueueMany(store, busy, 3, { runAt: now + 3_600_000 })
    const dying = await addEndpoint(store)
    await enqueueMany(store, dying, 3)
    const claimed = await claimFrom(store, dying, 2)
    await store.settle(claimed.slice(1).map((one) => burial(store, one)))
    const [deadToo] = await enqueueMany(store, dying, 1, { runAt: now + 3_600_000 })
    await store.cancel([deadToo ?? ''])

    const found = await store.statsOf([idle, busy, freshName(), dying])
    const oldest = found[3]?.oldestDueAt
    expect(found).toEqual([
      NONE,
      { ...NONE, queued: 6, due: 3, oldestDueAt: now - 9_000 },
      NONE,
      { ...NONE, queued: 1, due: 1, running: 1, dead: 1, oldestDueAt: oldest },
    ])
    expect(oldest).toBeGreaterThanOrEqual(now)
    expect(await store.statsOf([])).toEqual([])
  })

  test('a job that is due counts as due while its endpoint is paused', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    await enqueueMany(store, name, 2, { runAt: store.clock.now() - 5_000 })
    await store.pauseEndpoint(name)
    expect(await claimFrom(store, name, 2)).toEqual([])
    expect(await store.statsOf([name])).toMatchObject([{ queued: 2, due: 2 }])
  })

  test('a held job counts as queued, and not as due', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    const now = store.clock.now()
    await enqueueOne(store, name, { orderingKey: 'one', runAt: now - 5_000 })
    await enqueueMany(store, name, 2, { orderingKey: 'one', runAt: now - 10_000 })
    const [found] = await store.statsOf([name])
    // The job has had its ordering slot since it was enqueued.
    const oldestDueAt = found?.oldestDueAt as number
    expect(found).toEqual({ ...NONE, queued: 3, due: 1, oldestDueAt })
    expect(oldestDueAt).toBeGreaterThanOrEqual(now - CLOCKS_DIFFER_MS)
    await claimOne(store, name)
    expect(await store.statsOf([name])).toEqual([{ ...NONE, queued: 2, running: 1 }])
  })

  test.each(['dependency', 'ordering key'])(
    'a job that waited for its %s is due since it was let go, and not since its runAt',
    async (what) => {
      const { store } = place
      const name = await addEndpoint(store)
      const runAt = store.clock.now() - 310_000
      const key = what === 'dependency' ? {} : { orderingKey: 'one' }
      const first = await enqueueOne(store, name, { runAt: runAt - 1, ...key })
      const dependsOn = what === 'dependency' ? [first.id] : []
      const waiting = await enqueueOne(store, name, { runAt, dependsOn, ...key })
      const claimed = await claimOne(store, name)
      expect(claimed.jobId).toBe(first.id)
      if (what === 'dependency') expect(dueAt(claimed)).toBe(runAt - 1)
      const letGoAt = store.clock.now()
      await store.settle([success(store, claimed)])
      await until(async () => (await store.statsOf([name]))[0]?.due === 1)
      const [stats] = await store.statsOf([name])
      expect(stats?.oldestDueAt).toBeGreaterThanOrEqual(letGoAt - CLOCKS_DIFFER_MS)
      // This job has been due for longer, but comes later in the order of claims.
      await enqueueOne(store, name, { runAt: runAt + 10_000 })
      const [both] = await store.statsOf([name])
      expect(both).toMatchObject({ due: 2, oldestDueAt: runAt + 10_000 })
      const next = await claimOne(store, name)
      expect(next).toMatchObject({ jobId: waiting.id, runAt })
      expect(dueAt(next)).toBe(stats?.oldestDueAt)
      // A job that was released has been due all the time.
      await store.release([leaseOf(next)])
      expect(dueAt(await claimOne(store, name))).toBe(stats?.oldestDueAt)
    },
  )

  test('endpoints that were deleted are named as long as dead jobs of them are left', async () => {
    const { store } = place
    const [gone, calm, there] = [
      await addEndpoint(store),
      await addEndpoint(store),
      await addEndpoint(store),
    ]
    for (const name of [gone, calm, there]) {
      await enqueueOne(store, name)
      const claimed = await claimOne(store, name)
      await store.settle([name === calm ? success(store, claimed) : burial(store, claimed)])
    }
    expect(await store.deletedEndpoints()).toEqual([])
    const force = { force: true, ifVersion: null }
    for (const name of [gone, calm]) await store.deleteEndpoint(name, force)
    await until(async () => {
      await sweep(store)
      return (await store.endpointsNamed([gone, calm])).length === 0
    })
    await until(async () => (await store.deletedEndpoints()).length > 0)
    expect(await store.deletedEndpoints()).toEqual([gone])
    expect(await store.statsOf([gone])).toMatchObject([{ dead: 1 }])
    const { items } = await store.listJobs({ endpoint: gone, limit: 10 })
    await store.deleteJob(items[0]?.id as string)
    expect(await store.deletedEndpoints()).toEqual([])
  })

  test('ten thousand names are counted in one call, and no more are taken', async () => {
    const { store } = place
    const name = await addEndpoint(store)
    await enqueueMany(store, name, 2)
    const names = Array.from({ length: MAX_STATS_NAMES - 1 }, (_, i) => `nobody-${i}`)
    const found = await store.statsOf([...names, name])
    expect(found.at(-1)).toMatchObject({ queued: 2, due: 2 })
    expect(found.slice(0, -1)).toEqual(names.map(() => NONE))
    await expect(store.statsOf([...names, name, 'one-more'])).rejects.toThrow(RangeError)
  })
})
