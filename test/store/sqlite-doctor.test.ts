// `posthorn doctor store` on SQLite: each check is made to fail once.
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { examineStore } from '../../src/store/open-store.ts'
import { examineSqliteStore } from '../../src/store/sqlite/doctor.ts'
import { MIGRATIONS } from '../../src/store/sqlite/schema.ts'
import { openSqliteStore } from '../../src/store/sqlite/store.ts'
import { openShell } from '../cli/command-line.ts'
import { addEndpoint, enqueueMany } from '../contract/fixtures.ts'

const SETTINGS = { retentionMs: 60_000, retentionDeadMs: 60_000, encryptionKeys: null }
const NUMBER = MIGRATIONS.at(-1)?.number as number

let folder = ''
let path = ''

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'posthorn-doctor-'))
  path = join(folder, 'posthorn.db')
  const store = await openSqliteStore(path, { ...SETTINGS, warn: () => {} })
  await enqueueMany(store, await addEndpoint(store), 200)
  await store.close()
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

function change(sql: string): void {
  const db = new DatabaseSync(path)
  db.exec(sql)
  db.close()
}

const verdicts = (minFreeBytes?: number) =>
  Object.fromEntries(
    examineSqliteStore(path, minFreeBytes).checks.map(({ name, verdict }) => [name, verdict]),
  )
const ALL_OK = {
  ...{ permissions: 'ok', disk: 'ok', schema: 'ok', plans: 'ok', journal: 'ok' },
  integrity: 'ok',
}

it('a good store passes every check, also while it is in use', async () => {
  expect(verdicts()).toEqual(ALL_OK)
  const store = await openSqliteStore(path, { ...SETTINGS, warn: () => {} })
  const report = await examineStore(`sqlite:${path}`, new AbortController().signal)
  expect(report.checks.every(({ verdict }) => verdict === 'ok')).toBe(true)
  await store.close()
})

it.each<[string, string, () => void, number?]>([
  ['permissions', 'warning', () => chmodSync(path, 0o644)],
  ['disk', 'failed', () => {}, Number.POSITIVE_INFINITY],
  ['schema', 'failed', () => change('drop index jobs_due')],
  ['plans', 'warning', () => change('analyze')],
  ['journal', 'warning', () => change('pragma journal_mode = delete')],
])('%s: %s', (name, verdict, damage, minFreeBytes) => {
  damage()
  expect(verdicts(minFreeBytes)).toEqual({ ...ALL_OK, [name]: verdict })
})

it('a schema of a later version is refused, and a damaged file', () => {
  change(`pragma user_version = ${NUMBER + 1}`)
  expect(verdicts()).toMatchObject({ schema: 'failed' })
  change(`pragma user_version = ${NUMBER}; pragma wal_checkpoint(truncate)`)
  const bytes = readFileSync(path)
  bytes.fill(0xff, Math.floor(bytes.length / 2))
  writeFileSync(path, bytes)
  expect(Object.values(verdicts())).toContain('failed')
})

it('a store that is not there ends the command with 1, and is not created', async () => {
  const shell = openShell({ STORE_URL: `sqlite:${folder}/other.db` })
  const { code, stdout } = await shell.run(['doctor', 'store'])
  await shell.close()
  expect(code).toBe(1)
  expect(stdout).toMatch(/failed\s+file\s+There is no store at .*other\.db/)
  expect(stdout).toContain('Failed: file.')
})
