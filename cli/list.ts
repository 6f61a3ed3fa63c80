// Lists that print at most --limit records: the option, how they are printed, and counts in them.
import type { Page } from '../src/client/client.ts'
import { wholeNumber } from './input.ts'
import { type Column, printError, printJson, printLine, table } from './output.ts'

const DEFAULT_LIMIT = '25'
/** All of them are in memory before they are printed. */
const MAX_LIMIT = 100_000

/** The API counts no further. */
const MAX_COUNT = 10_000

export const LIMIT_OPTION = {
  type: 'string',
  value: 'N',
  help: `at most this many; default ${DEFAULT_LIMIT}`,
} as const

export function listLimit(given: string | undefined): number {
  return wholeNumber('--limit', given ?? DEFAULT_LIMIT, 1, MAX_LIMIT)
}

/** @param empty printed if the list has no records */
export function printPage<T>(
  page: Page<T>,
  columns: Column<T>[],
  { limit, empty, isJson }: { limit: number; empty: string; isJson: boolean },
): void {
  if (isJson) {
    printJson(page)
    return
  }
  if (page.items.length === 0) printError(empty)
  else printLine(table(page.items, columns))
  if (page.nextCursor !== null) {
    printError(`There may be more than ${limit}; to list more, use --limit.`)
  }
}

/** @param more whether a count of the record is larger than it says */
export function countText(count: number, more = false): string {
  return more && count === MAX_COUNT ? `${count}+` : String(count)
}
