// All items of a list, its pages fetched as they are needed.
import type { Page } from './job.ts'

/** The largest page that the API gives. */
export const MAX_PAGE = 100

export async function* eachItem<Item>(
  page: (cursor: string | undefined) => Promise<Page<Item>>,
): AsyncGenerator<Item, void> {
  let cursor: string | null | undefined
  do {
    const { items, nextCursor }: Page<Item> = await page(cursor ?? undefined)
    yield* items
    cursor = nextCursor
  } while (cursor !== null)
}
