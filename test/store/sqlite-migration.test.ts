// The runner of migrations, with a step made up for this test, because there is only one schema so
// far.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { MIGRATIONS, type Migration, migrate } from '../../src/store/sqlite/schema.ts'
import { openSqliteStore } from '../../src/store/sqlite/store.ts'
import { StoreUnusable } from '../../src/store/store-errors.ts'
import { addEndpoint, enqueueOne } from '../contract/fixtures.ts'

const NUMBER = MIGRATIONS.at(-1)?.number as number
const SETTINGS = {
  retentionMs: 60_000,
  retentionDeadMs: 60_000,
  encryptionKeys: null,
  warn: () => {},
}

const NEXT: Migration = {
  number: NUMBER + 1,
  online: true,
  sql: "alter table jobs add column colour text not null default 'red'",
}

let folder = ''
let path = ''
let jobId = ''
const opened: DatabaseSync[] = []

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'posthorn-migration-'))
  path = join(folder, 'posthorn.db')
  const store = await openSqliteStore(path, SETTINGS)
  jobId = (await enqueueOne(store, await addEndpoint(store))).id
  await store.close()
})
afterEach(() => {
  for (const db of opened.splice(0)) db.close()
  rmSync(folder, { recursive: true, force: true })
})

function open(): DatabaseSync {
  const db = new DatabaseSync(path)
  opened.push(db)
  return db
}

const numberOf = (db: DatabaseSync) => db.prepare('pragma user_version').get()?.user_version
const jobsIn = (db: DatabaseSync) => db.prepare('select * from jobs').all()

test('a step brings a file to its number, with all its rows', () => {
  const db = open()
  migrate(db, path, 'online', [...MIGRATIONS, NEXT])
  expect(numberOf(db)).toBe(NUMBER + 1)
  expect(jobsIn(db)).toEqual([expect.objectContaining({ id: jobId, colour: 'red' })])
  expect(db.prepare('pragma integrity_check').all()).toEqual([{ integrity_check: 'ok' }])
})

test('a new file takes every step', () => {
  const db = new DatabaseSync(':memory:')
  opened.push(db)
  migrate(db, ':memory:', 'online', [...MIGRATIONS, NEXT])
  expect(numberOf(db)).toBe(NUMBER + 1)
  expect(db.prepare("select 1 from pragma_table_info('jobs') where name = 'colour'").all()).toEqual(
    [{ 1: 1 }],
  )
})

test('a step is taken once', () => {
  const [one, other] = [open(), open()]
  const steps = [...MIGRATIONS, NEXT]
  migrate(one, path, 'online', steps)
  // A second run of the step would fail: a table cannot have two columns of one name.
  migrate(other, path, 'all', steps)
  migrate(one, path, 'none', steps)
  expect(numberOf(other)).toBe(NUMBER + 1)
})

test('a step that fails leaves the file as it was', () => {
  const db = open()
  const before = jobsIn(db)
  const failing = { ...NEXT, sql: `${NEXT.sql}; drop table no_such_table` }
  expect(() => migrate(db, path, 'online', [...MIGRATIONS, failing])).toThrow(/no_such_table/)
  expect(numberOf(db)).toBe(NUMBER)
  expect(jobsIn(db)).toEqual(before)
})

test('a file that has taken a later step is refused, and stays as it is', async () => {
  const db = open()
  migrate(db, path, 'online', [...MIGRATIONS, NEXT])
  const before = jobsIn(db)
  const refusal = new StoreUnusable(
    `the store ${path} has schema ${NUMBER + 1}, and this version of Posthorn uses schema ` +
      `${NUMBER}: start the version that wrote it, or name another store in STORE_URL`,
  )
  await expect(openSqliteStore(path, SETTINGS)).rejects.toThrow(refusal)
  expect(numberOf(db)).toBe(NUMBER + 1)
  expect(jobsIn(db)).toEqual(before)
})

const STEPS = [...MIGRATIONS, NEXT]
const OFFLINE = [...MIGRATIONS, { ...NEXT, online: false }]

test('a process that must not create a store takes no step, and says which command does', () => {
  const db = open()
  expect(() => migrate(db, path, 'none', STEPS)).toThrow(
    new StoreUnusable(
      `the store ${path} has an older schema, and this version of Posthorn uses schema ` +
        `${NUMBER + 1}: run posthorn migrate, or start the API of this version first, without ` +
        '--existing-store',
    ),
  )
  expect(numberOf(db)).toBe(NUMBER)
})

test('a step that older processes cannot work with is left to posthorn migrate', () => {
  const db = open()
  expect(() => migrate(db, path, 'online', OFFLINE)).toThrow(/stop every API and worker, and run/)
  expect(numberOf(db)).toBe(NUMBER)
  migrate(db, path, 'all', OFFLINE)
  expect(numberOf(db)).toBe(NUMBER + 1)
})

test('such a step is refused while a worker reports', async () => {
  const store = await openSqliteStore(path, SETTINGS)
  const report = { id: 'worker-1', version: '1', startedAt: 0, concurrency: 1, inFlight: 0 }
  await store.reportWorker({ ...report, keyIds: [] })
  const db = open()
  expect(() => migrate(db, path, 'all', OFFLINE)).toThrow(/^workers use the store: 1 /)
  expect(numberOf(db)).toBe(NUMBER)
  migrate(db, path, 'all', STEPS)
  expect(numberOf(db)).toBe(NUMBER + 1)
  await store.close()
})
