// How to try each event of the lifecycle, and how to break each of its guards alone, for the grid
// in lifecycle-grid.test.ts. A new event or guard without a case here does not compile.
import { expect } from 'vitest'
import type { ClaimedJob, Job, NewJob } from '../../src/job/job.ts'
import type { EventName, LIFECYCLE } from '../../src/job/lifecycle.ts'
import { MAX_FREE_ATTEMPTS } from '../../src/job/retry-policy.ts'
import { MIN_KEY_LIFE_MS, type Store, type SweepCounts } from '../../src/store/store.ts'
import {
  addEndpoint,
  bringTo,
  burial,
  claimOne,
  enqueueOne,
  LONG_LEASE_MS,
  laterAgain,
  leaseOf,
  newJob,
  passed,
  postponement,
  success,
  sweep,
} from './fixtures.ts'

const HOUR_MS = 3_600_000
/** Longer than enqueue and claim take on a busy machine. */
const SHORT_LIFE_MS = 1_000
const SHORT_LEASE_MS = 1

type SweeperEvent = 'reclaim' | 'bury_lapsed' | 'expire' | 'abandon' | 'evict' | 'purge'
const COUNTED_AS = {
  reclaim: 'reclaimed',
  bury_lapsed: 'buriedLapsed',
  expire: 'expired',
  abandon: 'abandoned',
  evict: 'evicted',
  purge: 'purged',
} as const satisfies Record<SweeperEvent, keyof SweepCounts>

/** What an event's try has told. */
interface Told {
  applied: boolean
  /** Of a sweep, which does whatever the table allows: what it did instead. */
  instead: EventName | null
}

/** How to make all guards of an event hold, and how to try it. */
interface EventCase {
  fields?: (store: Store) => Partial<NewJob>
  leaseMs?: number
  endpointIsDeleted?: boolean
  fire(store: Store, claimed: ClaimedJob): Promise<Told>
}

const KEY = { key: 'order-7', requestHash: 'hash-1' }

export const CASES: Record<EventName, EventCase> = {
  enqueue: {
    fields: () => ({ idempotency: KEY }),
    fire: async (store, { endpoint }) => {
      const [result] = await store.enqueue([newJob(store, endpoint, { idempotency: KEY })])
      return told(result?.kind === 'inserted')
    },
  },
  claim: { fire: (store, claimed) => claimAgain(store, claimed) },
  renew: {
    fire: async (store, claimed) => {
      const [result] = await store.renew([leaseOf(claimed)], 2 * LONG_LEASE_MS)
      return told(result === 'applied')
    },
  },
  succeed: { fire: (store, claimed) => settle(store, success(store, claimed)) },
  reschedule: { fire: (store, claimed) => settle(store, laterAgain(store, claimed)) },
  postpone: { fire: (store, claimed) => settle(store, postponement(store, claimed)) },
  bury: { fire: (store, claimed) => settle(store, burial(store, claimed)) },
  release: {
    fire: async (store, claimed) =>
      told((await store.release([leaseOf(claimed)]))[0] === 'applied'),
  },
  reclaim: { leaseMs: SHORT_LEASE_MS, fire: sweeping('reclaim') },
  bury_lapsed: {
    fields: () => ({ maxAttempts: 1 }),
    leaseMs: SHORT_LEASE_MS,
    fire: sweeping('bury_lapsed'),
  },
  expire: {
    fields: (store) => ({ expiresAt: store.clock.now() + SHORT_LIFE_MS }),
    fire: sweeping('expire'),
  },
  abandon: { endpointIsDeleted: true, fire: sweeping('abandon') },
  evict: { endpointIsDeleted: true, fire: sweeping('evict') },
  cancel: {
    fire: async (store, { jobId }) => told((await store.cancel([jobId]))[0]?.kind === 'applied'),
  },
  retry: {
    fire: async (store, { jobId }) => told((await store.retry([jobId]))[0]?.kind === 'applied'),
  },
  purge: {
    fields: (store) => ({ createdAt: store.clock.now() - MIN_KEY_LIFE_MS - HOUR_MS }),
    fire: sweeping('purge'),
  },
}

/** The same for each guard that an event has: it alone does not hold. */
type BrokenGuards = {
  [E in EventName]: { [G in (typeof LIFECYCLE)[E]['guards'][number]]: BrokenGuard }
}
/** Brings a job about; what it returns is tried in turn, and none may apply. */
export type BrokenGuard = (store: Store) => Promise<{ id: string; tries: (() => Promise<Told>)[] }>

