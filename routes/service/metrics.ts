// GET /metrics, and the hook that counts requests.
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import type { ApiMetrics, QueueSnapshot } from '../../src/stats/metrics.ts'
import { StoreUnavailable } from '../../src/store/store-errors.ts'
import { noQuery } from '../http/route-schema.ts'

/**
 * Must be called before the routes are registered: a hook applies only to routes registered later.
 */
export function countRequests(app: FastifyInstance, metrics: ApiMetrics): void {
  app.addHook('onResponse', (request, reply, done) => {
    const { url } = request.routeOptions
    metrics.onRequest(request.method, url, reply.statusCode, reply.elapsedTime)
    done()
  })
}

export function registerMetricsRoute(
  app: FastifyInstance,
  { metrics, snapshot }: { metrics: ApiMetrics; snapshot: () => Promise<QueueSnapshot> },
): void {
  app.get(
    '/metrics',
    {
      schema: {
        summary: 'The metrics of this API process, for Prometheus',
        querystring: noQuery,
        response: {
          200: {
            description: 'Prometheus text format 0.0.4',
            content: { 'text/plain': { schema: z.string() } },
          },
        },
      },
    },
    async (request, reply) => {
      const { contentType, text } = await metrics.text(
        await snapshot().catch((error) => {
          // The metrics are sent without those of the store: while the store is away, the metrics
          // of the process itself are most important.
          if (!(error instanceof StoreUnavailable)) throw error
          request.log.warn({ err: error, requestId: request.id }, 'metrics.without_store')
          return null
        }),
      )
      return reply.type(contentType).send(text)
    },
  )
}
