// The fairness keys of an endpoint, with counts of their jobs, and the place of a job among them.
import { describe, expect, test } from 'vitest'
import type { NewJob } from '../../src/job/job.ts'
import type { KeyStats, KeyWait } from '../../src/store/stats.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import {
  addEndpoint,
  burial,
  claimFrom,
  claimOne,
  enqueueMany,
  enqueueOne,
  freshName,
  laterAgain,
  leaseOf,
  passed,
  success,
} from './fixtures.ts'

const HOUR_MS = 3_600_000
/** More jobs than get a turn at once. */
const FLOOD = 200

describe.each(ENGINES)('fairness keys on %s', (engine) => {
  const place = useStore(engine)

  const add = (endpoint: string, key: string, count: number, fields: Partial<NewJob> = {}) =>
    enqueueMany(place.store, endpoint, count, { fairnessKey: key, ...fields })

  const listed = async (endpoint: string, limit = 100) => {
    const pages: KeyStats[][] = []
    let after: string | null = null
    do {
      const page = await place.store.fairnessKeysOf(endpoint, after, limit)
      pages.push(page.items)
      after = page.next
    } while (after !== null)
    return pages
  }

  const statsOf = async (endpoint: string, key: string) =>
    (await listed(endpoint)).flat().find((one) => one.key === key)

  const counts = (key: string, queued: number, due = queued, running = 0) => ({
    ...{ key, queued, due, running },
    more: false,
  })

  test('a key is listed while it has queued or running jobs', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const other = await addEndpoint(store)
    await add(other, 'elsewhere', 1)
    await enqueueMany(store, endpoint, 3)
    expect(await listed(endpoint)).toEqual([[]])
    await add(endpoint, 'a', 1)
    const claimed = await claimFrom(store, endpoint, 4)
    expect(await listed(endpoint)).toEqual([[counts('a', 0, 0, 1)]])
    await store.settle(claimed.map((job) => success(store, job)))
    expect(await listed(endpoint)).toEqual([[]])
    expect(await listed(freshName())).toEqual([[]])
  })

  test('jobs count as queued, due and running, whatever their place', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const later = { runAt: store.clock.now() + HOUR_MS }
    await add(endpoint, 'flood', FLOOD)
    await add(endpoint, 'flood', 30, { priority: 9 })
    await add(endpoint, 'flood', 20, later)
    expect(await statsOf(endpoint, 'flood')).toEqual(counts('flood', 250, 230))
    await claimFrom(store, endpoint, 10)
    expect(await statsOf(endpoint, 'flood')).toEqual(counts('flood', 240, 220, 10))

    await add(endpoint, 'delayed', 3, later)
    expect(await statsOf(endpoint, 'delayed')).toEqual(counts('delayed', 3, 0))

    const [first = ''] = await add(endpoint, 'blocked', 1, later)
    await add(endpoint, 'blocked', 2, { dependsOn: [first] })
    await add(endpoint, 'only blocked', 2, { dependsOn: [first] })
    expect(await statsOf(endpoint, 'blocked')).toEqual(counts('blocked', 3, 0))
    expect(await statsOf(endpoint, 'only blocked')).toEqual(counts('only blocked', 2, 0))
  })

  test('a delayed job counts as due from its instant on, without a claim', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const runAt = store.clock.now() + 200
    await add(endpoint, 'a', 3, { runAt })
    await passed(store, runAt)
    expect(await listed(endpoint)).toEqual([[counts('a', 3)]])
  })

  test('the counts follow each way in which an attempt ends', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const key = { fairnessKey: 'a' }
    for (const _ of [1, 2, 3, 4, 5]) await enqueueOne(store, endpoint, key)
    const [done, dead, again, released, cancelled] = await claimFrom(store, endpoint, 5)
    if (!done || !dead || !again || !released || !cancelled) throw new Error('5 jobs were due')
    expect(await listed(endpoint)).toEqual([[counts('a', 0, 0, 5)]])
    await store.settle([success(store, done), burial(store, dead)])
    expect(await listed(endpoint)).toEqual([[counts('a', 0, 0, 3)]])
    await store.settle([laterAgain(store, again, store.clock.now() + HOUR_MS)])
    expect(await listed(endpoint)).toEqual([[counts('a', 1, 0, 2)]])
    await store.release([leaseOf(released)])
    expect(await listed(endpoint)).toEqual([[counts('a', 2, 1, 1)]])
    await store.cancel([cancelled.jobId])
    expect(await listed(endpoint)).toEqual([[counts('a', 2, 1)]])
    await store.retry([dead.jobId])
    expect(await listed(endpoint)).toEqual([[counts('a', 3, 2)]])
    await store.cancel([again.jobId, dead.jobId, (await claimOne(store, endpoint)).jobId])
    expect(await listed(endpoint)).toEqual([[]])
  })

  test('pages have the keys in the order of their bytes, each once', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const later = { runAt: store.clock.now() + HOUR_MS }
    // In UTF-16, the last two would change places.
    const keys = ['A', 'Z', 'a', 'a b', 'ä', '\uFF5E', '\u{1F600}']
    for (const key of keys.toReversed()) await add(endpoint, key, 2)
    for (const key of keys) await add(endpoint, key, 1, { ...later, priority: 3 })
    await claimFrom(store, endpoint, 3)
    const pages = await listed(endpoint, 3)
    expect(pages.map((page) => page.map(({ key }) => key))).toEqual([
      ...[keys.slice(0, 3), keys.slice(3, 6), keys.slice(6)],
    ])
    expect(pages.flat().reduce((sum, { running }) => sum + running, 0)).toBe(3)
  })

  test('floods of some keys do not hide the keys after them', { timeout: 60_000 }, async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const [waitedFor = ''] = await add(endpoint, 'a', 1, { runAt: store.clock.now() + HOUR_MS })
    for (const key of ['b', 'd']) await add(endpoint, key, 1_000, { dependsOn: [waitedFor] })
    await add(endpoint, 'c', 1)
    await add(endpoint, 'e', 1)
    expect(await listed(endpoint)).toEqual([
      [
        ...[counts('a', 1, 0), counts('b', 1_000, 0), counts('c', 1), counts('d', 1_000, 0)],
        counts('e', 1),
      ],
    ])
  })

  test('by wait, the key whose first due job has been due longest comes first', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const now = store.clock.now()
    await add(endpoint, 'late', 1, { runAt: now - 1_000 })
    await add(endpoint, 'flood', FLOOD, { runAt: now - 5_000 })
    await add(endpoint, 'old', 1, { runAt: now - 9_000, priority: 2 })
    await add(endpoint, 'old', 1, { runAt: now - 2_000, priority: 8 })
    await add(endpoint, 'delayed', 1, { runAt: now + HOUR_MS })
    await enqueueMany(store, endpoint, 2, { runAt: now - 20_000 })
    const byWait = async (limit: number) => {
      const pages: string[][] = []
      let after: KeyWait | null = null
      do {
        const page = await store.keysByWait(endpoint, after, limit)
        expect(page.partial).toBe(false)
        pages.push(page.items.map(({ key }) => key))
        after = page.next
      } while (after !== null)
      return pages
    }
    expect(await byWait(10)).toEqual([['old', 'flood', 'late']])
    expect(await byWait(2)).toEqual([['old', 'flood'], ['late']])
    expect((await store.keysByWait(endpoint, null, 1)).items).toEqual([counts('old', 2)])
    const runAt = store.clock.now() + 200
    await add(endpoint, 'soon', 1, { runAt })
    await passed(store, runAt)
    expect(await byWait(10)).toEqual([['old', 'flood', 'late', 'soon']])
  })

  test('statistics count the keys with due jobs, each once', async () => {
    const { store } = place
    const [keyed, plain] = [await addEndpoint(store), await addEndpoint(store)]
    await enqueueMany(store, plain, 2)
    await add(keyed, 'later', 1, { runAt: store.clock.now() + HOUR_MS })
    await add(keyed, 'flood', FLOOD)
    await add(keyed, 'flood', 1, { priority: 9 })
    await enqueueMany(store, keyed, 2)
    const keysDue = async () => (await store.statsOf([plain, keyed])).map((one) => one.keysDue)
    expect(await keysDue()).toEqual([0, 1])
    await add(keyed, 'small', 1)
    expect(await keysDue()).toEqual([0, 2])
    const runAt = store.clock.now() + 200
    await add(keyed, 'soon', 1, { runAt })
    await passed(store, runAt)
    expect(await keysDue()).toEqual([0, 3])
    // Of many names, MongoDB looks first which have jobs.
    const many = Array.from({ length: 20 }, (_, i) => `nobody-${i}`)
    expect((await store.statsOf([...many, keyed])).at(-1)?.keysDue).toBe(3)
  })

  test('a job with a turn, and one outside, wait for the jobs of their key before them', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const flood = await add(endpoint, 'flood', FLOOD)
    await add(endpoint, 'other priority', 3, { priority: 9 })
    for (const [i, jobsBefore] of [0, 1, 30, FLOOD - 1].entries()) {
      const id = flood[jobsBefore] ?? ''
      expect([i, await store.placeInLine(endpoint, id)]).toEqual([i, { jobsBefore, keyCount: 1 }])
    }
    await add(endpoint, 'small', 2)
    expect(await store.placeInLine(endpoint, flood[150] ?? '')).toEqual({
      jobsBefore: 150,
      keyCount: 2,
    })
    await enqueueMany(store, endpoint, 2)
    expect(await store.placeInLine(endpoint, flood[150] ?? '')).toEqual({
      jobsBefore: 150,
      keyCount: 3,
    })
    const claimed = await claimFrom(store, endpoint, 3)
    expect(claimed).toHaveLength(3)
    await claimFrom(store, endpoint, 20)
    const { jobsBefore = 0 } = (await store.placeInLine(endpoint, flood[150] ?? '')) ?? {}
    const { running } = (await statsOf(endpoint, 'flood')) ?? { running: 0 }
    expect(running).toBeGreaterThan(5)
    expect(jobsBefore).toBe(150 - running)
  })

  test('a job without a key waits for those without a key before it', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const ids = await enqueueMany(store, endpoint, 5)
    for (const id of ids) expect(await store.placeInLine(endpoint, id)).toBeNull()
    await add(endpoint, 'a', 1, { priority: 9 })
    expect(await store.placeInLine(endpoint, ids[3] ?? '')).toBeNull()
    await add(endpoint, 'a', 1)
    await add(endpoint, 'b', 1)
    expect(await store.placeInLine(endpoint, ids[3] ?? '')).toEqual({ jobsBefore: 3, keyCount: 3 })
  })

  test('a job has no place while it is not due, blocked, running or final', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const [first = ''] = await add(endpoint, 'a', 1)
    const [blocked = ''] = await add(endpoint, 'a', 1, { dependsOn: [first] })
    const [delayed = ''] = await add(endpoint, 'a', 1, { runAt: store.clock.now() + HOUR_MS })
    expect(await store.placeInLine(endpoint, first)).toEqual({ jobsBefore: 0, keyCount: 1 })
    await claimOne(store, endpoint)
    for (const id of [first, blocked, delayed, 'job_none']) {
      expect(await store.placeInLine(endpoint, id)).toBeNull()
    }
  })

  test('a delayed job whose time has come has a place, without a claim', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const runAt = store.clock.now() + 200
    const [first = '', second = ''] = await add(endpoint, 'a', 2, { runAt })
    await add(endpoint, 'b', 1, { runAt: runAt + HOUR_MS })
    await passed(store, runAt)
    expect(await store.placeInLine(endpoint, first)).toEqual({ jobsBefore: 0, keyCount: 1 })
    expect(await store.placeInLine(endpoint, second)).toEqual({ jobsBefore: 1, keyCount: 1 })
  })
})
