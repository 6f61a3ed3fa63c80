// The index marks of jobs (schema.ts): every write keeps them right, and because of them the writes
// of a plain job open few indexes.
import { DatabaseSync } from 'node:sqlite'
import { describe, expect, test } from 'vitest'
import { CLAIM } from '../../src/store/sqlite/claim.ts'
import { RENEW } from '../../src/store/sqlite/leases.ts'
import { migrate } from '../../src/store/sqlite/schema.ts'
import { SUCCEED_IF_PLAIN } from '../../src/store/sqlite/settle.ts'
import { addEndpoint, enqueueOne } from '../contract/fixtures.ts'
import { useStore } from '../support/stores.ts'

const place = useStore('sqlite')

test.each([
  ['claimable', 'claimable = null'],
  ['expiring_at', 'expires_at = 1'],
  ['holds_keys', "dedupe_key = 'a'"],
  ['unsuccessful', "state = 'dead', claimable = null"],
  ['awaiting_until', 'awaiting_until = 1'],
])('a write that leaves %s wrong does not pass the tests', async (mark, change) => {
  const { store } = place
  const { id } = await enqueueOne(store, await addEndpoint(store))
  const db = new DatabaseSync(place.url.slice('sqlite:'.length), { timeout: 5_000 })
  try {
    const update = db.prepare(`update jobs set ${change} where id = $id`)
    expect(() => update.run({ id })).toThrow(`wrong index mark: ${mark}`)
  } finally {
    db.close()
  }
})

describe('the indexes that an update opens', () => {
  const db = new DatabaseSync(':memory:')
  migrate(db, ':memory:')

  /** In order of name. */
  function openedBy(sql: string): string[] {
    const byRoot = new Map(
      db
        .prepare("select rootpage, name from sqlite_schema where type = 'index'")
        .all()
        .map(({ rootpage, name }) => [rootpage, name as string]),
    )
    return db
      .prepare(`explain ${sql}`)
      .all()
      .filter(({ opcode }) => opcode === 'OpenWrite')
      .flatMap(({ p2 }) => byRoot.get(p2 as number) ?? [])
      .sort()
  }

  test('claim', () => {
    expect(openedBy(CLAIM)).toEqual([
      ...['jobs_claimable', 'jobs_due', 'jobs_leased', 'jobs_running'],
    ])
  })

  test('succeed, for a plain job', () => {
    // The last one finds the job by its id.
    expect(openedBy(SUCCEED_IF_PLAIN)).toEqual([
      ...['jobs_leased', 'jobs_purgeable', 'jobs_running', 'sqlite_autoindex_jobs_1'],
    ])
  })

  test('renew', () => {
    expect(openedBy(RENEW)).toEqual(['jobs_leased', 'sqlite_autoindex_jobs_1'])
  })
})
