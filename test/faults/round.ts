// The type of a round: one row of the fault table, run on a fixture of its own.

import type { Fixture, FixtureSettings } from './fixture.ts'
import type { Engine } from './history.ts'

export interface Round {
  /** In kebab-case; `--round NAME` runs only this round. */
  name: string
  /** What is broken, in the words of the table in docs/reliability.md. */
  title: string
  engines: readonly Engine[]
  /**
   * The engines on which the short form runs this round: the short form has three minutes in all.
   * Absent: all engines of the round.
   */
  shortOn?: readonly Engine[]
  /**
   * It measures a rate or a short time, or keeps both cores busy: in the short form it runs beside
   * no other round.
   */
  isAlone?: true
  settings: RoundSettings
  /** Settings for one engine only. */
  settingsOf?: Partial<Record<Engine, RoundSettings>>
  /** The moments that the round must meet: a run that missed one of them is void. */
  windows: readonly string[]
  /** Moments that only one engine has. */
  windowsOf?: Partial<Record<Engine, readonly string[]>>
  /** The fixture has an API and the endpoint `work`; the round starts its workers. */
  play(fixture: Fixture, form: Form): Promise<void>
}

export type RoundSettings = Partial<Omit<FixtureSettings, 'engine' | 'seed'>>

/** How much of a round is run. */
export interface Form {
  /** false: the round does only what every run of CI has time for. */
  isLong: boolean
  /** How long the long form runs, for rounds that repeat. */
  minutes: number
}

export const BOTH: readonly Engine[] = ['sqlite', 'mongo']

export function windowsOf(round: Round, engine: Engine): string[] {
  return [...round.windows, ...(round.windowsOf?.[engine] ?? [])]
}

/**
 * Settings that a stand-in for MongoDB can keep up with, at about 10 ms for each write. With
 * shorter leases, renewals would be too slow, and leases would expire without an injected fault.
 */
export const SLOW_STORE: RoundSettings = { leaseMs: 5_000, env: { WORKER_CONCURRENCY: '16' } }
