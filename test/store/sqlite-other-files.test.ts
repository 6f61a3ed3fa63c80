// Whatever STORE_URL and the target of a backup name, Posthorn changes no existing file other than
// the store itself. It creates no file that SQLite would use as a part of another store.
import {
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { ConfigError, readConfig } from '../../src/config.ts'
import { openStore } from '../../src/store/open-store.ts'
import { backUpFile, vacuumFile } from '../../src/store/sqlite/backup.ts'
import type { Store, StoreSettings } from '../../src/store/store.ts'
import { addEndpoint, enqueueOne, jobOf } from '../contract/fixtures.ts'

vi.setConfig({ testTimeout: 120_000 })

const SETTINGS: StoreSettings = {
  ...{ retentionMs: 60_000, retentionDeadMs: 60_000, encryptionKeys: null },
  warn: () => {},
}

let folder: string
let jobId: string
/** The store stays open, so that its log file exists. */
let store: Store
const OF_THE_STORE = ['store.db', 'store.db-wal', 'store.db-shm']
const storePath = () => join(folder, 'store.db')

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'posthorn-other-'))
  store = await openStore(`sqlite:${storePath()}`, SETTINGS)
  jobId = (await enqueueOne(store, await addEndpoint(store))).id
  mkdirSync(join(folder, 'folder'))
  const file = (name: string, text: string) => writeFileSync(join(folder, name), text)
  file('notes.txt', 'of a person')
  file('empty.db', '')
  file('other.db.key', 'the key of something else')
  file('left.db-wal', 'of another database')
  file('left.db.part-journal', 'of another database')
  const other = new DatabaseSync(join(folder, 'other.db'))
  other.exec('create table jobs (id); insert into jobs values (1)')
  other.close()
  const wal = new DatabaseSync(join(folder, 'wal.db'))
  wal.exec('pragma journal_mode = wal; create table t (a)')
  wal.close()
  symlinkSync('other.db', join(folder, 'link.db'))
  symlinkSync('nowhere', join(folder, 'dangling.db'))
  linkSync(join(folder, 'notes.txt'), join(folder, 'hard.db'))
})
afterAll(async () => {
  await store.close()
  rmSync(folder, { recursive: true, force: true })
})

/** The content of every file, at any depth. */
function contents(): Map<string, string> {
  const all = readdirSync(folder, { recursive: true, withFileTypes: true })
  const files = all.filter((one) => one.isFile()).map((one) => join(one.parentPath, one.name))
  return new Map(
    files.map((path) => [relative(folder, path), readFileSync(path).toString('latin1')]),
  )
}

const NAME = fc
  .array(
    fc.constantFrom(
      ...['store.db', 'other.db', 'wal.db', 'left.db', 'link.db', 'dangling.db', 'hard.db'],
      ...['notes.txt', 'empty.db', 'folder', '/', './', 'folder/../', '.key', '.part', '-wal'],
      ...['-shm', '-journal', '-WAL', 'new', ' '],
    ),
    { minLength: 1, maxLength: 3 },
  )
  .map((parts) => parts.join(''))

/**
 * Runs the work. It may overwrite the store itself by name. A new file beside the store must not be
 * a part of another store.
 */
async function leavesOthers(work: () => Promise<unknown>): Promise<void> {
  const before = contents()
  await work().catch((error: Error) => expect(error.message).not.toBe(''))
  const after = contents()
  for (const [name, content] of before) {
    if (!OF_THE_STORE.includes(name))
      expect([name, after.get(name) === content]).toEqual([name, true])
  }
  for (const name of after.keys()) {
    if (before.has(name)) continue
    const ends = ['-wal', '-shm', '-journal', '.key']
    const isPart = (one: string) => ends.includes(name.slice(one.length).toLowerCase())
    const whose = [...before.keys()].find((one) => name.startsWith(one) && isPart(one))
    expect([name, whose]).toEqual([name, undefined])
    rmSync(join(folder, name))
  }
}

describe('files beside a SQLite store', () => {
  it('stay as they are, whatever the target of a backup is', async () => {
    await fc.assert(
      fc.asyncProperty(NAME, (name) =>
        leavesOthers(() => backUpFile(storePath(), `${folder}/${name}`, null)),
      ),
      { numRuns: 150 },
    )
  })

  it('stay as they are, whatever STORE_URL names', async () => {
    const open = async (name: string) => {
      const { STORE_URL } = readConfig({ STORE_URL: `sqlite:${folder}/${name}` })
      await vacuumFile(STORE_URL.slice('sqlite:'.length)).catch(() => {})
      const other = await openStore(STORE_URL, SETTINGS)
      await other.ready()
      await other.close()
    }
    await fc.assert(
      fc.asyncProperty(NAME, (name) => leavesOthers(() => open(name))),
      { numRuns: 150 },
    )
    expect(statSync(join(folder, 'empty.db')).size).toBe(0)
  })

  it('that SQLite or Posthorn keep for a store are not taken as a store', () => {
    const end = fc.constantFrom('-wal', '-shm', '-journal', '.key', '-WAL', '.Key')
    fc.assert(
      fc.property(NAME, end, (name, suffix) => {
        const url = `sqlite:${folder}/${name}${suffix}`
        expect(() => readConfig({ STORE_URL: url })).toThrow(ConfigError)
      }),
    )
  })

  it('leave the store what it was', async () => {
    expect(await jobOf(store, jobId)).toMatchObject({ id: jobId, state: 'queued' })
    await enqueueOne(store, await addEndpoint(store))
  })
})
