// The steps of the workers in the model of the lease protocol: each regular step, each way in which
// a write or its response can be lost or late, and each fault of a worker. lease-world.ts has all
// other steps.
import type { EventName } from '../../src/job/lifecycle.ts'
import {
  type Bounds,
  become,
  IDLE,
  judged,
  keyOf,
  reach,
  type State,
  type Step,
  spend,
  startWith,
  type Worker,
} from './lease-model.ts'
import { provesAll, type Rules, type Writer } from './lease-record.ts'
import { worldSteps } from './lease-world.ts'
import type { Model } from './search.ts'

export function leaseModel(rules: Rules, bounds: Bounds): Model<State> {
  return {
    start: startWith(bounds),
    keyOf,
    movesOf: (state) =>
      [
        ...state.workers.flatMap((worker, index) => [
          ...nextSteps(rules, state, index, worker),
          ...faultsOf(rules, state, index, worker),
        ]),
        ...worldSteps(rules, state),
      ].map((step) => judged(state, step)),
  }
}

const idle = ({ late }: Worker): Worker => ({ ...IDLE, late })
const nameOf = (index: number) => `worker ${index + 1}`

function nextSteps(rules: Rules, state: State, index: number, worker: Worker): Step[] {
  switch (worker.at) {
    case 'idle':
      return claimSteps(rules, state, index, worker)
    case 'asked':
      return askedSteps(state, index, worker)
    case 'unsent':
      return releaseSteps(rules, state, index, worker)
    case 'holding':
      return [
        { says: `${nameOf(index)} sends`, to: become(state, index, { at: 'sending' }) },
        ...releaseSteps(rules, state, index, worker),
        ...renewalSteps(rules, state, index, worker),
      ]
    case 'sending':
      return [
        ...endsOf(state, index, ['await', ...ENDS]),
        ...renewalSteps(rules, state, index, worker),
      ]
    case 'awaiting':
      return [...endsOf(state, index, ENDS), ...heartbeatSteps(rules, state, index, worker)]
    case 'ended':
      return settleSteps(rules, state, index, worker)
    default:
      throw new Error(`unknown place ${worker.at satisfies never}`)
  }
}

/** The state of a worker after its write, with and without a response. */
interface Aftermath {
  answered(applied: boolean, state: State): Partial<Worker>
  unanswered: Partial<Worker>
}

/**
 * The ways in which a write can end: it succeeds; only its response is lost; it arrives late, or
 * never.
 */
function deliveries(
  rules: Rules,
  state: State,
  index: number,
  event: EventName,
  writer: Writer,
  { answered, unanswered }: Aftermath,
): Step[] {
  const reached = reach(rules, state, event, writer)
  const { applied, breaks } = reached
  const who = `${nameOf(index)}: ${event} (fence ${writer.fence || '?'}, lease ${writer.leaseId})`
  const change = answered(applied, reached.state)
  const steps: Step[] = [
    {
      says: `${who} ${applied ? 'is applied and answered' : 'matches nothing, and is answered so'}`,
      to: become(reached.state, index, change),
      breaks,
    },
  ]
  if (applied) {
    const to = become(reached.state, index, unanswered)
    steps.push({ says: `${who} is applied, its answer is lost`, to, breaks })
  }
  const laterOn = spend(state, 'lates')
  if (state.workers[index]?.late === null && laterOn !== null) {
    const late = { event, fence: writer.fence, leaseId: writer.leaseId }
    const to = become(laterOn, index, { ...unanswered, late })
    steps.push({ says: `${who} is on its way and not answered`, to })
  }
  return steps
}

function claimSteps(rules: Rules, state: State, index: number, worker: Worker): Step[] {
  const counted = spend(state, 'claims')
  if (counted === null) return []
  // The lease id is counted down, so that each claim has its own.
  const leaseId = state.left.claims
  return deliveries(
    rules,
    counted,
    index,
    'claim',
    { fence: 0, leaseId },
    {
      answered: (applied, { record }) =>
        applied ? { at: 'holding', leaseId, fence: record.fence } : idle(worker),
      unanswered: { at: 'asked', leaseId },
    },
  )
}

/**
 * A worker that does not know whether its claim was applied reads the record, and releases the
 * claim unsent.
 */
