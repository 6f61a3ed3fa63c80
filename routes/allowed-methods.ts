// Which methods each path knows: the difference between 404 and 405.
import type { FastifyInstance } from 'fastify'
import { AppError } from '../src/errors.ts'

export interface MethodTable {
  /** What a request that no route took is told. */
  refusal(method: string, url: string): AppError
}

/** Watches the routes as they are registered; must be made before them. */
export function createMethodTable(app: FastifyInstance): MethodTable {
  const paths = new Map<string, { shape: RegExp; methods: Set<string> }>()
  app.addHook('onRoute', ({ url, method }) => {
    const known = paths.get(url) ?? { shape: shapeOf(url), methods: new Set<string>() }
    for (const one of [method].flat()) known.methods.add(one)
    paths.set(url, known)
  })
  return {
    refusal(method, url) {
      const path = url.split('?', 1)[0] as string
      const known = [...paths.values()].find(({ shape }) => shape.test(path))
      if (known === undefined)
        return new AppError('not_found', 'no route has this path; GET / says where to go on')
      const allow = [...known.methods].sort().join(', ')
      return new AppError('method_not_allowed', `${method} is not known here; expected ${allow}`, {
        headers: { allow },
      })
    },
  }
}

/** `/jobs/:id/cancel` as a pattern; our paths hold nothing that a RegExp would take for its own. */
function shapeOf(url: string): RegExp {
  return new RegExp(`^${url.replaceAll('.', '\\.').replaceAll(/:[a-z]+/g, '[^/]+')}$`)
}
