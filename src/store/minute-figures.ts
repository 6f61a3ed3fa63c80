// How figures come into either store and out of it: in bounded writes, and by whole minutes only.
import { type FiguresRead, MAX_FIGURES_ADDED, type MinuteFigures } from './records.ts'

export const MINUTE_MS = 60_000
/**
 * Every minute of 48 h at 34 busy endpoints. With more of them the oldest minutes are left out, so
 * that what is told of a minute is always all of it.
 */
export const MAX_FIGURES_READ = 100_000

export function minuteOf(instant: number): number {
  return Math.floor(instant / MINUTE_MS) * MINUTE_MS
}

export function refuseTooMany({ length }: MinuteFigures[]): void {
  if (length > MAX_FIGURES_ADDED) {
    throw new RangeError(`${length} rows in a call of at most ${MAX_FIGURES_ADDED}`)
  }
}

/**
 * Oldest first.
 *
 * @param newestFirst up to `limit` + 1 of them: one more tells that the oldest minute is in pieces
 */
export function wholeMinutes(newestFirst: MinuteFigures[], limit = MAX_FIGURES_READ): FiguresRead {
  const oldest = newestFirst.at(-1)?.minute
  const isCut = newestFirst.length > limit
  const figures = newestFirst.filter(({ minute }) => !isCut || minute !== oldest).reverse()
  return { figures, more: isCut }
}
