// Rules for minute statistics, for both stores: writes are bounded, and reads return whole minutes
// only.

export const MINUTE_MS = 60_000
/** How long the statistics of a minute are kept. */
export const MINUTE_STATS_KEPT_MS = 48 * 3_600_000
/** The most rows that one call adds: one write in both stores. */
export const MAX_MINUTE_STATS_ADDED = 200
/**
 * Every minute of 48 h at 34 busy endpoints. With more endpoints the oldest minutes are left out,
 * so that a returned minute is always complete.
 */
export const MAX_MINUTE_STATS_READ = 100_000

/** Upper bounds of the histogram of durations in MinuteStats, in ms; one more bucket is above. */
export const DURATION_BOUNDS_MS = [10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000]

/** The attempts that ended at one endpoint within one minute. */
export interface MinuteStats {
  /** The first instant of the minute. */
  minute: number
  endpoint: string
  succeeded: number
  failed: number
  /** Attempts by duration: one count for each of DURATION_BOUNDS_MS, and one above. */
  durations: number[]
}

/** Identifies a report, so that a repeated one is not added twice. */
export interface MinuteStatsReport {
  /** Identifies the process: letters, digits, `-` and `_`. */
  writer: string
  /** Grows with each report of the writer. */
  number: number
}

/** Whole minutes, oldest first. */
export interface MinuteStatsRange {
  stats: MinuteStats[]
  /** true: older minutes were requested, but left out because there are too many. */
  more: boolean
}

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
 * @param newestFirst up to `limit` + 1 of them: one more shows that the oldest minute is not
 * complete
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
