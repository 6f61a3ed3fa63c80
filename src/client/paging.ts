// All items of a list, its pages fetched as they are needed.
import type { Page } from './job.ts'
import { PosthornError } from './posthorn-error.ts'

/** The largest page that the API gives. */
export const MAX_PAGE = 100

/**
 * A page looks at 10,000 index entries, so that many in a row may be empty; but these are ten
 * million jobs, ten times as many as any store of Posthorn was measured with.
 */
const MAX_EMPTY_PAGES = 1_000

/**
 * Page after page.
 *
 * @throws PosthornError unexpected_answer when the list can have no end: a cursor comes again, or
 *   pages stay empty
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
    detail: `a list was answered by something that is not Posthorn: ${found}`,
  })
}
