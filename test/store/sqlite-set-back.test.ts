// Corrects instants that were stored while the clock was ahead, in cases that no end-to-end test
// can wait for.
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import { FINISH_NOW, RETRIED_AHEAD, WAKE_PARKED_AHEAD } from '../../src/store/sqlite/set-back.ts'
import { addEndpoint, claimFrom, enqueueMany, enqueueOne, jobOf } from '../contract/fixtures.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS
const AHEAD_MS = 400 * DAY_MS

const place = useStore('sqlite')

function raw<T>(work: (db: DatabaseSync) => T): T {
  const db = new DatabaseSync(place.url.slice('sqlite:'.length), { timeout: 5_000 })
  try {
    return work(db)
  } finally {
    db.close()
  }
}

test('a job that ended ahead is kept for its retention from now', async () => {
  const endpoint = await addEndpoint(place.store)
  const ahead = await enqueueOne(place.store, endpoint)
  const right = await enqueueOne(place.store, endpoint)
  await place.store.cancel([ahead.id, right.id])
  const { finishedAt } = await jobOf(place.store, right.id)
  raw((db) =>
    db
      .prepare('update jobs set finished_at = finished_at + ? where id = ?')
      .run(AHEAD_MS, ahead.id),
  )
  expect(await place.store.correctInstants(null)).toBe(1)
  expect((await jobOf(place.store, ahead.id)).finishedAt).toBeLessThanOrEqual(Date.now())
  expect((await jobOf(place.store, right.id)).finishedAt).toBe(finishedAt)
  expect(await place.store.correctInstants(null)).toBe(0)
})

test('a fairness key that began to rest ahead rests no longer', async () => {
  const endpoint = await addEndpoint(place.store)
  const key = { endpoint, key: 'a' }
  await enqueueMany(place.store, endpoint, 2, { fairnessKey: 'a' })
  const until = place.store.clock.now() + DAY_MS
  await place.store.reportKeyHealth([{ ...key, succeeded: [], throttle: { until } }])
  expect(await claimFrom(place.store, endpoint, 2)).toEqual([])
  raw((db) => {
    const ahead = `json_extract(rest, '$.at') + ${AHEAD_MS}`
    db.exec(`update fairness_keys set rest = json_set(rest, '$.at', ${ahead})`)
  })
  expect(await claimFrom(place.store, endpoint, 2)).toEqual([])
  await place.store.correctInstants(null)
  expect(await claimFrom(place.store, endpoint, 2)).toHaveLength(2)
})

test('a rate limit does not wait for the time that the clock was set back', async () => {
  const rateLimit = { count: 1, perMs: HOUR_MS }
  const own = await addEndpoint(place.store, { rateLimit })
  await place.store.putLimit({ name: 'shared', concurrency: null, rateLimit }, null)
  const sharing = await addEndpoint(place.store, { limits: ['shared'] })
  for (const endpoint of [own, sharing]) {
    await enqueueMany(place.store, endpoint, 2)
    expect(await claimFrom(place.store, endpoint, 2)).toHaveLength(1)
  }
  const setBackMs = 10 * HOUR_MS
  raw((db) => db.exec(`update endpoints set bucket_full_at = bucket_full_at + ${setBackMs}`))
  raw((db) => db.exec(`update limits set bucket_full_at = bucket_full_at + ${setBackMs}`))
  await place.store.correctInstants(setBackMs)
  const [limit] = await place.store.limitsNamed(['shared'])
  const latest = place.store.clock.now() + HOUR_MS
  const find = 'select bucket_full_at as fullAt from endpoints where name = ?'
  expect(raw((db) => db.prepare(find).get(own)?.fullAt)).toBeLessThanOrEqual(latest)
  expect(limit?.rateFullAt).toBeLessThanOrEqual(latest)
})

test('a shared rate limit waits no longer than for its greatest debt', async () => {
  const rateLimit = { count: 1_000, perMs: 200 }
  await place.store.putLimit({ name: 'fast', concurrency: null, rateLimit }, null)
  const endpoint = await addEndpoint(place.store, { limits: ['fast'] })
  await enqueueMany(place.store, endpoint, 2)
  expect(await claimFrom(place.store, endpoint, 1)).toHaveLength(1)
  raw((db) => db.exec(`update limits set bucket_full_at = bucket_full_at + ${AHEAD_MS}`))
  expect(await claimFrom(place.store, endpoint, 1)).toEqual([])
  await until(async () => (await claimFrom(place.store, endpoint, 1)).length === 1)
})

test('workers and statistics of the future are forgotten', async () => {
  const report = { version: '1', startedAt: 0, concurrency: 1, inFlight: 0, keyIds: [] }
  for (const id of ['ahead', 'right']) await place.store.reportWorker({ id, ...report })
  raw((db) => db.exec(`update workers set seen_at = seen_at + ${AHEAD_MS} where id = 'ahead'`))
  const durations = Array(12).fill(0)
  const minute = Math.floor(Date.now() / 60_000) * 60_000
  const one = { endpoint: 'e', succeeded: 1, failed: 0, durations }
  await place.store.addMinuteStats(
    [
      { minute, ...one },
      { minute: minute + AHEAD_MS, ...one },
    ],
    { writer: 'w', number: 1 },
  )
  expect(await place.store.correctInstants(null)).toBe(2)
  expect((await place.store.listWorkers()).map(({ id }) => id)).toEqual(['right'])
  const { stats } = await place.store.minuteStatsSince(0, null)
  expect(stats.map((one) => one.minute)).toEqual([minute])
})

test('retries and ends are found by their indexes, not by walking the jobs', () => {
  const planOf = (sql: string) =>
    raw((db) => db.prepare(`explain query plan ${sql}`).all())
      .map(({ detail }) => detail)
      .join()
  expect(planOf(RETRIED_AHEAD)).toContain('jobs_due (due_at>?)')
  expect(planOf(WAKE_PARKED_AHEAD)).toContain('jobs_parked')
  expect(planOf(FINISH_NOW)).toContain('jobs_purgeable (<expr>=? AND has_key=? AND')
})
