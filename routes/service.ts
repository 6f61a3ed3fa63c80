// What the service says of itself: what it is, whether it is well, how to talk to it.
import type { FastifyInstance } from 'fastify'
import { type Store, StoreUnavailable, UNAVAILABLE } from '../src/store/store.ts'
import { nothing } from './schemas.ts'

export function registerServiceRoutes(
  app: FastifyInstance,
  { store, version }: { store: Store; version: string },
): void {
  const open = { open: true }

  app.get(
    '/',
    { config: open, schema: { summary: 'What this is, and where to go on', querystring: nothing } },
    async () => ({
      name: 'Posthorn',
      version,
      description:
        'A job queue over HTTP: post a job, it calls your webhook until the work is done.',
      links: {
        docs: '/docs',
        dashboard: '/dashboard',
        api: '/openapi.json',
        jobs: '/jobs',
        endpoints: '/endpoints',
        health: '/health/ready',
      },
    }),
  )

  app.get(
    '/health/live',
    { config: open, schema: { summary: 'The process answers', querystring: nothing } },
    async () => ({ status: 'ok' }),
  )

  app.get(
    '/health/ready',
    { config: open, schema: { summary: 'The store takes writes', querystring: nothing } },
    async (request, reply) => {
      try {
        await store.ready()
        return { status: 'ok', checks: { store: 'ok' } }
      } catch (error) {
        request.log.warn({ err: error, requestId: request.id }, 'store.not_ready')
        reply.code(503).header('retry-after', '1')
        const kind = error instanceof StoreUnavailable ? error.kind : 'no_answer'
        return { status: 'unavailable', checks: { store: UNAVAILABLE[kind] } }
      }
    },
  )

  app.get(
    '/openapi.json',
    { config: open, schema: { summary: 'This API as OpenAPI 3.1', querystring: nothing } },
    async () => app.swagger(),
  )
}
