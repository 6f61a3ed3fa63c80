// I14: the fairness keys of an endpoint take turns. I15: the limit of each key holds. A claim is
// the start of an attempt in the record of its job: requests arrive in another order, and those of
// a dead worker not at all.
import type { JobRecord } from '../history.ts'
import { effectOf, type Facts, type JobFacts, monotonic, type Report } from './facts.ts'
import { countUpTo } from './fault-times.ts'

/**
 * While a key waits, another one starts two jobs, and a third if its jobs become due meanwhile
 * (docs/fairness.md). A job that was released starts again without a new attempt in its record.
 */
const MOST_STARTS = 3

/** Instants of the store are whole milliseconds; those of the logs are not. */
const ROUNDING_MS = 2

/** The jobs of one endpoint and priority. */
interface Lane {
  byKey: Map<string | null, JobFacts[]>
  /** By key, ascending. */
  startsOf: Map<string | null, Float64Array>
}

export function checkTurns(facts: Facts, report: Report): void {
  const { slots } = facts.history.settings
  if (slots === undefined || !facts.isStoreClockTrue) return
  // On SQLite a claim sees all that was stored before. On MongoDB the workers claim at the same
  // time: each claim of the moment at which the job became due can miss it, and so can those of the
  // moment at which it is claimed.
  const most = MOST_STARTS + (facts.history.engine === 'sqlite' ? 0 : 2 * slots)
  for (const lane of lanesOf(facts)) {
    for (const [key, jobs] of lane.byKey) {
      const wait = key === null ? null : waitOf(facts, jobs)
      if (wait === null) continue
      for (const [other, starts] of lane.startsOf) {
        if (other === key) continue
        const before = countUpTo(starts, wait.fromMs + ROUNDING_MS)
        const count = countUpTo(starts, wait.untilMs - ROUNDING_MS) - before
        if (count <= most) continue
        report(`${key} was due while ${other} started ${count} jobs; ${most} at most`)
      }
    }
  }
}

/**
 * An attempt holds a slot of its key at least from its claim to its end in the record. That of a
 * killed worker ends when its lease is found to have expired.
 */
export function checkKeyLimits(facts: Facts, report: Report): void {
  const { keyLimit } = facts.history.settings
  if (keyLimit === undefined || !facts.isStoreClockTrue) return
  const jobs = [...facts.jobs.values()].flatMap(({ record }) => record ?? [])
  for (const [key, own] of Map.groupBy(jobs, ({ fairnessKey }) => fairnessKey)) {
    if (key === null || !key.startsWith(keyLimit.prefix)) continue
    const attempts = own.flatMap((record) => record.attempts)
    const starts = Float64Array.from(attempts, ({ startedAt }) => startedAt).sort()
    const ends = Float64Array.from(attempts, ({ finishedAt }) => finishedAt).sort()
    for (const [i, startedAt] of starts.entries()) {
      const running = i + 1 - countUpTo(ends, startedAt)
      if (running <= keyLimit.concurrency) continue
      report(`${running} jobs of ${key} ran at the same time; ${keyLimit.concurrency} at most`)
      break
    }
  }
}

function lanesOf(facts: Facts): Lane[] {
  const jobs = [...facts.jobs.values()].filter(({ record }) => record !== null)
  const nameOf = ({ record }: JobFacts) => `${record?.endpoint} ${record?.priority}`
  return [...Map.groupBy(jobs, nameOf).values()].map((some) => {
    const byKey = Map.groupBy(some, ({ record }) => record?.fairnessKey ?? null)
    const startsOf = new Map([...byKey].map(([key, own]) => [key, startsOfAll(facts, own)]))
    return { byKey, startsOf }
  })
}

function startsOfAll(facts: Facts, jobs: JobFacts[]): Float64Array {
  return Float64Array.from(jobs.flatMap(({ record }) => startsOfJob(facts, record))).sort()
}

function startsOfJob(facts: Facts, record: JobRecord | null): number[] {
  return record?.attempts.map(({ startedAt }) => monotonic(facts, startedAt)) ?? []
}

/**
 * How long the only job of a key was due before its first claim. Others that were cancelled before
 * any claim of them do not count, from the response to the cancel on. null: there are more jobs, or
 * the wait is not known.
 */
function waitOf(facts: Facts, jobs: JobFacts[]): { fromMs: number; untilMs: number } | null {
  const gone = jobs.flatMap((job) => {
    const cancel = job.commands.find((call) => call.kind === 'cancel' && effectOf(call) === 'done')
    return cancel !== undefined && job.record?.attempts.length === 0 ? cancel.endedAtMs : []
  })
  const left = jobs.filter(({ record }) => record?.attempts.length !== 0)
  const [job] = left
  if (job === undefined || left.length + gone.length !== jobs.length || left.length > 1) return null
  const [untilMs] = startsOfJob(facts, job.record)
  const work = job.workNumber === null ? undefined : facts.works.get(job.workNumber)
  const accepted = work?.calls.filter((call) => effectOf(call) === 'done' && call.delayMs === 0)
  if (untilMs === undefined || accepted === undefined || accepted.length === 0) return null
  const dueAtMs = Math.min(...accepted.map(({ endedAtMs }) => endedAtMs))
  return { fromMs: Math.max(dueAtMs, ...gone), untilMs }
}
