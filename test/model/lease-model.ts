// The lease protocol as a small model: one job, two workers, a sweeper, somebody who cancels and
// retries by hand, and a store and a network that fail in every way the protocol is meant for. Any
// of them may move at any time; search.ts tries all orders. What they do is in lease-moves.ts;
// here is what they share, and what must be true.
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
 * `asked`: its claim was not answered. `unsent`: it has read back that the claim was applied, and
 * gives it back. `holding`: not yet sent. `sending`: its request is out. `awaiting`: answered by
 * 202, the handler has the lease. `ended`: a result is in hand, to be written until it is answered.
 */
type Place = 'idle' | 'asked' | 'unsent' | 'holding' | 'sending' | 'awaiting' | 'ended'

export interface Worker {
  at: Place
  fence: number
  leaseId: number
  /** What `ended` is to write. */
  result: EventName | null
  /** The answer said that its renewal matched nothing, and it went on. */
  isDeaf: boolean
  /** It is deaf, and the deadline of its lease has passed without its letting go. */
  isPast: boolean
  /** A write of it that is still on its way, and arrives some time or never. */
  late: { event: EventName; fence: number; leaseId: number } | null
}

/** How often each may happen in one life: beyond, nothing new happens, only more of it. */
export interface Bounds {
  claims: number
  renewals: number
  cancels: number
  retries: number
  /** Claims that a failover undoes after they were answered. */
  rollBacks: number
  /** Writes that arrive late, or never. */
  lates: number
}

export interface State {
  record: LeaseRecord
  workers: readonly [Worker, Worker]
  /** The expired lease that the sweeper is about to end, as it saw it. */
  seen: Writer | null
  /** What may still happen. */
  left: Bounds
}

export const IDLE: Worker = {
  at: 'idle',
  fence: 0,
  leaseId: 0,
  result: null,
  isDeaf: false,
  isPast: false,
  late: null,
}

export function startWith(left: Bounds): State {
  return { record: NEW_RECORD, workers: [IDLE, IDLE], seen: null, left }
}

/** null: it has happened as often as it may. */
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
 * One possible step. `breaks`: the invariants that the step itself breaks, whatever state it leads
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

/** A write arrives at the store. */
export function reach(rules: Rules, state: State, event: EventName, writer: Writer): Reached {
  const after = write(rules, state.record, event, writer)
  if (after === null) return { state, applied: false, breaks: null }
  const breaks = wrongOf(state, after, event, writer)
  return { state: { ...state, record: after }, applied: true, breaks }
}

/**
 * The invariants that an applied write broke. Leases differ by their ids alone, and no id is used
 * twice.
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
  if (expiry !== undefined && !(record.hasLapsed && record.expiry === expiry)) {
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

/** Two requests out at once though no worker stood still and no claim was undone: no fault. */
function overlapOf({ workers }: State): string | null {
  if (!workers.every(({ at }) => at === 'sending')) return null
  const isUnexplained = workers.some(({ isPast }) => isPast)
  return isUnexplained ? 'two requests are out at once, one of them beyond its lease' : null
}

/** The two workers can be exchanged without a difference. */
export function keyOf({ record, workers, seen, left }: State): string {
  const [first, second] = [workerKey(workers[0]), workerKey(workers[1])]
  const both = first < second ? `${first}|${second}` : `${second}|${first}`
  const sweeper = seen === null ? '' : `${seen.fence} ${seen.leaseId} ${seen.expiry}`
  const { claims, renewals, cancels, retries, rollBacks, lates } = left
  const bounds = `${claims} ${renewals} ${cancels} ${retries} ${rollBacks} ${lates}`
  return `${recordKey(record)}|${both}|${sweeper}|${bounds}`
}

function recordKey(record: LeaseRecord): string {
  const { state, phase, fence, leaseId, expiry, hasLapsed, attemptsLeft, forgiven } = record
  let attempts = ''
  for (const one of record.attempts) attempts += `${one.leaseId}.${one.fence}.${one.event},`
  const isUndoable = record.beforeClaim !== null
  // attemptCount follows from the attempts and the state, as flawOf proves of each record.
  const lease = `${phase} ${fence} ${leaseId} ${expiry} ${hasLapsed}`
  return `${state} ${lease} ${attemptsLeft} ${forgiven} ${attempts} ${isUndoable}`
}

function workerKey({ at, fence, leaseId, result, isDeaf, isPast, late }: Worker): string {
  const onItsWay = late === null ? '' : `${late.event} ${late.fence} ${late.leaseId}`
  if (at === 'idle') return onItsWay
  return `${at} ${fence} ${leaseId} ${result} ${isDeaf} ${isPast} ${onItsWay}`
}
