// The ticks of cron lines, which name local times of a zone.
//
// croner walks the calendar, but always in UTC: its own rules for clock shifts leave out ticks of a
// list or a step in spring and repeat them in autumn. What a local time means is decided in
// time-zone.ts, alike for every line.
import { Cron } from 'croner'
import { readCronLine } from './cron-line.ts'
import { instantOf, localTimeAt } from './time-zone.ts'

/** croner walks no further. */
export const CRON_ENDS_AT = Date.UTC(3000, 0, 1)
/** A day of minutes that exist twice; no shift ever repeated more. */
const MAX_REPEATED_TICKS = 1_441
const MAX_CACHED_LINES = 1_000

const lines = new Map<string, Cron>()

/** The first tick after an instant, null: there is none any more. The line was checked. */
export function nextCronTick(line: string, zone: string, after: number): number | null {
  const cron = parsed(line)
  let localTime = localTimeAt(after, zone)
  // An hour that is repeated has had its ticks: local times are walked until one is new.
  for (let i = 0; i < MAX_REPEATED_TICKS; i++) {
    const next = cron.nextRun(new Date(localTime))
    if (next === null) return null
    const instant = instantOf(next.getTime(), zone)
    if (instant > after) return instant
    localTime = next.getTime()
  }
  throw new Error(`no tick of "${line}" in ${zone} after ${after} within ${MAX_REPEATED_TICKS}`)
}

function parsed(line: string): Cron {
  const known = lines.get(line)
  if (known !== undefined) return known
  const read = readCronLine(line)
  const options = { mode: '5-part', timezone: 'UTC', paused: true } as const
  const cron = new Cron(read.line, { ...options, domAndDow: read.isBoth })
  if (lines.size >= MAX_CACHED_LINES) lines.clear()
  lines.set(line, cron)
  return cron
}
