// Checks request lines: a path or a method without a route (404, 405), and a query that is not
// percent-encoded UTF-8.
import type { FastifyInstance } from 'fastify'
import { AppError, NO_ROUTE } from '../../src/errors.ts'

interface MethodTable {
  /** The error of a request without a route. */
  refusal(method: string, url: string): AppError
}

/** Records the routes as they are registered, so the table must be created before them. */
export function createMethodTable(app: FastifyInstance): MethodTable {
  const paths = new Map<string, { shape: RegExp; methods: Set<string> }>()
  app.addHook('onRoute', ({ url, method }) => {
    const known = paths.get(url) ?? { shape: shapeOf(url), methods: new Set<string>() }
    for (const one of [method].flat()) known.methods.add(one)
    paths.set(url, known)
  })

  function refusal(method: string, url: string): AppError {
    const path = url.split('?', 1)[0] as string
    // `/jobs/batch` is not the id of a job: the path with the fewest parameters wins.
    const [known] = [...paths]
      .filter(([, { shape }]) => shape.test(path))
      .sort(([a], [b]) => a.split(':').length - b.split(':').length)
    if (known === undefined) return new AppError('not_found', `${NO_ROUTE}; see GET /`)
    const allow = [...known[1].methods].sort().join(', ')
    return new AppError(
      'method_not_allowed',
      `${method} is not supported here; expected ${allow}`,
      {
        headers: { allow },
      },
    )
  }

  // The check comes before the body is read: without a route, it does not matter what is wrong with
  // the body.
  app.addHook('preParsing', async (request) => {
    if (request.is404) throw refusal(request.method, request.url)
  })
  return { refusal }
}

/**
 * `/jobs/:id/cancel` as a pattern. Paths of Posthorn contain no other special character of a
 * RegExp.
 */
function shapeOf(url: string): RegExp {
  return new RegExp(`^${url.replaceAll('.', '\\.').replaceAll(/:[a-z]+/g, '[^/]+')}$`)
}

/** Fastify keeps an invalid escape unchanged: `%ff` would search for these three characters. */
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

/** Node reads the bytes of a request line as Latin-1, which changes non-ASCII bytes. */
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
