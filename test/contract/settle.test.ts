// The promises about a holder's writes: stored once, from the holder only, whatever happens at the
// same time.
import { describe, expect, test } from 'vitest'
import { type ClaimedJob, firstDueAt } from '../../src/job/job.ts'
import type { Settlement } from '../../src/store/store.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import {
  addEndpoint,
  attemptOf,
  burial,
  claimOne,
  enqueueOne,
  jobOf,
  LONG_LEASE_MS,
  laterAgain,
  leaseOf,
  passed,
  postponement,
  success,
  sweep,
} from './fixtures.ts'

const HOUR_MS = 3_600_000
/** The possible difference between the clock of the store and that of this process. */
const CLOCKS_DIFFER_MS = 50

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  async function claimNew(leaseMs = LONG_LEASE_MS): Promise<ClaimedJob> {
    const endpoint = await addEndpoint(place.store)
    await enqueueOne(place.store, endpoint)
    return claimOne(place.store, endpoint, leaseMs)
  }

  test('a success is kept with its result and its attempt', async () => {
    const { store } = place
    const claimed = await claimNew()
    const settlement = success(store, claimed)
    expect(await store.settle([settlement])).toEqual(['applied'])
    const job = await jobOf(store, claimed.jobId)
    expect(job).toMatchObject({
      state: 'succeeded',
      result: '{"ok":1}',
      resultTruncated: false,
      lease: null,
      failure: null,
    })
    expect(job.attempts).toEqual([settlement.attempt])
    expect(Math.abs((job.finishedAt ?? 0) - settlement.attempt.finishedAt)).toBeLessThan(5_000)
  })

  test('a burial is kept with its failure', async () => {
    const { store } = place
    const claimed = await claimNew()
    const settlement = burial(store, claimed)
    expect(await store.settle([settlement])).toEqual(['applied'])
    expect(await jobOf(store, claimed.jobId)).toMatchObject({
      state: 'dead',
      failure: settlement.failure,
      result: null,
      attempts: [settlement.attempt],
    })
  })

  test('a rescheduled job is due when it says, and has one attempt less', async () => {
    const { store } = place
    const claimed = await claimNew()
    const runAt = store.clock.now() + HOUR_MS
    expect(await store.settle([laterAgain(store, claimed, runAt)])).toEqual(['applied'])
    expect(await jobOf(store, claimed.jobId)).toMatchObject({
      state: 'queued',
      runAt,
      attemptsLeft: claimed.maxAttempts - 1,
      attemptCount: 1,
      freeAttempts: 0,
    })
  })

  test('a postponed job has lost no attempt', async () => {
    const { store } = place
    const claimed = await claimNew()
    expect(await store.settle([postponement(store, claimed)])).toEqual(['applied'])
    expect(await jobOf(store, claimed.jobId)).toMatchObject({
      state: 'queued',
      attemptsLeft: claimed.maxAttempts,
      attemptCount: 1,
      freeAttempts: 1,
    })
  })

  test('maxAge counts from the first due time, however often the job is rescheduled', async () => {
    const { store } = place
    const first = await claimNew()
    await store.settle([laterAgain(store, first, first.runAt - 1)])
    const second = await claimOne(store, first.endpoint)
    expect(firstDueAt(second)).toBe(firstDueAt(first))
    expect(second.runAt).toBe(first.runAt - 1)
  })

  test('maxAge counts from when the job ceased to wait for others, of a push and of a 202', async () => {
    const { store } = place
    const first = await claimNew()
    const { endpoint } = first
    const runAt = store.clock.now() - 310_000
    const waiting = await enqueueOne(store, endpoint, { runAt, dependsOn: [first.jobId] })
    const letGoAt = store.clock.now()
    await store.settle([success(store, first)])
    await until(async () => !(await jobOf(store, waiting.id)).isBlocked)
    const claimed = await claimOne(store, endpoint, 1)
    expect(claimed).toMatchObject({ jobId: waiting.id, firstRunAt: runAt })
    const since = firstDueAt(claimed)
    expect(since).toBeGreaterThanOrEqual(letGoAt - CLOCKS_DIFFER_MS)
    expect(firstDueAt(await jobOf(store, waiting.id))).toBe(since)
    const leaseExpiresAt = claimed.claimedAt + 1
    await store.settle([{ ...leaseOf(claimed), event: 'await', leaseExpiresAt }])
    await passed(store, leaseExpiresAt)
    const overdue = await store.overdue(100)
    expect(overdue.filter((one) => one.jobId === waiting.id).map(firstDueAt)).toEqual([since])
  })

  test('a batch has a result for each item, in order', async () => {
    const { store } = place
    const [first, second, third] = [await claimNew(), await claimNew(), await claimNew()]
    await store.cancel([second.jobId])
    expect(
      await store.settle([success(store, first), success(store, second), burial(store, third)]),
    ).toEqual(['applied', 'lease_lost', 'applied'])
    expect(await store.settle([])).toEqual([])
  })

  test.each([
    ['success', success],
    ['reschedule', laterAgain],
    ['postponement', postponement],
    ['burial', burial],
  ] as const)('a %s settled twice is applied once', async (_, settlementOf) => {
    const { store } = place
    const claimed = await claimNew()
    const settlement: Settlement = settlementOf(store, claimed)
    expect(await store.settle([settlement])).toEqual(['applied'])
    const once = await jobOf(store, claimed.jobId)
    expect(await store.settle([settlement])).toEqual(['already_applied'])
    expect(await jobOf(store, claimed.jobId)).toEqual(once)
  })

  test('a settlement is known as applied even after the job was claimed and settled again', async () => {
    const { store } = place
    const first = await claimNew()
    const settlement = laterAgain(store, first)
    await store.settle([settlement])
    const second = await claimOne(store, first.endpoint)
    expect(await store.settle([settlement])).toEqual(['already_applied'])
    await store.settle([success(store, second)])
    expect(await store.settle([settlement])).toEqual(['already_applied'])
  })

  test('another end of the same attempt is not already applied', async () => {
    const { store } = place
    const claimed = await claimNew()
    await store.settle([success(store, claimed)])
    expect(await store.settle([burial(store, claimed)])).toEqual(['lease_lost'])
    const other = success(store, claimed)
    const attempt = { ...other.attempt, outcome: 'http_error' as const }
    expect(await store.settle([{ ...other, attempt }])).toEqual(['lease_lost'])
    const failed = await claimNew()
    await store.settle([laterAgain(store, failed)])
    // The outcome is the same, but the job was not buried.
    expect(await store.settle([burial(store, failed)])).toEqual(['lease_lost'])
  })

  test('a job remembers its last twenty attempts, in order', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const { id } = await enqueueOne(store, endpoint, { maxAttempts: 30 })
    for (let number = 1; number <= 25; number++) {
      const claimed = await claimOne(store, endpoint)
      const attempt = attemptOf(store, claimed, {
        responseBody: number % 2 === 0 ? 'line\n"two"\u0000' : null,
      })
      await store.settle([{ ...laterAgain(store, claimed), attempt }])
    }
    const job = await jobOf(store, id)
    expect(job.attempts.map(({ number }) => number)).toEqual(
      Array.from({ length: 20 }, (_, i) => i + 6),
    )
    expect(job.attempts[0]?.responseBody).toBe('line\n"two"\u0000')
    expect(job.attemptCount).toBe(25)
    expect(job).not.toHaveProperty('attempts.0.leaseId')
    expect(job).not.toHaveProperty('attempts.0.fence')
  })

  test('who lost the lease to another worker changes nothing', async () => {
    const { store } = place
    const stale = await claimNew(1)
    await until(async () => (await sweep(store)).reclaimed === 1)
    const fresh = await claimOne(store, stale.endpoint)
    expect(fresh.fence).toBe(stale.fence + 1)
    const before = await jobOf(store, stale.jobId)

    expect(await store.settle([success(store, stale)])).toEqual(['lease_lost'])
    expect(await store.settle([laterAgain(store, stale)])).toEqual(['lease_lost'])
    expect(await store.settle([postponement(store, stale)])).toEqual(['lease_lost'])
    expect(await store.settle([burial(store, stale)])).toEqual(['lease_lost'])
    expect(await store.renew([leaseOf(stale)], 2 * LONG_LEASE_MS)).toEqual(['lease_lost'])
    expect(await store.release([leaseOf(stale)])).toEqual(['lease_lost'])
    expect(await jobOf(store, stale.jobId)).toEqual(before)
    expect(await store.settle([success(store, fresh)])).toEqual(['applied'])
  })

  test('a lease that ran out leaves a lost attempt, and another worker takes the job', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    await enqueueOne(store, endpoint, { runAt: store.clock.now() - HOUR_MS })
    const expired = await claimOne(store, endpoint, 1)
    await until(async () => (await sweep(store)).reclaimed === 1)
    const job = await jobOf(store, expired.jobId)
    expect(job).toMatchObject({ state: 'queued', attemptsLeft: expired.attemptsLeft, lease: null })
    expect(job.runAt).toBeGreaterThanOrEqual(expired.claimedAt)
    expect(job.attempts).toMatchObject([
      { number: 1, outcome: 'lost', startedAt: expired.claimedAt, workerId: 'worker-1' },
    ])
  })

  test('a job whose last lease ran out is dead', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const { id } = await enqueueOne(store, endpoint, { maxAttempts: 1 })
    await claimOne(store, endpoint, 1)
    await until(async () => (await sweep(store)).buriedLost === 1)
    expect(await jobOf(store, id)).toMatchObject({
      state: 'dead',
      failure: { reason: 'lease_lost' },
      attempts: [{ outcome: 'lost' }],
    })
  })

  test('a sweeper that may not reclaim leaves expired leases to their holders', async () => {
    const { store } = place
    const claimed = await claimNew(1)
    await until(() => store.clock.now() > claimed.claimedAt + 100)
    const counts = await store.sweep({ limit: 100, reclaim: false })
    expect(counts).toMatchObject({ reclaimed: 0, buriedLost: 0 })
    expect(await store.renew([leaseOf(claimed)], LONG_LEASE_MS)).toEqual(['applied'])
    expect(await store.settle([success(store, claimed)])).toEqual(['applied'])
  })

  test('renewal extends a lease and never shortens it', async () => {
    const { store } = place
    const claimed = await claimNew(HOUR_MS)
    expect(await store.renew([leaseOf(claimed)], 1)).toEqual(['applied'])
    await passed(store, store.clock.now())
    expect((await sweep(store)).reclaimed).toBe(0)
    const kept = await jobOf(store, claimed.jobId)
    expect(kept.lease?.expiresAt).toBe(claimed.claimedAt + HOUR_MS)
    expect(await store.renew([leaseOf(claimed)], 2 * HOUR_MS)).toEqual(['applied'])
    const extended = await jobOf(store, claimed.jobId)
    expect(extended.lease?.expiresAt).toBeGreaterThan(claimed.claimedAt + HOUR_MS)
    expect(extended.version).toBe(kept.version)
  })
})
