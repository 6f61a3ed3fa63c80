// Versions as entity tags (RFC 9110, section 8.8.3): what a client has read, and what it may
// change.
import { AppError } from '../src/errors.ts'
import type { IfVersion } from '../src/store/precondition.ts'

export function etagOf(version: number): string {
  return `"${version}"`
}

/** null: no precondition; `*` is none either, since no write here depends on mere existence. */
export function ifMatch(headers: Record<string, unknown>): number | null {
  const text = headers['if-match']
  return typeof text === 'string' && text !== '*' ? Number(text.slice(1, -1)) : null
}

/** Of a write that also creates. @throws AppError when both headers are given */
export function writePrecondition(headers: Record<string, unknown>): IfVersion {
  if (headers['if-none-match'] === undefined) return ifMatch(headers)
  if (headers['if-match'] === undefined) return 'none'
  const message = 'cannot be given together with If-Match'
  throw new AppError('invalid_request', `header/if-none-match: ${message}`, {
    errors: [{ path: 'header/if-none-match', message }],
  })
}

/** Whether the client has this version: weak comparison, as If-None-Match asks for. */
export function isNoneMatch(headers: Record<string, unknown>, version: number): boolean {
  const text = headers['if-none-match']
  if (typeof text !== 'string') return false
  const tags = text.split(',').map((tag) => tag.trim().replace(/^W\//, ''))
  return tags.includes('*') || tags.includes(etagOf(version))
}

/**
 * @param version null: there is no such record
 * @param wanted what the write depended on
 */
export function stale(what: string, version: number | null, wanted: IfVersion = null): AppError {
  const found =
    version === null ? `there is no such ${what}` : `the ${what} is at version ${version}`
  const asked =
    wanted === 'none'
      ? `If-None-Match asks that there be no such ${what}`
      : 'If-Match names another version'
  return new AppError('precondition_failed', `${asked}: ${found}`)
}
