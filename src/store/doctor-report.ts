// The report of `posthorn doctor store`. Each store has its own checks (doctor.ts in its folder).

/** `unknown`: it could not be checked here, and the text says why. */
export type Verdict = 'ok' | 'warning' | 'failed' | 'unknown'

export interface Check {
  name: string
  verdict: Verdict
  /** A sentence, without passwords: users send their reports. */
  found: string
  /** What the user can do about it; null: nothing. */
  advice: string | null
}

/** The latency of one verb of the store, as this process measured it. */
export interface VerbLatency {
  verb: string
  calls: number
  p50Ms: number
  p95Ms: number
  maxMs: number
}

/** One kind of command that the store sent, and what the server read for it. */
export interface CommandPlan {
  /** Command, collection and fields, such as `find jobs: endpoint, state`. */
  command: string
  /** Why the plan is bad, or was not explained. */
  findings: string[]
  indexes: string[]
  keysExamined: number | null
  results: number | null
}

export interface StoreReport {
  store: 'mongodb' | 'sqlite'
  engine: string
  checks: Check[]
  plans: CommandPlan[]
  latencies: VerbLatency[]
}

export function ok(name: string, found: string): Check {
  return { name, verdict: 'ok', found, advice: null }
}

export function warning(name: string, found: string, advice: string): Check {
  return { name, verdict: 'warning', found, advice }
}

export function failed(name: string, found: string, advice: string): Check {
  return { name, verdict: 'failed', found, advice }
}

export function unknown(name: string, found: string, advice: string | null = null): Check {
  return { name, verdict: 'unknown', found, advice }
}

/** @param samples in milliseconds; at least one */
export function latencyOf(verb: string, samples: number[]): VerbLatency {
  const sorted = samples.toSorted((a, b) => a - b)
  const at = (share: number) => rounded(sorted[Math.ceil(share * sorted.length) - 1] as number)
  return { verb, calls: sorted.length, p50Ms: at(0.5), p95Ms: at(0.95), maxMs: at(1) }
}

function rounded(ms: number): number {
  return Math.round(ms * 10) / 10
}
