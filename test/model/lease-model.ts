// The lease protocol as a small model: one job, two workers, a sweeper, a client that cancels and
// retries by hand, and a store and a network that fail in every way that the protocol must survive.
// Any of them may make the next step; search.ts tries all orders. lease-moves.ts has the steps.
// This file has the state that they share, and the properties that must hold.
import { isFinal } from '../../src/job/job.ts'
import type { EventName } from '../../src/job/lifecycle.ts'
import {
  flawOf,
  type LeaseRecord,
  NEW_RECORD,
  type Rules,
  type Writer,
  write,
} from './lease-record.ts'
import type { Move } from './search.ts'

/**
 * Where a worker is. `asked`: its claim got no response. `unsent`: it has read back that the claim
 * was applied, and releases it. `holding`: its request is not sent yet. `sending`: its request is
 * sent. `awaiting`: the response was 202, and the handler has the lease. `ended`: it has a result
 * to store, and writes it until it gets a response.
 */
type Place = 'idle' | 'asked' | 'unsent' | 'holding' | 'sending' | 'awaiting' | 'ended'

export interface Worker {
  at: Place
  fence: number
  leaseId: number
  /** The result that a worker at `ended` writes. */
  result: EventName | null
  /** The response said that the renewal matched nothing, but the worker continued. */
  ignoresLostLease: boolean
  /** The worker ignores the loss, and continued after the deadline of its lease. */
  isPast: boolean
  /** A write of the worker that is delayed, and arrives later or never. */
  late: { event: EventName; fence: number; leaseId: number } | null
}

/**
 * How often each of these may happen in one life of a job. More of them lead to no new kind of
 * state.
 */
export interface Bounds {
  claims: number
  renewals: number
  cancels: number
  retries: number
  /** Claims that a failover undoes after their response. */
  rollBacks: number
  /** Writes that arrive late, or never. */
  lates: number
}

export interface State {
  record: LeaseRecord
  workers: readonly [Worker, Worker]
  /** The expired lease that the sweeper is about to end, as the sweeper read it. */
  seen: Writer | null
  /** How often each of these may still happen. */
  left: Bounds
}

export const IDLE: Worker = {
  at: 'idle',
  fence: 0,
  leaseId: 0,
  result: null,
  ignoresLostLease: false,
  isPast: false,
  late: null,
}

export function startWith(left: Bounds): State {
  return { record: NEW_RECORD, workers: [IDLE, IDLE], seen: null, left }
}

/** Returns null if this has happened as often as it may. */
export function spend(state: State, what: keyof Bounds): State | null {
  const { left } = state
  return left[what] === 0 ? null : { ...state, left: { ...left, [what]: left[what] - 1 } }
}

export function become(state: State, index: number, change: Partial<Worker>): State {
  const [first, second] = state.workers
  return {
    ...state,
    workers: index === 0 ? [{ ...first, ...change }, second] : [first, { ...second, ...change }],
  }
}

/**
 * One possible step. `breaks`: the property that the step itself violates, whatever state it leads
 * to.
 */
export interface Step {
  says: string
  to: State
  breaks?: string | null
}

export function judged(before: State, { says, to, breaks }: Step): Move<State> {
  const flaw = to.record === before.record ? null : flawOf(to.record)
  return { says, to, breaks: breaks ?? flaw ?? overlapOf(to) }
}

export interface Reached {
  state: State
  applied: boolean
  breaks: string | null
}

/** Applies a write that arrives at the store, if its guard matches. */
export function reach(rules: Rules, state: State, event: EventName, writer: Writer): Reached {
  const after = write(rules, state.record, event, writer)
  if (after === null) return { state, applied: false, breaks: null }
  const breaks = wrongOf(state, after, event, writer)
  return { state: { ...state, record: after }, applied: true, breaks }
}

/**
 * The property that an applied write violated. Every lease has its own id, so the id alone shows
 * whose lease it is.
 */
function wrongOf(
  { record, workers }: State,
  after: LeaseRecord,
  event: EventName,
  { leaseId, expiry }: Writer,
): string | null {
  if (isFinal(record.state) && event !== 'retry') return `${event} changed a final state`
  if (record.state === 'succeeded') return `${event} undid a success`
  if (event === 'claim' && after.fence <= record.fence) return 'a claim has no fence of its own'
  if (event === 'claim' || event === 'cancel' || event === 'retry') return null
  if (record.leaseId !== leaseId) return `${event} was applied by one whose lease is over`
  if (expiry !== undefined && !(record.hasExpired && record.expiry === expiry)) {
    return `${event} ended a lease that had been renewed`
  }
  if (record.phase === 'awaiting' && isOfSender(event)) {
    return `${event} was applied though the handler has the lease`
  }
  if (record.phase === 'sending' && (event === 'time_out' || event === 'bury_timed_out')) {
    return `${event} was applied though no handler has the lease`
  }
  if (event === 'bury_lost' && record.attemptsLeft > 0) return 'a job was buried too early'
  const wasSent = (worker: Worker) =>
    worker.leaseId === leaseId && ['sending', 'awaiting', 'ended'].includes(worker.at)
  if (event === 'release' && workers.some(wasSent)) {
    return 'an attempt that was sent was given back as if it had not been'
  }
  return null
}

const isOfSender = (event: EventName) =>
  event === 'renew' || event === 'await' || event === 'reclaim' || event === 'bury_lost'

/**
 * A violation: two requests are sent at once, although no worker stood still and no claim was
 * undone.
 */
function overlapOf({ workers }: State): string | null {
  if (!workers.every(({ at }) => at === 'sending')) return null
  const isUnexplained = workers.some(({ isPast }) => isPast)
  return isUnexplained ? 'two requests are out at once, one of them beyond its lease' : null
}

/** A key of the state. It is the same if the two workers are exchanged. */
export function keyOf({ record, workers, seen, left }: State): string {
  const [first, second] = [workerKey(workers[0]), workerKey(workers[1])]
  const both = first < second ? `${first}|${second}` : `${second}|${first}`
  const sweeper = seen === null ? '' : `${seen.fence} ${seen.leaseId} ${seen.expiry}`
  const { claims, renewals, cancels, retries, rollBacks, lates } = left
  const bounds = `${claims} ${renewals} ${cancels} ${retries} ${rollBacks} ${lates}`
  return `${recordKey(record)}|${both}|${sweeper}|${bounds}`
}

function recordKey(record: LeaseRecord): string {
  const { state, phase, fence, leaseId, expiry, hasExpired, attemptsLeft, forgiven } = record
  let attempts = ''
  for (const one of record.attempts) attempts += `${one.leaseId}.${one.fence}.${one.event},`
  const isUndoable = record.beforeClaim !== null
  // attemptCount is left out: it follows from the attempts and the state, as flawOf checks for each
  // record.
  const lease = `${phase} ${fence} ${leaseId} ${expiry} ${hasExpired}`
  return `${state} ${lease} ${attemptsLeft} ${forgiven} ${attempts} ${isUndoable}`
}

function workerKey({ at, fence, leaseId, result, ignoresLostLease, isPast, late }: Worker): string {
  const onItsWay = late === null ? '' : `${late.event} ${late.fence} ${late.leaseId}`
  if (at === 'idle') return onItsWay
  return `${at} ${fence} ${leaseId} ${result} ${ignoresLostLease} ${isPast} ${onItsWay}`
}
