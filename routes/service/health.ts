// GET /, which says what this server is, and the health of the process.
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { z } from 'zod'
import { type Store, StoreUnavailable, UNAVAILABLE } from '../../src/store/store.ts'
import { jsonAnswer, noQuery } from '../http/route-schema.ts'

/** How old an answer about the store may be. */
const STORE_CHECK_AGE_MS = 250

export function registerRootRoute(app: FastifyInstance, { version }: { version: string }): void {
  app.get(
    '/',
    {
      config: { open: true },
      schema: {
        summary: 'What this server is, with links',
        querystring: noQuery,
        response: { 200: jsonAnswer('where to go on', z.looseObject({})) },
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
  const storeReady = createStoreCheck(store)

  app.get(
    '/health/live',
    {
      config: open,
      schema: {
        summary: 'Whether the process responds',
        querystring: noQuery,
        response: {
          200: jsonAnswer('the process is alive', z.object({ status: z.literal('ok') })),
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
          200: jsonAnswer('it can work', readiness('ok')),
          503: jsonAnswer('it cannot work: checks gives the reason', readiness('unavailable')),
        },
        responseHeaders: { 503: ['retry-after'] },
      },
    },
    async (request, reply) => {
      try {
        await storeReady(request)
        return { status: 'ok', checks: { store: 'ok' } }
      } catch (error) {
        reply.code(503).header('retry-after', '1')
        const kind = error instanceof StoreUnavailable ? error.kind : 'no_answer'
        return { status: 'unavailable', checks: { store: UNAVAILABLE[kind] } }
      }
    },
  )
}

function readiness(status: string) {
  const checks = z.record(z.string(), z.string())
  return z.object({ status: z.literal(status), checks })
}

/** One check serves all requests of a moment: without a key, anybody could ask for thousands. */
function createStoreCheck(store: Store): (request: FastifyRequest) => Promise<void> {
  let check: Promise<void> | null = null
  return ({ log, id }) => {
    check ??= store
      .ready()
      .catch((error) => {
        log.warn({ err: error, requestId: id }, 'store.not_ready')
        throw error
      })
      .finally(() => {
        setTimeout(() => {
          check = null
        }, STORE_CHECK_AGE_MS).unref()
      })
    return check
  }
}
