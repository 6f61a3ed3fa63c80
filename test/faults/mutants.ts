// npm run test:mutants: applies each deliberate bug of mutants/ to a copy of the project, and
// requires that the fault suite catches it in the way that its patch names. The copy without a bug
// must pass.
import { execFileSync } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { type Engine, nowMs } from './history.ts'
import { type Catcher, type Mutant, readMutants, type Stage } from './mutant-patches.ts'
import { type Played, playIn } from './mutant-plays.ts'

const PROJECT = join(import.meta.dirname, '../..')
/**
 * Quick bugs of one round, for which CI has time. CI runs that round without a bug in `npm run
 * test:faults -- --short`, so it is not run again here.
 */
const FEW = ['cancel-only-flags', 'no-fence', 'result-by-state-alone', 'sweeper-without-guard']
const FEW_STORE: Engine = 'sqlite'
/** How many of them are played at a time, each in a copy of its own. */
const FEW_LANES = 4
const SOUND_TRIES = 2
const USAGE = `npm run test:mutants -- [--few] [--only name]... [--store sqlite|mongo] [--seed s]
                         [--json file]

  --few     only ${FEW.join(', ')},
            on SQLite, after npm run test:faults -- --short has passed
  --only    only this one
  --store   on one store only
  --seed    repeats the choices of an earlier run
  --json    writes what was caught, and by what`

/** The result of one bug in one store. */
export interface MutantReport {
  name: string
  breaks: string
  store: Engine
  /** The round, or the test of the model. */
  round: string
  /** null: the bug was not caught, or not in the way that its patch names. */
  caughtBy: string | null
  seconds: number
}

interface Wanted {
  mutant: Mutant
  store: Engine
}

/** Copies the files of the project as they are now, with the same packages. */
function copyProject(): string {
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-mutants-'))
  const list = ['ls-files', '-z', '--cached', '--others', '--exclude-standard']
  const files = execFileSync('git', list, { cwd: PROJECT, encoding: 'utf8' }).split('\0')
  for (const file of files) {
    const from = join(PROJECT, file)
    // Git lists a deleted file until its removal is committed.
    if (file === '' || !existsSync(from)) continue
    mkdirSync(dirname(join(folder, file)), { recursive: true })
    copyFileSync(from, join(folder, file))
  }
  symlinkSync(join(PROJECT, 'node_modules'), join(folder, 'node_modules'))
  return folder
}

/** Applies a bug. If it is in both stores, only the part for this store is applied. */
function plant(folder: string, { path }: Mutant, store: Engine, isUndone: boolean): void {
  const other = store === 'sqlite' ? 'mongo' : 'sqlite'
  const options = isUndone ? ['--reverse'] : []
  const args = ['apply', ...options, `--exclude=src/store/${other}/*`, path]
  execFileSync('git', args, { cwd: folder, stdio: ['ignore', 'inherit', 'inherit'] })
}

/** Returns null if the bug was not caught, or if only something else was found. */
function caughtBy(catcher: Catcher, { failures }: Played): string | null {
  switch (catcher.kind) {
    case 'invariant': {
      const found = new Set(failures.flatMap(({ invariant }) => invariant ?? []))
      if (!found.delete(catcher.id)) return null
      return [catcher.id, ...found].join(', ')
    }
    case 'complaint': {
      const isFound = failures.some(
        ({ invariant, message }) => invariant === null && message.includes(catcher.words),
      )
      return isFound ? `the round: “${catcher.words}”` : null
    }
    case 'model':
      return failures[0]?.message ?? null
    default:
      throw new Error(`unknown catcher ${catcher satisfies never}`)
  }
}

function wantedOf(names: string[] | null, store: string | undefined, few: boolean): Wanted[] {
  const chosen = few ? FEW : names
  return readMutants()
    .filter(({ name }) => chosen === null || chosen.includes(name))
    .flatMap((mutant) => mutant.stage.stores.map((one) => ({ mutant, store: one })))
    .filter((one) => one.store === (few ? FEW_STORE : (store ?? one.store)))
}

