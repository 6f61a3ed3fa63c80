// A power loss undoes what was not flushed to the disk, so the last claims on SQLite. No fence may
// be given again then, and no job may be changed whose request may have been sent.
//
// The state of the disk is a copy of the file and its log, made right after a flushed commit. It
// is written back in place. The boot id of the machine cannot change, so another one is stored.
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { NewJob } from '../../src/job/job.ts'
import { backUpFile } from '../../src/store/sqlite/backup.ts'
import { openSqliteStore } from '../../src/store/sqlite/store.ts'
import type { Store } from '../../src/store/store.ts'
import {
  addEndpoint,
  claimFrom,
  claimOne,
  enqueueMany,
  enqueueOne,
  holderOf,
  jobOf,
  leaseOf,
  newJob,
  success,
} from '../contract/fixtures.ts'
import { until } from '../support/until.ts'

const SETTINGS = { retentionMs: 60_000, retentionDeadMs: 60_000, warn: () => {} }
const KEYS = [Buffer.alloc(32, 1)]
/** The number of fences that fences.ts reserves at once. */
const BLOCK = 1_000
/** Fences after a loss are above the seconds since the beginning of 2026. */
const secondsNow = () => Math.floor((Date.now() - Date.UTC(2026, 0)) / 1_000)

let folder = ''
let path = ''
const opened: Store[] = []

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'posthorn-power-'))
  path = join(folder, 'posthorn.db')
})
afterEach(async () => {
  await closeAll()
  rmSync(folder, { recursive: true, force: true })
})

async function open(): Promise<Store> {
  const store = await openSqliteStore(path, { ...SETTINGS, encryptionKeys: KEYS })
  opened.push(store)
  return store
}

async function closeAll(): Promise<void> {
  await Promise.all(opened.splice(0).map((store) => store.close()))
}

function query<T>(sql: string): T {
  const db = new DatabaseSync(path)
  try {
    return db.prepare(sql).get() as T
  } finally {
    db.close()
  }
}

const readReservation = () => {
  const { value } = query<{ value: string }>("select value from meta where key = 'fences'")
  return JSON.parse(value)
}

/** The stored start of the machine is another one than the present. */
function forgetBoot(): void {
  query("update meta set value = json_set(value, '$.boot', 1) where key = 'fences'")
}

/** The files as they are on the disk after the last flush. */
interface Disk {
  file: Buffer
  log: Buffer
}

/** Called right after a flushed commit: all that the files hold is on the disk then. */
function flushedState(): Disk {
  return { file: readFileSync(path), log: readFileSync(`${path}-wal`) }
}

/** Requires that no checkpoint was made since: it would have flushed the log. */
async function losePower(disk: Disk): Promise<void> {
  expect(readFileSync(path).equals(disk.file)).toBe(true)
  expect(readFileSync(`${path}-wal`).subarray(0, disk.log.length).equals(disk.log)).toBe(true)
  await closeAll()
  writeFileSync(path, disk.file)
  writeFileSync(`${path}-wal`, disk.log)
}

/** A store whose boot id is not that of the machine, and an endpoint. */
async function openBefore(): Promise<{ store: Store; endpoint: string }> {
  const store = await open()
  const endpoint = await addEndpoint(store)
  forgetBoot()
  return { store, endpoint }
}

const dedupe = (mode: 'replace' | 'keep'): Partial<NewJob> => ({ dedupe: { key: 'k', mode } })

