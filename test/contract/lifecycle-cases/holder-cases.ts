// Cases of the events by which a holder reports the end of its attempt.
import type { ClaimedJob } from '../../../src/job/job.ts'
import type { EventName } from '../../../src/job/lifecycle.ts'
import { MAX_FREE_ATTEMPTS } from '../../../src/job/retry-policy.ts'
import type { Settlement, Store } from '../../../src/store/store.ts'
import {
  acceptance,
  burial,
  claimOne,
  enqueueAndClaim,
  jobOf,
  LONG_LEASE_MS,
  laterAgain,
  leaseOf,
  postponement,
  success,
} from '../fixtures.ts'
import {
  type Applied,
  type Arrangement,
  appliedBy,
  brokenBy,
  byNoHolder,
  type CasesOf,
  caseOf,
  DEDUPE,
  type EventCase,
} from './event-case.ts'

type HolderEvent =
  | 'renew'
  | 'heartbeat'
  | 'await'
  | 'succeed'
  | 'reschedule'
  | 'postpone'
  | 'bury'
  | 'release'
  | 'withdraw'

const SUPERSEDED: Arrangement = { fields: () => ({ dedupe: DEDUPE }), isReplaced: true }

const renew: EventCase['fire'] = async (store, claimed) => {
  const [result] = await store.renew([leaseOf(claimed)], 2 * LONG_LEASE_MS)
  return appliedBy('renew', result === 'applied')
}

const heartbeat: EventCase['fire'] = async (store, claimed) => {
  const progress = { value: 40, message: 'page 4 of 10' }
  const beat = { progress, extendMs: null, completionTimeoutMs: 60_000 }
  const { kind } = await store.heartbeat(leaseOf(claimed), beat)
  return appliedBy('heartbeat', kind === 'applied')
}

const release: EventCase['fire'] = async (store, claimed) => {
  const [result] = await store.release([leaseOf(claimed)])
  if (result !== 'applied') return { event: null }
  const { state } = await jobOf(store, claimed.jobId)
  return state === 'cancelled' ? { event: 'withdraw', pushedCount: 0 } : { event: 'release' }
}

const accept = settling((_, claimed) => acceptance(claimed, claimed.claimedAt + LONG_LEASE_MS))
const succeed = settling(success)
const reschedule = settling(laterAgain)
const postpone = settling(postponement)
const bury = settling(burial)

const running = (how: Arrangement = {}) => ({ ...how, state: 'running' as const })

export const HOLDER_CASES: CasesOf<HolderEvent> = {
  renew: {
    ...caseOf({}, renew),
    broken: { holder: byNoHolder(renew), sending: brokenBy(running({ awaits: true }), renew) },
  },
  heartbeat: { ...caseOf({}, heartbeat), broken: { holder: byNoHolder(heartbeat) } },
  await: {
    ...caseOf({}, accept),
    broken: { holder: byNoHolder(accept), sending: brokenBy(running({ awaits: true }), accept) },
  },
  succeed: { ...caseOf({}, succeed), broken: { holder: byNoHolder(succeed) } },
  reschedule: {
    ...caseOf({}, reschedule),
    broken: {
      holder: byNoHolder(reschedule),
      attempts_left: brokenBy(running({ fields: () => ({ maxAttempts: 1 }) }), reschedule),
      not_superseded: brokenBy(running(SUPERSEDED), reschedule, 'withdraw'),
    },
  },
  postpone: {
    ...caseOf({}, postpone),
    broken: {
      holder: byNoHolder(postpone),
      not_superseded: brokenBy(running(SUPERSEDED), postpone, 'withdraw'),
      free_attempts_left: async (store) => {
        const claimed = await claimAfterAllFreeAttempts(store)
        const fire = () => postpone(store, claimed)
        return { id: claimed.jobId, tries: [{ fire, instead: null }] }
      },
    },
  },
  bury: { ...caseOf({}, bury), broken: { holder: byNoHolder(bury) } },
  release: {
    ...caseOf({}, release),
    broken: {
      holder: byNoHolder(release),
      not_superseded: brokenBy(running(SUPERSEDED), release, 'withdraw'),
    },
  },
  withdraw: {
    ...caseOf(SUPERSEDED, reschedule),
    broken: {
      holder: byNoHolder(reschedule, SUPERSEDED),
      superseded: brokenBy(running(), reschedule, 'reschedule'),
    },
  },
}

/** The meaning of `applied` for a settlement: its own event, or withdraw instead of it. */
function settling(settlementOf: (store: Store, claimed: ClaimedJob) => Settlement) {
  return async (store: Store, claimed: ClaimedJob): Promise<Applied> => {
    const settlement = settlementOf(store, claimed)
    const [result] = await store.settle([settlement])
    if (result !== 'applied') return { event: null }
    const event: EventName = settlement.event
    const { state } = await jobOf(store, claimed.jobId)
    return { event: state === 'cancelled' ? 'withdraw' : event }
  }
}

async function claimAfterAllFreeAttempts(store: Store): Promise<ClaimedJob> {
  let claimed = await enqueueAndClaim(store)
  for (let i = 0; i < MAX_FREE_ATTEMPTS; i++) {
    await store.settle([postponement(store, claimed)])
    claimed = await claimOne(store, claimed.endpoint)
  }
  return claimed
}
