// Checks a history against the invariants, and measures the figures of the promises. This file and
// invariants/ must not import anything from the product: the checker must not share its bugs.
import { type History, INVARIANTS, type InvariantId, type Violation } from './history.ts'
import { checkAccepted, isLost } from './invariants/accepted.ts'
import { checkAttempts, costingAttempts, givenBackCount } from './invariants/attempts.ts'
import { checkDueTimes, firstLatenessMs } from './invariants/due-times.ts'
import { checkKeys, checkOrigins } from './invariants/enqueued.ts'
import { checkExtraDeliveries, extraDeliveriesOf } from './invariants/extra-deliveries.ts'
import { type Check, type Facts, factsOf } from './invariants/facts.ts'
import { checkFences, doublesOf } from './invariants/fences.ts'
import { checkFinalStates } from './invariants/final-states.ts'
import { checkGroupCounts, checkGroupNotices } from './invariants/groups.ts'
import { checkInputs } from './invariants/inputs.ts'
import { checkPayloads } from './invariants/payloads.ts'
import { longestOverlapMs, type Redelivery, redeliveryOf } from './invariants/redelivery.ts'
import { checkSameBytes } from './invariants/same-bytes.ts'
import { checkSecrets } from './invariants/secrets.ts'
import { checkSendsAfterEnd } from './invariants/sends-after-end.ts'
import { checkFewJobs, checkSharedLimits } from './invariants/shared-limits.ts'
import { checkKeyLimits, checkTurns } from './invariants/turns.ts'
import { checkUnsentAttempts } from './invariants/unsent-attempts.ts'

const CHECKS: Record<InvariantId, Check> = {
  I1: checkAccepted,
  I2: checkOrigins,
  I3: checkKeys,
  I4: checkFences,
  I5: checkAttempts,
  I6: checkFinalStates,
  I7: checkSendsAfterEnd,
  I8: checkExtraDeliveries,
  I9: checkSameBytes,
  I10: checkDueTimes,
  I11: checkSecrets,
  I12: checkPayloads,
  I13: checkUnsentAttempts,
  I14: checkTurns,
  I15: checkKeyLimits,
  I16: checkSharedLimits,
  I17: checkFewJobs,
  I18: checkGroupCounts,
  I19: checkGroupNotices,
  I20: checkInputs,
}

/** This many violations of an invariant are described. Further ones are only counted. */
const MOST_TOLD = 20

export function check(history: History): Violation[] {
  const facts = factsOf(history)
  return (Object.keys(INVARIANTS) as InvariantId[]).flatMap((id) => violationsOf(id, facts))
}

function violationsOf(invariant: InvariantId, facts: Facts): Violation[] {
  const violations: Violation[] = []
  let omittedCount = 0
  CHECKS[invariant](facts, (message) => {
    if (violations.length < MOST_TOLD) violations.push({ invariant, message })
    else omittedCount += 1
  })
  if (omittedCount > 0) violations.push({ invariant, message: `and ${omittedCount} more` })
  return violations
}

/** The figures for the promises D1 to D11. Times are milliseconds. */
export interface Figures {
  jobs: number
  deliveries: number
  accepted: number
  /** D1. */
  lost: number
  /** D2: jobs with a second full 2xx without an explanation. */
  doubledUnexplained: number
  /** D3: full 2xx after the first one of a job, how many of them are explained, and by what. */
  extraDeliveries: number
  extraExplained: number
  extraBy: Record<string, number>
  /** D4. */
  redelivery: Redelivery
  /** The longest time that two attempts of a job overlapped while both workers were running. */
  longestOverlapMs: number
  /** D6. */
  fenceDoubles: number
  mostAttempts: number
  mostCostingAttempts: number
  /** Claims that were released before a request was sent. */
  givenBack: number
  /**
   * Requests sent again within an attempt, because a kept connection broke before any byte of a
   * response.
   */
  resends: number
  /**
   * D7, D10: the smallest delay of a first delivery; null: there was none, or the clock was
   * changed.
   */
  leastSlackMs: number | null
  /** D11: delays of first deliveries. */
  latenessMs: { p50: number; p99: number; max: number } | null
}

export function figuresOf(history: History): Figures {
  const facts = factsOf(history)
  const figures: Figures = {
    ...{ jobs: history.records.length, deliveries: history.deliveries.length },
    ...{ accepted: 0, lost: 0, doubledUnexplained: 0 },
    ...{ extraDeliveries: 0, extraExplained: 0, extraBy: {} },
    ...{ redelivery: redeliveryOf(facts), longestOverlapMs: longestOverlapMs(facts) },
    ...{ fenceDoubles: 0, mostAttempts: 0, mostCostingAttempts: 0, givenBack: 0, resends: 0 },
    ...{ leastSlackMs: null, latenessMs: null },
  }
  const lateness: number[] = []
  for (const job of facts.jobs.values()) {
    if (job.isAccepted) figures.accepted += 1
    if (isLost(job)) figures.lost += 1
    countExtras(facts, job, figures)
    for (const { isResend } of doublesOf(job)) {
      if (isResend) figures.resends += 1
      else figures.fenceDoubles += 1
    }
    if (job.record !== null) {
      const { attemptCount } = job.record
      figures.mostAttempts = Math.max(figures.mostAttempts, attemptCount)
      const { count } = costingAttempts(facts, job)
      figures.mostCostingAttempts = Math.max(figures.mostCostingAttempts, count)
      figures.givenBack += givenBackCount(facts, job.record)
    }
    const lateMs = firstLatenessMs(facts, job)
    if (lateMs !== null) lateness.push(lateMs)
  }
  if (facts.isStoreClockTrue && lateness.length > 0) {
    const ascending = Float64Array.from(lateness).sort()
    figures.leastSlackMs = Math.floor(ascending[0] as number)
    figures.latenessMs = {
      ...{ p50: quantile(ascending, 0.5), p99: quantile(ascending, 0.99) },
      max: quantile(ascending, 1),
    }
  }
  return figures
}

function countExtras(
  facts: Facts,
  job: Parameters<typeof extraDeliveriesOf>[1],
  figures: Figures,
): void {
  let isUnexplained = false
  for (const { cause } of extraDeliveriesOf(facts, job)) {
    figures.extraDeliveries += 1
    if (cause === null) {
      isUnexplained = true
      continue
    }
    const kind = cause === 'retry' ? cause : cause.kind
    figures.extraExplained += 1
    figures.extraBy[kind] = (figures.extraBy[kind] ?? 0) + 1
  }
  if (isUnexplained) figures.doubledUnexplained += 1
}

/** The smallest value that at least this share of all values do not exceed. */
function quantile(ascending: Float64Array, share: number): number {
  const index = Math.max(0, Math.ceil(share * ascending.length) - 1)
  return Math.round(ascending[index] as number)
}
