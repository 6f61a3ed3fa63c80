// npm run test:faults: runs the rounds on both stores, and checks each run with the checker.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, platform, tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { parseArgs } from 'node:util'
import { bundleCommand } from '../support/bundle.ts'
import { databaseUrl, type MongoEngine, type RunningMongo, startMongo } from '../support/mongo.ts'
import { check, type Figures, figuresOf } from './checker.ts'
import { openFixture } from './fixture.ts'
import { type Engine, type History, nowMs, type Violation } from './history.ts'
import { type Form, type Round, windowsOf } from './round.ts'
import { ROUNDS } from './rounds.ts'

const DEFAULT_SETTINGS = { leaseMs: 2_000, sweepMs: 250, pollMs: 100 }
/** The time that a shared machine, and a store that takes 10 ms for each write, may add to D4. */
const NOISE_MS = 5_000
const DEFAULT_MINUTES = 3
/** In the short form, this many rounds run at a time: most of them wait more than they work. */
const SHORT_LANES = 3
/** A bundle of the servers takes as much time as it saves in three rounds. */
const LEAST_PLAYS_TO_BUNDLE = 4
const STALL_RESOLUTION_MS = 20
const USAGE = `npm run test:faults -- [--short] [--store sqlite|mongo] [--minutes n] [--seed s]
                       [--round name]... [--json file] [--histories folder]

  --short        what fits into every run of CI
  --store        one store only
  --minutes      of each round that could go on for ever (${DEFAULT_MINUTES}); not with --short
  --seed         repeats the choices of an earlier run
  --round        only this one: ${ROUNDS.map(({ name }) => name).join(', ')}
  --json         writes what was measured
  --histories    writes all four logs of each round there, one file for each round and store`

/** The result of one round on one store. */
export interface RoundReport {
  round: string
  title: string
  engine: Engine
  seed: number
  seconds: number
  /**
   * How long this process stood still at a time. The receiver and the proxies of the store are in
   * it, so a long stall cuts the workers off from both, and is in no log of faults.
   */
  longestStallMs: number
  windows: Record<string, number>
  measured: Record<string, number>
  figures: Figures | null
  violations: Violation[]
  /** Broken promises of the round itself, moments that were not met, and errors of the run. */
  complaints: string[]
}

interface Play {
  round: Round
  engine: Engine
}

/** The content of a --json file. */
export interface RunReport {
  date: string
  machine: string
  mongoEngine: MongoEngine | null
  command: string
  reports: RoundReport[]
}

async function playRound(
  round: Round,
  engine: Engine,
  seed: number,
  form: Form,
  mongo: RunningMongo | null,
  histories: string | undefined,
): Promise<RoundReport> {
  const beganAtMs = nowMs()
  const report: RoundReport = {
    ...{ round: round.name, title: round.title, engine, seed, seconds: 0, longestStallMs: 0 },
    ...{ windows: {}, measured: {}, figures: null, violations: [], complaints: [] },
  }
  const stalls = monitorEventLoopDelay({ resolution: STALL_RESOLUTION_MS })
  stalls.enable()
  const settings = { ...DEFAULT_SETTINGS, ...round.settings, ...round.settingsOf?.[engine] }
  const fixture = await openFixture(
    { ...settings, engine, seed },
    engine === 'mongo' ? mongo : null,
  )
  try {
    await round.play(fixture, form)
    const history = await fixture.finish()
    if (histories !== undefined) keepHistory(histories, round, history)
    report.violations = check(history)
    report.figures = figuresOf(history)
    const { longestUndisturbedMs } = report.figures.redelivery
    // A job at a shared limit waits for its turn, too.
    const isPromised = settings.sharedLimits === undefined
    const boundMs = settings.leaseMs + settings.sweepMs + 1_000 + NOISE_MS
    if (isPromised && longestUndisturbedMs !== null && longestUndisturbedMs > boundMs) {
      report.complaints.push(`D4: a dead worker's job waited for ${longestUndisturbedMs} ms`)
    }
  } catch (error) {
    report.complaints.push(error instanceof Error ? (error.stack ?? error.message) : String(error))
  } finally {
    await fixture.close()
  }
  report.complaints.push(...fixture.complaints)
  report.windows = Object.fromEntries(fixture.windows)
  report.measured = Object.fromEntries(fixture.figures)
  if (report.complaints.length === 0) {
    for (const window of windowsOf(round, engine)) {
      if (!fixture.windows.get(window)) report.complaints.push(`void: never met: ${window}`)
    }
  }
  report.longestStallMs = Math.round(stalls.max / 1e6)
  stalls.disable()
  report.seconds = Math.round((nowMs() - beganAtMs) / 1_000)
  return report
}

function keepHistory(folder: string, round: Round, history: History): void {
  mkdirSync(folder, { recursive: true })
  const name = `${round.name}-${history.engine}-${history.seed}.json`
  writeFileSync(join(folder, name), JSON.stringify(history))
}

