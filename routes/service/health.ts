// GET /, which describes this server, and the health of the process.
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { createStoreCheck } from '../../src/http/health-server.ts'
import type { Store } from '../../src/store/store.ts'
import { jsonResponse, noQuery } from '../http/route-schema.ts'

export function registerRootRoute(app: FastifyInstance, { version }: { version: string }): void {
  app.get(
    '/',
    {
      config: { open: true },
      schema: {
        summary: 'What this server is, with links',
        querystring: noQuery,
        response: { 200: jsonResponse('links to the parts of the API', z.looseObject({})) },
      },
    },
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
}

export function registerHealthRoutes(app: FastifyInstance, { store }: { store: Store }): void {
  const open = { open: true }
  const checkStore = createStoreCheck(() => store.ready())

  app.get(
    '/health/live',
    {
      config: open,
      schema: {
        summary: 'Whether the process responds',
        querystring: noQuery,
        response: {
          200: jsonResponse('the process is alive', z.object({ status: z.literal('ok') })),
        },
      },
    },
    async () => ({ status: 'ok' }),
  )

  app.get(
    '/health/ready',
    {
      config: open,
      schema: {
        summary: 'Whether the store accepts writes',
        querystring: noQuery,
        response: {
          200: jsonResponse('it can work', readiness('ok')),
          503: jsonResponse('it cannot work: checks gives the reason', readiness('unavailable')),
        },
        responseHeaders: { 503: ['retry-after'] },
      },
    },
    async (request, reply) => {
      const found = await checkStore(request)
      if (found !== 'ok') reply.code(503).header('retry-after', '1')
      return { status: found === 'ok' ? 'ok' : 'unavailable', checks: { store: found } }
    },
  )
}

function readiness(status: string) {
  const checks = z.record(z.string(), z.string())
  return z.object({ status: z.literal(status), checks })
}
