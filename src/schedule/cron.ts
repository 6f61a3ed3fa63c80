// Cron lines: five fields, read as local times of a zone.
//
// croner reads the line and walks the calendar, but always in UTC: its own rules for clock shifts
// leave out ticks of a list or a step in spring and repeat them in autumn. What a local time means
// is settled in time-zone.ts, alike for every line.
import { Cron } from 'croner'
import { instantOf, localTimeAt } from './time-zone.ts'

export const MAX_CRON_LENGTH = 128
const FIELDS = ['minute', 'hour', 'day of month', 'month', 'day of week']
const NICKNAME = /^@(yearly|annually|monthly|weekly|daily|midnight|hourly)$/i
/** An instant that RFC 3339 can still write. */
const LAST_INSTANT = Date.UTC(9999, 11, 31)
/** A day of minutes that exist twice; no shift ever repeated more. */
const MAX_REPEATED_TICKS = 1_441
const MAX_CACHED_LINES = 1_000

const lines = new Map<string, Cron>()

/** What is wrong with a cron line, in a sentence that names the field; null: nothing. */
export function cronProblem(line: string): string | null {
  if (line.length > MAX_CRON_LENGTH) return `longer than ${MAX_CRON_LENGTH} characters`
  if (line.startsWith('@')) {
    return NICKNAME.test(line)
      ? null
      : `expected five fields, or one of @yearly, @monthly, @weekly, @daily, @hourly; found "${line}"`
  }
  const fields = line.split(/[ \t]+/)
  if (fields.length !== FIELDS.length || fields.includes('')) {
    const found = line.trim() === '' ? 0 : line.trim().split(/\s+/).length
    return `expected five fields parted by spaces (${FIELDS.join(', ')}); found ${found}`
  }
  for (const [i, field] of fields.entries()) {
    const problem = fieldProblem(field, i)
    if (problem !== null) return `the field ${FIELDS[i]} is wrong: "${field}": ${problem}`
  }
  return readingProblem(line)
}

/** The first tick after an instant, null: there is none any more. The line was checked. */
export function nextCronTick(line: string, zone: string, after: number): number | null {
  const cron = parsed(line)
  let localTime = localTimeAt(after, zone)
  // An hour that is repeated has had its ticks: local times are walked until one is new.
  for (let i = 0; i < MAX_REPEATED_TICKS; i++) {
    const next = cron.nextRun(new Date(localTime))
    if (next === null || next.getTime() > LAST_INSTANT) return null
    const instant = instantOf(next.getTime(), zone)
    if (instant > after) return instant
    localTime = next.getTime()
  }
  throw new Error(`no tick of "${line}" in ${zone} after ${after} within ${MAX_REPEATED_TICKS}`)
}

/** The line with all other fields free tells which one is wrong. */
function fieldProblem(field: string, position: number): string | null {
  // croner fills in the present time, which is another one at each reading.
  if (field.includes('?')) return '? is not known here'
  return readingProblem(FIELDS.map((_, i) => (i === position ? field : '*')).join(' '))
}

function readingProblem(line: string): string | null {
  try {
    parsed(line)
    return null
  } catch (error) {
    if (error instanceof TypeError || error instanceof RangeError) {
      return error.message.replace(/^CronPattern: /, '')
    }
    throw error
  }
}

function parsed(line: string): Cron {
  const known = lines.get(line)
  if (known !== undefined) return known
  const cron = new Cron(line, { mode: '5-part', timezone: 'UTC', paused: true })
  if (lines.size >= MAX_CACHED_LINES) lines.clear()
  lines.set(line, cron)
  return cron
}
