// The parts of a case in the grid of the life cycle: a job in a state, and an event that is tried
// on it.
import { expect } from 'vitest'
import type { ClaimedJob, JobState, NewJob } from '../../../src/job/job.ts'
import type { EventName, LIFECYCLE } from '../../../src/job/lifecycle.ts'
import type { Store } from '../../../src/store/store.ts'
import {
  acceptance,
  addEndpoint,
  bringTo,
  claimOne,
  enqueueAndClaim,
  enqueueOne,
  jobOf,
  LONG_LEASE_MS,
  laterAgain,
  newJob,
  passed,
} from '../fixtures.ts'

export const HOUR_MS = 3_600_000
/** Longer than an enqueue and a claim take on a busy machine. */
export const SHORT_LIFE_MS = 1_000
export const SHORT_LEASE_MS = 1
export const IDEMPOTENCY = { key: 'order-7', requestHash: 'hash-1' }
export const DEDUPE = { key: 'report-7', mode: 'replace' } as const

/** The changes that the tried event made to the job; null: none. */
export interface Applied {
  event: EventName | null
  /** The number of attempts that the event adds, if the event alone does not determine it. */
  pushedCount?: number
}

/** How to make all guards of an event hold, and how to try it. */
export interface EventCase {
  /** Brings a job to the state, with a claim on the way, so that the guards would hold. */
  arrange(store: Store, state: JobState): Promise<ClaimedJob>
  fire(store: Store, claimed: ClaimedJob): Promise<Applied>
}

/** Makes a job whose guard is broken. None of the tries may change more than it states. */
export type BrokenGuard = (store: Store) => Promise<{ id: string; tries: Try[] }>
interface Try {
  fire(): Promise<Applied>
  /** The event that the table allows instead. */
  instead: EventName | null
}

/** A guard that no method of a store can break alone; names the test that tries it. */
export interface NotAlone {
  triedIn: string
}

/** For each guard of an event, a case in which only this guard does not hold. */
type BrokenGuardsOf<E extends EventName> = {
  [G in (typeof LIFECYCLE)[E]['guards'][number]]: BrokenGuard | NotAlone
}
export type CasesOf<E extends EventName> = {
  [Name in E]: EventCase & { broken: BrokenGuardsOf<Name> }
}

/** How a job gets to its state, and what changed it afterwards. */
export interface Arrangement {
  fields?: (store: Store) => Partial<NewJob>
  leaseMs?: number
  /** The response to its attempt was 202. The deadline is as long as the lease. */
  awaits?: boolean
  /** A queued job is queued after a failed attempt, not after a release. */
  wasSent?: boolean
  /** Another request with its dedupe key was sent. */
  isReplaced?: boolean
  endpointIsDeleted?: boolean
}

async function arrange(store: Store, state: JobState, how: Arrangement = {}): Promise<ClaimedJob> {
  const { fields, leaseMs = LONG_LEASE_MS, awaits = false, wasSent = awaits } = how
  const claimed = await enqueueAndClaim(store, fields?.(store), leaseMs)
  if (awaits) await store.settle([acceptance(claimed, claimed.claimedAt + leaseMs)])
  if (state === 'queued' && wasSent) await store.settle([laterAgain(store, claimed)])
  else await bringTo(store, claimed, state)
  if (how.isReplaced) {
    await store.enqueue([newJob(store, claimed.endpoint, { dedupe: DEDUPE })])
  }
  if (how.endpointIsDeleted) await deleteByForce(store, claimed.endpoint)
  if (how.leaseMs !== undefined) await passed(store, claimed.claimedAt + leaseMs)
  if (claimed.expiresAt !== null) await passed(store, claimed.expiresAt)
  return claimed
}

export async function deleteByForce(store: Store, endpoint: string): Promise<void> {
  const options = { force: true, ifVersion: null }
  expect(await store.deleteEndpoint(endpoint, options)).toEqual({ kind: 'deleting' })
}

/** An event whose guards hold after an arrangement. */
export function caseOf(how: Arrangement, fire: EventCase['fire']): EventCase {
  return { arrange: (store, state) => arrange(store, state, how), fire }
}

/** An event tried on a job that violates one of its guards. */
export function brokenBy(
  how: Arrangement & { state: JobState },
  fire: EventCase['fire'],
  instead: EventName | null = null,
): BrokenGuard {
  return async (store) => {
    const claimed = await arrange(store, how.state, how)
    return { id: claimed.jobId, tries: [{ fire: () => fire(store, claimed), instead }] }
  }
}

/** The event is tried with another fence or lease id than that of the lease. */
export function byNoHolder(fire: EventCase['fire'], how: Arrangement = {}): BrokenGuard {
  return async (store) => {
    const claimed = await arrange(store, 'running', how)
    const impostors = [
      { ...claimed, fence: claimed.fence + 1 },
      { ...claimed, fence: claimed.fence - 1 },
      { ...claimed, leaseId: `${claimed.leaseId}x` },
    ]
    const tries = impostors.map((impostor) => ({
      fire: () => fire(store, impostor),
      instead: null,
    }))
    return { id: claimed.jobId, tries }
  }
}

/** Decides by the result that the store returned. */
export function appliedBy(name: EventName, isApplied: boolean): Applied {
  return { event: isApplied ? name : null }
}

/**
 * Decides by the state of the job after the work, for methods that apply any event that the table
 * allows.
 */
export async function appliedToJob(
  store: Store,
  id: string,
  work: () => Promise<unknown>,
): Promise<Applied> {
  const before = await jobOf(store, id)
  await work()
  const after = await store.getJob(id)
  if (after === null) return { event: 'purge' }
  if (after.version === before.version) return { event: null }
  const change = `${before.state} to ${after.state}`
  const pushedCount = after.attempts.length - before.attempts.length
  switch (change) {
    case 'queued to queued':
      return { event: before.isBlocked && !after.isBlocked ? 'promote' : 'replace' }
    case 'queued to cancelled':
      return { event: 'displace' }
    case 'queued to dead':
      return { event: DEATHS[after.failure?.reason ?? ''] ?? null }
    case 'running to running':
      return { event: 'supersede' }
    case 'running to queued':
      return { event: before.phase === 'sending' ? 'reclaim' : 'time_out' }
    case 'running to dead':
      return { event: DEATHS_IN_FLIGHT[after.failure?.reason ?? ''] ?? 'bury_timed_out' }
    case 'running to cancelled':
      return { event: 'withdraw_lost', pushedCount }
    default:
      throw new Error(`no event leads from ${change}`)
  }
}

const DEATHS: Record<string, EventName> = {
  expired: 'expire',
  endpoint_gone: 'abandon',
  dependency_failed: 'fail_dependent',
  input_missing: 'fail_inputs',
}
const DEATHS_IN_FLIGHT: Record<string, EventName> = {
  lease_lost: 'bury_lost',
  endpoint_gone: 'evict',
}

/** Makes a job that waits behind another job of its ordering key, and that other job. */
export async function twoOfOneKey(store: Store): Promise<{ head: ClaimedJob; behind: string }> {
  const endpoint = await addEndpoint(store)
  await enqueueOne(store, endpoint, { orderingKey: 'customer-7' })
  const { id: behind } = await enqueueOne(store, endpoint, { orderingKey: 'customer-7' })
  return { head: await claimOne(store, endpoint), behind }
}