describe('after a power loss', () => {
  test('no fence is given again, and a job that was claimed is delivered once more', async () => {
    const { store, endpoint } = await openBefore()
    const ids = await enqueueMany(store, endpoint, 20)
    const disk = flushedState()
    const before = await claimFrom(store, endpoint, 20)
    expect(before.map(({ fence }) => fence)).toEqual(ids.map(() => 1))
    await store.settle(before.slice(0, 10).map((one) => success(store, one)))
    await store.release(before.slice(10, 15).map(leaseOf))
    const again = await claimFrom(store, endpoint, 20)
    expect(again.map(({ fence }) => fence)).toEqual([2, 2, 2, 2, 2])
    await losePower(disk)

    const seconds = secondsNow()
    const after = await open()
    const claimed = await claimFrom(after, endpoint, 20)
    expect(claimed.map(({ jobId }) => jobId).sort()).toEqual([...ids].sort())
    for (const { fence } of claimed) expect(fence).toBeGreaterThan(Math.max(BLOCK, seconds))
    // The attempt whose claim was undone is not counted.
    expect(claimed.map(({ attemptNumber }) => attemptNumber)).toEqual(ids.map(() => 1))
    const results = await after.settle([...before, ...claimed].map((one) => success(after, one)))
    expect(results).toEqual([...ids.map(() => 'lease_lost'), ...ids.map(() => 'applied')])
  })

  test('the payload of a job that may have been sent stays, and its other fields change', async () => {
    const { store, endpoint } = await openBefore()
    const later = store.clock.now() + 3_600_000
    const future = await enqueueOne(store, endpoint, { runAt: later })
    const { id } = await enqueueOne(store, endpoint)
    const disk = flushedState()
    await claimOne(store, endpoint)
    await losePower(disk)

    const after = await open()
    const payload = Buffer.from('2')
    expect(await after.edit(id, { payload }, null)).toEqual({ kind: 'already_sent' })
    const edited = await after.edit(id, { priority: 1, tags: ['a'], runAt: later }, null)
    expect(edited).toMatchObject({
      kind: 'applied',
      job: { priority: 1, tags: ['a'], runAt: later },
    })
    expect(await after.edit(future.id, { payload }, null)).toMatchObject({ kind: 'applied' })
    const fresh = await enqueueOne(after, endpoint)
    expect(await after.edit(fresh.id, { payload }, null)).toMatchObject({ kind: 'applied' })
  })

  test('replace displaces a job that may have been sent, and changes a later one', async () => {
    const { store, endpoint } = await openBefore()
    const { id } = await enqueueOne(store, endpoint, dedupe('replace'))
    const disk = flushedState()
    await claimOne(store, endpoint)
    await losePower(disk)

    const after = await open()
    const [second] = await after.enqueue([newJob(after, endpoint, dedupe('replace'))])
    const [third] = await after.enqueue([newJob(after, endpoint, dedupe('replace'))])
    if (second?.kind !== 'inserted') throw new Error('the second job was not inserted')
    expect(third).toMatchObject({ kind: 'existing', job: { id: second.job.id, state: 'queued' } })
    expect(await jobOf(after, id)).toMatchObject({ state: 'cancelled' })
  })

  test('the clock may start with an earlier time than before', async () => {
    const { store, endpoint } = await openBefore()
    const ahead = store.clock.now() + 3_600_000
    const { id } = await enqueueOne(store, endpoint, { createdAt: ahead, runAt: ahead })
    const disk = flushedState()
    await losePower(disk)
    const edit = await (await open()).edit(id, { payload: Buffer.from('2') }, null)
    expect(edit).toEqual({ kind: 'already_sent' })
  })

  test('another program that opens the file first, and removes the log, hides nothing', async () => {
    const { store, endpoint } = await openBefore()
    await enqueueOne(store, endpoint)
    const disk = flushedState()
    await claimOne(store, endpoint)
    await losePower(disk)
    query('select count(*) from jobs')
    expect(existsSync(`${path}-wal`)).toBe(false)
    expect((await claimOne(await open(), endpoint)).fence).toBeGreaterThan(BLOCK)
  })

  test('processes that open the store at once agree', async () => {
    const { store, endpoint } = await openBefore()
    await enqueueMany(store, endpoint, 3)
    const disk = flushedState()
    await losePower(disk)
    const stores = await Promise.all([open(), open(), open()])
    const claimed = await Promise.all(stores.map((one) => claimOne(one, endpoint)))
    const { base, limit, openCount } = readReservation()
    expect(base).toBeGreaterThanOrEqual(BLOCK)
    expect(claimed.map(({ fence }) => fence)).toEqual(stores.map(() => base + 1))
    expect({ limit, openCount }).toEqual({ limit: base + BLOCK, openCount: 3 })
  })

  test('a second power loss is above all fences of the first', async () => {
    const { store, endpoint } = await openBefore()
    await enqueueOne(store, endpoint)
    await losePower(flushedState())
    const second = await open()
    forgetBoot()
    const { id } = await enqueueOne(second, endpoint, { priority: 9 })
    const disk = flushedState()
    const first = await claimOne(second, endpoint)
    expect(first.jobId).toBe(id)
    expect(first.fence).toBeGreaterThan(BLOCK)
    await losePower(disk)
    const again = await claimOne(await open(), endpoint)
    expect(again.jobId).toBe(id)
    expect(again.fence).toBeGreaterThan(first.fence)
  })
})

describe('without a power loss', () => {
  test('a restart of the machine after all processes have stopped changes nothing', async () => {
    const store = await open()
    const endpoint = await addEndpoint(store)
    const { id } = await enqueueOne(store, endpoint)
    await closeAll()
    forgetBoot()
    const { boot: _, ...before } = readReservation()
    expect(before).toMatchObject({ base: 0, limit: BLOCK, openCount: 0 })

    const after = await open()
    const { boot, ...now } = readReservation()
    expect(now).toEqual({ ...before, openCount: 1 })
    expect(boot).toBeGreaterThan(1)
    const edited = await after.edit(id, { payload: Buffer.from('2') }, null)
    expect(edited).toMatchObject({ kind: 'applied' })
    expect((await claimOne(after, endpoint)).fence).toBe(1)
  })

  test('a process that was killed since counts as one that ran at a power loss', async () => {
    const store = await open()
    const endpoint = await addEndpoint(store)
    await enqueueOne(store, endpoint)
    query("update meta set value = json_set(value, '$.openCount', 2) where key = 'fences'")
    await closeAll()
    forgetBoot()
    expect((await claimOne(await open(), endpoint)).fence).toBeGreaterThan(BLOCK)
  })

  test('a second process that opens and closes the store changes nothing', async () => {
    const store = await open()
    const endpoint = await addEndpoint(store)
    const before = readReservation()
    const second = await open()
    expect(readReservation()).toEqual({ ...before, openCount: 2 })
    await second.close()
    expect(readReservation()).toEqual(before)
    const { id } = await enqueueOne(store, endpoint)
    const edited = await store.edit(id, { payload: Buffer.from('2') }, null)
    expect(edited).toMatchObject({ kind: 'applied' })
    expect((await claimOne(store, endpoint)).fence).toBe(1)
  })
})

