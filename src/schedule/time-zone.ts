// Local times of IANA time zones and the instants they mean: the rules for clock shifts are here.
//
// A local time is written as the milliseconds that the same wall clock would show in UTC.

import { TIME_ZONE_NAMES } from './time-zone-names.ts'

/** Longer than any shift that a zone has ever made (Samoa left out a whole day in 2011). */
const SHIFT_WINDOW_MS = 86_400_000
/** There are about 600 zones; a name may be spelled in more than one case. */
const MAX_CACHED_ZONES = 2_000

const formats = new Map<string, Intl.DateTimeFormat>()

/** In lower case. Those that Intl lists came into the database after our copy of it was made. */
const knownNames = new Set(
  [...TIME_ZONE_NAMES, ...Intl.supportedValuesOf('timeZone')].map((name) => name.toLowerCase()),
)

/**
 * Whether this is a name of the IANA database, in any case. Intl alone takes more: offsets, which
 * have no rules, and abbreviations in a meaning of its own (its BST is Bangladesh).
 */
export function isTimeZone(name: string): boolean {
  if (!knownNames.has(name.toLowerCase())) return false
  try {
    formatOf(name)
    return true
  } catch (error) {
    if (error instanceof RangeError) return false
    throw error
  }
}

/** What a wall clock in the zone shows at this instant. */
export function localTimeAt(instant: number, zone: string): number {
  if (zone === 'UTC') return instant
  const fields: Partial<Record<Intl.DateTimeFormatPartTypes, number>> = {}
  for (const { type, value } of formatOf(zone).formatToParts(instant)) fields[type] = Number(value)
  const { year = 0, month = 1, day = 1, hour = 0, minute = 0, second = 0 } = fields
  const milliseconds = ((instant % 1_000) + 1_000) % 1_000
  return Date.UTC(year, month - 1, day, hour, minute, second, milliseconds)
}

/**
 * The instant of a local time: of one that exists twice the first, of one that does not exist the
 * shift that left it out.
 */
export function instantOf(localTime: number, zone: string): number {
  if (zone === 'UTC') return localTime
  const offsetAt = (instant: number) => localTimeAt(instant, zone) - instant
  const byOffsetBefore = localTime - offsetAt(localTime - SHIFT_WINDOW_MS)
  const byOffsetAfter = localTime - offsetAt(localTime + SHIFT_WINDOW_MS)
  const earlier = Math.min(byOffsetBefore, byOffsetAfter)
  const later = Math.max(byOffsetBefore, byOffsetAfter)
  if (localTimeAt(earlier, zone) === localTime) return earlier
  if (localTimeAt(later, zone) === localTime) return later
  return firstInstantOf(offsetAt(later), earlier, later, offsetAt)
}

/** The first instant after `from` that has the offset which `to` has. */
function firstInstantOf(
  offset: number,
  from: number,
  to: number,
  offsetAt: (instant: number) => number,
): number {
  let before = from
  let after = to
  while (after - before > 1) {
    const middle = Math.floor((before + after) / 2)
    if (offsetAt(middle) === offset) after = middle
    else before = middle
  }
  return after
}

function formatOf(zone: string): Intl.DateTimeFormat {
  const known = formats.get(zone)
  if (known !== undefined) return known
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone: zone,
    calendar: 'iso8601',
    hourCycle: 'h23',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
    second: 'numeric',
  })
  if (formats.size >= MAX_CACHED_ZONES) formats.clear()
  formats.set(zone, format)
  return format
}
