// GET /workers: the workers that reported within the last hour, and which of them are live.
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import type { Store } from '../../src/store/store.ts'
import { hasKey, isLive } from '../../src/store/worker-liveness.ts'
import { instantText, responseInstant } from '../../src/wire/fields.ts'
import { noQuery } from '../http/route-schema.ts'

export const workerListResponse = z.object({
  items: z.array(
    z.object({
      id: z.string(),
      version: z.string(),
      startedAt: responseInstant,
      seenAt: responseInstant,
      isLive: z.boolean(),
      concurrency: z.int(),
      inFlight: z.int().meta({ description: 'attempts in flight at the last heartbeat' }),
      hasEncryptionKey: z.boolean().meta({
        description:
          'false: its ENCRYPTION_KEY does not contain the key with which the API encrypts secrets, so it delivers nothing',
      }),
    }),
  ),
})

export function registerWorkersRoute(app: FastifyInstance, { store }: { store: Store }): void {
  app.get(
    '/workers',
    {
      schema: {
        summary: 'List the workers that reported within the last hour, at most 1000',
        querystring: noQuery,
        response: { 200: workerListResponse },
      },
    },
    async () => {
      const now = store.clock.now()
      const workers = await store.listWorkers()
      const keyIds = store.encryptionKeyIds()
      return {
        items: workers.map((worker) => ({
          id: worker.id,
          version: worker.version,
          startedAt: instantText(worker.startedAt),
          seenAt: instantText(worker.seenAt),
          isLive: isLive(worker, now),
          concurrency: worker.concurrency,
          inFlight: worker.inFlight,
          hasEncryptionKey: hasKey(worker, keyIds),
        })),
      }
    },
  )
}