describe('a job that was claimed more often than fences are reserved', () => {
  const setFence = (id: string) => query(`update jobs set fence = ${5 * BLOCK} where id = '${id}'`)

  test('is claimed by the next claim, and no other job waits for it', async () => {
    const store = await open()
    const endpoints = [await addEndpoint(store), await addEndpoint(store)] as const
    const ids = await enqueueMany(store, endpoints[0], 3)
    const other = await enqueueMany(store, endpoints[1], 2)
    setFence(ids[0] as string)
    const shares = endpoints.map((endpoint) => ({ endpoint, limit: 10 }))
    const first = await store.claim(shares, 20, holderOf())
    expect(first.jobs.map(({ jobId }) => jobId)).toEqual([...ids.slice(1), ...other])
    expect(first.unfinished).toEqual([endpoints[0]])
    const second = await store.claim(shares, 20, holderOf())
    expect(second.unfinished).toEqual([])
    expect(second.jobs).toMatchObject([{ jobId: ids[0], fence: 5 * BLOCK + 1 }])
  })

  test('is claimed at once if no other job is due', async () => {
    const store = await open()
    const endpoint = await addEndpoint(store)
    const { id } = await enqueueOne(store, endpoint)
    setFence(id)
    const { jobs, unfinished } = await store.claim(
      [{ endpoint, limit: 1 }],
      1,
      holderOf({ pulls: true }),
    )
    expect(jobs).toMatchObject([{ jobId: id, fence: 5 * BLOCK + 1 }])
    expect(unfinished).toEqual([])
    expect(readReservation().limit).toBeGreaterThan(5 * BLOCK + 1)
  })
})

describe('a copy of the file', () => {
  test.each(['posthorn backup', 'cp', 'rm and cp'])(
    'made by %s gives no fence that the original gave, wherever it is restored',
    async (how) => {
      const store = await open()
      const endpoint = await addEndpoint(store)
      const { id } = await enqueueOne(store, endpoint)
      const copy = join(folder, 'copy.db')
      if (how === 'posthorn backup') {
        await backUpFile(path, copy, KEYS)
      } else {
        await closeAll()
        copyFileSync(path, copy)
      }
      const original = await open()
      const given = await claimOne(original, endpoint)
      expect(given).toMatchObject({ jobId: id, fence: 1 })
      await closeAll()
      if (how === 'cp') renameSync(copy, path)
      if (how === 'rm and cp') {
        // Most file systems give the inode of the removed file to the next one.
        rmSync(path)
        copyFileSync(copy, path)
      }
      // The file keeps its inode.
      if (how === 'posthorn backup') writeFileSync(path, readFileSync(copy))

      const restored = await open()
      const edited = await restored.edit(id, { payload: Buffer.from('2') }, null)
      expect(edited).toEqual({ kind: 'already_sent' })
      const first = (await claimOne(restored, endpoint)).fence
      expect(first).toBeGreaterThan(BLOCK)
      await closeAll()
      expect(readReservation().base).toBe(first - 1)
    },
  )

  test('on a disk that is restored from a snapshot gives no fence that was given since', async () => {
    const store = await open()
    const endpoint = await addEndpoint(store)
    const { id } = await enqueueOne(store, endpoint)
    const snapshot = flushedState()
    const fences: number[] = []
    for (let i = 0; i < 3; i++) {
      await closeAll()
      writeFileSync(path, snapshot.file)
      writeFileSync(`${path}-wal`, snapshot.log)
      forgetBoot()
      const { jobId, fence } = await claimOne(await open(), endpoint)
      expect(jobId).toBe(id)
      fences.push(fence)
      const second = secondsNow()
      await until(() => secondsNow() > second)
    }
    expect(fences).toEqual([...new Set(fences)].sort((one, other) => one - other))
  })

  test('that is restored twice gives larger fences the second time', async () => {
    const store = await open()
    const endpoint = await addEndpoint(store)
    await enqueueOne(store, endpoint)
    const copy = join(folder, 'copy.db')
    await backUpFile(path, copy, KEYS)
    const fences: number[] = []
    for (let i = 0; i < 2; i++) {
      await closeAll()
      writeFileSync(path, readFileSync(copy))
      const restored = await open()
      const { fence } = await claimOne(restored, endpoint)
      fences.push(fence)
      const second = secondsNow()
      await until(() => secondsNow() > second)
    }
    expect(fences[1]).toBeGreaterThan(fences[0] as number)
  })
})
