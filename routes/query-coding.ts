// Queries that are not percent-coded UTF-8: read as anything, they would not be what was sent.
import type { FastifyInstance } from 'fastify'
import { AppError } from '../src/errors.ts'

/** Fastify takes a code that is none as it is written: `%ff` would look for those three letters. */
export function refuseBadCoding(app: FastifyInstance): void {
  app.addHook('onRequest', ({ url }, _reply, done) => {
    const queryAt = url.indexOf('?')
    if (queryAt < 0 || isCodedText(url.slice(queryAt))) {
      done()
      return
    }
    const message = 'expected percent-coded UTF-8'
    throw new AppError('invalid_request', `query: ${message}`, {
      errors: [{ path: 'query', message }],
    })
  })
}

/** Node reads the bytes of a request line as Latin-1: beyond ASCII they are not what they were. */
function isCodedText(query: string): boolean {
  if (!/^[\x21-\x7e]*$/.test(query)) return false
  if (!query.includes('%')) return true
  try {
    decodeURIComponent(query)
    return true
  } catch (error) {
    if (error instanceof URIError) return false
    throw error
  }
}
