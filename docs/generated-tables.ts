// The tables of the docs that the code knows better: `npm run docs` writes them between their
// marks.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { SETTINGS } from '../src/config.ts'
import { ERRORS } from '../src/errors.ts'
import { GUARDS, type Guard, LIFECYCLE, type LifecycleEvent } from '../src/job/lifecycle.ts'
import { DELIVERY_HEADERS, type SentWith } from '../src/webhook/delivery-headers.ts'

const ROOT = join(import.meta.dirname, '..')

/** Which table stands in which page. */
const TABLES: Record<string, { page: string; print: () => string }> = {
  settings: { page: 'README.md', print: settingsTable },
  events: { page: 'docs/LIFECYCLE.md', print: eventsTable },
  guards: { page: 'docs/LIFECYCLE.md', print: guardsTable },
  errors: { page: 'docs/ERRORS.md', print: errorsTable },
  'delivery headers': { page: 'docs/deliveries.md', print: deliveryHeadersTable },
}

/** The page as it should be, and as it is. */
export function pages(): { page: string; found: string; expected: string }[] {
  return [...new Set(Object.values(TABLES).map(({ page }) => page))].map((page) => {
    const found = readFileSync(join(ROOT, page), 'utf8')
    const expected = Object.entries(TABLES)
      .filter(([, table]) => table.page === page)
      .reduce((text, [name, { print }]) => replaceBetweenMarks(text, name, print()), found)
    return { page, found, expected }
  })
}

function replaceBetweenMarks(text: string, name: string, table: string): string {
  const [begin, end] = [`<!-- ${name}: made by npm run docs -->`, `<!-- end of ${name} -->`]
  const [from, to] = [text.indexOf(begin), text.indexOf(end)]
  if (from < 0 || to < from) throw new Error(`the marks of the table ${name} are missing`)
  return `${text.slice(0, from + begin.length)}\n${table}${text.slice(to)}`
}

function table(head: string[], rows: string[][]): string {
  const line = (cells: string[]) =>
    `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |\n`
  return line(head) + line(head.map(() => '---')) + rows.map(line).join('')
}

function settingsTable(): string {
  const rows = Object.entries(SETTINGS).map(([name, { default: fallback, meaning }]) => [
    `\`${name}\``,
    fallback === null ? '' : `\`${fallback}\``,
    meaning,
  ])
  return table(['variable', 'default', 'meaning'], rows)
}

function eventsTable(): string {
  const rows = Object.entries(LIFECYCLE as Record<string, LifecycleEvent>).map(([name, event]) => [
    name,
    event.from.join(', ') || '(none)',
    event.guards.join(', ') || '(none)',
    event.to ?? '(gone)',
    event.also,
    event.by.join(', '),
  ])
  return table(['event', 'from', 'guards', 'to', 'the same write also', 'by'], rows)
}

function guardsTable(): string {
  return table(['guard', 'what the write proves'], Object.entries(GUARDS) as [Guard, string][])
}

function errorsTable(): string {
  const rows = Object.entries(ERRORS).map(([code, { status, title }]) => [
    `\`${code}\``,
    String(status),
    title,
  ])
  return table(['code', 'status', 'title'], rows)
}

const SENT_WITH: Record<SentWith, string> = {
  all: 'every request',
  jobs: 'jobs',
  schedules: 'jobs of a schedule',
  async: 'jobs of an endpoint with `"completion": "async"`',
  traces: 'jobs that were enqueued with a trace, or where traces are exported',
  pings: 'test pings',
}

function deliveryHeadersTable(): string {
  const rows = Object.entries(DELIVERY_HEADERS).map(([name, { sentWith, meaning }]) => [
    `\`${name}\``,
    meaning,
    SENT_WITH[sentWith],
  ])
  return table(['header', 'value', 'sent with'], rows)
}

if (import.meta.main) {
  for (const { page, expected } of pages()) writeFileSync(join(ROOT, page), expected)
}
