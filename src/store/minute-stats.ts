// How minute statistics come into either store and out of it: in bounded writes, and by whole
// minutes only.
import { MAX_MINUTE_STATS_ADDED, type MinuteStats, type MinuteStatsRange } from './records.ts'

export const MINUTE_MS = 60_000
/**
 * Every minute of 48 h at 34 busy endpoints. With more of them the oldest minutes are left out, so
 * that what is told of a minute is always all of it.
 */
export const MAX_MINUTE_STATS_READ = 100_000

export function minuteOf(instant: number): number {
  return Math.floor(instant / MINUTE_MS) * MINUTE_MS
}

export function refuseTooMany({ length }: MinuteStats[]): void {
  if (length > MAX_MINUTE_STATS_ADDED) {
    throw new RangeError(`${length} rows in a call of at most ${MAX_MINUTE_STATS_ADDED}`)
  }
}

/**
 * Oldest first.
 *
 * @param newestFirst up to `limit` + 1 of them: one more tells that the oldest minute is in pieces
 */
export function wholeMinutes(
  newestFirst: MinuteStats[],
  limit = MAX_MINUTE_STATS_READ,
): MinuteStatsRange {
  const oldest = newestFirst.at(-1)?.minute
  const isCut = newestFirst.length > limit
  const stats = newestFirst.filter(({ minute }) => !isCut || minute !== oldest).reverse()
  return { stats, more: isCut }
}
