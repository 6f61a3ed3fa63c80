// The SQLite store and its file: who may read the file, what the store keeps in it, and the
// messages if it cannot start.
import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { asStoreError } from '../../src/store/sqlite/errors.ts'
import { openSqliteStore } from '../../src/store/sqlite/store.ts'
import type { Store, StoreSettings } from '../../src/store/store.ts'
import { StoreUnavailable, StoreUnusable } from '../../src/store/store-errors.ts'
import { addEndpoint, claimOne, enqueueOne, jobOf } from '../contract/fixtures.ts'

const SETTINGS: StoreSettings = {
  retentionMs: 60_000,
  retentionDeadMs: 60_000,
  encryptionKeys: null,
  warn: () => {},
}

const NOBODY = 65_534

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

/** Returns whether the disk was mounted. */
function mountDisk(at: string): boolean {
  try {
    execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', at], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

async function open(where = path, encryptionKeys: Buffer[] | null = null): Promise<Store> {
  const store = await openSqliteStore(where, { ...SETTINGS, encryptionKeys })
  opened.push(store)
  return store
}

describe('the file', () => {
  test('is made with its folder, and only its owner may read it, its log and its key', async () => {
    const deep = join(folder, 'a', 'b', 'posthorn.db')
    const store = await open(deep)
    await addEndpoint(store)
    for (const name of [deep, `${deep}-wal`, `${deep}-shm`, `${deep}.key`]) {
      expect([name, statSync(name).mode & 0o777]).toEqual([name, 0o600])
    }
  })

  test('keeps its jobs when it is closed and opened again', async () => {
    const first = await open()
    const endpoint = await addEndpoint(first)
    const { id } = await enqueueOne(first, endpoint)
    await first.close()
    const second = await open()
    expect((await jobOf(second, id)).state).toBe('queued')
    expect((await second.endpointsNamed([endpoint]))[0]?.secrets).toHaveLength(1)
  })

  test('shrinks after a purge, a bounded part at each sweep, down to what is soon used again', async () => {
    const store = await open()
    const db = new DatabaseSync(path, { timeout: 5_000 })
    db.exec(`begin immediate;
      with recursive n (i) as (select 1 union all select i + 1 from n where i < 9000)
      insert into payloads select -i, randomblob(1000) from n;
      delete from payloads where seq < 0; commit`)
    const pagesNow = () => db.prepare('pragma page_count').get()?.page_count as number
    const before = pagesNow()
    expect(before).toBeGreaterThan(2_250)
    let pages = before
    for (let last = 0; last !== pages; ) {
      last = pages
      await store.sweep({ limit: 10, reclaim: true })
      pages = pagesNow()
      expect(last - pages).toBeLessThanOrEqual(510)
    }
    expect(pages).toBeLessThan(before - 1_000)
    expect(db.prepare('pragma freelist_count').get()?.freelist_count).toBeGreaterThan(400)
    db.close()
  })

  test('named like a special name of SQLite is a file all the same', async () => {
    const before = process.cwd()
    // Each test process has a working directory of its own.
    process.chdir(folder)
    try {
      await open(':memory:')
    } finally {
      process.chdir(before)
    }
    expect(existsSync(join(folder, ':memory:'))).toBe(true)
  })
})

describe('a start is refused, with a sentence,', () => {
  test('when the path is empty', async () => {
    await expect(open('')).rejects.toThrow(
      new StoreUnusable('STORE_URL names no file: sqlite:PATH is expected'),
    )
  })

  test('when the file is not a database', async () => {
    writeFileSync(path, 'not a database, but long enough to be looked at as one '.repeat(20))
    await expectRefusal(/is not an SQLite database$/)
  })

  test('when the file is one byte, which SQLite reads as an empty database', async () => {
    writeFileSync(path, '\n')
    await expectRefusal(/is not an SQLite database$/)
    await expect(openSqliteStore(path, { ...SETTINGS, mayCreate: false })).rejects.toThrow(
      /is not an SQLite database$/,
    )
    expect(readFileSync(path, 'utf8')).toBe('\n')
  })

  test.each([
    ['number', 'pragma user_version = 0'],
    ['tables', 'drop table jobs'],
  ])('when a store has lost its %s', async (_lost, sql) => {
    await (await open()).close()
    const db = new DatabaseSync(path)
    db.exec(sql)
    db.close()
    await expectRefusal(/has lost its tables or its schema number: restore it from a backup/)
  })

  test('when the file is a database of another program', async () => {
    const db = new DatabaseSync(path)
    db.exec('create table other (a)')
    db.close()
    await expectRefusal(/is a database of another program/)
    const after = new DatabaseSync(path)
    expect(after.prepare('select name from sqlite_schema').all()).toEqual([{ name: 'other' }])
    after.close()
  })

  test.each([7, 999])('when the file has schema %d', async (number) => {
    await (await open()).close()
    const db = new DatabaseSync(path)
    db.exec(`pragma user_version = ${number}`)
    db.close()
    await expectRefusal(
      new RegExp(
        `has schema ${number}, and this version of Posthorn uses schema 18: start the version ` +
          'that wrote it, or name another store in STORE_URL$',
      ),
    )
  })

  test('when the disk is read-only', async ({ skip }) => {
    const disk = join(folder, 'disk')
    mkdirSync(disk)
    skip(!mountDisk(disk), 'to mount takes root')
    try {
      await (await open(join(disk, 'posthorn.db'))).close()
      execFileSync('mount', ['-o', 'remount,ro', disk])
      await expect(open(join(disk, 'posthorn.db'))).rejects.toThrow(/the disk is read-only$/)
      await expect(open(join(disk, 'new.db'))).rejects.toThrow(/read-only/)
      await expect(open(join(disk, 'new', 'posthorn.db'))).rejects.toThrow(/read-only/)
    } finally {
      execFileSync('umount', [disk])
    }
  })

  test('when the folder can not be made', async () => {
    writeFileSync(join(folder, 'file'), '')
    await expect(open(join(folder, 'file', 'posthorn.db'))).rejects.toThrow(StoreUnusable)
    await expect(open(join(folder, 'file', 'a', 'posthorn.db'))).rejects.toThrow(
      /^the folder .* cannot be created: /,
    )
  })

  test.runIf(existsSync('/proc/self'))('when the folder is where none can be', async () => {
    await expect(open('/proc/none/here/posthorn.db')).rejects.toThrow(
      /^the folder \/proc\/none\/here cannot be created: /,
    )
  })

  test('when the path is a folder', async () => {
    await expect(open(folder)).rejects.toThrow(StoreUnusable)
  })

  test.runIf(process.getuid?.() !== 0)('when the file may not be written', async () => {
    await (await open()).close()
    chmodSync(path, 0o400)
    await expectRefusal(/cannot be written/)
  })

  test('when the key file is gone while secrets are stored', async () => {
    const store = await open()
    await addEndpoint(store)
    await store.close()
    rmSync(`${path}.key`)
    await expectRefusal(/the key file .* is missing/)
  })

  test('when the key file holds no key', async () => {
    const store = await open()
    await addEndpoint(store)
    await store.close()
    const key = readFileSync(`${path}.key`, 'latin1').trim()
    const other = Buffer.alloc(32, 9).toString('base64')
    for (const text of ['c2hvcnQ=\n', '', `${key}\n${other}\n`, `"${key}"`, `${key}junk`, '\0']) {
      writeFileSync(`${path}.key`, text)
      await expectRefusal(/does not hold one key: 32 bytes in base64/)
    }
    writeFileSync(`${path}.key`, `${key}\r\n\n`)
    await open()
  })

  test('when a stored secret was encrypted with a key that is not set', async () => {
    const key = Buffer.alloc(32, 1)
    const store = await open(path, [key])
    await addEndpoint(store)
    await store.close()
    await expect(open(path, [Buffer.alloc(32, 2)])).rejects.toThrow(StoreUnusable)
    await open(path, [Buffer.alloc(32, 2), key])
  })

  async function expectRefusal(sentence: RegExp): Promise<void> {
    const refusal = await open().catch((error: unknown) => error)
    expect(refusal).toBeInstanceOf(StoreUnusable)
    expect((refusal as Error).message).toMatch(sentence)
  }
})

describe('the key file', () => {
  test('is not made before a secret is stored, and is never changed', async () => {
    const store = await open()
    expect(existsSync(`${path}.key`)).toBe(false)
    await addEndpoint(store)
    const key = readFileSync(`${path}.key`, 'latin1')
    expect(Buffer.from(key.trim(), 'base64')).toHaveLength(32)
    await addEndpoint(store)
    expect(readFileSync(`${path}.key`, 'latin1')).toBe(key)
  })

  test('that cannot be created makes the store unavailable, with the reason, until it can', async () => {
    const store = await open()
    const restore = forbidNewFiles()
    try {
      await expect(addEndpoint(store)).rejects.toMatchObject({
        ...{ name: 'StoreUnavailable', kind: 'read_only' },
        message: expect.stringMatching(
          /the key file .*posthorn\.db\.key cannot be created: EACCES/,
        ),
      })
      await expect(store.ready()).rejects.toMatchObject({ kind: 'read_only' })
    } finally {
      restore()
    }
    await addEndpoint(store)
    expect(existsSync(`${path}.key`)).toBe(true)

    const other = await open(join(folder, 'other.db'))
    symlinkSync(join(folder, 'nowhere'), join(folder, 'other.db.key'))
    const refused = { name: 'StoreUnavailable', kind: 'disk_error' }
    await expect(addEndpoint(other)).rejects.toMatchObject(refused)
  })

  test.each([
    ['is a folder', (file: string) => mkdirSync(file)],
    ['is empty', (file: string) => writeFileSync(file, '')],
    ['holds no key', (file: string) => writeFileSync(file, 'no key')],
  ])('that %s makes the store unavailable until it is repaired', async (_, spoil) => {
    const store = await open()
    spoil(`${path}.key`)
    await expect(addEndpoint(store)).rejects.toMatchObject({
      ...{ name: 'StoreUnavailable', kind: 'key_file' },
      message: expect.stringContaining(`${path}.key`),
    })
    await expect(store.ready()).rejects.toMatchObject({ kind: 'key_file' })
    rmSync(`${path}.key`, { recursive: true })
    await addEndpoint(store)
  })

  /**
   * Forbids new files; open files can still be written. Root may write anywhere, so the process
   * becomes another user.
   */
  function forbidNewFiles(): () => void {
    chmodSync(folder, 0o555)
    const isRoot = process.getuid?.() === 0
    if (isRoot) process.seteuid?.(NOBODY)
    return () => {
      if (isRoot) process.seteuid?.(0)
      chmodSync(folder, 0o755)
    }
  }

  test('made by one process is used by those that were open before', async () => {
    const [first, second] = [await open(), await open()]
    const one = await addEndpoint(first)
    const two = await addEndpoint(second)
    for (const store of [first, second]) {
      expect(await store.endpointsNamed([one, two])).toHaveLength(2)
    }
  })
})

describe('keys that change', () => {
  const [old, current] = [Buffer.alloc(32, 1), Buffer.alloc(32, 2)]

  test('a start encrypts endpoints again with the first key, so that the old key can be removed', async () => {
    const before = await open(path, [old])
    const name = await addEndpoint(before, { headers: { 'x-token': 'secret' } })
    const [endpoint] = await before.endpointsNamed([name])
    await before.close()
    await (await open(path, [current, old])).close()
    const after = await open(path, [current])
    const [keyId] = after.encryptionKeyIds()
    expect(await after.endpointsNamed([name])).toEqual([{ ...endpoint, keyId }])
  })

  test('a job whose headers no key opens is shown and claimed without them', async () => {
    const before = await open(path, [old])
    const name = await addEndpoint(before)
    const { id } = await enqueueOne(before, name, { headers: { 'x-token': 'secret' } })
    await before.close()
    await (await open(path, [current, old])).close()
    const after = await open(path, [current])
    expect((await jobOf(after, id)).headers).toBeNull()
    expect((await after.listJobs({ limit: 1 })).items[0]?.headers).toBeNull()
    expect((await claimOne(after, name)).headers).toBeNull()
  })

  test('tokens of attempts need no endpoint to be stored before, and outlive the process', async () => {
    const lease = { jobId: 'job_1', fence: 3, leaseId: 'lease' }
    const first = await open()
    const token = first.attemptTokens.issue(lease)
    await first.close()
    expect((await open()).attemptTokens.read('job_1', token)).toEqual(lease)
  })
})

describe('a closed store', () => {
  test('is unavailable, says so, and can be closed again', async () => {
    const store = await open()
    await store.close()
    await expect(store.ready()).rejects.toThrow(StoreUnavailable)
    await expect(store.ready()).rejects.toThrow(/is closed$/)
    await expect(store.writeApiMode({ localMode: true, publicUrl: null })).rejects.toThrow(
      StoreUnavailable,
    )
    await store.close()
  })
})

describe('a full disk', () => {
  test('is reported as such', () => {
    const db = new DatabaseSync(path)
    db.exec('create table t (a); pragma max_page_count = 2')
    const fill = () => db.exec('insert into t values (zeroblob(100000))')
    expect(() => {
      try {
        fill()
      } catch (error) {
        throw asStoreError('posthorn.db', error)
      }
    }).toThrow(
      new StoreUnavailable('the store posthorn.db cannot grow: the disk is full', { kind: 'full' }),
    )
    db.close()
  })
})
