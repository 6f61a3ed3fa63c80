// Writes the results of the benchmark to docs/benchmarks.md: `node bench/report.ts RUN.json...`,
// with the files of --json. If a row was run several times, the last result counts.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type SideSummary, shown } from './compare.ts'
import { isMet, type Result } from './row.ts'
import type { RunReport } from './run.ts'

const PAGE = join(import.meta.dirname, '../docs/benchmarks.md')

function resultsTable(results: Result[]): string {
  const bounds = ['must', 'aim', 'met']
  return table(
    ['row', 'what', 'against', 'ratio (min–max)', ...bounds, 'ours', 'theirs'],
    results.map((result) => {
      const { row, what, against, better, mustReach, aim, durability, sides } = result
      const sign = better === 'more' ? '≥' : '≤'
      return [
        row,
        what,
        result.of === 'figure' ? '–' : against,
        ratioText(result),
        mustReach === null ? '–' : `${sign} ${mustReach}`,
        aim === null ? '–' : `${sign} ${aim}`,
        mustReach === null ? '–' : isMet(result) ? 'yes' : '**no**',
        sideText(sides.ours, sides.unit, durability[0]),
        result.of === 'figure' ? '–' : sideText(sides.theirs, sides.unit, durability[1]),
      ]
    }),
  )
}

export function ratioText({ ratio, sides, of }: Result): string {
  const [median, min, max] = [ratio.median, ratio.min, ratio.max].map((value) => shown(value))
  const text = `${median} (${min}–${max})`
  if (of === 'difference') return `${text} ${sides.unit} more`
  return of === 'figure' ? `${text} ${sides.unit}` : text
}

function sideText({ value, cpuUs }: SideSummary, unit: string, durability: string): string {
  const cpu = Object.entries(cpuUs).map(([name, us]) => `${name} ${shown(us)}`)
  const parts = [`${shown(value.median)} ${unit} (${shown(value.min)}–${shown(value.max)})`]
  if (cpu.length > 0) parts.push(`CPU µs/job: ${cpu.join(', ')}`)
  parts.push(`durable: ${durability}`)
  return parts.join('; ')
}

function checks(results: Result[]): string {
  return table(
    ['row', 'what', 'accepted', 'delivered', 'twice', 'notes'],
    results
      .filter(({ delivery, notes }) => delivery !== null || notes.length > 0)
      .map(({ row, what, against, delivery, notes }) => [
        row,
        `${what}, against ${against}`,
        ...(delivery === null
          ? ['–', '–', '–']
          : [delivery.accepted, delivery.delivered, delivery.doubles].map(String)),
        notes.join('; '),
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
  const [begin, end] = [`<!-- ${name}: made by bench/report.ts -->`, `<!-- end of ${name} -->`]
  const [from, to] = [page.indexOf(begin), page.indexOf(end)]
  if (from < 0 || to < from) throw new Error(`the marks of ${name} are missing in ${PAGE}`)
  writeFileSync(PAGE, `${page.slice(0, from + begin.length)}\n${text}${page.slice(to)}`)
}

const files = process.argv.slice(2)
if (files.length === 0) {
  console.error('usage: node bench/report.ts RUN.json...')
  process.exit(2)
}
const runs = files.map((file) => JSON.parse(readFileSync(file, 'utf8')) as RunReport)
const byRow = new Map<string, Result>()
for (const { results } of runs) {
  for (const result of results) {
    byRow.set(`${result.row} ${result.what} ${result.against}`, result)
  }
}
const results = [...byRow.values()]
write('runs', runs.map((run) => `- ${run.date}, ${run.machine}: \`${run.command}\`\n`).join(''))
write('results', resultsTable(results))
write('checks', checks(results))
