// I10: no delivery begins before the job is due, and retries follow the delays of the policy.
import type { AttemptRecord, Delivery, EndpointFacts } from '../history.ts'
import {
  called,
  type Facts,
  type JobFacts,
  mayBeRetried,
  monotonic,
  type Report,
  retriesOf,
  workOf,
} from './facts.ts'
import { countUpTo, overlapOf } from './fault-times.ts'
import { rangeMaxOf } from './range-max.ts'

/** Instants of the store are whole milliseconds; those of the logs are not. */
const ROUNDING_MS = 2
/** How long a due job may wait beyond the poll interval (D11). */
const START_MS = 250
/**
 * Between two attempts are a response, a stored outcome and a claim, in processes that share two
 * cores, on a store that takes 10 ms for a write. Delays are measured as a figure. This limit only
 * finds retries that were forgotten for long.
 */
const LATE_NOISE_MS = 2_000
/**
 * A throttled endpoint with all its jobs rests at most this long, unless a response names a longer
 * time.
 */
const LONGEST_REST_MS = 60_000
/** After these outcomes the retry policy decides when the next attempt is due. */
const POLICY_OUTCOMES = new Set([
  'http_error',
  'connect_error',
  'dns_error',
  'tls_error',
  'timeout',
  'protocol_error',
  'failed',
])

export function checkDueTimes(facts: Facts, report: Report): void {
  if (!facts.isStoreClockTrue) return
  const endpoints = new Map(facts.history.endpoints.map((one) => [one.name, one]))
  let known: BusyTimes | null = null
  const busy = () => {
    known ??= busyTimesOf(facts)
    return known
  }
  for (const job of facts.jobs.values()) {
    const lateMs = firstLatenessMs(facts, job)
    if (lateMs !== null && lateMs < -ROUNDING_MS) {
      report(`${job.id} was delivered ${Math.ceil(-lateMs)} ms before it was due`)
    }
    const endpoint = endpoints.get(job.deliveries[0]?.endpoint ?? '')
    if (endpoint !== undefined) checkGaps(facts, job, endpoint, busy, report)
  }
}

/**
 * The delay of the first delivery, counted from the earliest of the job's enqueues; null: there was
 * none, or a retry by hand changed the due time.
 */
export function firstLatenessMs(facts: Facts, job: JobFacts): number | null {
  const dueAtMs = dueAtMsOf(facts, job)
  if (dueAtMs === null || job.deliveries.length === 0 || retriesOf(job).length > 0) return null
  return job.deliveries.reduce((least, one) => Math.min(least, one.beganAtMs), Infinity) - dueAtMs
}

function dueAtMsOf(facts: Facts, job: JobFacts): number | null {
  const work = workOf(facts, job)
  if (work === null) return null
  return work.calls.reduce((least, one) => Math.min(least, one.sentAtMs + one.delayMs), Infinity)
}

function checkGaps(
  facts: Facts,
  job: JobFacts,
  { retryDelayMs, jitter }: EndpointFacts,
  busy: () => BusyTimes,
  report: Report,
): void {
  if (job.deliveries.length < 2 || job.record === null) return
  const attempts = new Map(job.record.attempts.map((one) => [one.number, one]))
  for (const [i, next] of job.deliveries.entries()) {
    const before = job.deliveries[i - 1]
    if (before === undefined || before.isHostile) continue
    // I4 reports duplicates and wrong orders.
    if (next.fence === before.fence || next.beganAtMs <= before.beganAtMs) continue
    if (mayBeRetried(job, before.beganAtMs, next.beganAtMs)) continue
    const attempt = attempts.get(before.attempt)
    if (attempt === undefined || !POLICY_OUTCOMES.has(attempt.outcome)) continue
    const endedAtMs = endOf(facts, before, attempt)
    const gapMs = next.beganAtMs - endedAtMs
    const leastMs = retryDelayMs * (1 - jitter) * policyDelayCount(attempts, before, next)
    if (gapMs < leastMs - ROUNDING_MS) {
      const wanted = `${Math.round(leastMs)} ms at least`
      report(`${called(next)} came ${Math.round(gapMs)} ms after the one before; ${wanted}`)
    }
    if (next.attempt !== before.attempt + 1) continue
    const { pollMs } = facts.history.settings
    const latestMs = retryDelayMs * (1 + jitter) + pollMs + START_MS + LATE_NOISE_MS
    if (gapMs <= latestMs || facts.faults.isFelt(endedAtMs, next.beganAtMs)) continue
    if (!busy().isPassedOver(next, endedAtMs + latestMs)) continue
    const wanted = `${Math.round(latestMs)} ms at most`
    report(`${called(next)} came ${Math.round(gapMs)} ms after the one before; ${wanted}`)
  }
}

