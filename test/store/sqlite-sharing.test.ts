// The SQLite store beside other processes: it waits for their writes, handles leases from before a
// restart of the machine, and rows that another process has deleted. It also shows the cost of a
// batch.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { ClaimedJob } from '../../src/job/job.ts'
import { openSqliteStore } from '../../src/store/sqlite/store.ts'
import { STORE_DEADLINE_MS, type Store, type StoreSettings } from '../../src/store/store.ts'
import { StoreUnavailable } from '../../src/store/store-errors.ts'
import {
  addEndpoint,
  claimFrom,
  enqueueMany,
  enqueueOne,
  freshName,
  jobOf,
  newJob,
  success,
  sweep,
} from '../contract/fixtures.ts'
import { until } from '../support/until.ts'

const SETTINGS: StoreSettings = {
  retentionMs: 60_000,
  retentionDeadMs: 60_000,
  encryptionKeys: null,
  warn: () => {},
}

let folder = ''
let path = ''
const opened: Store[] = []

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'posthorn-file-'))
  path = join(folder, 'posthorn.db')
})
afterEach(async () => {
  await Promise.all(opened.splice(0).map((store) => store.close()))
  rmSync(folder, { recursive: true, force: true })
})

async function open(): Promise<Store> {
  const store = await openSqliteStore(path, SETTINGS)
  opened.push(store)
  return store
}

describe('while another process holds the file', () => {
  let other: DatabaseSync

  beforeEach(async () => {
    await open()
    other = new DatabaseSync(path)
    other.exec('begin immediate')
  })
  afterEach(() => other.close())

  test('writes wait without blocking, are made in order, and reads go on', async () => {
    const store = opened[0] as Store
    const names = [freshName(), freshName(), freshName()]
    const done: string[] = []
    const writes = names.map(async (name) => {
      await addEndpoint(store, { name })
      done.push(name)
    })
    expect(await store.listEndpoints(null, 10)).toEqual({ items: [], next: null })
    expect(done).toEqual([])
    other.exec('commit')
    await Promise.all(writes)
    expect(done).toEqual(names)
    // The queue is empty again, and accepts the next write.
    await addEndpoint(store)
  })

  test('a write that waited as long as a store may is unavailable, and later ones work again', async () => {
    const store = opened[0] as Store
    const startedAt = performance.now()
    const refusal = await addEndpoint(store).catch((error: unknown) => error)
    expect(refusal).toBeInstanceOf(StoreUnavailable)
    expect(performance.now() - startedAt).toBeGreaterThanOrEqual(STORE_DEADLINE_MS - 100)
    expect(performance.now() - startedAt).toBeLessThan(STORE_DEADLINE_MS + 1_000)
    other.exec('rollback')
    expect(await store.listEndpoints(null, 10)).toEqual({ items: [], next: null })
    await addEndpoint(store)
    expect((await store.listEndpoints(null, 10)).items).toHaveLength(1)
  })
})

describe('leases and starts of the machine', () => {
  test('a lease of an earlier start has expired, however far ahead its end seems', async () => {
    const store = await open()
    const endpoint = await addEndpoint(store)
    const [before, after] = await enqueueMany(store, endpoint, 2)
    await claimFrom(store, endpoint, 2)
    expect((await sweep(store)).reclaimed).toBe(0)
    const db = new DatabaseSync(path)
    const moveBoot = db.prepare('update jobs set lease_boot = lease_boot + ? where id = ?')
    moveBoot.run(-1, before as string)
    moveBoot.run(1, after as string)
    db.close()
    await until(async () => (await sweep(store)).reclaimed === 2)
  })

  test('a job whose endpoint has no row is abandoned', async () => {
    const store = await open()
    const endpoint = await addEndpoint(store)
    const { id } = await enqueueOne(store, endpoint)
    const db = new DatabaseSync(path)
    db.prepare('delete from endpoints where name = ?').run(endpoint)
    db.close()
    expect((await sweep(store)).abandoned).toBe(1)
    expect((await jobOf(store, id)).failure?.reason).toBe('endpoint_gone')
    expect((await sweep(store)).abandoned).toBe(0)
  })
})

describe('commands', () => {
  test('a batch costs one transaction, whatever its size', async () => {
    const store = await open()
    const endpoint = await addEndpoint(store)
    const jobs = Array.from({ length: 100 }, () => newJob(store, endpoint))
    const cost = async (work: () => Promise<unknown>) => {
      const before = store.commandCount
      await work()
      return store.commandCount - before
    }
    expect(await cost(() => store.enqueue(jobs))).toBe(1)
    let claimed: ClaimedJob[] = []
    const claiming = async () => {
      claimed = await claimFrom(store, endpoint, 100)
    }
    expect(await cost(claiming)).toBe(1)
    expect(claimed).toHaveLength(100)
    expect(await cost(() => store.renew(claimed, 1_000))).toBe(1)
    expect(await cost(() => store.settle(claimed.map((job) => success(store, job))))).toBe(1)
  })
})
