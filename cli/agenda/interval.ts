// Converts intervals of Agenda to those of Posthorn: a cron expression or a duration.
import { formatDuration } from '../../src/job/duration.ts'

export type Interval = { cron: string } | { everyMs: number } | { problem: string }

const SECOND_MS = 1_000
const DAY_MS = 86_400_000
/** The units as Agenda defines them: a month has 30 days, a year 365. */
const UNITS_MS: Record<string, number> = {
  second: SECOND_MS,
  minute: 60_000,
  hour: 3_600_000,
  day: DAY_MS,
  week: 7 * DAY_MS,
  month: 30 * DAY_MS,
  year: 365 * DAY_MS,
}
const WORDS = [
  ...['one', 'two', 'three', 'four', 'five', 'six'],
  ...['seven', 'eight', 'nine', 'ten', 'eleven', 'twelve'],
]
const PART = /^(?:(\d+(?:\.\d+)?|[a-z]+) )?(second|minute|hour|day|week|month|year)s?(?: |$)/
const MAX_LENGTH = 200
const CRON_FIELD = /^[\d*/,?A-Za-z#-]+$/

/** @param repeatInterval a cron expression, words like "3 minutes", or milliseconds */
export function intervalOf(repeatInterval: string | number): Interval {
  const text = String(repeatInterval).trim()
  if (text.length > MAX_LENGTH)
    return { problem: `its interval is longer than ${MAX_LENGTH} characters` }
  const numeric = text === '' ? Number.NaN : Number(text)
  if (Number.isFinite(numeric)) return everyInterval(numeric, text)
  const wordsMs = durationInWords(text.toLowerCase())
  return wordsMs === null ? cronLine(text) : everyInterval(wordsMs, text)
}

/** @param repeatAt a time of day, like 3:30pm or 15:30 */
export function timeOfDay(repeatAt: string): Interval {
  const [, hours, minutes = '0', half] =
    /^(?:at )?(\d{1,2})(?::(\d{2}))? ?(am|pm)?$/.exec(repeatAt.trim().toLowerCase()) ?? []
  const isTime = hours !== undefined && (half !== undefined || repeatAt.includes(':'))
  const hour = half === undefined ? Number(hours) : (Number(hours) % 12) + (half === 'pm' ? 12 : 0)
  const isHour = half === undefined ? Number(hours) < 24 : Number(hours) >= 1 && Number(hours) <= 12
  if (!isTime || !isHour || Number(minutes) > 59) {
    return { problem: `repeatAt "${shortened(repeatAt)}" is not a time of day` }
  }
  return { cron: `${Number(minutes)} ${hour} * * *` }
}

function everyInterval(valueMs: number, text: string): Interval {
  const everyMs = Math.round(valueMs)
  if (everyMs >= SECOND_MS && everyMs <= 366 * DAY_MS) return { everyMs }
  return {
    problem: `an interval of "${shortened(text)}" is not between 1s and ${formatDuration(366 * DAY_MS)}`,
  }
}

/** Milliseconds of words like "1 day and 3 hours"; null: the text is something else. */
function durationInWords(text: string): number | null {
  let rest = text.replace(/([^a-z\d.-]|\band\b)+/g, ' ').trim()
  let totalMs = 0
  while (rest !== '') {
    const match = PART.exec(rest)
    const count = match === null ? Number.NaN : numberOf(match[1] ?? 'one')
    if (match === null || Number.isNaN(count)) return null
    totalMs += count * (UNITS_MS[match[2] as string] as number)
    rest = rest.slice(match[0].length)
  }
  return totalMs === 0 ? null : totalMs
}

function numberOf(word: string): number {
  if (word === 'a' || word === 'an') return 1
  const index = WORDS.indexOf(word)
  return index === -1 ? Number.parseFloat(word) : index + 1
}

/** Agenda also reads six fields, the first of which is for seconds, and treats `?` like `*`. */
function cronLine(text: string): Interval {
  const fields = text.split(/\s+/)
  const [seconds] = fields
  if (fields.length === 6 && seconds !== '0') {
    return {
      problem: `"${shortened(text)}" has a field for seconds, which cron expressions of Posthorn do not have`,
    }
  }
  const five = fields.slice(-5)
  const isCron =
    (fields.length === 5 || fields.length === 6) && five.every((one) => CRON_FIELD.test(one))
  if (!isCron) return { problem: `"${shortened(text)}" is not a valid interval` }
  return { cron: five.map((field) => (field === '?' ? '*' : field)).join(' ') }
}

function shortened(text: string): string {
  return text.length <= 40 ? text : `${text.slice(0, 39)}…`
}
