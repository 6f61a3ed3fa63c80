// Files of the first schema: opened by this version they go on, with all their jobs.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { afterEach, beforeEach, expect, test } from 'vitest'
import {
  DEFAULT_CIRCUIT_BREAKER,
  DEFAULT_COMPLETION_TIMEOUT_MS,
  newSecret,
} from '../../src/endpoint/endpoint.ts'
import { newJobId } from '../../src/job/job-id.ts'
import { DEFAULT_RETRY } from '../../src/job/retry-policy.ts'
import { createSecretBox } from '../../src/store/secret-box.ts'
import { APPLICATION_ID, FIRST_SCHEMA } from '../../src/store/sqlite/schema.ts'
import { openSqliteStore } from '../../src/store/sqlite/store.ts'
import type { Store } from '../../src/store/store.ts'
import { claimFrom, enqueueOne, jobOf, newJob, success, sweep } from '../contract/fixtures.ts'

const KEY = Buffer.alloc(32, 7)
const SECRET = newSecret()
const NOW = Date.now()
const ATTEMPT = `{"number":1,"startedAt":1,"finishedAt":2,"durationMs":1,"outcome":"lost",\
"statusCode":null,"errorCode":null,"message":"m","responseBody":null,"workerId":"w",\
"fence":1,"leaseId":"old-lease","event":"reclaim"}`

let folder = ''
let path = ''
const opened: Store[] = []

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'posthorn-migration-'))
  path = join(folder, 'posthorn.db')
  writeFirstSchema()
})
afterEach(async () => {
  await Promise.all(opened.splice(0).map((store) => store.close()))
  rmSync(folder, { recursive: true, force: true })
})

async function open(): Promise<Store> {
  const store = await openSqliteStore(path, {
    retentionMs: 60_000,
    retentionDeadMs: 60_000,
    encryptionKeys: [KEY],
    warn: () => {},
  })
  opened.push(store)
  return store
}

const QUEUED = newJobId(NOW)
const RETRIED = newJobId(NOW)
const RUNNING = newJobId(NOW)
const DEAD = newJobId(NOW)

function writeFirstSchema(): void {
  const db = new DatabaseSync(path)
  db.exec(FIRST_SCHEMA)
  db.exec(`pragma application_id = ${APPLICATION_ID}; pragma user_version = 1`)
  const box = createSecretBox([KEY])
  db.prepare(
    `insert into endpoints (name, url, description, timeout_ms, retry, max_attempts, secrets,
      created_at, updated_at, version) values ('hook', 'https://a.example/', 'old', 1000, ?, 10, ?,
      1, 2, 3)`,
  ).run(JSON.stringify(DEFAULT_RETRY), box.seal(JSON.stringify([SECRET]), 'hook'))
  const insert = db.prepare(
    `insert into jobs (seq, id, endpoint, state, priority, run_at, first_run_at, created_at,
      attempts_left, max_attempts, attempt_count, fence, payload_bytes, tags, idempotency_key,
      request_hash, attempts, finished_at, purge_at, failure_reason, failure_message, lease_id,
      worker_id, claimed_at, lease_boot, lease_mono, lease_ms, lease_wall)
    values (?, ?, 'hook', ?, 5, ?, ?, ?, 9, 10, ?, ?, 7, '["red"]', ?, 'hash', ?, ?, ?, ?, ?, ?, ?,
      ?, ?, ?, ?, ?)`,
  )
  const none = (count: number) => Array(count).fill(null)
  const times = [NOW, NOW, NOW]
  insert.run(4, QUEUED, 'queued', ...times, 0, 0, 'order-1', ...none(12))
  insert.run(5, RETRIED, 'queued', ...times, 1, 1, null, ATTEMPT, ...none(11))
  insert.run(7, RUNNING, 'running', ...times, 1, 1, ...none(6), 'a', 'w', NOW, 1, 1, 1, NOW)
  insert.run(
    9,
    DEAD,
    'dead',
    ...times,
    1,
    1,
    null,
    ATTEMPT,
    NOW,
    NOW + 60_000,
    'rejected',
    'no',
    ...none(7),
  )
  for (const seq of [4, 5, 7, 9]) {
    db.prepare('insert into payloads (seq, bytes) values (?, ?)').run(seq, Buffer.from('{"n":1}'))
  }
  db.close()
}

test('an endpoint keeps what it had, and has the defaults of what is new', async () => {
  const store = await open()
  const [endpoint] = await store.endpointsNamed(['hook'])
  expect(endpoint).toMatchObject({
    url: 'https://a.example/',
    description: 'old',
    retry: DEFAULT_RETRY,
    secrets: [SECRET],
    circuitBreaker: DEFAULT_CIRCUIT_BREAKER,
    completion: 'sync',
    completionTimeoutMs: DEFAULT_COMPLETION_TIMEOUT_MS,
    concurrency: null,
    rateLimit: null,
    onFinish: null,
    paused: false,
    disabledReason: null,
    version: 3,
  })
  await store.rotateSecret('hook', newSecret(), 60_000)
  const [rotated] = await store.endpointsNamed(['hook'])
  expect(rotated?.secrets).toContain(SECRET)
})

test('its jobs are claimed, settled, reclaimed, retried and listed as before', async () => {
  const store = await open()
  expect((await store.listJobs({ tag: 'red', limit: 10 })).items).toHaveLength(4)
  expect(await jobOf(store, DEAD)).toMatchObject({
    state: 'dead',
    failure: { reason: 'rejected', message: 'no' },
    attempts: [{ outcome: 'lost' }],
    isHeld: false,
  })
  expect(Buffer.from((await jobOf(store, DEAD)).payload).toString()).toBe('{"n":1}')
  // Its lease is of an earlier start of the machine.
  expect((await sweep(store)).reclaimed).toBe(1)
  expect((await store.retry([DEAD]))[0]).toEqual({ kind: 'applied' })
  expect((await store.due(null)).endpoints).toEqual(['hook'])
  const claimed = await claimFrom(store, 'hook', 10)
  expect(claimed.map(({ jobId }) => jobId).sort()).toEqual([QUEUED, RETRIED, RUNNING, DEAD].sort())
  const results = await store.settle(claimed.map((job) => success(store, job)))
  expect(new Set(results)).toEqual(new Set(['applied']))
})

test('keys and order of its jobs hold, and deleting one takes its payload away', async () => {
  const store = await open()
  const again = newJob(store, 'hook', { idempotency: { key: 'order-1', requestHash: 'hash' } })
  expect((await store.enqueue([again]))[0]).toMatchObject({ kind: 'existing', job: { id: QUEUED } })
  const { id } = await enqueueOne(store, 'hook')
  expect((await store.listJobs({ limit: 1 })).items[0]?.id).toBe(id)
  expect(await store.deleteJob(DEAD)).toEqual({ kind: 'applied' })
  const db = new DatabaseSync(path)
  expect(db.prepare('select count(*) as count from payloads').get()).toEqual({ count: 4 })
  expect(db.prepare('pragma integrity_check').all()).toEqual([{ integrity_check: 'ok' }])
  db.close()
})

test('its jobs are kept as their keys want it', async () => {
  await open()
  const db = new DatabaseSync(path)
  const keyed = db.prepare('select id from jobs where has_key = 1').all()
  expect(keyed).toEqual([{ id: QUEUED }])
  db.close()
})

test('two processes that open such a file at once both find it migrated', async () => {
  const stores = await Promise.all([open(), open()])
  for (const store of stores) expect((await jobOf(store, QUEUED)).state).toBe('queued')
})
