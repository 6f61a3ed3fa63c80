// GET /, which describes this server, and the health of the process.
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { createStoreCheck } from '../../src/http/health-server.ts'
import type { Store } from '../../src/store/store.ts'
import { StoreUnavailable } from '../../src/store/store-errors.ts'
import { jsonResponse, noQuery } from '../http/route-schema.ts'

const ENDPOINTS_PER_CHECK = 100

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
  const checkKeys = createKeyCheck(store)
  const checkStore = createStoreCheck(async () => {
    await store.ready()
    await checkKeys()
  })

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
        summary: 'Whether the store accepts writes, and the secrets of endpoints can be decrypted',
        querystring: noQuery,
        response: {
          200: jsonResponse('the process is ready', readiness('ok')),
          503: jsonResponse('not ready: checks gives the reason', readiness('unavailable')),
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

/**
 * Returns a check that reads one page of the endpoints at each call, because each endpoint has
 * secrets to decrypt. It throws StoreUnavailable if this process lacks the key of an endpoint that
 * was read in this pass or in the last one.
 */
function createKeyCheck(store: Store): () => Promise<void> {
  let after: string | null = null
  let inLastPass: string | null = null
  let inThisPass: string | null = null
  return async () => {
    const { items, next } = await store.listEndpoints(after, ENDPOINTS_PER_CHECK)
    inThisPass ??= items.find(({ undecryptable }) => undecryptable !== null)?.undecryptable ?? null
    after = next
    if (next === null) {
      inLastPass = inThisPass
      inThisPass = null
    }
    const reason = inThisPass ?? inLastPass
    if (reason !== null) throw new StoreUnavailable(reason, { kind: 'other_key' })
  }
}

function readiness(status: string) {
  const checks = z.record(z.string(), z.string())
  return z.object({ status: z.literal(status), checks })
}
