// Writes the results of the fault suite into docs/reliability.md, from the --json files of both
// commands. If a round was repeated after a fix, its last result counts. With --add, the results
// that the page has of other rounds and bugs stay, and so do all measured promises.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { Engine } from './history.ts'
import type { MutantReport } from './mutants.ts'
import { ENGINE_NAMES, PROMISES } from './promises.ts'
import { ROUNDS } from './rounds.ts'
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

const FAULTS_HEAD = [
  ...['round', 'what is broken', 'store', 'jobs'],
  ...['how often its moments were met', 'broken invariants'],
]

function faultRows(reports: RoundReport[]): string[][] {
  return reports.map(({ round, title, engine, windows, figures, violations, complaints }) => [
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
  ])
}

const MUTANTS_HEAD = ['deliberate bug', 'store', 'round', 'caught by']

function mutantRows(mutants: MutantReport[]): string[][] {
  return mutants.map(({ name, breaks, store, round, caughtBy }) => [
    `\`${name}\`: ${breaks}`,
    ENGINE_NAMES[store],
    `\`${round}\``,
    caughtBy ?? '**not caught**',
  ])
}

function table(head: string[], rows: string[][]): string {
  const line = (cells: string[]) =>
    `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |\n`
  return line(head) + line(head.map(() => '---')) + rows.map(line).join('')
}

function partsOf(name: string): { before: string; text: string; after: string } {
  const page = readFileSync(PAGE, 'utf8')
  const begin = `<!-- ${name}: made by test/faults/report.ts -->\n`
  const [from, to] = [page.indexOf(begin) + begin.length, page.indexOf(`<!-- end of ${name} -->`)]
  if (from < begin.length || to < from) throw new Error(`${PAGE} lacks the marks of ${name}`)
  return { before: page.slice(0, from), text: page.slice(from, to), after: page.slice(to) }
}

function write(name: string, text: string): void {
  const { before, after } = partsOf(name)
  writeFileSync(PAGE, `${before}${text}${after}`)
}

/** The rows that the page has, without the head of the table. */
function writtenRows(name: string): string[][] {
  const [, , ...lines] = partsOf(name).text.trimEnd().split('\n')
  const cellOf = (text: string) => text.replaceAll('\\|', '|')
  return lines.map((line) => line.slice(2, -2).split(' | ').map(cellOf))
}

/** In the order of their keys. Of rows with the same key, the last one counts. */
function sorted(rows: string[][], keyOf: (row: string[]) => (string | number)[]): string[][] {
  const byKey = new Map(rows.map((row) => [JSON.stringify(keyOf(row)), row]))
  return [...byKey.values()].sort((a, b) => {
    const [x, y] = [keyOf(a), keyOf(b)]
    const at = x.findIndex((part, i) => part !== y[i])
    return at < 0 ? 0 : (x[at] as string) < (y[at] as string) ? -1 : 1
  })
}

const STORES = ENGINES.map((engine) => ENGINE_NAMES[engine])
const ROUND_NAMES = ROUNDS.map(({ name }) => `\`${name}\``)

function keyOfFault([round = '', , store = '']: string[]): number[] {
  return [STORES.indexOf(store), ROUND_NAMES.indexOf(round)]
}

function keyOfMutant([bug = '', store = '']: string[]): (string | number)[] {
  return [bug.replace(/:.*/, ''), STORES.indexOf(store)]
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
      const words = command.replace(/--json \S+/, '--json RUN.json')
      return `- ${date}, ${machine}: \`${words}\`.${engine}\n`
    })
    .join('')
}

const { values, positionals: files } = parseArgs({
  allowPositionals: true,
  options: { add: { type: 'boolean', default: false } },
})
const mutantsFile = files.pop()
if (mutantsFile === undefined || files.length === 0) {
  console.error('usage: node test/faults/report.ts [--add] RUN.json... MUTANTS.json')
  process.exit(2)
}
const runs = files.map((file) => JSON.parse(readFileSync(file, 'utf8')) as RunReport)
const mutants = JSON.parse(readFileSync(mutantsFile, 'utf8')) as MutantReport[]
const reports = latest(runs)
const kept = (name: string) => (values.add ? writtenRows(name) : [])
const faults = sorted([...kept('faults'), ...faultRows(reports)], keyOfFault)
const bugs = sorted([...kept('mutants'), ...mutantRows(mutants)], keyOfMutant)
write('run', (values.add ? partsOf('run').text : '') + commandLines(runs))
if (!values.add) {
  write(
    'promises',
    promisesTable(
      reports,
      runs.flatMap((run) => run.reports),
    ),
  )
}
write('faults', table(FAULTS_HEAD, faults))
write('mutants', table(MUTANTS_HEAD, bugs))
