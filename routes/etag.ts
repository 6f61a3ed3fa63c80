// Versions as entity tags (RFC 9110, section 8.8.3): what a client has read, and what it may
// change.
import { AppError } from '../src/errors.ts'

export function etagOf(version: number): string {
  return `"${version}"`
}

/** null: no precondition; `*` is none either, since no write here depends on mere existence. */
export function ifMatch(headers: Record<string, unknown>): number | null {
  const text = headers['if-match']
  return typeof text === 'string' && text !== '*' ? Number(text.slice(1, -1)) : null
}

/** Whether the client has this version: weak comparison, as If-None-Match asks for. */
export function isNoneMatch(headers: Record<string, unknown>, version: number): boolean {
  const text = headers['if-none-match']
  if (typeof text !== 'string') return false
  const tags = text.split(',').map((tag) => tag.trim().replace(/^W\//, ''))
  return tags.includes('*') || tags.includes(etagOf(version))
}

/** @param version null: there is no such record */
export function stale(what: string, version: number | null): AppError {
  const found =
    version === null ? `there is no such ${what}` : `the ${what} is at version ${version}`
  return new AppError('precondition_failed', `If-Match names another version: ${found}`)
}
