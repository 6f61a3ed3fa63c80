// Processes are killed while they settle jobs that have finish effects. No effect may be lost, and
// none may happen twice.
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import { isFinal, JOB_STATES, type Job } from '../../src/job/job.ts'
import {
  addEndpoint,
  claimFrom,
  enqueueMany,
  enqueueOne,
  jobOf,
  newJob,
  success,
  sweep,
  sweepClean,
} from '../contract/fixtures.ts'
import { needOf } from '../contract/lifecycle-cases/needs-cases.ts'
import { COMPILE_CACHE } from '../support/process.ts'
import { useStore } from '../support/stores.ts'

const SETTLER = join(import.meta.dirname, 'sqlite-settler.ts')
const NOTIFYING_COUNT = 30
/** More than one transaction handles: some finish effects are pending when a process is killed. */
const DEPENDENT_COUNT = 230
const NEEDING_COUNT = 100
const KEYS = ['a', 'b', 'c']
const JOBS_PER_KEY = 8
const MIN_KILLS = 8
const MAX_ROUNDS = 300

const place = useStore('sqlite', { encryptionKeys: null })
const pathOf = () => place.url.slice('sqlite:'.length)

test('settling processes are killed again and again: each finish is reported once, each dependent and each key moves on', async () => {
  const { store } = place
  const notified = await addEndpoint(store)
  const endpoint = await addEndpoint(store)
  const onFinish = { endpoint: notified, states: JOB_STATES.filter(isFinal) }
  const first = await enqueueOne(store, endpoint, { onFinish })
  const dependents = await enqueueMany(store, endpoint, DEPENDENT_COUNT, { dependsOn: [first.id] })
  const sink = await addEndpoint(store)
  const needing = await enqueueMany(store, sink, NEEDING_COUNT, { needs: [needOf(first.id)] })
  const notifyingIds = await enqueueMany(store, endpoint, NOTIFYING_COUNT, { onFinish })
  const ordered = new Map<string, string[]>()
  for (const key of KEYS) {
    const fields = { orderingKey: key, onFinish }
    ordered.set(key, await enqueueMany(store, endpoint, JOBS_PER_KEY, fields))
  }

  let killCount = 0
  for (let round = 0; round < MAX_ROUNDS && (await isWorkLeft(endpoint)); round++) {
    killCount += await settleUntilKilled(endpoint, first.id)
    // The sweep is made by another process than the killed one, as in a real system.
    await sweep(store)
  }
  expect(killCount).toBeGreaterThan(MIN_KILLS)
  await sweepClean(store)

  const claimed = await claimFrom(store, sink, NEEDING_COUNT)
  expect(claimed.map(({ jobId }) => jobId).toSorted()).toEqual(needing.toSorted())
  const inputs = claimed.map((job) => job.inputs && Buffer.from(job.inputs).toString())
  expect(new Set(inputs)).toEqual(new Set(['{"inputs":{"input":{"ok":1}}}']))

  const jobs = await allOf(endpoint)
  expect(jobs).toHaveLength(1 + DEPENDENT_COUNT + NOTIFYING_COUNT + KEYS.length * JOBS_PER_KEY)
  expect(jobs.filter(({ state }) => !isFinal(state))).toEqual([])
  expect(jobs.filter((job) => dependents.includes(job.id) && job.attemptCount === 0)).toEqual([])
  for (const ids of ordered.values()) await expectInOrder(ids)
  const notices = (await allOf(notified)).map(({ payload }) =>
    JSON.parse(`${Buffer.from(payload)}`),
  )
  const wanted = [first.id, ...notifyingIds, ...[...ordered.values()].flat()]
  expect(notices.map(({ jobId }) => jobId).sort()).toEqual(wanted.sort())
  expect(marksLeft()).toEqual({ effects: 0, dependencies: 0, slots: 0 })
}, 120_000)

/** Resolves with 1 if the process was killed, or 0 if it found nothing more to do. */
async function settleUntilKilled(endpoint: string, keptAlive: string): Promise<0 | 1> {
  const env = { ...process.env, NODE_COMPILE_CACHE: COMPILE_CACHE }
  const child = fork(SETTLER, [pathOf(), endpoint, keptAlive], { env })
  const end = once(child, 'exit')
  killAtSettlement(child, 1 + Math.floor(Math.random() * 3))
  const [, signal] = await end
  return signal === 'SIGKILL' ? 1 : 0
}

