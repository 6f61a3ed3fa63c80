// Query plans of the SQLite store: no statement scans or sorts the jobs.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import * as admission from '../../src/store/sqlite/admission.ts'
import * as blockedJobs from '../../src/store/sqlite/blocked-jobs.ts'
import * as claim from '../../src/store/sqlite/claim.ts'
import * as commands from '../../src/store/sqlite/commands.ts'
import * as deletedEndpoints from '../../src/store/sqlite/deleted-endpoints.ts'
import * as endpoints from '../../src/store/sqlite/endpoints.ts'
import * as enqueue from '../../src/store/sqlite/enqueue.ts'
import * as enqueueConflicts from '../../src/store/sqlite/enqueue-conflicts.ts'
import * as fairnessKeys from '../../src/store/sqlite/fairness-keys.ts'
import * as finishEffects from '../../src/store/sqlite/finish-effects.ts'
import * as groupMembers from '../../src/store/sqlite/group-members.ts'
import * as groupRow from '../../src/store/sqlite/group-row.ts'
import * as groups from '../../src/store/sqlite/groups.ts'
import * as inputs from '../../src/store/sqlite/inputs.ts'
import * as jobRow from '../../src/store/sqlite/job-row.ts'
import * as jobs from '../../src/store/sqlite/jobs.ts'
import * as keyLimits from '../../src/store/sqlite/key-limits.ts'
import * as keyRests from '../../src/store/sqlite/key-rests.ts'
import * as keySettings from '../../src/store/sqlite/key-settings.ts'
import * as leases from '../../src/store/sqlite/leases.ts'
import * as settle from '../../src/store/sqlite/settle.ts'
import * as sharedLimits from '../../src/store/sqlite/shared-limits.ts'
import * as stats from '../../src/store/sqlite/stats.ts'
import { openSqliteStore } from '../../src/store/sqlite/store.ts'
import * as sweep from '../../src/store/sqlite/sweep.ts'
import * as turns from '../../src/store/sqlite/turns.ts'

const MODULES = [
  ...[admission, blockedJobs, claim, commands, deletedEndpoints, endpoints, enqueue],
  ...[enqueueConflicts, fairnessKeys, finishEffects, groupMembers, groupRow, groups, inputs],
  ...[jobRow, jobs, keyLimits, keyRests],
  ...[keySettings, leases, settle, sharedLimits, stats, sweep, turns],
]

/** Statements that are constant texts. Those that a function makes are listed below. */
const STATEMENTS = MODULES.flatMap((module) =>
  Object.entries(module).flatMap(([name, value]) => textsOf(name, value)),
)

const SCOPES = [
  ...[{}, { endpoint: 'a' }, { dedupeKey: 'k' }, { endpoint: 'a', dedupeKey: 'k' }],
  ...[{ oldestFirst: true }, { endpoint: 'a', oldestFirst: true }],
]
const WALKS = SCOPES.flatMap((scope) => [
  ['all', jobs.walkSql(scope)] as const,
  ['by state', jobs.walkSql({ ...scope, states: ['queued', 'succeeded'] })] as const,
  ['by tag', jobs.walkSql({ ...scope, tag: 'red' })] as const,
  ['by fairness key', jobs.walkSql({ ...scope, fairnessKey: 'k' })] as const,
  ['by reason', jobs.walkSql({ ...scope, failureReason: 'expired' })] as const,
  ['its last entry', jobs.lastLookedAtSql(scope)] as const,
])

