// Writes what runs of the fault suite measured into docs/reliability.md:
// `node test/faults/report.ts RUN.json MUTANTS.json`, the files that --json of both commands made.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Engine } from './history.ts'
import type { MutantReport } from './mutants.ts'
import { ENGINE_NAMES, PROMISES } from './promises.ts'
import type { RoundReport, RunReport } from './run.ts'

const PAGE = join(import.meta.dirname, '../../docs/reliability.md')
const ENGINES: readonly Engine[] = ['sqlite', 'mongo']

function promisesTable(reports: RoundReport[]): string {
  return table(
    ['', 'promise', ...ENGINES.map((engine) => ENGINE_NAMES[engine])],
    PROMISES.map(({ id, promise, measured }) => [
      id,
      promise,
      ...ENGINES.map((engine) => measured(reports.filter((one) => one.engine === engine))),
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

const [runFile, mutantsFile] = process.argv.slice(2)
if (runFile === undefined || mutantsFile === undefined) {
  console.error('usage: node test/faults/report.ts RUN.json MUTANTS.json')
  process.exit(2)
}
const run = JSON.parse(readFileSync(runFile, 'utf8')) as RunReport
const mutants = JSON.parse(readFileSync(mutantsFile, 'utf8')) as MutantReport[]
const engine = run.mongoEngine === null ? '' : ` MongoDB is ${run.mongoEngine}.`
write('run', `${run.date}, ${run.machine}: \`${run.command}\`.${engine}\n`)
write('promises', promisesTable(run.reports))
write('faults', faultsTable(run.reports))
write('mutants', mutantsTable(mutants))
