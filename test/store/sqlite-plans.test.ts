// Query plans of the SQLite store: no statement walks the jobs or sorts them.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import * as claim from '../../src/store/sqlite/claim.ts'
import * as commands from '../../src/store/sqlite/commands.ts'
import * as due from '../../src/store/sqlite/due.ts'
import * as burial from '../../src/store/sqlite/endpoint-burial.ts'
import * as endpoints from '../../src/store/sqlite/endpoints.ts'
import * as enqueue from '../../src/store/sqlite/enqueue.ts'
import * as jobs from '../../src/store/sqlite/jobs.ts'
import * as settle from '../../src/store/sqlite/settle.ts'
import { openSqliteStore } from '../../src/store/sqlite/sqlite-store.ts'
import * as sweep from '../../src/store/sqlite/sweep.ts'

const MODULES = { enqueue, claim, settle, sweep, due, jobs, endpoints, burial, commands }

/** Statements that are texts of their own; those made by a function are listed below. */
const STATEMENTS = Object.values(MODULES).flatMap((module) =>
  Object.entries(module).flatMap(([name, value]) => textsOf(name, value)),
)

const WALKS = [{}, { endpoint: 'a' }].flatMap((scope) => [
  ['all', jobs.walkSql(scope)] as const,
  ['by state', jobs.walkSql({ ...scope, states: ['queued', 'succeeded'] })] as const,
  ['by tag', jobs.walkSql({ ...scope, tag: 'red' })] as const,
  ['its last entry', jobs.lastLookedAtSql(scope)] as const,
])

/** Which index serves what is asked at every claim, look and sweep. */
const EXPECTED_INDEX: [string, string, string][] = [
  ['claim', claim.CLAIMABLE, 'jobs_claimable (endpoint=? AND priority=? AND run_at<?)'],
  ['next priority', claim.NEXT_PRIORITY, 'jobs_claimable (endpoint=? AND priority<?)'],
  ['settle', settle.SETTLE.succeed, 'sqlite_autoindex_jobs_1 (id=?)'],
  ['renew', settle.RENEW, 'sqlite_autoindex_jobs_1 (id=?)'],
  ['due', due.DUE_BETWEEN, 'COVERING INDEX jobs_due (run_at>? AND run_at<?)'],
  ['next due', due.NEXT_DUE, 'COVERING INDEX jobs_due (run_at>?)'],
  ['all queued', due.ALL_QUEUED, 'COVERING INDEX jobs_claimable (endpoint>?)'],
  ['lapsed leases', sweep.LAPSED, 'jobs_leased (lease_boot=? AND lease_mono<?)'],
  ['expired', sweep.EXPIRED, 'COVERING INDEX jobs_expiring'],
  ['purgeable', sweep.PURGEABLE, 'COVERING INDEX jobs_purgeable'],
  ['idempotency key', enqueue.JOB_OF_KEY, 'jobs_idempotency (endpoint=? AND idempotency_key=?)'],
  ['running of', endpoints.COUNT_RUNNING, 'COVERING INDEX jobs_running (endpoint=?)'],
  ['queued of', endpoints.COUNT_QUEUED, 'COVERING INDEX jobs_claimable (endpoint=?)'],
  ['dead', jobs.IDS_IN_STATE.dead, 'COVERING INDEX jobs_unsuccessful (endpoint=? AND state=?'],
  ['running', jobs.IDS_IN_STATE.running, 'COVERING INDEX jobs_running (endpoint=? AND id>?'],
  ['list', jobs.walkSql({}), 'sqlite_autoindex_jobs_1 (id>? AND id<?)'],
  ['list of one', jobs.walkSql({ endpoint: 'a' }), 'jobs_of_endpoint (endpoint=? AND id>?'],
]

describe('query plans of the SQLite store', () => {
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-plans-'))
  const path = join(folder, 'posthorn.db')
  let db: DatabaseSync

  beforeAll(async () => {
    const store = await openSqliteStore(path, {
      retentionMs: 0,
      retentionDeadMs: 0,
      encryptionKeys: null,
    })
    await store.close()
    db = new DatabaseSync(path)
  })
  afterAll(() => {
    db.close()
    rmSync(folder, { recursive: true, force: true })
  })

  const planOf = (sql: string) =>
    db
      .prepare(`explain query plan ${sql}`)
      .all()
      .map((row) => row.detail as string)

  test('the statements of every verb are looked at', () => {
    expect(STATEMENTS.length).toBeGreaterThan(40)
  })

  test.each([...STATEMENTS, ...WALKS])('%s neither walks the jobs nor sorts', (_, sql) => {
    const plan = planOf(sql)
    expect(plan.filter((step) => /^SCAN jobs/.test(step))).toEqual([])
    expect(plan.filter((step) => /TEMP B-TREE/.test(step))).toEqual([])
  })

  test.each(EXPECTED_INDEX)('%s is served by its index', (_, sql, index) => {
    expect(planOf(sql).filter((step) => step.includes(index))).toHaveLength(1)
  })

  test('a statement without an index would be found out', () => {
    expect(planOf('select id from jobs where worker_id = ? order by result')).toEqual([
      'SCAN jobs',
      'USE TEMP B-TREE FOR ORDER BY',
    ])
  })
})

function textsOf(name: string, value: unknown): [string, string][] {
  if (typeof value === 'string') {
    return /^\s*(select|insert|update|delete|with)\b/.test(value) ? [[name, value]] : []
  }
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([part, text]) => textsOf(`${name} ${part}`, text))
}