/** The index that serves each query of a claim, a look for due jobs, or a sweep. */
const EXPECTED_INDEX: [string, string, string][] = [
  ['claim', claim.CLAIMABLE, 'jobs_claimable (endpoint=? AND priority=? AND turn=? AND run_at<?)'],
  [
    'claim in turn',
    claim.TURNS,
    'jobs_claimable (endpoint=? AND priority=? AND turn>? AND turn<?)',
  ],
  [
    'last turn of a key',
    turns.LAST_IN_LINE,
    'COVERING INDEX jobs_turns (endpoint=? AND fairness_key=? AND priority=?)',
  ],
  [
    'first outside',
    turns.FIRST_OUTSIDE,
    'jobs_outside (endpoint=? AND fairness_key=? AND priority=?)',
  ],
  [
    'turns that became free',
    turns.LEFT_WITH_TURN,
    'jobs_left_turn (endpoint=? AND fairness_key=? AND priority=?)',
  ],
  [
    'parked keys that may have room',
    keyLimits.RIPE_PARKED,
    'jobs_parked (endpoint=? AND priority=? AND due_at<?)',
  ],
  ['parked job of a key', turns.WAKE_PARKED, 'jobs_parked_of_key (endpoint=? AND fairness_key=?)'],
  [
    'running jobs of a key',
    keyLimits.RUNNING_OF_KEY,
    'COVERING INDEX jobs_of_key (endpoint=? AND fairness_key=? AND blocked=?',
  ],
  [
    'jobs of a key that are being sent',
    keyLimits.SENDING_OF_KEY,
    'jobs_of_key (endpoint=? AND fairness_key=? AND blocked=?',
  ],
  ['unneeded keys', fairnessKeys.UNNEEDED_KEYS, 'fairness_keys_unneeded (<expr><?)'],
  ['keys with settings', keySettings.COUNT_SETTINGS, 'PRIMARY KEY (endpoint=?)'],
  ['keys that rest', keyRests.DROP_RESTS, 'PRIMARY KEY (endpoint=?)'],
  ['next priority', claim.NEXT_PRIORITY, 'jobs_claimable (endpoint=? AND priority<?)'],
  ['settle', settle.SETTLE.succeed, 'sqlite_autoindex_jobs_1 (id=?)'],
  ['renew', leases.RENEW, 'sqlite_autoindex_jobs_1 (id=?)'],
  ['due', claim.DUE_BETWEEN, 'COVERING INDEX jobs_due (due_at>? AND due_at<?)'],
  ['next due', claim.NEXT_DUE, 'COVERING INDEX jobs_due (due_at>?)'],
  ['all queued', claim.ALL_QUEUED, 'COVERING INDEX jobs_claimable (endpoint>?)'],
  ['expired leases', sweep.EXPIRED_LEASES, 'jobs_leased (lease_boot=? AND lease_mono<?)'],
  ['expired', sweep.EXPIRED_JOBS, 'COVERING INDEX jobs_expiring'],
  ['purgeable', sweep.PURGEABLE, 'INDEX jobs_purgeable'],
  ['needed by', inputs.NEEDED_BY, 'PRIMARY KEY (needed=?)'],
  ['dead because of', jobs.DEAD_BECAUSE_OF, 'jobs_failed_because (failure_job_id=?)'],
  [
    'idempotency key',
    enqueueConflicts.JOB_BY.key,
    'jobs_idempotency (endpoint=? AND idempotency_key=?)',
  ],
  ['running of', endpoints.COUNT_RUNNING, 'COVERING INDEX jobs_running (endpoint=?)'],
  ['claimable of', endpoints.COUNT_CLAIMABLE, 'COVERING INDEX jobs_claimable (endpoint=?)'],
  [
    'dead',
    jobs.IDS_IN_STATE.desc.dead,
    'COVERING INDEX jobs_unsuccessful (endpoint=? AND unsuccessful=?',
  ],
  ['oldest dead', jobs.IDS_IN_STATE.asc.dead, 'COVERING INDEX jobs_unsuccessful (endpoint=? AND'],
  ['running', jobs.IDS_IN_STATE.desc.running, 'COVERING INDEX jobs_running (endpoint=? AND id>?'],
  ['list', jobs.walkSql({}), 'sqlite_autoindex_jobs_1 (id>? AND id<?)'],
  ['list of one', jobs.walkSql({ endpoint: 'a' }), 'jobs_of_endpoint (endpoint=? AND id>?'],
  [
    'list of one key',
    jobs.walkSql({ dedupeKey: 'k' }),
    'jobs_of_dedupe_key (dedupe_key=? AND id>?',
  ],
  ['blocked of', endpoints.COUNT_BLOCKED, 'COVERING INDEX jobs_blocked (endpoint=?)'],
  ['blocked, going round', sweep.BLOCKED_NEXT, 'jobs_blocked (endpoint=? AND rowid>?)'],
  ['blocked, beyond', sweep.BLOCKED_BEYOND, 'jobs_blocked (endpoint>?)'],
  ['marked', sweep.MARKED, 'jobs_recheck (recheck=?)'],
  ['finish effects', finishEffects.NEXT_WITH_EFFECTS, 'jobs_effects_pending (effects_pending=?)'],
  ['dependents', finishEffects.DEPENDENTS_OF, 'PRIMARY KEY (dependency=?)'],
  ['head of a key', blockedJobs.HEAD_OF_KEY, 'jobs_ordered (endpoint=? AND ordering_key=?)'],
  [
    'slot of a key',
    blockedJobs.ORDERING_SLOT_OF,
    'jobs_ordering_slot (endpoint=? AND ordering_slot=?)',
  ],
  ['dedupe key', enqueueConflicts.DEDUPE_HOLDER, 'jobs_dedupe (endpoint=? AND dedupe_key=?)'],
  ['origin', enqueueConflicts.JOB_BY.origin, 'jobs_origin (endpoint=? AND origin_key=?)'],
  ['running of a limited one', admission.RUNNING_UP_TO, 'COVERING INDEX jobs_running (endpoint=?)'],
  ...['turns', 'outside', 'of_key'].map((index): [string, string, string] => [
    `next fairness key in ${index}`,
    stats.NEXT_FAIRNESS_KEY,
    `COVERING INDEX jobs_${index} (endpoint=? AND fairness_key>?)`,
  ]),
  [
    'jobs of a key in line',
    stats.COUNT_IN_LINE_OF_KEY,
    'jobs_turns (endpoint=? AND fairness_key=?)',
  ],
  [
    'outside of a key',
    stats.COUNT_OUTSIDE_OF_KEY,
    'COVERING INDEX jobs_outside (endpoint=? AND fairness_key=?)',
  ],
  [
    'due outside of a key',
    stats.COUNT_OUTSIDE_DUE_OF_KEY,
    'COVERING INDEX jobs_outside (endpoint=? AND fairness_key=? AND priority=? AND run_at<?)',
  ],
  [
    'turns before one',
    stats.COUNT_TURNS_BEFORE,
    'COVERING INDEX jobs_turns (endpoint=? AND fairness_key=? AND priority=? AND turn>? AND turn<?)',
  ],
  [
    'outside before one',
    stats.COUNT_OUTSIDE_BEFORE,
    'COVERING INDEX jobs_outside (endpoint=? AND fairness_key=? AND priority=? AND run_at=? AND rowid<?)',
  ],
  [
    'without a key before one',
    stats.COUNT_PLAIN_BEFORE,
    'jobs_claimable (endpoint=? AND priority=? AND turn=? AND run_at=? AND promoted_at=? AND rowid<?)',
  ],
  [
    'running of a key',
    stats.COUNT_OF_KEY,
    'COVERING INDEX jobs_of_key (endpoint=? AND fairness_key=? AND blocked=?',
  ],
  ['overdue', sweep.OVERDUE, 'jobs_awaiting (awaiting_until<?)'],
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
      warn: () => {},
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

  test.each([...STATEMENTS, ...WALKS])('%s is compiled once, whatever its limit', (_, sql) => {
    // SQLite makes a plan for the number in `limit ?`, and makes another plan when another number
    // is bound.
    expect(sql).not.toMatch(/limit [?$]/)
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
