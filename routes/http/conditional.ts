// Conditional requests: versions as entity tags (RFC 9110, section 8.8.3), and the headers that
// apply a request to one version only.
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { z } from 'zod'
import { AppError } from '../../src/errors.ts'
import type { IfVersion } from '../../src/store/precondition.ts'

/** Accepts any text, so that ifMatch can refuse If-None-Match with a message of its own. */
export const ifMatchHeaders = z.looseObject({
  'if-match': z
    .string()
    .regex(/^(\*|"\d{1,15}")$/, 'expected the ETag of an earlier response, like "3"')
    .optional(),
})

/** Headers of a write that can also create a record. */
export const writeHeaders = ifMatchHeaders.extend({
  'if-none-match': z.string().regex(/^\*$/, 'expected *, to create only').optional(),
})

/** Headers of a read. */
export const ifNoneMatchHeaders = z.object({ 'if-none-match': z.string().max(1_024).optional() })

export function etagOf(version: number): string {
  return `"${version}"`
}

/**
 * The version that a write to an existing record requires; null: any version. `*` also means any
 * version, because such a write changes nothing if the record does not exist.
 *
 * @throws AppError for If-None-Match, which such a write can never satisfy
 */
export function ifMatch(headers: Record<string, unknown>): number | null {
  if (headers['if-none-match'] !== undefined) {
    throw refusedIfNoneMatch('this request only changes what exists; send If-Match')
  }
  const wanted = matchOf(headers)
  return wanted === 'any' ? null : wanted
}

/**
 * The version that a write requires if it can also create the record. @throws AppError if both
 * headers are given
 */
export function writePrecondition(headers: Record<string, unknown>): IfVersion {
  if (headers['if-none-match'] === undefined) return matchOf(headers)
  if (headers['if-match'] === undefined) return 'none'
  throw refusedIfNoneMatch('cannot be given together with If-Match')
}

function matchOf(headers: Record<string, unknown>): number | 'any' | null {
  const text = headers['if-match']
  if (typeof text !== 'string') return null
  return text === '*' ? 'any' : Number(text.slice(1, -1))
}

function refusedIfNoneMatch(message: string): AppError {
  return new AppError('invalid_request', `header/if-none-match: ${message}`, {
    errors: [{ path: 'header/if-none-match', message }],
  })
}

const CONDITIONS = ['if-match', 'if-none-match'] as const

/**
 * A client that sends a condition relies on it (RFC 9110, section 13.1). A route without conditions
 * refuses a request that has one, instead of ignoring it.
 */
export function refuseUnsupportedConditions(app: FastifyInstance): void {
  app.addHook('preValidation', (request, _reply, done) => {
    const found = CONDITIONS.find((name) => request.headers[name] !== undefined)
    const isSafe = request.method === 'GET' || request.method === 'HEAD'
    if (found === undefined || isSafe || request.is404 || supportsConditions(request)) return done()
    const message = 'this request supports no condition'
    done(
      new AppError('invalid_request', `header/${found}: ${message}`, {
        errors: [{ path: `header/${found}`, message }],
      }),
    )
  })
}

function supportsConditions({ routeOptions }: FastifyRequest): boolean {
  const headers = routeOptions.schema?.headers
  return headers instanceof z.ZodObject && 'if-match' in headers.shape
}

/** Whether the client has this version, by weak comparison, as If-None-Match requires. */
export function isNoneMatch(headers: Record<string, unknown>, version: number): boolean {
  const text = headers['if-none-match']
  if (typeof text !== 'string') return false
  const tags = text.split(',').map((tag) => tag.trim().replace(/^W\//, ''))
  return tags.includes('*') || tags.includes(etagOf(version))
}

/**
 * @param version null: the record does not exist
 * @param wanted the condition of the write
 */
export function stale(what: string, version: number | null, wanted: IfVersion = null): AppError {
  const found =
    version === null ? `there is no such ${what}` : `the ${what} is at version ${version}`
  const asked = askedFor(what, wanted)
  return new AppError('precondition_failed', `${asked}: ${found}`)
}

function askedFor(what: string, wanted: IfVersion): string {
  if (wanted === 'none') return `If-None-Match requires that there is no such ${what}`
  return wanted === 'any'
    ? `If-Match: * requires that the ${what} exists`
    : 'If-Match names another version'
}