const nameOf = (stage: Stage) => (stage.kind === 'round' ? stage.round : 'lease-model')

async function playAll(wanted: Wanted[], seed: number, few: boolean): Promise<MutantReport[]> {
  const folder = copyProject()
  /** Whether a round passes without a bug, by round and store. */
  const isSound = new Map<string, boolean>()
  const reports: MutantReport[] = []
  try {
    for (const { mutant, store } of wanted) {
      const { name, breaks, stage } = mutant
      const report: MutantReport = {
        ...{ name, breaks, store, round: nameOf(stage), caughtBy: null, seconds: 0 },
      }
      reports.push(report)
      const key = `${report.round} on ${store}`
      if (!isSound.has(key)) {
        isSound.set(key, few || (await passes(folder, stage, store, seed, key)))
      }
      // A test that always fails catches nothing.
      if (!isSound.get(key)) continue
      const beganAtMs = nowMs()
      plant(folder, mutant, store, false)
      const played = await playIn(folder, stage, store, seed)
      plant(folder, mutant, store, true)
      report.caughtBy = caughtBy(mutant.mustBeCaughtBy, played)
      report.seconds = Math.round((nowMs() - beganAtMs) / 1_000)
      print(report, played)
    }
  } finally {
    rmSync(folder, { recursive: true })
  }
  return reports
}

/**
 * Runs it a second time if the first run fails: the rounds check times, and the machine may be
 * busy.
 */
async function passes(
  folder: string,
  stage: Stage,
  store: Engine,
  seed: number,
  key: string,
): Promise<boolean> {
  for (let tries = 1; tries <= SOUND_TRIES; tries++) {
    const played = await playIn(folder, stage, store, seed)
    const isPassed = played.exitCode === 0 && played.failures.length === 0
    console.log(`${isPassed ? '✓' : '✗'} ${key}, without any bug`)
    if (isPassed) return true
    console.log(played.output)
  }
  return false
}

function print({ name, store, caughtBy: by, seconds }: MutantReport, played: Played): void {
  console.log(`${by === null ? '✗' : '✓'} ${name} on ${store}, ${seconds} s`)
  if (by === null)
    console.log(`  not caught by what its patch names; the run said:\n${played.output}`)
}

function printTable(reports: MutantReport[]): void {
  const cells = reports.map(({ name, store, round, caughtBy: by, seconds }) => [
    ...[name, store, round, `${seconds} s`, by ?? 'NOT CAUGHT'],
  ])
  const rows = [['mutant', 'store', 'round', 'time', 'caught by'], ...cells]
  const widths = [0, 1, 2, 3].map((i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)))
  console.log('')
  for (const row of rows) console.log(row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join('  '))
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      few: { type: 'boolean', default: false },
      only: { type: 'string', multiple: true },
      store: { type: 'string' },
      seed: { type: 'string', default: String(Date.now() % 1_000_000_000) },
      json: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) {
    console.log(USAGE)
    return 0
  }
  const wanted = wantedOf(values.only ?? null, values.store, values.few)
  if (wanted.length === 0) {
    console.error(USAGE)
    return 2
  }
  console.log(`seed ${values.seed}`)
  // The round of the few waits more than it works. Rounds of others measure times, and run alone.
  const lanes = values.few ? FEW_LANES : 1
  const parts = Array.from({ length: lanes }, (_, lane) =>
    wanted.filter((_, i) => i % lanes === lane),
  )
  const played = await Promise.all(
    parts.map((part) => playAll(part, Number(values.seed), values.few)),
  )
  const reports = played.flat()
  printTable(reports)
  if (values.json) writeFileSync(values.json, `${JSON.stringify(reports, null, 2)}\n`)
  return reports.every((one) => one.caughtBy !== null) ? 0 : 1
}

if (import.meta.main) process.exitCode = await main()
