// Builds the URL of a call: base, path and query.
import { notNull, refuseNoDate } from './given.ts'

/** A name as one path segment. `.` and `..` are refused: resolving them would change the path. */
export function segment(name: string): string {
  if (typeof name !== 'string' || name === '' || name === '.' || name === '..') {
    throw new TypeError(`not an id or a name: ${JSON.stringify(name)}`)
  }
  return encodeURIComponent(name)
}

type QueryValue = string | number | boolean | Date | readonly string[] | undefined

/**
 * The query with its question mark, or an empty string. An array becomes one parameter per item.
 */
export function queryText(query: Record<string, QueryValue>): string {
  const parts = new URLSearchParams()
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (notNull(name, one) !== undefined) parts.append(name, valueText(name, one))
    }
  }
  const text = parts.toString()
  return text === '' ? '' : `?${text}`
}

function valueText(name: string, value: Exclude<QueryValue, undefined>): string {
  refuseNoDate(name, value)
  if (value instanceof Date) return value.toISOString()
  if (typeof value !== 'object' && typeof value !== 'function') return String(value)
  throw new TypeError(`${name} must be a string, a number or a Date`)
}

/** The part of every URL that precedes the path of the route. */
export function baseUrl(url: string | URL): string {
  if (!URL.canParse(String(url)))
    throw new TypeError('url is not a URL like https://jobs.example.com')
  const { protocol, username, password, origin, pathname, href } = new URL(url)
  if (protocol !== 'http:' && protocol !== 'https:') {
    throw new TypeError(`url must be http or https, not ${protocol}`)
  }
  if (/[?#]/.test(href)) throw new TypeError('url must not contain a query or a fragment')
  if (username !== '' || password !== '')
    throw new TypeError('url must not contain a user; use the option key')
  return origin + pathname.replace(/\/+$/, '')
}