function askedSteps(state: State, index: number, worker: Worker): Step[] {
  const { record } = state
  const givesUp = {
    says: `${nameOf(index)} no longer looks for its claim`,
    to: become(state, index, idle(worker)),
  }
  if (record.leaseId !== worker.leaseId) return [givesUp]
  const says = `${nameOf(index)} reads back that its claim was applied`
  return [givesUp, { says, to: become(state, index, { at: 'unsent', fence: record.fence }) }]
}

function releaseSteps(rules: Rules, state: State, index: number, worker: Worker): Step[] {
  return deliveries(rules, state, index, 'release', worker, {
    answered: () => idle(worker),
    unanswered: idle(worker),
  })
}

function renewalSteps(rules: Rules, state: State, index: number, worker: Worker): Step[] {
  const counted = spend(state, 'renewals')
  if (counted === null) return []
  const lost = rules.stopsOnLostLease ? idle(worker) : { ignoresLostLease: true }
  return deliveries(rules, counted, index, 'renew', worker, {
    answered: (applied) => (applied ? {} : lost),
    unanswered: {},
  })
}

function heartbeatSteps(rules: Rules, state: State, index: number, worker: Worker): Step[] {
  const counted = spend(state, 'renewals')
  if (counted === null) return []
  return deliveries(rules, counted, index, 'heartbeat', worker, {
    answered: () => ({}),
    unanswered: {},
  })
}

const ENDS = ['succeed', 'reschedule', 'postpone', 'bury'] as const

/**
 * A worker may try to write any end: only the guards may refuse those that the attempts left
 * forbid.
 */
function endsOf(state: State, index: number, ends: readonly EventName[]): Step[] {
  return ends.map((result) => ({
    says: `${nameOf(index)} has a result: ${result}`,
    to: become(state, index, { at: 'ended', result }),
  }))
}

/** A worker writes its result until it gets a response. The response must be true. */
function settleSteps(rules: Rules, state: State, index: number, worker: Worker): Step[] {
  const event = worker.result as EventName
  const writers: Writer[] = event === 'await' ? [worker, { ...worker, isShort: true }] : [worker]
  return writers.flatMap((writer) => {
    let lie: string | null = null
    const steps = deliveries(rules, state, index, event, writer, {
      answered: (applied, after) => {
        const saysStored = applied || wasAnsweredBefore(rules, after, worker, event)
        if (saysStored !== isStored(after, worker, event)) {
          lie = `${event} is ${saysStored ? 'said to be stored and is not' : 'stored and said to be lost'}`
        }
        return saysStored && event === 'await' ? { at: 'awaiting', result: null } : idle(worker)
      },
      unanswered: {},
    })
    return steps.map((step, at) => (at === 0 ? { ...step, breaks: step.breaks ?? lie } : step))
  })
}

/** Whether the store recognizes a repeat: the same proof and the same event. */
function wasAnsweredBefore(
  rules: Rules,
  { record }: State,
  worker: Worker,
  event: EventName,
): boolean {
  if (event === 'await') {
    return record.phase === 'awaiting' && provesAll(record, worker, rules.holder)
  }
  return record.attempts.some((one) => one.event === event && provesAll(one, worker, rules.holder))
}

function isStored({ record }: State, { leaseId }: Worker, event: EventName): boolean {
  if (event === 'await') return record.phase === 'awaiting' && record.leaseId === leaseId
  return record.attempts.some((one) => one.event === event && one.leaseId === leaseId)
}

function faultsOf(rules: Rules, state: State, index: number, worker: Worker): Step[] {
  const steps: Step[] = []
  if (worker.at !== 'idle') {
    steps.push({ says: `${nameOf(index)} is killed`, to: become(state, index, idle(worker)) })
  }
  if (worker.late !== null) {
    const { event, ...writer } = worker.late
    const reached = reach(rules, become(state, index, { late: null }), event, writer)
    const how = reached.applied ? 'and is applied' : 'and matches nothing'
    const says = `the late ${event} of ${nameOf(index)} (lease ${writer.leaseId}) arrives ${how}`
    steps.push({ says, to: reached.state, breaks: reached.breaks })
  }
  return steps
}
