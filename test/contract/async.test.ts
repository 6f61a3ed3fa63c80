// The promises of the store about attempts whose handlers report later: heartbeats move their
// deadlines, and their ends are written once, by the holder of the lease only.
import { describe, expect, test } from 'vitest'
import type { ClaimedJob, NewJob } from '../../src/job/job.ts'
import type { Heartbeat, Store } from '../../src/store/store.ts'
import type { OverdueEnd, OverdueJob } from '../../src/store/sweep.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import {
  acceptance,
  attemptOf,
  burial,
  claimOne,
  enqueueAndClaim,
  jobOf,
  laterAgain,
  leaseOf,
  newJob,
  passed,
  success,
  sweep,
} from './fixtures.ts'

const HOUR_MS = 3_600_000

describe.each(ENGINES)('an attempt that was accepted on %s', (engine) => {
  const place = useStore(engine)

  /** A job whose handler has responded with 202, with a deadline this long after its claim. */
  async function accepted(deadlineMs: number, fields: Partial<NewJob> = {}): Promise<ClaimedJob> {
    const { store } = place
    const claimed = await enqueueAndClaim(store, fields, Math.min(deadlineMs, HOUR_MS))
    const settlement = acceptance(claimed, claimed.claimedAt + deadlineMs)
    expect(await store.settle([settlement])).toEqual(['applied'])
    return claimed
  }

  async function overdueOf(claimed: ClaimedJob): Promise<OverdueJob | undefined> {
    return (await place.store.overdue(1_000)).find(({ jobId }) => jobId === claimed.jobId)
  }

  test('awaits completion until its deadline, and no worker renews it', async () => {
    const { store } = place
    const claimed = await accepted(2 * HOUR_MS)
    expect(await jobOf(store, claimed.jobId)).toMatchObject({
      state: 'running',
      phase: 'awaiting_completion',
      lease: { workerId: 'worker-1', expiresAt: claimed.claimedAt + 2 * HOUR_MS },
      attempts: [],
      attemptCount: 1,
    })
    expect(await store.renew([leaseOf(claimed)], 9 * HOUR_MS)).toEqual(['lease_lost'])
  })

  test('has no shorter a deadline than the lease it was sent with', async () => {
    const { store } = place
    const claimed = await enqueueAndClaim(store, {}, HOUR_MS)
    await store.settle([acceptance(claimed, claimed.claimedAt + 1_000)])
    const { lease } = await jobOf(store, claimed.jobId)
    expect(lease?.expiresAt).toBe(claimed.claimedAt + HOUR_MS)
  })

  test('is ended by its handler as any other attempt', async () => {
    const { store } = place
    const endings = [
      [success, 'succeeded'],
      [burial, 'dead'],
      [laterAgain, 'queued'],
    ] as const
    for (const [ending, state] of endings) {
      const claimed = await accepted(HOUR_MS)
      const settlement = ending(store, claimed)
      expect(await store.settle([settlement], { durable: true })).toEqual(['applied'])
      const job = await jobOf(store, claimed.jobId)
      expect(job).toMatchObject({ state, phase: null, attempts: [settlement.attempt] })
    }
  })

  test('is ended by a cancel at once, and its handler has nothing to say any more', async () => {
    const { store } = place
    const claimed = await accepted(HOUR_MS)
    expect(await store.cancel([claimed.jobId])).toEqual([{ kind: 'applied' }])
    expect(await jobOf(store, claimed.jobId)).toMatchObject({
      state: 'cancelled',
      phase: null,
      attempts: [{ number: 1, outcome: 'cancelled', startedAt: claimed.claimedAt }],
    })
    expect(await store.settle([success(store, claimed)])).toEqual(['lease_lost'])
  })

  test('that is overdue is reported with what its retry policy needs', async () => {
    const { store } = place
    const retry = { maxAttempts: 4, maxAgeMs: HOUR_MS }
    const claimed = await accepted(1, { maxAttempts: 4, retry, runAt: 1_000 })
    const expiresAt = claimed.claimedAt + 1
    await passed(store, expiresAt)
    expect(await sweep(store)).toMatchObject({ reclaimed: 0, buriedLost: 0 })
    expect(await overdueOf(claimed)).toEqual({
      ...leaseOf(claimed),
      endpoint: claimed.endpoint,
      leaseExpiresAt: expiresAt,
      claimedAt: claimed.claimedAt,
      workerId: 'worker-1',
      attemptNumber: 1,
      attemptsLeft: 3,
      maxAttempts: 4,
      freeAttempts: 0,
      firstRunAt: 1_000,
      promotedAt: null,
      expiresAt: null,
      retry,
    })
  })

  test('is not overdue before its deadline, nor is one that is still being sent', async () => {
    const { store } = place
    const early = await accepted(HOUR_MS)
    const sending = await enqueueAndClaim(store, {}, 1)
    await passed(store, sending.claimedAt + 1)
    expect(await overdueOf(early)).toBeUndefined()
    expect(await overdueOf(sending)).toBeUndefined()
    const [one, two] = [await accepted(1), await accepted(1)]
    await passed(store, two.claimedAt + 1)
    expect(await overdueOf(one)).toBeDefined()
    expect(await store.overdue(1)).toHaveLength(1)
  })

  test('that is overdue is queued or dead, as its retry policy decides', async () => {
    const { store } = place
    const again = endOf(store, await expiredJob(), 'again')
    expect(await store.endOverdue([again])).toEqual(['applied'])
    expect(await jobOf(store, again.jobId)).toMatchObject({
      state: 'queued',
      runAt: 7,
      phase: null,
      attempts: [again.attempt],
    })
    const dead = endOf(store, await expiredJob(), 'dead')
    expect(await store.endOverdue([dead])).toEqual(['applied'])
    expect(await jobOf(store, dead.jobId)).toMatchObject({
      state: 'dead',
      failure: { reason: 'attempts_exhausted' },
      attempts: [dead.attempt],
    })
    expect(await store.endOverdue([again, dead])).not.toContain('applied')
    expect((await jobOf(store, dead.jobId)).attempts).toHaveLength(1)
  })

  test('is not ended by who saw another deadline than the one that stands', async () => {
    const { store } = place
    const claimed = await expiredJob()
    const end = endOf(store, claimed, 'again')
    const stale = { ...end, leaseExpiresAt: end.leaseExpiresAt - 1 }
    expect(await store.endOverdue([stale])).toEqual(['lease_lost'])
    const beat = { progress: null, extendMs: HOUR_MS, completionTimeoutMs: 1 }
    expect((await store.heartbeat(leaseOf(claimed), beat)).kind).toBe('applied')
    expect(await store.endOverdue([end])).toEqual(['lease_lost'])
    expect(await overdueOf(claimed)).toBeUndefined()
    expect(await store.settle([success(store, claimed)])).toEqual(['applied'])
  })

  test('is ended once by two sweepers at once, and the response to its handler is true', async () => {
    const { store } = place
    const other = await place.open()
    for (let round = 0; round < 10; round++) {
      const claimed = await expiredJob()
      const end = endOf(store, claimed, 'dead')
      const [[one], [two], [reported]] = await Promise.all([
        store.endOverdue([end]),
        other.endOverdue([end]),
        store.settle([success(store, claimed)]),
      ])
      const applied = [one, two, reported].filter((result) => result === 'applied')
      expect(applied).toHaveLength(1)
      const { state, attempts } = await jobOf(store, claimed.jobId)
      expect(state).toBe(reported === 'applied' ? 'succeeded' : 'dead')
      expect(attempts).toHaveLength(1)
    }
  })

  test('whose job was superseded is cancelled when it is overdue', async () => {
    const { store } = place
    const dedupe = { key: 'k', mode: 'replace' } as const
    const claimed = await accepted(1, { dedupe })
    await store.enqueue([newJob(store, claimed.endpoint, { dedupe })])
    await passed(store, claimed.claimedAt + 1)
    await sweep(store)
    const end = endOf(store, claimed, 'again')
    expect(await store.endOverdue([end])).toEqual(['applied'])
    expect(await jobOf(store, claimed.jobId)).toMatchObject({
      state: 'cancelled',
      failure: null,
      attempts: [{ outcome: 'timeout' }],
    })
  })

  async function expiredJob(): Promise<ClaimedJob> {
    const claimed = await accepted(1)
    await passed(place.store, claimed.claimedAt + 1)
    return claimed
  }
})

