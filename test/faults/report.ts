// Writes the results of the fault suite into docs/reliability.md, from the --json files of both
// commands. If a round was repeated after a fix, its last result counts.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Engine } from './history.ts'
import type { MutantReport } from './mutants.ts'
import { ENGINE_NAMES, PROMISES } from './promises.ts'
import type { RoundReport, RunReport } from './run.ts'

const PAGE = join(import.meta.dirname, '../../docs/reliability.md')
const ENGINES: readonly Engine[] = ['sqlite', 'mongo']

function promisesTable(reports: RoundReport[], all: RoundReport[]): string {
  const of = (engine: Engine, some: RoundReport[]) => some.filter((one) => one.engine === engine)
  return table(
    ['', 'promise', ...ENGINES.map((engine) => ENGINE_NAMES[engine])],
    PROMISES.map(({ id, promise, measured }) => [
      id,
      promise,
      ...ENGINES.map((engine) => measured(of(engine, reports), of(engine, all))),
    ]),
  )
}

function faultsTable(reports: RoundReport[]): string {
  return table(
    [
      'round',
      'what is broken',
      'store',
      'jobs',
      'how often its moments were met',
      'broken invariants',
    ],
    reports.map(({ round, title, engine, windows, figures, violations, complaints }) => [
      `\`${round}\``,
      title,
      ENGINE_NAMES[engine],
      String(figures?.accepted ?? '–'),
      Object.entries(windows)
        .map(([window, times]) => `${times} × ${window}`)
        .join('; '),
      violations.length + complaints.length === 0
        ? 'none'
        : [...violations.map(({ invariant }) => invariant), ...complaints].join('; '),
    ]),
  )
}

function mutantsTable(mutants: MutantReport[]): string {
  return table(
    ['deliberate bug', 'store', 'round', 'caught by'],
    mutants.map(({ name, breaks, store, round, caughtBy }) => [
      `\`${name}\`: ${breaks}`,
      ENGINE_NAMES[store],
      `\`${round}\``,
      caughtBy ?? '**not caught**',
    ]),
  )
}

function table(head: string[], rows: string[][]): string {
  const line = (cells: string[]) =>
    `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |\n`
  return line(head) + line(head.map(() => '---')) + rows.map(line).join('')
}

function write(name: string, text: string): void {
  const page = readFileSync(PAGE, 'utf8')
  const [begin, end] = [
    `<!-- ${name}: made by test/faults/report.ts -->`,
    `<!-- end of ${name} -->`,
  ]
  const [from, to] = [page.indexOf(begin), page.indexOf(end)]
  if (from < 0 || to < from) throw new Error(`the marks of ${name} are missing in ${PAGE}`)
  writeFileSync(PAGE, `${page.slice(0, from + begin.length)}\n${text}${page.slice(to)}`)
}

/** Each round once for each store, in the order of its first run. */
function latest(runs: RunReport[]): RoundReport[] {
  const byRound = new Map<string, RoundReport>()
  for (const { reports } of runs) {
    for (const report of reports) byRound.set(`${report.engine} ${report.round}`, report)
  }
  return [...byRound.values()]
}

function commandLines(runs: RunReport[]): string {
  return runs
    .map(({ date, machine, command, mongoEngine }) => {
      const engine = mongoEngine === null ? '' : ` MongoDB is ${mongoEngine}.`
      return `- ${date}, ${machine}: \`${command}\`.${engine}\n`
    })
    .join('')
}

const files = process.argv.slice(2)
const mutantsFile = files.pop()
if (mutantsFile === undefined || files.length === 0) {
  console.error('usage: node test/faults/report.ts RUN.json... MUTANTS.json')
  process.exit(2)
}
const runs = files.map((file) => JSON.parse(readFileSync(file, 'utf8')) as RunReport)
const mutants = JSON.parse(readFileSync(mutantsFile, 'utf8')) as MutantReport[]
const reports = latest(runs)
write('run', commandLines(runs))
write(
  'promises',
  promisesTable(
    reports,
    runs.flatMap((run) => run.reports),
  ),
)
write('faults', faultsTable(reports))
write('mutants', mutantsTable(mutants))
