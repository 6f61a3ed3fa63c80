// API keys, workers, and the data that the API stores about itself, on both stores.
import { randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { MAX_KEYS, type StoredKey } from '../../src/store/api-key.ts'
import type { UpkeepLease } from '../../src/store/upkeep-lease.ts'
import type { WorkerReport } from '../../src/store/worker-liveness.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import { passed } from './fixtures.ts'

let keyCount = 0

function newKey(fields: Partial<StoredKey> = {}): StoredKey {
  keyCount++
  return {
    id: `key_${String(keyCount).padStart(6, '0')}`,
    name: 'deploy',
    scope: 'enqueue',
    hash: randomBytes(32).toString('base64'),
    createdAt: 1_700_000_000_000 + keyCount,
    ...fields,
  }
}

describe.each(ENGINES)('API keys on %s', (engine) => {
  const place = useStore(engine)

  test('keys are listed oldest first, as they were added, by any process', async () => {
    const { store } = place
    const [young, old] = [
      newKey({ createdAt: 2_000, scope: 'admin' }),
      newKey({ createdAt: 1_000 }),
    ]
    expect(await store.addKey(young)).toBe('added')
    expect(await store.addKey(old)).toBe('added')
    const other = await place.open()
    expect(await other.listKeys()).toEqual([old, young])
    await store.removeKey(young.id)
    await store.removeKey(old.id)
  })

  test('a removed key is gone for all, and is removed once', async () => {
    const { store } = place
    const key = newKey()
    await store.addKey(key)
    const other = await place.open()
    expect(await other.removeKey(key.id)).toBe(true)
    expect(await store.listKeys()).toEqual([])
    expect(await store.removeKey(key.id)).toBe(false)
  })

  test('two keys never have one hash', async () => {
    const { store } = place
    const key = newKey()
    await store.addKey(key)
    await expect(store.addKey(newKey({ hash: key.hash }))).rejects.toThrow()
    expect(await store.listKeys()).toEqual([key])
    await store.removeKey(key.id)
  })

  test('there are only so many keys, and room again once one is removed', async () => {
    const { store } = place
    const keys = Array.from({ length: MAX_KEYS }, () => newKey())
    for (let i = 0; i < keys.length; i += 100) {
      const added = await Promise.all(keys.slice(i, i + 100).map((key) => store.addKey(key)))
      expect(new Set(added)).toEqual(new Set(['added']))
    }
    expect(await store.addKey(newKey())).toBe('full')
    expect(await store.listKeys()).toEqual(keys)
    await store.removeKey(keys[7]?.id ?? '')
    expect(await store.addKey(newKey())).toBe('added')
  }, 60_000)
})

describe.each(ENGINES)('workers on %s', (engine) => {
  const place = useStore(engine)

  function reportOf(id: string, fields: Partial<WorkerReport> = {}): WorkerReport {
    return {
      id,
      version: '1.2.3',
      startedAt: 1_000,
      concurrency: 100,
      inFlight: 0,
      keyIds: [],
      ...fields,
    }
  }

  test('workers are listed by id as they last reported, each once', async () => {
    const { store } = place
    const other = await place.open()
    const before = store.clock.now()
    await store.reportWorker(reportOf('worker-b'))
    await other.reportWorker(
      reportOf('worker-a', { inFlight: 3, keyIds: ['0a1b2c3d', '4e5f6a7b'] }),
    )
    const [a, b, ...rest] = await store.listWorkers()
    expect(rest).toEqual([])
    expect(a).toEqual({
      ...reportOf('worker-a', { inFlight: 3, keyIds: ['0a1b2c3d', '4e5f6a7b'] }),
      seenAt: a?.seenAt,
    })
    expect(b).toEqual({ ...reportOf('worker-b'), seenAt: b?.seenAt })
    expect(b?.seenAt).toBeGreaterThanOrEqual(before - 50)

    await passed(store, b?.seenAt ?? 0)
    await store.reportWorker(reportOf('worker-b', { inFlight: 7 }))
    const again = (await other.listWorkers())[1]
    expect(again).toMatchObject({ id: 'worker-b', inFlight: 7 })
    expect(again?.seenAt).toBeGreaterThan(b?.seenAt ?? 0)
  })

  test('a worker that ends is gone at once', async () => {
    const { store } = place
    await store.reportWorker(reportOf('worker-c'))
    await store.removeWorker('worker-c')
    await store.removeWorker('worker-c')
    expect((await store.listWorkers()).map(({ id }) => id)).not.toContain('worker-c')
  })
})

describe.each(ENGINES)('the mode of the API on %s', (engine) => {
  const place = useStore(engine)

  test('what the API says of itself is read by others as it was last written', async () => {
    const other = await place.open()
    expect(await other.readApiMode()).toBeNull()
    const local = { localMode: true, publicUrl: 'http://127.0.0.1:8080' }
    await place.store.writeApiMode(local)
    expect(await other.readApiMode()).toEqual(local)
    const unknown = { localMode: false, publicUrl: null }
    await place.store.writeApiMode(unknown)
    expect(await other.readApiMode()).toEqual(unknown)
  })
})

describe.each(ENGINES)('the lease of the upkeep on %s', (engine) => {
  const place = useStore(engine)
  const LEASE_MS = 400
  const lease = (holder: string, fields: Partial<UpkeepLease> = {}): UpkeepLease => ({
    ...{ holder, isStandby: false, leaseMs: 60_000 },
    ...fields,
  })

  test('one process has it, extends it, and gives it back', async () => {
    const { store } = place
    const other = await place.open()
    expect(await other.upkeepLease()).toBe(null)
    expect(await store.takeUpkeep(lease('a'))).toBe(true)
    expect(await other.takeUpkeep(lease('b'))).toBe(false)
    const first = await other.upkeepLease()
    expect(first).toEqual({ holder: 'a', isStandby: false, expiresAt: expect.any(Number) })
    await passed(store, store.clock.now())
    expect(await store.takeUpkeep(lease('a'))).toBe(true)
    expect((await other.upkeepLease())?.expiresAt).toBeGreaterThan(first?.expiresAt as number)
    await other.releaseUpkeep('b')
    expect(await other.takeUpkeep(lease('b'))).toBe(false)
    await store.releaseUpkeep('a')
    expect(await other.upkeepLease()).toBe(null)
    expect(await other.takeUpkeep(lease('b'))).toBe(true)
    expect(await store.takeUpkeep(lease('a'))).toBe(false)
    await other.releaseUpkeep('b')
  })

  test('a stand-by gives way to any process that is none, and to no other stand-by', async () => {
    const { store } = place
    expect(await store.takeUpkeep(lease('api-1', { isStandby: true }))).toBe(true)
    expect(await store.takeUpkeep(lease('api-2', { isStandby: true }))).toBe(false)
    expect(await store.takeUpkeep(lease('worker'))).toBe(true)
    expect(await store.takeUpkeep(lease('api-1', { isStandby: true }))).toBe(false)
    await store.releaseUpkeep('api-1')
    expect(await store.upkeepLease()).toMatchObject({ holder: 'worker', isStandby: false })
    await store.releaseUpkeep('worker')
  })

  test('one that asks for less than is left of it does not get it', async () => {
    const { store } = place
    expect(await store.takeUpkeep(lease('a'))).toBe(true)
    expect(await store.takeUpkeep(lease('b', { leaseMs: 30_000 }))).toBe(false)
    await store.releaseUpkeep('a')
  })

  test('of many that ask at once one gets it', async () => {
    const stores = [place.store, await place.open(), await place.open()]
    const asked = stores.map((store, i) => store.takeUpkeep(lease(`a-${i}`)))
    const answers = await Promise.all(asked)
    expect(answers.filter((got) => got)).toEqual([true])
    await place.store.releaseUpkeep(`a-${answers.indexOf(true)}`)
  })

  test('another process gets it once the lease has ended, and not before', async () => {
    const { store } = place
    const startedMs = performance.now()
    expect(await store.takeUpkeep(lease('a', { leaseMs: LEASE_MS }))).toBe(true)
    await until(() => store.takeUpkeep(lease('b')))
    // Both instants of the lease are whole milliseconds.
    expect(performance.now() - startedMs).toBeGreaterThan(LEASE_MS - 2)
    await store.releaseUpkeep('b')
  })
})
