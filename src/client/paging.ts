// Iterates over a list and fetches its pages as needed.
import type { Page } from './job.ts'
import { PosthornError } from './posthorn-error.ts'

/** The largest page that the API returns. */
export const MAX_PAGE = 100

/**
 * Stops a list that never ends. The server scans 10,000 index entries for a page, so many pages in
 * a row can be empty. This number of pages covers ten million jobs, ten times the largest measured
 * store.
 */
const MAX_EMPTY_PAGES = 1_000

/**
 * Yields page after page.
 *
 * @throws PosthornError unexpected_answer if the list would not end: a cursor repeats, or pages
 *   stay empty
 */
export async function* eachPage<Item>(
  page: (cursor: string | undefined) => Promise<Page<Item>>,
): AsyncGenerator<Page<Item>, void> {
  const seen = new Set<string>()
  let emptyPages = 0
  for (let cursor: string | undefined; ; ) {
    const found: Page<Item> = await page(cursor)
    yield found
    if (found.nextCursor === null) return
    cursor = found.nextCursor
    if (seen.has(cursor)) throw endless(`the cursor ${JSON.stringify(cursor)} came twice`)
    seen.add(cursor)
    emptyPages = found.items.length === 0 ? emptyPages + 1 : 0
    if (emptyPages > MAX_EMPTY_PAGES) throw endless(`${MAX_EMPTY_PAGES} pages were empty`)
  }
}

export async function* eachItem<Item>(
  page: (cursor: string | undefined) => Promise<Page<Item>>,
): AsyncGenerator<Item, void> {
  for await (const { items } of eachPage(page)) yield* items
}

function endless(found: string): PosthornError {
  return new PosthornError({
    code: 'unexpected_answer',
    status: 200,
    detail: `the list does not come from Posthorn: ${found}`,
  })
}
