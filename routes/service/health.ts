// What the service says of itself: what it is, whether it is well, how to talk to it.
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { type Store, StoreUnavailable, UNAVAILABLE } from '../../src/store/store.ts'
import { nothing } from '../../src/wire/fields.ts'
import { JSON_TYPE } from '../jobs/job-reply.ts'

/** How old an answer about the store may be. */
const STORE_CHECK_AGE_MS = 250

export function registerServiceRoutes(
  app: FastifyInstance,
  { store, version }: { store: Store; version: string },
): void {
  const open = { open: true }
  let document: Buffer | null = null
  const storeReady = createStoreCheck(store)

  app.get(
    '/',
    { config: open, schema: { summary: 'What this server is, with links', querystring: nothing } },
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
    { config: open, schema: { summary: 'Whether the process responds', querystring: nothing } },
    async () => ({ status: 'ok' }),
  )

  app.get(
    '/health/ready',
    { config: open, schema: { summary: 'Whether the store accepts writes', querystring: nothing } },
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

  app.get(
    '/openapi.json',
    {
      config: open,
      schema: { summary: 'The description of this API as OpenAPI 3.1', querystring: nothing },
    },
    async (_request, reply) => {
      // Made once: anybody may ask for it.
      document ??= Buffer.from(JSON.stringify(app.swagger()))
      return reply.type(JSON_TYPE).send(document)
    },
  )
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
