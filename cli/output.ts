// What a command prints: lines, tables that fit the terminal, relative times, and colours only on a
// terminal. A reader that is gone (EPIPE), a full disk (ENOSPC) or a closed terminal (EIO) ends
// neither a server nor a command in the middle of its work.
import { styleText } from 'node:util'
import { formatDuration } from '../src/job/duration.ts'
import { EXIT } from './exit.ts'
import { cleaned, harmless } from './terminal-text.ts'

export type Style = 'green' | 'red' | 'yellow' | 'cyan' | 'dim'

export interface Column<Row> {
  title: string
  value: (row: Row) => string | number | null
  style?: (row: Row) => Style | null
}

/** Longer cells are cut, except in the last column. */
const MAX_WIDTH = 100
/** The least width of the last column, even on a narrower terminal. */
const MIN_LAST_WIDTH = 8
const GAP = '  '
/** Indents a last cell that is printed below its row. */
const BELOW = '    '
const NOTHING = '-'
/** Text that the reader has not read yet; beyond this, output is dropped. */
const MAX_WAITING_BYTES = 8 * 1_048_576

/** Prints to the standard output, without a line end. */
export function print(text: string): void {
  write(process.stdout, text)
}

export function printLine(line: string): void {
  print(`${line}\n`)
}

/** Prints errors, hints and progress to the standard error, so that a pipe gets only the result. */
export function printError(line: string): void {
  write(process.stderr, `${line}\n`)
}

function write(stream: NodeJS.WriteStream, text: string): void {
  if (stream.writableLength < MAX_WAITING_BYTES) stream.write(harmless(text))
}

/**
 * Must be called before anything is written: without a listener, an error of these streams ends the
 * process. A command whose result could not be written fails, unless its reader closed the pipe, as
 * `head` does.
 */
export function outliveReaders(isServer: boolean): void {
  process.stderr.on('error', () => {})
  let isReported = false
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (isServer || isReported || error.code === 'EPIPE') return
    isReported = true
    process.exitCode = EXIT.failed
    printError(`The result could not be written: ${error.message}.`)
  })
}

export function printJson(value: unknown): void {
  printJsonText(JSON.stringify(value, null, 2))
}

/**
 * Characters that JSON allows in a string, but that a terminal obeys or hides: C1, bidi and others.
 */
const HIDDEN = /[\u007f-\u009f\p{Cf}\p{Zl}\p{Zp}]/gu

/** @param text JSON; its hidden characters are printed as escapes */
export function printJsonText(text: string): void {
  printLine(text.replace(HIDDEN, escaped))
}

/** A value as one line of JSON without hidden characters; `none` for undefined. */
export function visibleJson(value: unknown): string {
  return (JSON.stringify(value) ?? 'none').replace(HIDDEN, escaped)
}

function escaped(character: string): string {
  const units = Array.from({ length: character.length }, (_, i) => character.charCodeAt(i))
  return units.map((unit) => `\\u${unit.toString(16).padStart(4, '0')}`).join('')
}

export function painted(text: string, style: Style | null): string {
  return style === null ? text : styleText(style, text, { stream: process.stdout })
}

/**
 * Aligned columns. The last one is never cut: on a terminal that is too narrow for it, it is
 * printed below the others, on as many lines as it needs.
 */
export function table<Row>(rows: readonly Row[], columns: readonly Column<Row>[]): string {
  const last = columns.length - 1
  const cells = rows.map((row) =>
    columns.map(({ value }, i) => {
      const cell = cellOf(value(row))
      return i === last ? cell : shortened(cell)
    }),
  )
  const titles = columns.map(({ title }) => title.toUpperCase())
  const widths = titles.map((title, i) =>
    Math.max(title.length, ...cells.map((line) => (line[i] as string).length)),
  )
  const before = widths.slice(0, last).reduce((sum, width) => sum + width + GAP.length, 0)
  // Files and pipes take any width, and some terminals do not report theirs.
  const total = process.stdout.columns || Number.POSITIVE_INFINITY
  const isBelow = before + (widths[last] as number) > total
  const room = Math.max(MIN_LAST_WIDTH, total - BELOW.length)
  const lineOf = (line: string[], style: (i: number) => Style | null) => {
    const shown = line
      .slice(0, last)
      .map((cell, i) => painted(cell.padEnd(widths[i] as number), style(i)))
    const end = line[last] as string
    if (!isBelow) return [...shown, painted(end, style(last))].join(GAP).trimEnd()
    const below = wrapped(end, room).map((part) => `${BELOW}${painted(part, style(last))}`)
    return [shown.join(GAP).trimEnd(), ...below].join('\n')
  }
  return [
    lineOf(titles, () => 'dim'),
    ...cells.map((line, r) => lineOf(line, (i) => columns[i]?.style?.(rows[r] as Row) ?? null)),
  ].join('\n')
}

function cellOf(value: string | number | null): string {
  const text = cleaned(String(value ?? NOTHING))
  return text === '' ? NOTHING : text
}

function shortened(text: string): string {
  return text.length <= MAX_WIDTH ? text : `${text.slice(0, MAX_WIDTH - 1)}…`
}

/** Lines of at most `width`, broken at spaces where possible. */
function wrapped(text: string, width: number): string[] {
  const lines: string[] = []
  let rest = text
  while (rest.length > width) {
    const space = rest.lastIndexOf(' ', width)
    const end = space > 0 ? space : width
    lines.push(rest.slice(0, end))
    rest = rest.slice(space > 0 ? end + 1 : end)
  }
  return [...lines, rest]
}

/** Names and values, one pair a line. Pairs with null are left out. */
export function record(fields: readonly (readonly [string, string | number | null])[]): string {
  const shown = fields.filter(([, value]) => value !== null)
  const width = Math.max(...shown.map(([name]) => name.length))
  return shown
    .map(([name, value]) => `${name.padEnd(width)}${GAP}${cleaned(String(value))}`)
    .join('\n')
}

const UNITS_MS = [86_400_000, 3_600_000, 60_000, 1_000]

/** An instant relative to now, like `3m ago` or `in 2h`. */
export function fromNow(instant: string | null): string | null {
  if (instant === null) return null
  const awayMs = Date.parse(instant) - Date.now()
  const unitMs = UNITS_MS.find((unit) => Math.abs(awayMs) >= unit)
  if (unitMs === undefined) return 'now'
  const text = formatDuration(Math.floor(Math.abs(awayMs) / unitMs) * unitMs)
  return awayMs < 0 ? `${text} ago` : `in ${text}`
}

const STATE_STYLES: Record<string, Style> = {
  succeeded: 'green',
  active: 'green',
  running: 'cyan',
  paused: 'yellow',
  resting: 'yellow',
  cancelled: 'dim',
  dead: 'red',
  disabled: 'red',
  deleting: 'red',
}

export function styleOfState(state: string): Style | null {
  return STATE_STYLES[state] ?? null
}
