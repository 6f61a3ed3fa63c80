// How minute statistics come into either store and out of it: in bounded writes, and by whole
// minutes only.

export const MINUTE_MS = 60_000
/** How long the statistics of a minute are kept. */
export const MINUTE_STATS_KEPT_MS = 48 * 3_600_000
/** Rows that one call adds at most: one write of either store. */
export const MAX_MINUTE_STATS_ADDED = 200
/**
 * Every minute of 48 h at 34 busy endpoints. With more of them the oldest minutes are left out, so
 * that what is told of a minute is always all of it.
 */
export const MAX_MINUTE_STATS_READ = 100_000

/** Upper bounds of the histogram of durations in MinuteStats, in ms; one more bucket is above. */
export const DURATION_BOUNDS_MS = [10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000]

/** What ended at one endpoint within one minute. */
export interface MinuteStats {
  /** Its first instant. */
  minute: number
  endpoint: string
  succeeded: number
  failed: number
  /** Attempts by duration: one count for each of DURATION_BOUNDS_MS, and one above. */
  durations: number[]
}

/** Tells a report from its repetition. */
export interface MinuteStatsReport {
  /** Names the process: letters, digits, `-` and `_`. */
  writer: string
  /** Grows with each report of the writer. */
  number: number
}

/** Whole minutes, oldest first. */
export interface MinuteStatsRange {
  stats: MinuteStats[]
  /** Older minutes were asked for and are left out: they are too many. */
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
