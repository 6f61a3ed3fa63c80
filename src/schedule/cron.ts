// The ticks of cron lines. A cron line names local times of a time zone.
//
// croner walks the calendar, but always in UTC: its own rules for clock shifts skip ticks of a list
// or a step in spring and repeat them in autumn. time-zone.ts decides what a local time means, by
// one rule for all lines.
import { Cron } from 'croner'
import { readCronLine } from './cron-line.ts'
import { instantOf, localTimeAt } from './time-zone.ts'

/** Ticks are within these bounds. croner accepts only the years 1 to 9999 and throws on others. */
const CRON_BEGINS_AT = 0
const CRON_ENDS_AT = Date.UTC(3000, 0, 1)
/** One more than the minutes of a day: no clock shift has ever repeated more than a day. */
const MAX_REPEATED_TICKS = 1_441
const MAX_CACHED_LINES = 1_000
/**
 * A line without a tick within this many years has none: the rarest day, 29 February on a given day
 * of the week, recurs after 40 years at most. Without a bound croner searches ten centuries for a
 * day that never comes, which takes half a second for some lines.
 */
const YEARS_AHEAD = 50
/** The years are part of the cached object, so it is valid for one decade. */
const DECADE = 10

/** Cached by line and decade. */
const crons = new Map<string, Cron>()

/**
 * The first tick after an instant, from 1970 to 2999; null: there is none. The line must be valid.
 */
export function nextCronTick(line: string, zone: string, instant: number): number | null {
  const after = Math.max(instant, CRON_BEGINS_AT - 1)
  if (after >= CRON_ENDS_AT) return null
  let localTime = localTimeAt(after, zone)
  const cron = cronOf(line, new Date(localTime).getUTCFullYear())
  // A repeated hour has already had its ticks: skip local times until one is after the instant.
  for (let i = 0; i < MAX_REPEATED_TICKS; i++) {
    const next = cron.nextRun(new Date(localTime))
    if (next === null) return null
    const tick = instantOf(next.getTime(), zone)
    if (tick >= CRON_ENDS_AT) return null
    if (tick > after) return tick
    localTime = next.getTime()
  }
  throw new Error(`no tick of "${line}" in ${zone} after ${after} within ${MAX_REPEATED_TICKS}`)
}

function cronOf(line: string, year: number): Cron {
  const firstYear = year - (year % DECADE)
  const key = `${firstYear} ${line}`
  const known = crons.get(key)
  if (known !== undefined) return known
  const { fields, isBoth } = readCronLine(line)
  const lastYear = firstYear + DECADE + YEARS_AHEAD
  const cron = new Cron(`0 ${fields} ${firstYear}-${lastYear}`, {
    ...{ mode: '7-part', timezone: 'UTC', paused: true },
    domAndDow: isBoth,
  })
  if (crons.size >= MAX_CACHED_LINES) crons.clear()
  crons.set(key, cron)
  return cron
}
