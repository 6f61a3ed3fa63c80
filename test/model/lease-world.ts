// The steps of the lease model that no worker makes: those of the sweeper, clients, time and a
// failover.
import { become, reach, type State, type Step, spend } from './lease-model.ts'
import type { Rules, Writer } from './lease-record.ts'

const NOBODY: Writer = { fence: 0, leaseId: 0 }

export function worldSteps(rules: Rules, state: State): Step[] {
  return [
    ...sweeperSteps(rules, state),
    ...byHandSteps(rules, state),
    ...timeSteps(state),
    ...failoverSteps(state),
  ]
}

const ENDS_BY_SWEEPER = ['reclaim', 'bury_lost', 'time_out', 'bury_timed_out'] as const

/**
 * The sweeper reads first and writes later, and everything may change between the two. It may try
 * any of its events: only the guards decide which of them fits.
 */
function sweeperSteps(rules: Rules, state: State): Step[] {
  const { record, seen } = state
  if (seen !== null) {
    const forgets = { says: 'the sweeper ends nothing', to: { ...state, seen: null } }
    const ends = ENDS_BY_SWEEPER.flatMap((event) => {
      const { state: after, applied, breaks } = reach(rules, state, event, seen)
      const says = `the sweeper’s ${event} (lease ${seen.leaseId}) is applied`
      return applied ? [{ says, to: { ...after, seen: null }, breaks }] : []
    })
    return [forgets, ...ends]
  }
  const { fence, leaseId, expiry, hasExpired } = record
  if (leaseId === null || !hasExpired) return []
  const says = `the sweeper sees that lease ${leaseId} has run out`
  return [{ says, to: { ...state, seen: { fence, leaseId, expiry } } }]
}

function byHandSteps(rules: Rules, state: State): Step[] {
  const tries = [
    ['cancel', spend(state, 'cancels')],
    ['retry', spend(state, 'retries')],
  ] as const
  return tries.flatMap(([event, counted]) => {
    if (counted === null) return []
    const reached = reach(rules, counted, event, NOBODY)
    const says = `somebody: ${event}`
    return reached.applied ? [{ says, to: reached.state, breaks: reached.breaks }] : []
  })
}

/**
 * Time passes over the end of a lease. A regular worker gives up its lease before that. A worker
 * that keeps it stood still meanwhile, which is a fault, or ignored that its lease was lost.
 */
function timeSteps({ record, ...others }: State): Step[] {
  const steps: Step[] = []
  const { leaseId } = record
  if (leaseId !== null && !record.hasExpired) {
    const says = `time passes over the end of lease ${leaseId}; who holds it stood still`
    steps.push({ says, to: { ...others, record: { ...record, hasExpired: true } } })
  }
  for (const [index, worker] of others.workers.entries()) {
    if (!worker.ignoresLostLease || worker.isPast) continue
    const says = `time passes over the end of lease ${worker.leaseId}, which is over anyway`
    steps.push({ says, to: become({ record, ...others }, index, { isPast: true }) })
  }
  return steps
}

function failoverSteps(state: State): Step[] {
  const { record } = state
  const counted = spend(state, 'rollBacks')
  if (record.beforeClaim === null || counted === null) return []
  const says = `a failover undoes the claim under fence ${record.fence}, lease ${record.leaseId}`
  return [{ says, to: { ...counted, record: record.beforeClaim } }]
}
