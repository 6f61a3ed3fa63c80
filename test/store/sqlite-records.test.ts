// The records beside jobs in the SQLite store: old ones are deleted, counts stop at the maximum
// that is reported, and each statement uses its index.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { DURATION_BOUNDS_MS, MINUTE_STATS_KEPT_MS } from '../../src/store/minute-stats.ts'
import * as keyRotation from '../../src/store/sqlite/key-rotation.ts'
import * as records from '../../src/store/sqlite/records.ts'
import * as schedules from '../../src/store/sqlite/schedules.ts'
import * as stats from '../../src/store/sqlite/stats.ts'
import { openSqliteStore } from '../../src/store/sqlite/store.ts'
import { MAX_COUNT, type Store } from '../../src/store/store.ts'
import { WORKER_KEPT_MS } from '../../src/store/worker-liveness.ts'
import { addEndpoint, claimFrom, enqueueMany, newJob, passed, sweep } from '../contract/fixtures.ts'

const MODULES = { keyRotation, records, schedules, stats }
const STATEMENTS = Object.values(MODULES).flatMap((module) =>
  Object.entries(module).filter((entry): entry is [string, string] => typeof entry[1] === 'string'),
)

/**
 * These statements may scan: a table of at most MAX_KEYS rows, or, once at the start, the
 * endpoints.
 */
const WALKED = ['COUNT_KEYS', 'LIST_KEYS', 'ENCRYPTED_ENDPOINTS']

const EXPECTED_INDEX: [string, string, string][] = [
  ['due schedules', schedules.DUE_SCHEDULES, 'schedules_due (next_run_at>? AND next_run_at<?)'],
  ['schedules', schedules.SCHEDULES_AFTER, 'sqlite_autoindex_schedules_1 (name>?)'],
  ['keys', records.LIST_KEYS, 'api_keys_by_age'],
  ['workers', records.WORKERS_SEEN, 'workers_seen (seen_at>?)'],
  ['old workers', records.FORGET_WORKERS, 'COVERING INDEX workers_seen (seen_at<?)'],
  ['minute statistics', records.MINUTE_STATS_SINCE, 'PRIMARY KEY (minute>?)'],
  ['old minute statistics', records.FORGET_MINUTE_STATS, 'PRIMARY KEY (minute<?)'],
  ['dead of', stats.COUNT_DEAD, 'COVERING INDEX jobs_unsuccessful (endpoint=? AND unsuccessful=?)'],
  [
    'due of',
    stats.COUNT_DUE,
    'COVERING INDEX jobs_claimable (endpoint=? AND priority=? AND turn=? AND run_at<?)',
  ],
]