/**
 * When the attempt ended: the earlier of the times of the receiver and the record. The receiver may
 * log its response late. The record counts the delay from when the worker had read the response.
 */
function endOf(facts: Facts, delivery: Delivery, attempt: AttemptRecord): number {
  const { beganAtMs, answeredAtMs, brokenOffAtMs } = delivery
  const loggedMs = answeredAtMs ?? brokenOffAtMs ?? Number.POSITIVE_INFINITY
  return Math.max(beganAtMs, Math.min(loggedMs, monotonic(facts, attempt.finishedAt)))
}

/** How many attempts, from one to the other, were followed by the delay of the policy. */
function policyDelayCount(
  attempts: Map<number, AttemptRecord>,
  before: Delivery,
  next: Delivery,
): number {
  let count = 0
  for (let number = before.attempt; number < next.attempt; number++) {
    if (POLICY_OUTCOMES.has(attempts.get(number)?.outcome ?? '')) count += 1
  }
  return count
}

interface BusyTimes {
  /** Whether, after that instant, the workers were idle or started jobs that became due later. */
  isPassedOver(delivery: Delivery, fromMs: number): boolean
}

/** Finds when the workers had more jobs than they could deliver: a late retry is then correct. */
function busyTimesOf(facts: Facts): BusyTimes {
  const isInFlight = overlapOf(
    facts.history.deliveries.map(({ beganAtMs, answeredAtMs, brokenOffAtMs }) => ({
      fromMs: beganAtMs,
      toMs: answeredAtMs ?? brokenOffAtMs ?? Number.POSITIVE_INFINITY,
    })),
  )
  const isResting = overlapOf(
    facts.history.deliveries
      .filter(({ status, isHostile }) => isHostile || status === 429 || status === 503)
      .map(({ beganAtMs }) => ({ fromMs: beganAtMs, toMs: beganAtMs + LONGEST_REST_MS })),
  )
  const startsOf = startsByEndpoint(facts)
  return {
    isPassedOver({ endpoint, beganAtMs }, fromMs) {
      if (isResting(fromMs, beganAtMs)) return false
      // The start of the attempt itself does not count as other work.
      if (!isInFlight(fromMs, beganAtMs - 1)) return true
      const starts = startsOf.get(endpoint)
      if (starts === undefined) return false
      const from = countUpTo(starts.beganAtMs, fromMs)
      return starts.latestDueMs(from, countUpTo(starts.beganAtMs, beganAtMs)) > fromMs
    },
  }
}

/** First deliveries in the order of their start, each with the instant at which it became due. */
function startsByEndpoint(facts: Facts) {
  const starts = new Map<string, { beganAtMs: number; dueAtMs: number }[]>()
  for (const job of facts.jobs.values()) {
    const dueAtMs = dueAtMsOf(facts, job)
    const lateMs = firstLatenessMs(facts, job)
    const endpoint = job.deliveries[0]?.endpoint
    if (dueAtMs === null || lateMs === null || endpoint === undefined) continue
    const ofEndpoint = starts.get(endpoint) ?? []
    starts.set(endpoint, ofEndpoint)
    ofEndpoint.push({ beganAtMs: dueAtMs + lateMs, dueAtMs })
  }
  return new Map(
    [...starts].map(([endpoint, ofEndpoint]) => {
      ofEndpoint.sort((a, b) => a.beganAtMs - b.beganAtMs)
      return [
        endpoint,
        {
          beganAtMs: Float64Array.from(ofEndpoint, (one) => one.beganAtMs),
          latestDueMs: rangeMaxOf(Float64Array.from(ofEndpoint, (one) => one.dueAtMs)),
        },
      ]
    }),
  )
}
