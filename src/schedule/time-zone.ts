// Converts between instants and local times of IANA time zones, with the rules for clock shifts.
//
// A local time is represented by the epoch milliseconds of the same wall-clock time in UTC.

import { TIME_ZONE_NAMES } from './time-zone-names.ts'

/** At least as long as any shift of any zone (Samoa skipped a whole day in 2011). */
const SHIFT_WINDOW_MS = 86_400_000
/** There are about 600 zones, and a name may be written in more than one case. */
const MAX_CACHED_ZONES = 2_000

const formats = new Map<string, Intl.DateTimeFormat>()

/** Names in lower case. Intl adds the zones that are newer than our copy of the database. */
const knownNames = new Set(
  [...TIME_ZONE_NAMES, ...Intl.supportedValuesOf('timeZone')].map((name) => name.toLowerCase()),
)

/**
 * Whether this is a name of the IANA database, in any case. Intl alone accepts more: offsets, which
 * have no rules for clock shifts, and abbreviations with its own meaning (its BST is Bangladesh).
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

/** The wall-clock time in the zone at this instant. */
export function localTimeAt(instant: number, zone: string): number {
  if (zone === 'UTC') return instant
  const fields: Partial<Record<Intl.DateTimeFormatPartTypes, number>> = {}
  for (const { type, value } of formatOf(zone).formatToParts(instant)) fields[type] = Number(value)
  const { year = 0, month = 1, day = 1, hour = 0, minute = 0, second = 0 } = fields
  const milliseconds = ((instant % 1_000) + 1_000) % 1_000
  return Date.UTC(year, month - 1, day, hour, minute, second, milliseconds)
}

/**
 * The instant of a local time. A local time that exists twice means the first of the two instants;
 * one that does not exist means the instant of the shift that skipped it.
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

/** The first instant after `from` with the same offset as `to`. */
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
