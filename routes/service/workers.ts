// GET /workers: the workers that were seen lately, and which of them live.
import type { FastifyInstance } from 'fastify'
import { hasKey, isLive } from '../../src/store/records.ts'
import type { Store } from '../../src/store/store.ts'
import { nothing } from '../../src/wire/fields.ts'
import { instantText } from '../../src/wire/job-answers.ts'
import { workerListAnswer } from '../answers.ts'

export function registerWorkersRoute(app: FastifyInstance, { store }: { store: Store }): void {
  app.get(
    '/workers',
    {
      schema: {
        summary: 'List the workers seen within the last hour, at most 1000',
        querystring: nothing,
        response: { 200: workerListAnswer },
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