describe.each(ENGINES)('the report of a handler on %s', (engine) => {
  const place = useStore(engine)
  const failed = (store: Store, claimed: ClaimedJob) =>
    attemptOf(store, claimed, { outcome: 'failed', statusCode: null, message: 'no paper' })

  test('that is made again is known, whatever the job does by then', async () => {
    const { store } = place
    const claimed = await enqueueAndClaim(store)
    const attempt = failed(store, claimed)
    const again = { ...laterAgain(store, claimed), attempt }
    expect(await store.settle([again])).toEqual(['applied'])
    // The retry policy may decide otherwise the second time. The report of a failure is the same.
    const buried = { ...burial(store, claimed), attempt }
    expect(await store.settle([buried, again])).toEqual(['already_applied', 'already_applied'])
    const second = await claimOne(store, claimed.endpoint)
    expect(await store.settle([again])).toEqual(['already_applied'])
    await store.settle([{ ...burial(store, second), attempt: failed(store, second) }])
    const later = { ...laterAgain(store, second), attempt: failed(store, second) }
    expect(await store.settle([later])).toEqual(['already_applied'])
    expect((await jobOf(store, claimed.jobId)).attempts).toHaveLength(2)
  })

  test('that says otherwise than the one before has lost the lease', async () => {
    const { store } = place
    const claimed = await enqueueAndClaim(store)
    await store.settle([success(store, claimed)])
    const attempt = failed(store, claimed)
    expect(await store.settle([{ ...laterAgain(store, claimed), attempt }])).toEqual(['lease_lost'])
    expect(await store.settle([success(store, claimed)])).toEqual(['already_applied'])
  })

  test('that comes after the deadline has ended the attempt has lost the lease', async () => {
    const { store } = place
    const claimed = await enqueueAndClaim(store, {}, 1)
    await store.settle([acceptance(claimed, claimed.claimedAt + 1)])
    await passed(store, claimed.claimedAt + 1)
    const end = endOf(store, claimed, 'again')
    expect(await store.endOverdue([end])).toEqual(['applied'])
    const attempt = failed(store, claimed)
    expect(await store.settle([success(store, claimed)])).toEqual(['lease_lost'])
    expect(await store.settle([{ ...laterAgain(store, claimed), attempt }])).toEqual(['lease_lost'])
    // A report with the same outcome is refused, too, because another event wrote the end.
    const timeout = { ...laterAgain(store, claimed), attempt: end.attempt }
    expect(await store.settle([timeout])).toEqual(['lease_lost'])
  })

  test('of a lease that was reclaimed has lost it, and of a job that is gone', async () => {
    const { store } = place
    const claimed = await enqueueAndClaim(store, {}, 1)
    await passed(store, claimed.claimedAt + 1)
    await sweep(store)
    expect(await store.settle([success(store, claimed)])).toEqual(['lease_lost'])
    await store.cancel([claimed.jobId])
    await store.deleteJob(claimed.jobId)
    expect(await store.settle([success(store, claimed)])).toEqual(['lease_lost'])
    const beat: Heartbeat = { progress: null, extendMs: null, completionTimeoutMs: 1 }
    expect(await store.heartbeat(leaseOf(claimed), beat)).toEqual({ kind: 'lease_lost' })
  })
})

function endOf(store: Store, claimed: ClaimedJob, decision: 'again' | 'dead'): OverdueEnd {
  const attempt = attemptOf(store, claimed, { outcome: 'timeout', statusCode: 202 })
  const leaseExpiresAt = claimed.claimedAt + 1
  const { endpoint } = claimed
  const seen = { ...leaseOf(claimed), endpoint, leaseExpiresAt, attempt }
  if (decision === 'again') return { ...seen, event: 'time_out', runAt: 7 }
  const failure = { reason: 'attempts_exhausted', message: 'no report in time' } as const
  return { ...seen, event: 'bury_timed_out', failure }
}