export const BROKEN_GUARDS: BrokenGuards = {
  enqueue: {
    key_unused: brokenBy({ idempotency: KEY }, 'enqueue'),
    endpoint_accepts: brokenBy({}, 'enqueue', { endpointIsDeleted: true }),
  },
  claim: {
    due: async (store) => {
      const claimed = await enqueueAndClaim(store, {})
      const later = laterAgain(store, claimed, store.clock.now() + HOUR_MS)
      await store.settle([later])
      return { id: claimed.jobId, tries: [() => claimAgain(store, claimed)] }
    },
    unexpired: async (store) => {
      const endpoint = await addEndpoint(store)
      const { id } = await enqueueOne(store, endpoint, { expiresAt: store.clock.now() - 1 })
      return { id, tries: [() => claimAgain(store, { jobId: id, endpoint })] }
    },
    endpoint_accepts: brokenBy({}, 'claim', { state: 'queued', endpointIsDeleted: true }),
  },
  renew: { holder: byNoHolder('renew') },
  succeed: { holder: byNoHolder('succeed') },
  reschedule: {
    holder: byNoHolder('reschedule'),
    attempts_left: brokenBy({ maxAttempts: 1 }, 'reschedule'),
  },
  postpone: {
    holder: byNoHolder('postpone'),
    free_attempts_left: async (store) => {
      let claimed = await enqueueAndClaim(store, {})
      for (let i = 0; i < MAX_FREE_ATTEMPTS; i++) {
        await store.settle([postponement(store, claimed)])
        claimed = await claimOne(store, claimed.endpoint)
      }
      const last = claimed
      return { id: last.jobId, tries: [() => settle(store, postponement(store, last))] }
    },
  },
  bury: { holder: byNoHolder('bury') },
  release: { holder: byNoHolder('release') },
  reclaim: {
    lease_lapsed: brokenBy({}, 'reclaim'),
    attempts_left: brokenBy({ maxAttempts: 1 }, 'reclaim', { leaseMs: SHORT_LEASE_MS }),
  },
  bury_lapsed: {
    lease_lapsed: brokenBy({ maxAttempts: 1 }, 'bury_lapsed'),
    no_attempts_left: brokenBy({ maxAttempts: 2 }, 'bury_lapsed', { leaseMs: SHORT_LEASE_MS }),
  },
  expire: { expired: brokenBy({}, 'expire', { state: 'queued' }) },
  abandon: { endpoint_gone: brokenBy({}, 'abandon', { state: 'queued' }) },
  evict: { endpoint_gone: brokenBy({}, 'evict') },
  cancel: {},
  retry: {
    endpoint_accepts: brokenBy({}, 'retry', { state: 'dead', endpointIsDeleted: true }),
  },
  purge: { purge_due: brokenBy({}, 'purge', { state: 'succeeded' }) },
}

export async function enqueueAndClaim(
  store: Store,
  fields: Partial<NewJob>,
  leaseMs = LONG_LEASE_MS,
): Promise<ClaimedJob> {
  const endpoint = await addEndpoint(store)
  await enqueueOne(store, endpoint, fields)
  return claimOne(store, endpoint, leaseMs)
}

/** Lets come what the guards wait for: the endpoint's end, the lease's, the job's. */
export async function ripen(
  store: Store,
  claimed: ClaimedJob,
  { endpointIsDeleted, leaseMs }: { endpointIsDeleted: boolean; leaseMs: number | undefined },
): Promise<void> {
  if (endpointIsDeleted) {
    const options = { force: true, ifVersion: null }
    expect(await store.deleteEndpoint(claimed.endpoint, options)).toEqual({ kind: 'deleting' })
  }
  if (leaseMs !== undefined) await passed(store, claimed.claimedAt + leaseMs)
  if (claimed.expiresAt !== null) await passed(store, claimed.expiresAt)
}

interface Breaking {
  state?: Job['state']
  leaseMs?: number
  endpointIsDeleted?: boolean
}

function brokenBy(fields: Partial<NewJob>, name: EventName, how: Breaking = {}): BrokenGuard {
  return async (store) => {
    const { state = 'running', leaseMs, endpointIsDeleted = false } = how
    const claimed = await enqueueAndClaim(store, fields, leaseMs)
    await bringTo(store, claimed, state)
    await ripen(store, claimed, { endpointIsDeleted, leaseMs })
    return { id: claimed.jobId, tries: [() => CASES[name].fire(store, claimed)] }
  }
}

function byNoHolder(name: EventName): BrokenGuard {
  return async (store) => {
    const claimed = await enqueueAndClaim(store, {})
    const impostors = [
      { ...claimed, fence: claimed.fence + 1 },
      { ...claimed, fence: claimed.fence - 1 },
      { ...claimed, leaseId: `${claimed.leaseId}x` },
    ]
    return {
      id: claimed.jobId,
      tries: impostors.map((impostor) => () => CASES[name].fire(store, impostor)),
    }
  }
}

function told(applied: boolean): Told {
  return { applied, instead: null }
}

async function claimAgain(
  store: Store,
  { jobId, endpoint }: Pick<ClaimedJob, 'jobId' | 'endpoint'>,
): Promise<Told> {
  const holder = { workerId: 'worker-2', leaseMs: LONG_LEASE_MS }
  const claimed = await store.claim([{ endpoint, limit: 5 }], 5, holder)
  return told(claimed.some((job) => job.jobId === jobId))
}

async function settle(store: Store, settlement: Parameters<Store['settle']>[0][0]): Promise<Told> {
  return told((await store.settle([settlement]))[0] === 'applied')
}

function sweeping(name: SweeperEvent): EventCase['fire'] {
  return async (store) => {
    const counts = await sweep(store)
    const others = (Object.keys(COUNTED_AS) as SweeperEvent[]).filter(
      (other) => other !== name && counts[COUNTED_AS[other]] > 0,
    )
    expect(others.length).toBeLessThan(2)
    return { applied: counts[COUNTED_AS[name]] === 1, instead: others[0] ?? null }
  }
}
