// Ends of attempts that no caller of `settle` knows. A store reports each attempt once and each
// death once, in the process that wrote it.
import { describe, expect, test } from 'vitest'
import type { ClaimedJob, NewJob } from '../../src/job/job.ts'
import type { End } from '../../src/store/ends.ts'
import type { Store } from '../../src/store/store.ts'
import type { OverdueEnd } from '../../src/store/sweep.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import {
  acceptance,
  addEndpoint,
  attemptOf,
  burial,
  claimFrom,
  claimOne,
  enqueueAndClaim,
  enqueueMany,
  enqueueOne,
  jobOf,
  leaseOf,
  newJob,
  passed,
  success,
  sweep,
  sweepClean,
} from './fixtures.ts'

/** Returns the ends that this store reports while `work` runs. */
async function endsOf(store: Store, work: () => Promise<unknown>): Promise<End[]> {
  const ends: End[] = []
  const stop = store.onEnd((end) => ends.push(end))
  await work()
  stop()
  return ends
}

const REPLACING = { dedupe: { key: 'k', mode: 'replace' } } as const

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)

  /** Expects the attempt and the reason that the job shows. */
  async function expectReported(
    ends: End[],
    { jobId, endpoint }: Pick<ClaimedJob, 'jobId' | 'endpoint'>,
  ) {
    const { attempts, failure } = await jobOf(place.store, jobId)
    expect(attempts).toHaveLength(1)
    const deathReason = failure?.reason ?? null
    expect(ends).toEqual([{ jobId, endpoint, attempt: attempts[0], deathReason }])
  }

  async function expiredJob(fields: Partial<NewJob>): Promise<ClaimedJob> {
    const claimed = await enqueueAndClaim(place.store, fields, 1)
    await passed(place.store, claimed.claimedAt + 1)
    return claimed
  }

  async function overdue(fields: Partial<NewJob> = {}) {
    const { store } = place
    const claimed = await expiredJob(fields)
    const leaseExpiresAt = claimed.claimedAt + 1
    await store.settle([acceptance(claimed, leaseExpiresAt)])
    const attempt = attemptOf(store, claimed, { outcome: 'timeout', statusCode: null })
    const seen = { ...leaseOf(claimed), endpoint: claimed.endpoint, leaseExpiresAt, attempt }
    const failure = { reason: 'attempts_exhausted', message: 'no report in time' } as const
    const again: OverdueEnd = { ...seen, event: 'time_out', runAt: 7 }
    const dead: OverdueEnd = { ...seen, event: 'bury_timed_out', failure }
    return { claimed, again, dead }
  }

  test('an attempt whose lease expired is reported as lost, and its job as dead if none is left', async () => {
    const { store } = place
    const again = await expiredJob({})
    await expectReported(await endsOf(store, () => sweep(store)), again)
    const last = await expiredJob({ maxAttempts: 1 })
    const ends = await endsOf(store, () => sweep(store))
    expect(ends).toMatchObject([{ attempt: { outcome: 'lost' }, deathReason: 'lease_lost' }])
    await expectReported(ends, last)
  })

  test('one of a superseded job is reported as lost, and the job is not dead', async () => {
    const { store } = place
    const claimed = await expiredJob({ ...REPLACING, maxAttempts: 1 })
    await store.enqueue([newJob(store, claimed.endpoint, REPLACING)])
    await expectReported(await endsOf(store, () => sweep(store)), claimed)
    expect((await jobOf(store, claimed.jobId)).state).toBe('cancelled')
  })

  test('one that was accepted and is overdue is reported, as its job goes on or is dead', async () => {
    const { store } = place
    const one = await overdue()
    await expectReported(await endsOf(store, () => store.endOverdue([one.again])), one.claimed)
    const two = await overdue()
    const ends = await endsOf(store, () => store.endOverdue([two.dead]))
    expect(ends).toMatchObject([{ deathReason: 'attempts_exhausted' }])
    await expectReported(ends, two.claimed)
    expect(await endsOf(store, () => store.endOverdue([one.again, two.dead]))).toEqual([])
    const three = await overdue(REPLACING)
    await store.enqueue([newJob(store, three.claimed.endpoint, REPLACING)])
    await expectReported(await endsOf(store, () => store.endOverdue([three.dead])), three.claimed)
  })

  test('one that is cancelled is reported once, and a queued job has none', async () => {
    const { store } = place
    const claimed = await enqueueAndClaim(store)
    const queued = await enqueueOne(store, claimed.endpoint)
    const ids = [queued.id, claimed.jobId, claimed.jobId]
    await expectReported(await endsOf(store, () => store.cancel(ids)), claimed)
  })

  test('the jobs of a removed endpoint are reported as dead, with their running attempts', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    await enqueueMany(store, endpoint, 3)
    const claimed = await claimOne(store, endpoint)
    await store.deleteEndpoint(endpoint, { force: true, ifVersion: null })
    const ends = await endsOf(store, () => sweepClean(store))
    expect(ends.map(({ deathReason }) => deathReason)).toEqual(Array(3).fill('endpoint_gone'))
    await expectReported(
      ends.filter(({ attempt }) => attempt !== null),
      claimed,
    )
  })

  test('a job that expires is reported as dead, blocked or not', async () => {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const expiresAt = store.clock.now() + 1
    const first = await enqueueOne(store, endpoint)
    const dying = [
      await enqueueOne(store, endpoint, { expiresAt }),
      await enqueueOne(store, endpoint, { expiresAt, dependsOn: [first.id] }),
    ]
    await passed(store, expiresAt)
    const ends = await endsOf(store, () => sweepClean(store))
    expect(ends.map(({ jobId }) => jobId).sort()).toEqual(dying.map(({ id }) => id).sort())
    expect(ends).toMatchObject(Array(2).fill({ endpoint, attempt: null, deathReason: 'expired' }))
  })

  /** Makes two jobs that depend on one, and one that depends on these two. */
  async function withDependents(
    fields: Partial<NewJob>,
  ): Promise<{ first: string; ids: string[] }> {
    const { store } = place
    const endpoint = await addEndpoint(store)
    const first = await enqueueOne(store, endpoint, fields)
    const two = await enqueueMany(store, endpoint, 2, { dependsOn: [first.id] })
    const last = await enqueueOne(store, endpoint, { dependsOn: two })
    return { first: first.id, ids: [...two, last.id].sort() }
  }

  test('jobs that die of a dependency are reported, whatever ended it', async () => {
    const { store } = place
    const bySettle = await withDependents({})
    const { endpoint } = await jobOf(store, bySettle.first)
    const claimed = await claimOne(store, endpoint)
    const settled = await endsOf(store, () => store.settle([burial(store, claimed)]))
    expect(settled.map(({ jobId }) => jobId).sort()).toEqual(bySettle.ids)
    expect(settled).toMatchObject(
      Array(3).fill({ endpoint, attempt: null, deathReason: 'dependency_failed' }),
    )
    const byCancel = await withDependents({})
    const cancelled = await endsOf(store, () => store.cancel([byCancel.first]))
    expect(cancelled.map(({ jobId }) => jobId).sort()).toEqual(byCancel.ids)
  })

  test('a sweep counts those that die of what it ended', async () => {
    const { store } = place
    await sweepClean(store)
    const expiresAt = store.clock.now() + 1
    const { ids } = await withDependents({ expiresAt })
    await passed(store, expiresAt)
    let counts = {}
    const ends = await endsOf(store, async () => {
      counts = await sweep(store)
    })
    expect(counts).toMatchObject({ expired: 1, dependentsFailed: 3, effectsDone: 0 })
    expect(ends.filter(({ deathReason }) => deathReason === 'dependency_failed')).toHaveLength(
      ids.length,
    )
  })

  test('what a holder settles itself is not reported', async () => {
    const { store } = place
    const claimed = await enqueueAndClaim(store)
    const other = await enqueueAndClaim(store)
    const settlements = [success(store, claimed), burial(store, other)]
    expect(await endsOf(store, () => store.settle(settlements))).toEqual([])
  })

  test('of two sweepers at once each reports what it ended: together all, and nothing twice', async () => {
    const { store } = place
    const other = await place.open()
    await sweepClean(store)
    const endpoint = await addEndpoint(store)
    for (let round = 0; round < 5; round++) {
      const ids = await enqueueMany(store, endpoint, 40, { maxAttempts: 1 })
      const claimed = await claimFrom(store, endpoint, 40, 1)
      expect(claimed).toHaveLength(40)
      await passed(store, (claimed.at(-1) as ClaimedJob).claimedAt + 1)
      const ends: End[] = []
      const stops = [store, other].map((one) => one.onEnd((end) => ends.push(end)))
      await Promise.all([sweep(store), sweep(other), store.cancel(ids.slice(0, 5))])
      await Promise.all([sweepClean(store), sweepClean(other)])
      for (const stop of stops) stop()
      expect(ends.map(({ jobId }) => jobId).sort()).toEqual(ids.sort())
    }
  })
})