function killAtSettlement(child: ChildProcess, count: number): void {
  let seen = 0
  child.on('message', () => {
    seen++
    if (seen < count) return child.send('go on')
    // The kill comes during the write, or right after it.
    const turns = Math.floor(Math.random() * 40)
    const wait = (left: number) =>
      left === 0 ? child.kill('SIGKILL') : setImmediate(() => wait(left - 1))
    wait(turns)
  })
}

async function isWorkLeft(endpoint: string): Promise<boolean> {
  const [counts] = await place.store.countJobs([endpoint])
  return counts !== undefined && counts.queued + counts.running > 0
}

async function allOf(endpoint: string): Promise<Job[]> {
  const jobs: Job[] = []
  let after: string | null = null
  do {
    const page: Awaited<ReturnType<typeof place.store.listJobs>> = await place.store.listJobs({
      endpoint,
      limit: 100,
      ...(after === null ? {} : { after }),
    })
    for (const { id } of page.items) jobs.push(await jobOf(place.store, id))
    after = page.next
  } while (after !== null)
  return jobs
}

async function expectInOrder(ids: string[]): Promise<void> {
  const jobs = await Promise.all(ids.map((id) => jobOf(place.store, id)))
  for (const [i, job] of jobs.entries()) {
    const before = jobs[i - 1]
    if (before !== undefined) expect(job.startedAt).toBeGreaterThanOrEqual(before.finishedAt ?? 0)
  }
}

function marksLeft(): Record<string, unknown> | undefined {
  return query(`select
    (select count(*) from jobs where effects_pending = 1) as effects,
    (select count(*) from dependencies) as dependencies,
    (select count(*) from jobs where ordering_slot is not null) as slots`)
}

function query(sql: string): Record<string, unknown> | undefined {
  const db = new DatabaseSync(pathOf(), { timeout: 5_000 })
  try {
    return { ...db.prepare(sql).get() }
  } finally {
    db.close()
  }
}

test('100,000 jobs blocked behind one head stand outside what a claim reads', async () => {
  const { store } = place
  const endpoint = await addEndpoint(store)
  const head = await enqueueOne(store, endpoint, { orderingKey: 'k' })
  const second = await enqueueOne(store, endpoint, { orderingKey: 'k' })
  holdMoreLike(second.id, 100_000)
  // The only entry of the index is that of the head. A claim and a look for due jobs read nothing
  // else.
  const entries = (index: string) =>
    query(`select count(*) as count from jobs indexed by ${index}
      where claimable = 1 and endpoint = '${endpoint}'`)
  expect(entries('jobs_claimable')).toEqual({ count: 1 })
  expect(entries('jobs_due')).toEqual({ count: 1 })
  const [claimed] = await claimFrom(store, endpoint, 10)
  expect(claimed?.jobId).toBe(head.id)
  expect(await claimFrom(store, endpoint, 10)).toEqual([])
  expect((await store.due(null)).endpoints).not.toContain(endpoint)
  expect(await store.countJobs([endpoint])).toEqual([{ queued: 10_000, running: 1, more: true }])
  // The end of the head promotes one job, however many wait behind it.
  await store.settle([success(store, claimed as NonNullable<typeof claimed>)])
  expect((await claimFrom(store, endpoint, 10)).map(({ jobId }) => jobId)).toEqual([second.id])
  const more = newJob(store, endpoint, { orderingKey: 'other' })
  expect((await store.enqueue([more]))[0]?.kind).toBe('inserted')
  expect((await claimFrom(store, endpoint, 10)).map(({ jobId }) => jobId)).toEqual([more.id])
}, 60_000)

/** Adds copies of a blocked job: it would take too long to enqueue so many. */
function holdMoreLike(id: string, count: number): void {
  const db = new DatabaseSync(pathOf(), { timeout: 5_000 })
  db.prepare(
    `with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < ?)
    insert into jobs (id, endpoint, blocked, claimable, priority, run_at, due_at, first_run_at,
      created_at, attempts_left, max_attempts, payload_bytes, ordering_key, holds_keys)
    select id || n, endpoint, 1, null, priority, run_at, due_at, first_run_at,
      created_at, attempts_left, max_attempts, payload_bytes, ordering_key, 1
    from numbers, jobs where id = ?`,
  ).run(count, id)
  db.close()
}
