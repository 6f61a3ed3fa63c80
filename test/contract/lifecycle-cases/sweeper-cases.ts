// Cases of the events that a sweeper causes.
import { expect } from 'vitest'
import type { ClaimedJob, JobState } from '../../../src/job/job.ts'
import type { EventName } from '../../../src/job/lifecycle.ts'
import type { Store } from '../../../src/store/store.ts'
import type { SweepCounts } from '../../../src/store/sweep.ts'
import {
  attemptOf,
  bringTo,
  burial,
  enqueueAndClaim,
  laterAgain,
  leaseOf,
  newJob,
  success,
  sweep,
} from '../fixtures.ts'
import {
  type Arrangement,
  appliedToJob,
  brokenBy,
  byNoHolder,
  type CasesOf,
  caseOf,
  DEDUPE,
  type EventCase,
  HOUR_MS,
  SHORT_LEASE_MS,
  SHORT_LIFE_MS,
} from './event-case.ts'

type SweeperEvent =
  | 'reclaim'
  | 'bury_lost'
  | 'withdraw_lost'
  | 'time_out'
  | 'bury_timed_out'
  | 'expire'
  | 'abandon'
  | 'evict'
  | 'purge'

const COUNTED_AS: Partial<Record<EventName, keyof SweepCounts>> = {
  reclaim: 'reclaimed',
  bury_lost: 'buriedLost',
  expire: 'expired',
  abandon: 'abandoned',
  evict: 'evicted',
  promote: 'promoted',
  fail_dependent: 'dependentsFailed',
  purge: 'purged',
}

/** Sweeps: applies any event that the table allows, and counts it. */
export const sweeping: EventCase['fire'] = async (store, { jobId }) => {
  let counts: SweepCounts | null = null
  const applied = await appliedToJob(store, jobId, async () => {
    counts = await sweep(store)
  })
  const counted = applied.event === null ? undefined : COUNTED_AS[applied.event]
  if (counted !== undefined) expect(counts).toMatchObject({ [counted]: 1 })
  return applied
}

const timeOut: EventCase['fire'] = async (store, claimed) => {
  const end = { ...(await seenOverdue(store, claimed)), event: 'time_out', runAt: 7 } as const
  return appliedToJob(store, claimed.jobId, () => store.endOverdue([end]))
}

const buryTimedOut: EventCase['fire'] = async (store, claimed) => {
  const failure = { reason: 'attempts_exhausted', message: 'no report in time' } as const
  const seen = await seenOverdue(store, claimed)
  const end = { ...seen, event: 'bury_timed_out', failure } as const
  return appliedToJob(store, claimed.jobId, () => store.endOverdue([end]))
}

const running = (how: Arrangement = {}) => ({ ...how, state: 'running' as const })
const oneAttempt = () => ({ maxAttempts: 1 })
const withKey = () => ({ dedupe: DEDUPE })

const LEASE_EXPIRED: Arrangement = { leaseMs: SHORT_LEASE_MS }
const LAST_EXPIRED: Arrangement = { ...LEASE_EXPIRED, fields: oneAttempt }
const OVERDUE: Arrangement = { ...LEASE_EXPIRED, awaits: true }
const SUPERSEDED: Arrangement = { fields: withKey, isReplaced: true }

