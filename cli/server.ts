// Connects to the server of POSTHORN_URL with POSTHORN_KEY. Nothing else reads these variables.
import { type Call, type ClientOptions, createCall } from '../src/client/call.ts'
import { type Page, Posthorn } from '../src/client/client.ts'
import { eachPage, MAX_PAGE } from '../src/client/paging.ts'
import { readVariable } from '../src/config.ts'
import { UsageError } from './exit.ts'

const DEFAULT_URL = 'http://127.0.0.1:8080'
/** Long, because a request about many jobs takes time, and no other request waits for it. */
const TIMEOUT_MS = 60_000

/** @throws UsageError or ConfigError if a variable is not valid */
export function connect(): Posthorn {
  return withOptions((options) => new Posthorn(options))
}

/** Connects for responses that are printed as they came: JSON.parse would change big integers. */
export function connectRaw(): Call {
  return withOptions(createCall)
}

function withOptions<T>(make: (options: ClientOptions) => T): T {
  const url = readVariable('POSTHORN_URL', process.env) ?? DEFAULT_URL
  const key = readVariable('POSTHORN_KEY', process.env) ?? undefined
  if (!URL.canParse(url)) {
    throw new UsageError(`POSTHORN_URL is "${url}"; expected a URL like ${DEFAULT_URL}.`)
  }
  try {
    return make({ url, key, timeoutMs: TIMEOUT_MS })
  } catch (error) {
    // Messages of the client name its options url and key.
    if (!(error instanceof TypeError)) throw error
    throw new UsageError(`POSTHORN_URL or POSTHORN_KEY cannot be used: ${error.message}.`)
  }
}

/**
 * The first items of a list, which are in memory together.
 *
 * @returns with the cursor of those after them; null: there are no more
 */
export async function firstItems<T>(
  limit: number,
  page: (options: { limit: number; cursor: string | undefined }) => Promise<Page<T>>,
): Promise<Page<T>> {
  const items: T[] = []
  const pages = eachPage((cursor) =>
    page({ limit: Math.min(limit - items.length, MAX_PAGE), cursor }),
  )
  for await (const found of pages) {
    items.push(...found.items)
    if (items.length >= limit) return { items, nextCursor: found.nextCursor }
  }
  return { items, nextCursor: null }
}

/** The items of all pages. */
export async function collected<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}
