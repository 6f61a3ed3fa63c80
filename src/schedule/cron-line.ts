// The grammar of cron expressions that Posthorn accepts, as docs/schedules.md describes it. The
// cron library accepts more, undocumented and subject to change (dates, seconds, `+5`, `MON#L`), so
// it only gets lines that were checked here.

export const MAX_CRON_LENGTH = 128

const NICKNAMES = new Map(
  Object.entries({
    '@yearly': '0 0 1 1 *',
    '@annually': '0 0 1 1 *',
    '@monthly': '0 0 1 * *',
    '@weekly': '0 0 * * 0',
    '@daily': '0 0 * * *',
    '@midnight': '0 0 * * *',
    '@hourly': '0 * * * *',
  }),
)

const MONTHS = ['JAN', 'FEB', 'MAR', 'APR', 'MAY', 'JUN', 'JUL', 'AUG', 'SEP', 'OCT', 'NOV', 'DEC']
const DAYS = ['SUN', 'MON', 'TUE', 'WED', 'THU', 'FRI', 'SAT']

interface Field {
  name: string
  min: number
  max: number
  /** The largest step: the number of values. */
  maxStep: number
  /** Names of the values in order, starting with `min`. */
  names: string[]
  /** Items other than values, ranges and steps. */
  extra: RegExp | null
  expected: string
}

const FIELDS: Field[] = [
  { name: 'minute', min: 0, max: 59, maxStep: 60, names: [], extra: null, expected: '0 to 59' },
  { name: 'hour', min: 0, max: 23, maxStep: 24, names: [], extra: null, expected: '0 to 23' },
  {
    ...{ name: 'day of month', min: 1, max: 31, maxStep: 31, names: [] },
    extra: /^(?:L|(?<value>\d{1,2})W)$/,
    expected: '1 to 31, L, or like 15W',
  },
  {
    ...{ name: 'month', min: 1, max: 12, maxStep: 12, names: MONTHS, extra: null },
    expected: '1 to 12, or JAN to DEC',
  },
  {
    ...{ name: 'day of week', min: 0, max: 7, maxStep: 7, names: DAYS },
    extra: /^(?<value>\d{1,2}|[A-Z]{3})(?:L|#[1-5])$/,
    expected: '0 to 7, SUN to SAT, or like 5L and 5#2',
  },
]

const DAY_OF_MONTH = 2
const DAY_OF_WEEK = 4

const ITEM =
  /^(?:\*|(?<from>\d{1,2}|[A-Z]{3})(?:-(?<to>\d{1,2}|[A-Z]{3}))?)(?:\/(?<step>\d{1,2}))?$/

/** The problem of a cron line, as a sentence that names the field; null: the line is valid. */
export function cronProblem(line: string): string | null {
  if (line.length > MAX_CRON_LENGTH) return `longer than ${MAX_CRON_LENGTH} characters`
  const fields = fieldsOf(line)
  if (fields.length !== FIELDS.length) {
    const names = FIELDS.map(({ name }) => name).join(', ')
    const found = line.startsWith('@') ? `"${line}"` : fields.length
    return (
      `expected five fields separated by spaces (${names}), or one of @yearly, @monthly, ` +
      `@weekly, @daily, @hourly; found ${found}`
    )
  }
  for (const [i, text] of fields.entries()) {
    const field = FIELDS[i] as Field
    const problem = fieldProblem(text.toUpperCase(), field)
    if (problem !== null) return `the field ${field.name} is wrong: "${text}": ${problem}`
  }
  return null
}

/**
 * The line as five fields, and how its two day fields combine. If one of them begins with a star, a
 * day must match both; otherwise it must match either. This is the rule of Vixie cron and cronie: a
 * step from a star in the day of week, with `1-7`, means the first Sunday of the month.
 *
 * @param line a valid line (cronProblem)
 */
export function readCronLine(line: string): { fields: string; isBoth: boolean } {
  const fields = fieldsOf(line)
  const isBoth = [DAY_OF_MONTH, DAY_OF_WEEK].some((i) => fields[i]?.startsWith('*'))
  return { fields: fields.join(' '), isBoth }
}

function fieldsOf(line: string): string[] {
  const text = NICKNAMES.get(line.toLowerCase()) ?? line
  return text.split(/[ \t]+/).filter((field) => field !== '')
}

function fieldProblem(text: string, field: Field): string | null {
  for (const item of text.split(',')) {
    const problem = itemProblem(item, field)
    if (problem !== null) return problem
  }
  return null
}

function itemProblem(item: string, field: Field): string | null {
  const expected = `expected ${field.expected}`
  const extra = field.extra?.exec(item)
  if (extra) {
    const value = extra.groups?.value
    return value === undefined || numberOf(value, field) !== null ? null : expected
  }
  const match = ITEM.exec(item)
  if (match === null) return `${expected}, *, ranges like 1-5, or steps like */2`
  const { from, to, step } = match.groups ?? {}
  if (step !== undefined && (Number(step) < 1 || Number(step) > field.maxStep)) {
    return `expected a step of 1 to ${field.maxStep}`
  }
  if (from === undefined) return null
  const first = numberOf(from, field)
  if (first === null) return expected
  if (to === undefined) {
    return step === undefined ? null : 'expected a step after * or a range, like 5-59/10'
  }
  const last = lastOf(to, field)
  if (last === null) return expected
  return first <= last ? null : 'expected a range from the smaller to the larger value'
}

function numberOf(text: string, { min, max, names }: Field): number | null {
  const value = /^\d/.test(text) ? Number(text) : names.indexOf(text) + min
  const isKnown = /^\d/.test(text) || names.includes(text)
  return isKnown && value >= min && value <= max ? value : null
}

/** At the end of a range, SUN is the Sunday after Saturday. */
function lastOf(text: string, field: Field): number | null {
  return text === 'SUN' && field.names === DAYS ? 7 : numberOf(text, field)
}