export const SWEEPER_CASES: CasesOf<SweeperEvent> = {
  reclaim: {
    ...caseOf(LEASE_EXPIRED, sweeping),
    broken: {
      sending: brokenBy(running(OVERDUE), sweeping),
      lease_expired: brokenBy(running(), sweeping),
      attempts_left: brokenBy(running(LAST_EXPIRED), sweeping, 'bury_lost'),
      not_superseded: brokenBy(
        running({ ...LEASE_EXPIRED, ...SUPERSEDED }),
        sweeping,
        'withdraw_lost',
      ),
    },
  },
  bury_lost: {
    ...caseOf(LAST_EXPIRED, sweeping),
    broken: {
      sending: brokenBy(running({ ...LAST_EXPIRED, awaits: true }), sweeping),
      lease_expired: brokenBy(running({ fields: oneAttempt }), sweeping),
      no_attempts_left: brokenBy(running(LEASE_EXPIRED), sweeping, 'reclaim'),
      not_superseded: brokenBy(
        running({
          ...LEASE_EXPIRED,
          fields: () => ({ ...oneAttempt(), ...withKey() }),
          isReplaced: true,
        }),
        sweeping,
        'withdraw_lost',
      ),
    },
  },
  withdraw_lost: {
    ...caseOf({ ...LEASE_EXPIRED, ...SUPERSEDED }, sweeping),
    broken: {
      lease_expired: brokenBy(running(SUPERSEDED), sweeping),
      superseded: brokenBy(running(LEASE_EXPIRED), sweeping, 'reclaim'),
    },
  },
  time_out: {
    ...caseOf(OVERDUE, timeOut),
    broken: {
      awaiting: brokenBy(running(LEASE_EXPIRED), timeOut),
      lease_expired: expiredOtherwise(timeOut),
      attempts_left: brokenBy(running({ ...OVERDUE, fields: oneAttempt }), timeOut),
      not_superseded: brokenBy(running({ ...OVERDUE, ...SUPERSEDED }), timeOut, 'withdraw_lost'),
    },
  },
  bury_timed_out: {
    ...caseOf(OVERDUE, buryTimedOut),
    broken: {
      awaiting: brokenBy(running(LEASE_EXPIRED), buryTimedOut),
      lease_expired: expiredOtherwise(buryTimedOut),
      not_superseded: brokenBy(
        running({ ...OVERDUE, ...SUPERSEDED }),
        buryTimedOut,
        'withdraw_lost',
      ),
    },
  },
  expire: {
    ...caseOf({ fields: (store) => ({ expiresAt: store.clock.now() + SHORT_LIFE_MS }) }, sweeping),
    broken: { expired: brokenBy({ state: 'queued' }, sweeping) },
  },
  abandon: {
    ...caseOf({ endpointIsDeleted: true }, sweeping),
    broken: { endpoint_gone: brokenBy({ state: 'queued' }, sweeping) },
  },
  evict: {
    ...caseOf({ endpointIsDeleted: true }, sweeping),
    broken: { endpoint_gone: brokenBy(running(), sweeping) },
  },
  purge: {
    arrange: arrangeOld,
    fire: sweeping,
    broken: {
      purge_due: brokenBy({ state: 'succeeded' }, sweeping),
      effects_done: { triedIn: 'test/contract/dependencies.test.ts' },
      not_needed: { triedIn: 'test/contract/needs.test.ts' },
    },
  },
}

/** Makes a job. If it has ended, its end is longer ago than any retention. */
async function arrangeOld(store: Store, state: JobState): Promise<ClaimedJob> {
  const claimed = await enqueueAndClaim(store, withKey())
  const attempt = attemptOf(store, claimed, { finishedAt: claimed.claimedAt - 365 * 24 * HOUR_MS })
  switch (state) {
    case 'succeeded':
      await store.settle([{ ...success(store, claimed), attempt }])
      break
    case 'dead':
      await store.settle([{ ...burial(store, claimed), attempt }])
      break
    case 'cancelled':
      // A superseded job becomes cancelled when its attempt fails.
      await store.enqueue([newJob(store, claimed.endpoint, { dedupe: DEDUPE })])
      await store.settle([{ ...laterAgain(store, claimed), attempt }])
      break
    default:
      await bringTo(store, claimed, state)
  }
  return claimed
}

/** The arguments as overdue() would have returned them for this job. */
async function seenOverdue(store: Store, claimed: ClaimedJob) {
  const job = await store.getJob(claimed.jobId)
  const attempt = attemptOf(store, claimed, { outcome: 'timeout', statusCode: 202 })
  const leaseExpiresAt = job?.lease?.expiresAt ?? claimed.claimedAt
  return { ...leaseOf(claimed), endpoint: claimed.endpoint, leaseExpiresAt, attempt }
}

/** The fence, lease id or deadline differs, or the deadline has not come. */
function expiredOtherwise(fire: EventCase['fire']) {
  return async (store: Store) => {
    const impostors = await byNoHolder(fire, OVERDUE)(store)
    const [early] = (await brokenBy(running({ awaits: true }), fire)(store)).tries
    if (early === undefined) throw new Error('nothing to try')
    return { id: impostors.id, tries: [...impostors.tries, early] }
  }
}
