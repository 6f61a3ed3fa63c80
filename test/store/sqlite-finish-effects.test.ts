// One end can have more finish effects than a transaction should handle. They are then done in
// parts, and the ended job stays until all of them are done.
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import type { Store } from '../../src/store/store.ts'
import {
  acceptance,
  addEndpoint,
  attemptOf,
  burial,
  claimOne,
  enqueueMany,
  enqueueOne,
  jobOf,
  leaseOf,
  passed,
  success,
  sweep,
  sweepClean,
} from '../contract/fixtures.ts'
import { useStore } from '../support/stores.ts'

/** Several times the number that one transaction handles. */
const DEPENDENT_COUNT = 900
const DAY_MS = 86_400_000

const place = useStore('sqlite', { encryptionKeys: null })

async function withDependents(store: Store) {
  const endpoint = await addEndpoint(store)
  const waiting = await addEndpoint(store)
  const createdAt = store.clock.now() - 2 * DAY_MS
  const { id } = await enqueueOne(store, endpoint, { createdAt })
  const dependents = await enqueueMany(store, waiting, DEPENDENT_COUNT, { dependsOn: [id] })
  return { endpoint, waiting, id, dependents }
}

function claimableOf(endpoint: string): number {
  return count(`from jobs where state = 'queued' and blocked = 0 and endpoint = '${endpoint}'`)
}

function count(from: string): number {
  const db = new DatabaseSync(place.url.slice('sqlite:'.length), { timeout: 5_000 })
  const row = db.prepare(`select count(*) as count ${from}`).get()
  db.close()
  return row?.count as number
}

test('so many dependents are promoted in parts, and the job they waited for is not purged before', async () => {
  const { store } = place
  const { endpoint, waiting, id } = await withDependents(store)
  const claimed = await claimOne(store, endpoint)
  // The retention of the job is over.
  const attempt = attemptOf(store, claimed, { finishedAt: 1 })
  await store.settle([{ ...success(store, claimed), attempt }])
  expect(claimableOf(waiting)).toBeGreaterThan(0)
  expect(claimableOf(waiting)).toBeLessThan(DEPENDENT_COUNT)
  const { promoted, purged } = await store.sweep({ limit: 1, reclaim: true })
  expect(promoted).toBeGreaterThan(0)
  expect(purged).toBe(0)
  expect(await store.getJob(id)).not.toBeNull()
  await sweepClean(store)
  expect(claimableOf(waiting)).toBe(DEPENDENT_COUNT)
  expect(await store.getJob(id)).toBeNull()
  expect(count(`from dependencies where dependency = '${id}'`)).toBe(0)
})

test('a job that is retried while its dependents die in parts revives none of them', async () => {
  const { store } = place
  const { endpoint, id, dependents } = await withDependents(store)
  await store.settle([burial(store, await claimOne(store, endpoint))])
  expect(await store.retry([id])).toEqual([{ kind: 'applied' }])
  await store.settle([success(store, await claimOne(store, endpoint))])
  await sweepClean(store)
  const states = await Promise.all(dependents.map(async (one) => (await jobOf(store, one)).state))
  expect(new Set(states)).toEqual(new Set(['dead']))
})

test('a job that is deleted takes what waits for it to its end first', async () => {
  const { store } = place
  const { endpoint, waiting, id } = await withDependents(store)
  await store.settle([success(store, await claimOne(store, endpoint))])
  expect(await store.deleteJob(id)).toEqual({ kind: 'applied' })
  expect(claimableOf(waiting)).toBe(DEPENDENT_COUNT)
})

test('blocked jobs that everybody forgot are found on the way round', async () => {
  const { store } = place
  const { waiting, id } = await withDependents(store)
  const db = new DatabaseSync(place.url.slice('sqlite:'.length), { timeout: 5_000 })
  db.prepare('delete from dependencies where dependency = ?').run(id)
  db.prepare(
    "update jobs set state = 'succeeded', claimable = null, finished_at = ? where id = ?",
  ).run(Date.now(), id)
  db.close()
  let promoted = 0
  let rounds = 0
  while (promoted < DEPENDENT_COUNT && rounds < 50) {
    promoted += (await sweep(store)).promoted
    rounds++
  }
  expect(claimableOf(waiting)).toBe(DEPENDENT_COUNT)
  // Each sweep handles a limited number of jobs.
  expect(rounds).toBeGreaterThan(3)
})

test('a deadline of completion is judged by the wall clock, whichever start of the machine it is', async () => {
  const { store } = place
  const endpoint = await addEndpoint(store)
  const [sending, awaiting] = await enqueueMany(store, endpoint, 2)
  const first = await claimOne(store, endpoint)
  const second = await claimOne(store, endpoint)
  expect([first.jobId, second.jobId]).toEqual([sending, awaiting])
  const deadline = store.clock.now() + 1_000
  const claimedUntil = (await jobOf(store, second.jobId)).lease?.expiresAt
  await store.settle([acceptance(second, deadline)])
  expect((await jobOf(store, second.jobId)).lease?.expiresAt).toBe(claimedUntil)
  const db = new DatabaseSync(place.url.slice('sqlite:'.length), { timeout: 5_000 })
  // The rows look as after a restart of the machine. The deadline is earlier than the end of the
  // lease was.
  db.prepare('update jobs set lease_boot = lease_boot + 1 where endpoint = ?').run(endpoint)
  db.prepare(
    'update jobs set lease_wall = $deadline, awaiting_until = $deadline where id = $id',
  ).run({ deadline, id: second.jobId })
  db.close()
  expect((await sweep(store)).reclaimed).toBe(1)
  expect((await jobOf(store, second.jobId)).phase).toBe('awaiting_completion')
  expect(await store.overdue(10)).toEqual([])
  await passed(store, deadline)
  expect((await store.overdue(10)).map(leaseOf)).toEqual([leaseOf(second)])
})
