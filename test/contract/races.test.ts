// Races of the sweeper with a renewal, and of a cancel with a claim or a settlement. One of the two
// wins, and both get a correct result.
import { describe, expect, test } from 'vitest'
import type { ClaimedJob } from '../../src/job/job.ts'
import type { Store } from '../../src/store/store.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import {
  addEndpoint,
  claimFrom,
  claimOne,
  enqueueMany,
  enqueueOne,
  jobOf,
  LONG_LEASE_MS,
  leaseOf,
  success,
  sweep,
} from './fixtures.ts'

/** Longer than any claim takes to return. */
const LEASE_MS = 300

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  async function claimNew(leaseMs = LONG_LEASE_MS): Promise<ClaimedJob> {
    const endpoint = await addEndpoint(place.store)
    await enqueueOne(place.store, endpoint)
    return claimOne(place.store, endpoint, leaseMs)
  }

  test('a holder that renews in time keeps its job, however long it takes', async () => {
    const { store } = place
    const claimed = await claimNew(LEASE_MS)
    // The lease is renewed before the check, so the sweeper must never see an expired lease.
    const renewed = new Set<string>()
    await until(async () => {
      for (const result of await store.renew([leaseOf(claimed)], 30 * LEASE_MS)) renewed.add(result)
      expect((await sweep(store)).reclaimed).toBe(0)
      return store.clock.now() > claimed.claimedAt + 2 * LEASE_MS
    })
    expect([...renewed]).toEqual(['applied'])
    expect(await store.settle([success(store, claimed)])).toEqual(['applied'])
  })

  test('of a sweep and a late renewal at once, either wins and both results are true', async () => {
    const { store } = place
    const other = await place.open()
    for (let round = 0; round < 20; round++) {
      const claimed = await claimNew(1)
      await until(() => store.clock.now() > claimed.claimedAt + 60)
      const [swept, [renewed]] = await Promise.all([
        sweep(other),
        store.renew([leaseOf(claimed)], LONG_LEASE_MS),
      ])
      const { state } = await jobOf(store, claimed.jobId)
      expect([renewed, swept.reclaimed, state]).toEqual(
        renewed === 'applied' ? ['applied', 0, 'running'] : ['lease_lost', 1, 'queued'],
      )
    }
  })

  test('of a cancel and a settlement at once, one wins and both results are true', async () => {
    const { store } = place
    const other = await place.open()
    for (let round = 0; round < 20; round++) {
      const claimed = await claimNew()
      const [[cancelled], [settled]] = await Promise.all([
        other.cancel([claimed.jobId]),
        store.settle([success(store, claimed)]),
      ])
      const { state } = await jobOf(store, claimed.jobId)
      expect([cancelled, settled, state]).toEqual(
        settled === 'applied'
          ? [{ kind: 'refused', state: 'succeeded' }, 'applied', 'succeeded']
          : [{ kind: 'applied' }, 'lease_lost', 'cancelled'],
      )
    }
  })

  test('cancels racing claims lose no job and double none', async () => {
    const { store } = place
    const other = await place.open()
    const endpoint = await addEndpoint(store)
    const ids = await enqueueMany(store, endpoint, 60)
    const [cancelled, claimed] = await Promise.all([
      cancelInParts(other, ids.slice(20)),
      claimInParts(store, endpoint),
    ])
    expect(cancelled.every(({ kind }) => kind === 'applied')).toBe(true)
    const states = await Promise.all(ids.map(async (id) => (await jobOf(store, id)).state))
    expect(states.slice(20)).toEqual(Array(40).fill('cancelled'))
    expect(states.slice(0, 20)).toEqual(Array(20).fill('running'))
    expect(new Set(claimed.map(({ jobId }) => jobId)).size).toBe(claimed.length)
    const results = await store.settle(claimed.map((job) => success(store, job)))
    expect(results.filter((result) => result === 'applied')).toHaveLength(20)
  })
})

async function cancelInParts(store: Store, ids: string[]) {
  const results = []
  for (let at = 0; at < ids.length; at += 5) {
    results.push(...(await store.cancel(ids.slice(at, at + 5))))
  }
  return results
}

async function claimInParts(store: Store, endpoint: string): Promise<ClaimedJob[]> {
  const claimed: ClaimedJob[] = []
  await until(async () => {
    const part = await claimFrom(store, endpoint, 5)
    claimed.push(...part)
    const [counts] = await store.countJobs([endpoint])
    return part.length === 0 && counts?.queued === 0
  })
  return claimed
}
