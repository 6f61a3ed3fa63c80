// I16: the limits that endpoints share hold. I17: an endpoint with few jobs does not wait for the
// backlog of another. As for fairness keys, a claim is the start of an attempt in the record.
import type { JobRecord, SharedLimitFacts } from '../history.ts'
import { effectOf, type Facts, type JobFacts, monotonic, type Report } from './facts.ts'
import { countUpTo, NOISE_MS, overlapOf, type Span } from './fault-times.ts'

/** Instants of the store are whole milliseconds; those of the logs are not. */
const ROUNDING_MS = 2
/** How much the estimates of the clock of the server may differ between two workers. */
const ESTIMATE_MS = 20
/** On MongoDB, a claim whose worker was killed or frozen holds its endpoints for so long. */
const HELD_MS = 5_000

export function checkSharedLimits(facts: Facts, report: Report): void {
  for (const limit of limitsOf(facts)) {
    checkConcurrency(facts, limit, report)
    checkRate(facts, limit, report)
  }
}

/**
 * An attempt holds a slot at least from its claim to its end in the record. That of a killed worker
 * ends when its lease is found to have expired.
 */
function checkConcurrency(facts: Facts, limit: SharedLimitFacts, report: Report): void {
  const { name, concurrency } = limit
  if (concurrency === null) return
  const attempts = recordsAt(facts, limit).flatMap((record) => record.attempts)
  const starts = Float64Array.from(attempts, ({ startedAt }) => startedAt).sort()
  const ends = Float64Array.from(attempts, ({ finishedAt }) => finishedAt).sort()
  for (const [i, startedAt] of starts.entries()) {
    const running = i + 1 - countUpTo(ends, startedAt + unsureMs(facts))
    if (running <= concurrency) continue
    report(`${running} jobs at the limit ${name} ran at the same time; ${concurrency} at most`)
    break
  }
}

/**
 * The start of a stretch is where the tokens that were taken are lowest, compared with those that
 * came back by then. The promise is about what is sent: a claim whose worker was killed before it
 * stored the tokens has sent nothing.
 */
function checkRate(facts: Facts, limit: SharedLimitFacts, report: Report): void {
  const { name, rateLimit } = limit
  if (rateLimit === null) return
  const { count, perMs } = rateLimit
  const starts = recordsAt(facts, limit)
    .flatMap((record) => sentStarts(facts, record).map((at) => ({ at, cost: record.cost })))
    .sort((a, b) => a.at - b.at)
  const largest = starts.reduce((most, { cost }) => Math.max(most, cost), count)
  const most = largest + (count * (ROUNDING_MS + unsureMs(facts))) / perMs
  let taken = 0
  let lowest = Number.POSITIVE_INFINITY
  for (const { at, cost } of starts) {
    const backMs = at - (starts[0]?.at ?? 0)
    const back = (count * backMs) / perMs
    lowest = Math.min(lowest, taken - back)
    taken += cost
    const over = taken - back - lowest - most
    if (over <= 0) continue
    report(`${over.toFixed(1)} tokens more than the limit ${name} has were used after ${backMs} ms`)
    break
  }
}

/** The claims of the attempts of which a request arrived. */
function sentStarts({ jobs }: Facts, { id, attempts }: JobRecord): number[] {
  const numbers = new Set(jobs.get(id)?.deliveries.map(({ attempt }) => attempt))
  return attempts.flatMap(({ number, startedAt }) => (numbers.has(number) ? startedAt : []))
}

/** Starts do not count while a claim may hold the endpoint of the job. */
export function checkFewJobs(facts: Facts, report: Report): void {
  const mayBeHeld = overlapOf(heldSpans(facts))
  for (const limit of limitsOf(facts)) {
    const { name, few } = limit
    const starts = Float64Array.from(
      recordsAt(facts, limit)
        .flatMap(({ attempts }) => attempts.map(({ startedAt }) => monotonic(facts, startedAt)))
        .filter((atMs) => !mayBeHeld(atMs, atMs)),
    ).sort()
    for (const job of facts.jobs.values()) {
      if (!few.endpoints.includes(job.record?.endpoint ?? '')) continue
      const wait = waitOf(facts, job)
      if (wait === null) continue
      const before = countUpTo(starts, wait.fromMs + ROUNDING_MS)
      const count = countUpTo(starts, wait.untilMs - ROUNDING_MS) - before
      if (count > few.starts) report(`${job.id} was due during ${count} starts at ${name}`)
    }
  }
}

function heldSpans({ history: { engine, faults } }: Facts): Span[] {
  if (engine === 'sqlite') return []
  return faults
    .filter(({ kind, target }) => target !== 'api' && (kind === 'kill' || kind === 'freeze'))
    .map(({ beganAtMs, endedAtMs }) => ({
      fromMs: beganAtMs,
      toMs: Math.max(endedAtMs, beganAtMs + HELD_MS) + NOISE_MS,
    }))
}

/** How long the job was due before its first claim; null: it had none, or that is not known. */
function waitOf(facts: Facts, { record, workNumber }: JobFacts) {
  const [attempt] = record?.attempts ?? []
  const work = workNumber === null ? undefined : facts.works.get(workNumber)
  const accepted = work?.calls.filter((call) => effectOf(call) === 'done') ?? []
  if (attempt?.number !== 1 || accepted.length === 0) return null
  const fromMs = Math.min(...accepted.map(({ endedAtMs, delayMs }) => endedAtMs + delayMs))
  return { fromMs, untilMs: monotonic(facts, attempt.startedAt) }
}

function limitsOf({ history, isStoreClockTrue }: Facts): SharedLimitFacts[] {
  return isStoreClockTrue ? (history.settings.sharedLimits ?? []) : []
}

function recordsAt({ jobs }: Facts, { endpoints }: SharedLimitFacts): JobRecord[] {
  return [...jobs.values()].flatMap(({ record }) =>
    record !== null && endpoints.includes(record.endpoint) ? record : [],
  )
}

/** SQLite has one clock. */
function unsureMs({ history: { engine } }: Facts): number {
  return engine === 'sqlite' ? 0 : ESTIMATE_MS
}
