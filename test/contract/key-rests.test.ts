// The promises of a fairness key that rests alone: no job of it starts, the others go on, and it
// recovers as an endpoint does.
import { describe, expect, test } from 'vitest'
import { newSecret } from '../../src/endpoint/endpoint.ts'
import type { FairnessKey } from '../../src/endpoint/key-limits.ts'
import type { KeyHealthReport } from '../../src/endpoint/key-rest.ts'
import type { ClaimedJob } from '../../src/job/job.ts'
import type { Store } from '../../src/store/store.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import {
  acceptance,
  addEndpoint,
  claimFrom,
  endpointOf,
  enqueueMany,
  laterAgain,
  passed,
  postponement,
  settingsOf,
  success,
} from './fixtures.ts'

const HOUR_MS = 3_600_000
/** A claim on MongoDB may remember for 0.4 s which endpoints have keys and limits. */
const REMEMBERED_MS = 450

describe.each(ENGINES)('a fairness key that rests on %s', (engine) => {
  const place = useStore(engine)

  function reportKey(key: FairnessKey, report: Partial<KeyHealthReport>, store = place.store) {
    return store.reportKeyHealth([{ succeeded: [], throttle: null, ...report, ...key }])
  }

  async function throttle(key: FairnessKey, until: number | null = null): Promise<number> {
    await reportKey(key, { throttle: { until } })
    return restingUntil(key)
  }

  /** Throws if the key has no rest. */
  async function restingUntil({ endpoint, key }: FairnessKey): Promise<number> {
    const [record] = await place.store.fairnessKeysNamed(endpoint, [key])
    if (!record?.rest) throw new Error(`key ${key} has no rest`)
    return record.rest.restingUntil
  }

  async function keysFrom(endpoint: string, limit = 50, store = place.store) {
    const jobs = await claimAll(endpoint, limit, store)
    return jobs.map(({ fairnessKey }) => fairnessKey).sort()
  }

  async function claimAll(endpoint: string, limit = 50, store = place.store) {
    const all: ClaimedJob[] = []
    for (;;) {
      const jobs = await claimFrom(store, endpoint, Math.min(10, limit - all.length))
      all.push(...jobs)
      if (jobs.length === 0 || all.length === limit) return all
    }
  }

  test('starts no job, and the other keys and jobs without a key go on', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    await enqueueMany(store, endpoint, 80, { fairnessKey: 'a' })
    await enqueueMany(store, endpoint, 3, { fairnessKey: 'b' })
    await enqueueMany(store, endpoint, 2)
    const before = await endpointOf(store, endpoint)
    const [job] = (await claimFrom(store, endpoint, 1)) as [ClaimedJob]
    expect(job).toMatchObject({ fairnessKey: 'a', keyRecovers: false })
    const until = await throttle({ endpoint, key: 'a' }, store.clock.now() + HOUR_MS)
    await store.settle([postponement(store, job)])
    expect(await keysFrom(endpoint)).toEqual(['b', 'b', 'b', null, null])
    expect(until).toBeGreaterThan(store.clock.now() + HOUR_MS - 60_000)
    expect(await store.fairnessKeysNamed(endpoint, ['a', 'b'])).toEqual([
      {
        ...{ key: 'a', settings: null, version: 0, updatedAt: null },
        rest: {
          ...{ at: expect.any(Number), restingUntil: until, throttleStreak: 1, ramp: null },
          keptUntil: until + HOUR_MS,
        },
      },
    ])
    expect(await endpointOf(store, endpoint)).toEqual(before)
    await enqueueMany(store, endpoint, 1, { fairnessKey: 'a', priority: 9 })
    expect(await keysFrom(endpoint)).toEqual([])
  })

  test('starts one job when the rest is over, and more with each success', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const key = { endpoint, key: 'a' }
    await enqueueMany(store, endpoint, 80, { fairnessKey: 'a' })
    const [old] = (await claimFrom(store, endpoint, 1)) as [ClaimedJob]
    const until = await throttle(key)
    await reportKey(key, { succeeded: [old.claimedAt] })
    expect(await claimAll(endpoint)).toEqual([])
    await passed(store, until)
    const [probe, ...others] = (await claimAll(endpoint)) as [ClaimedJob]
    expect(others).toEqual([])
    expect(probe.keyRecovers).toBe(true)
    expect(await store.fairnessKeyState(key)).toMatchObject({ running: 2, sending: 1 })
    // A failure adds no room.
    await store.settle([laterAgain(store, probe, store.clock.now() + HOUR_MS)])
    let running = await claimAll(endpoint)
    expect(running).toHaveLength(1)
    for (const count of [2, 4, 8]) {
      await reportKey(key, { succeeded: running.map(({ claimedAt }) => claimedAt) })
      await store.settle(running.map((job) => success(store, job)))
      running = await claimAll(endpoint)
      expect(running).toHaveLength(count)
    }
    await reportKey(key, { succeeded: Array(57).fill(store.clock.now()) })
    expect(await store.fairnessKeysNamed(endpoint, ['a'])).toEqual([])
    expect((await claimAll(endpoint, 30)).map(({ keyRecovers }) => keyRecovers)).toEqual(
      Array(30).fill(false),
    )
  })

  test('has room when its handler has accepted a job, which ends later', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const key = { endpoint, key: 'a' }
    await enqueueMany(store, endpoint, 9, { fairnessKey: 'a' })
    await passed(store, await throttle(key))
    const [probe] = (await claimAll(endpoint)) as [ClaimedJob]
    await reportKey(key, { succeeded: [probe.claimedAt] })
    await store.settle([acceptance(probe, store.clock.now() + HOUR_MS)])
    expect(await claimAll(endpoint)).toHaveLength(2)
  })

  test('rests twice as long after each throttled attempt in a row', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const key = { endpoint, key: 'a' }
    const first = await throttle(key)
    // An attempt that ends during the rest counts for nothing.
    expect((await throttle(key)) - first).toBeLessThan(1_000)
    await passed(store, await restingUntil(key))
    const before = store.clock.now()
    const second = await throttle(key)
    expect(second - before).toBeGreaterThanOrEqual(2_000)
    expect(second - store.clock.now()).toBeLessThanOrEqual(2_000)
  })

  test('loses none of the reports of several workers', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const stores = [store, await place.open(), await place.open()]
    const key = { endpoint, key: 'a' }
    await Promise.all(stores.map((one) => reportKey(key, { throttle: { until: null } }, one)))
    const claimedAt = store.clock.now() + HOUR_MS
    await Promise.all(
      stores.map(async (one) => {
        for (let i = 0; i < 5; i++) await reportKey(key, { succeeded: [claimedAt] }, one)
      }),
    )
    const [record] = await store.fairnessKeysNamed(endpoint, ['a'])
    expect(record?.rest?.ramp?.slots).toBe(16)
  })

  const ends: Record<string, (store: Store, endpoint: string) => Promise<unknown>> = {
    'PUT of the key': (store, endpoint) =>
      store.putFairnessKey({ endpoint, key: 'a' }, { weight: 1, paused: false }, null),
    'the resume of the endpoint': (store, endpoint) => store.resumeEndpoint(endpoint),
  }

  test.each(Object.keys(ends))('starts its jobs again after %s', async (name) => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const key = { endpoint, key: 'a' }
    await enqueueMany(store, endpoint, 9, { fairnessKey: 'a' })
    await throttle(key, store.clock.now() + HOUR_MS)
    expect(await claimAll(endpoint)).toEqual([])
    await ends[name]?.(store, endpoint)
    const [record] = await store.fairnessKeysNamed(endpoint, ['a'])
    expect(record?.rest ?? null).toBeNull()
    expect(await claimAll(endpoint)).toHaveLength(9)
  })

  test('rests on while its settings pause it, and when they are deleted', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const key = { endpoint, key: 'a' }
    const until = await throttle(key, store.clock.now() + HOUR_MS)
    const put = await store.putFairnessKey(key, { weight: 1, paused: true }, null)
    expect(put).toMatchObject({ kind: 'created', record: { rest: { restingUntil: until } } })
    expect(await restingUntil(key)).toBe(until)
    expect(await store.deleteFairnessKey(key, null)).toEqual({ kind: 'deleted' })
    expect(await restingUntil(key)).toBe(until)
  })

  test('does not rest at an endpoint whose jobs are pulled from now on', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    await enqueueMany(store, endpoint, 2, { fairnessKey: 'a' })
    await throttle({ endpoint, key: 'a' }, store.clock.now() + HOUR_MS)
    const pulled = settingsOf({ name: endpoint, url: null })
    await store.putEndpoint(pulled, { given: null, fresh: newSecret() }, null)
    expect(await claimAll(endpoint)).toHaveLength(2)
  })

  test('rests in other processes, too, at an endpoint without any settings of keys', async () => {
    const { store } = place
    const other = await place.open()
    const endpoint = await addEndpoint(store)
    await enqueueMany(store, endpoint, 9, { fairnessKey: 'a' })
    await enqueueMany(store, endpoint, 1, { fairnessKey: 'b' })
    expect(await keysFrom(endpoint, 1, other)).toEqual(['a'])
    await throttle({ endpoint, key: 'a' }, store.clock.now() + HOUR_MS)
    await passed(store, store.clock.now() + REMEMBERED_MS)
    expect(await keysFrom(endpoint, 9, other)).toEqual(['b'])
    await store.resumeEndpoint(endpoint)
    expect(await keysFrom(endpoint, 9, other)).toEqual(Array(8).fill('a'))
  })
})