/** @param isWhole a round that is named runs, even if it is not in the short form */
function playsOf(rounds: Round[], engines: Engine[], isWhole: boolean): Play[] {
  return engines.flatMap((engine) =>
    rounds
      .filter(({ engines: all, shortOn = all }) => (isWhole ? all : shortOn).includes(engine))
      .map((round) => ({ round, engine })),
  )
}

/** Plays all of them, a number of them at a time. */
async function playAll(
  plays: Play[],
  lanes: number,
  playNext: (play: Play) => Promise<void>,
): Promise<void> {
  const queue = [...plays]
  async function lane(): Promise<void> {
    for (let play = queue.shift(); play !== undefined; play = queue.shift()) await playNext(play)
  }
  // If one round throws, the others must still end their processes.
  const ended = await Promise.allSettled(Array.from({ length: lanes }, lane))
  for (const one of ended) if (one.status === 'rejected') throw one.reason
}

async function bundleFor(mongo: RunningMongo | null): Promise<() => Promise<void>> {
  if (mongo !== null) return bundleCommand(databaseUrl(mongo.url, 'bundle'))
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-bundle-store-'))
  try {
    return await bundleCommand(`sqlite:${join(folder, 'posthorn.db')}`)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

function print(report: RoundReport): void {
  const { round, engine, seed, seconds, windows, measured, figures } = report
  const failed = isFailed(report)
  console.log(`${failed ? '✗' : '✓'} ${round} on ${engine}, seed ${seed}, ${seconds} s`)
  for (const [window, times] of Object.entries(windows)) console.log(`    ${times} × ${window}`)
  for (const [what, value] of Object.entries(measured)) console.log(`    ${what}: ${value}`)
  if (figures) {
    const { accepted, lost, deliveries, extraDeliveries, extraExplained } = figures
    console.log(`    ${accepted} jobs accepted, ${lost} lost; ${deliveries} deliveries,`)
    console.log(
      `    ${extraDeliveries} of them after a 2xx, ${extraExplained} explained by a fault`,
    )
  }
  for (const { invariant, message } of report.violations)
    console.log(`    ${invariant}: ${message}`)
  for (const complaint of report.complaints) console.log(`    ${complaint}`)
  if (failed) {
    console.log(`    the process of the suite stood still for up to ${report.longestStallMs} ms`)
    console.log(
      `    again: npm run test:faults -- --store ${engine} --seed ${seed} --round ${round}`,
    )
  }
}

function machine(): string {
  const [{ model } = { model: 'unknown' }] = cpus()
  const memoryGb = Math.round(totalmem() / 2 ** 30)
  return `${cpus().length} × ${model}, ${memoryGb} GB, Node ${process.versions.node}, ${platform()}`
}

const isFailed = ({ violations, complaints }: RoundReport) =>
  violations.length + complaints.length > 0

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      short: { type: 'boolean', default: false },
      store: { type: 'string' },
      minutes: { type: 'string', default: String(DEFAULT_MINUTES) },
      seed: { type: 'string', default: String(Date.now() % 1_000_000_000) },
      round: { type: 'string', multiple: true },
      json: { type: 'string' },
      histories: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) {
    console.log(USAGE)
    return 0
  }
  const form: Form = { isLong: !values.short, minutes: Number(values.minutes) }
  const rounds = ROUNDS.filter(
    ({ name }) => values.round === undefined || values.round.includes(name),
  )
  const engines = (['sqlite', 'mongo'] as const).filter(
    (engine) => values.store === undefined || values.store === engine,
  )
  if (rounds.length === 0 || engines.length === 0 || !(form.minutes > 0)) {
    console.error(USAGE)
    return 2
  }
  const words = process.argv.slice(2).join(' ')
  const mongo = engines.includes('mongo') ? await startMongo() : null
  const run: RunReport = {
    ...{ date: new Date().toISOString().slice(0, 10), machine: machine(), reports: [] },
    ...{ mongoEngine: mongo?.engine ?? null, command: `npm run test:faults -- ${words}` },
  }
  const plays = playsOf(rounds, engines, form.isLong || values.round !== undefined)
  async function playNext({ round, engine }: Play): Promise<void> {
    const seed = Number(values.seed)
    const report = await playRound(round, engine, seed, form, mongo, values.histories)
    print(report)
    run.reports.push(report)
    // Written after each round, so that a long run that is interrupted leaves results.
    if (values.json) writeFileSync(values.json, `${JSON.stringify(run, null, 2)}\n`)
  }
  let removeBundle: (() => Promise<void>) | null = null
  try {
    if (plays.length >= LEAST_PLAYS_TO_BUNDLE) removeBundle = await bundleFor(mongo)
    const isShared = ({ round }: Play) => !form.isLong && !round.isAlone
    // The longest of them is the last of the list.
    await playAll(plays.filter(isShared).reverse(), SHORT_LANES, playNext)
    const alone = plays.filter((play) => !isShared(play))
    await playAll(alone, 1, playNext)
  } finally {
    await mongo?.stop()
    await removeBundle?.()
  }
  return run.reports.some(isFailed) ? 1 : 0
}

process.exit(await main())
