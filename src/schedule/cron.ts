// The ticks of cron lines, which name local times of a zone.
//
// croner walks the calendar, but always in UTC: its own rules for clock shifts leave out ticks of a
// list or a step in spring and repeat them in autumn. What a local time means is decided in
// time-zone.ts, alike for every line.
import { Cron } from 'croner'
import { readCronLine } from './cron-line.ts'
import { instantOf, localTimeAt } from './time-zone.ts'

/** Ticks lie within these bounds. croner takes the years 1 to 9999 only, and throws on others. */
const CRON_BEGINS_AT = 0
const CRON_ENDS_AT = Date.UTC(3000, 0, 1)
/** A day of minutes that exist twice; no shift ever repeated more. */
const MAX_REPEATED_TICKS = 1_441
const MAX_CACHED_LINES = 1_000
/**
 * A line without a tick within this many years has none: the rarest day, 29 February on one day of
 * the week, comes again after 40 years at most. Without a bound croner looks through ten centuries
 * for a day that never comes, which takes half a second of some lines.
 */
const YEARS_AHEAD = 50
/** The years are a part of what is cached: it is good for a decade. */
const DECADE = 10

/** By line and decade. */
const crons = new Map<string, Cron>()

/**
 * The first tick after an instant, from 1970 to 2999; null: there is none any more. The line was
 * checked.
 */
export function nextCronTick(line: string, zone: string, instant: number): number | null {
  const after = Math.max(instant, CRON_BEGINS_AT - 1)
  if (after >= CRON_ENDS_AT) return null
  let localTime = localTimeAt(after, zone)
  const cron = cronOf(line, new Date(localTime).getUTCFullYear())
  // An hour that is repeated has had its ticks: local times are walked until one is new.
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