/** What a plan walks that is no table. */
const NO_TABLE = /^SCAN (\(subquery|named$|CONSTANT ROW$)/

describe('records of the SQLite store', () => {
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-records-'))
  const path = join(folder, 'posthorn.db')
  let store: Store
  /** The file as another program reads it. */
  let db: DatabaseSync

  beforeAll(async () => {
    const settings = { retentionMs: 0, retentionDeadMs: 0, encryptionKeys: null, warn: () => {} }
    store = await openSqliteStore(path, settings)
    db = new DatabaseSync(path)
  })
  afterAll(async () => {
    db.close()
    await store.close()
    rmSync(folder, { recursive: true, force: true })
  })

  const planOf = (sql: string) =>
    db
      .prepare(`explain query plan ${sql}`)
      .all()
      .map((row) => row.detail as string)

  test.each(STATEMENTS)('%s neither walks a table nor sorts', (name, sql) => {
    const plan = planOf(sql).filter((step) => !NO_TABLE.test(step))
    const wrong = plan.filter((step) => /^SCAN|TEMP B-TREE/.test(step))
    expect(wrong).toHaveLength(WALKED.includes(name) ? 1 : 0)
  })

  test.each(EXPECTED_INDEX)('%s: served by its index', (_, sql, index) => {
    expect(planOf(sql).filter((step) => step.includes(index))).toHaveLength(1)
  })

  test('minute statistics are kept for two days and go by and by', async () => {
    const durations = Array<number>(DURATION_BOUNDS_MS.length + 1).fill(0)
    const statsAt = (minute: number, i: number) => ({
      minute,
      endpoint: `endpoint-${i}`,
      succeeded: 1,
      failed: 0,
      durations,
    })
    const old = store.clock.now() - MINUTE_STATS_KEPT_MS - 60_000
    const kept = store.clock.now() - MINUTE_STATS_KEPT_MS + 60_000
    const report = { writer: 'w', number: 1 }
    await store.addMinuteStats(
      Array.from({ length: 30 }, (_, i) => statsAt(old, i)),
      report,
    )
    await store.addMinuteStats([statsAt(kept, 1)], report)
    const { stats } = await store.minuteStatsSince(0, null)
    expect(stats.map(({ minute }) => minute)).toEqual([kept])
  })

  test('workers not seen for an hour are not listed, and go when others report', async () => {
    const report = { version: '1', startedAt: 1, concurrency: 1, inFlight: 0, keyIds: [] }
    for (let i = 0; i < 15; i++) await store.reportWorker({ ...report, id: `old-${i}` })
    db.exec(`update workers set seen_at = seen_at - ${WORKER_KEPT_MS}`)
    expect(await store.listWorkers()).toEqual([])
    const idsStored = () => db.prepare('select id from workers order by id').all()
    await store.reportWorker({ ...report, id: 'new' })
    expect(idsStored()).toHaveLength(6)
    await store.reportWorker({ ...report, id: 'new' })
    expect(idsStored()).toEqual([{ id: 'new' }])
  })

  test('a count stops at its limit, and the oldest due job is found among all', async () => {
    const name = await addEndpoint(store)
    const now = store.clock.now()
    for (let i = 0; i < MAX_COUNT; i += 1_000) {
      await enqueueMany(store, name, 1_000, { runAt: now - 1_000, priority: 9 })
    }
    const exact = { queued: MAX_COUNT, due: MAX_COUNT, running: 0, dead: 0, keysDue: 0 }
    expect(await store.statsOf([name])).toEqual([
      { ...exact, oldestDueAt: now - 1_000, more: false },
    ])
    await enqueueMany(store, name, 2, { runAt: now - 7_000, priority: 0 })
    expect(await store.statsOf([name])).toEqual([
      { ...exact, oldestDueAt: now - 7_000, more: true },
    ])
  })

  test('a key without settings is stored until its bucket is full and its rest is over', async () => {
    const rateLimit = { count: 1, perMs: 100 }
    const endpoint = await addEndpoint(store, { perKey: { concurrency: null, rateLimit } })
    for (const key of ['a', 'b', 'c']) {
      await enqueueMany(store, endpoint, 1, { fairnessKey: key })
      await claimFrom(store, endpoint, 1)
    }
    const report = { endpoint, succeeded: [], throttle: { until: null } }
    await store.reportKeyHealth(['a', 'b'].map((key) => ({ ...report, key })))
    await store.putFairnessKey({ endpoint, key: 'b' }, { weight: 2, paused: true }, null)
    const stored = () => db.prepare('select key from fairness_keys').all()
    expect(stored()).toEqual([{ key: 'a' }, { key: 'b' }, { key: 'c' }])
    await passed(store, store.clock.now() + rateLimit.perMs)
    await sweep(store)
    expect(stored()).toEqual([{ key: 'a' }, { key: 'b' }])
    await store.resumeEndpoint(endpoint)
    await sweep(store)
    expect(stored()).toEqual([{ key: 'b' }])
    await store.deleteFairnessKey({ endpoint, key: 'b' }, null)
    await sweep(store)
    expect(stored()).toEqual([])
  })

  test('at most 10,000 keys are compared by their wait', async () => {
    const name = await addEndpoint(store)
    const addKeys = (from: number, count: number) =>
      store.enqueue(
        Array.from({ length: count }, (_, i) =>
          newJob(store, name, { fairnessKey: `key ${from + i}`, runAt: 1_000 + from + i }),
        ),
      )
    for (let i = 0; i < MAX_COUNT; i += 1_000) await addKeys(i, 1_000)
    const first = { items: [{ key: 'key 0', queued: 1, due: 1, running: 0, more: false }] }
    const all = { ...first, next: { key: 'key 0', dueSince: 1_000 } }
    expect(await store.keysByWait(name, null, 1)).toEqual({ ...all, partial: false })
    expect((await store.statsOf([name]))[0]?.keysDue).toBe(MAX_COUNT)
    await addKeys(MAX_COUNT, 1)
    expect(await store.keysByWait(name, null, 1)).toEqual({ ...all, partial: true })
    expect((await store.statsOf([name]))[0]?.keysDue).toBe(MAX_COUNT)
  })

  test('the counts of a fairness key stop at their limit', async () => {
    const name = await addEndpoint(store)
    const keyed = { fairnessKey: 'a' }
    for (let i = 0; i < MAX_COUNT; i += 1_000) await enqueueMany(store, name, 1_000, keyed)
    const exact = { key: 'a', queued: MAX_COUNT, due: MAX_COUNT, running: 0 }
    expect((await store.fairnessKeysOf(name, null, 1)).items).toEqual([{ ...exact, more: false }])
    await enqueueMany(store, name, 1, keyed)
    expect((await store.fairnessKeysOf(name, null, 1)).items).toEqual([{ ...exact, more: true }])
  })
})
