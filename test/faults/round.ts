// What a round is: one row of the fault table, played on its own fixture.

import type { Fixture, FixtureSettings } from './fixture.ts'
import type { Engine } from './history.ts'

export interface Round {
  /** kebab-case; `--round NAME` plays it alone. */
  name: string
  /** What is broken, in the words of the table in docs/reliability.md. */
  title: string
  engines: readonly Engine[]
  /** Where the short form plays it: it has four minutes in all. Absent: on all of its engines. */
  shortOn?: readonly Engine[]
  settings: RoundSettings
  /** What differs on one engine. */
  settingsOf?: Partial<Record<Engine, RoundSettings>>
  /** The moments it is after: a run that met one of them never is void. */
  windows: readonly string[]
  /** Those that only one engine has. */
  windowsOf?: Partial<Record<Engine, readonly string[]>>
  /** The fixture has an API and the endpoint `work`; the round starts its workers. */
  play(fixture: Fixture, form: Form): Promise<void>
}

export type RoundSettings = Partial<Omit<FixtureSettings, 'engine' | 'seed'>>

/** How much of a round is played. */
export interface Form {
  /** false: what fits into every run of CI. */
  isLong: boolean
  /** For rounds that go on and on: how long in the long form. */
  minutes: number
}

export const BOTH: readonly Engine[] = ['sqlite', 'mongo']

export function windowsOf(round: Round, engine: Engine): string[] {
  return [...round.windows, ...(round.windowsOf?.[engine] ?? [])]
}

/**
 * What a stand-in for MongoDB can keep up with, at some 10 ms for each write: leases that are
 * renewed slower than they run out would lapse without any fault of ours.
 */
export const SLOW_STORE: RoundSettings = { leaseMs: 5_000, env: { WORKER_CONCURRENCY: '16' } }
