// The worker processes that were lately seen, as each reports itself every few seconds. Those not
// seen for long go by the TTL index.
import type { Collection } from 'mongodb'
import { COLLECTIONS } from '../collection-names.ts'
import { MAX_WORKERS, WORKER_KEPT_MS, type WorkerRecord, type WorkerReport } from '../records.ts'
import { type MongoContext, nowOf } from './context.ts'
import { type WorkerDocument, workerFields, workerOf } from './record-documents.ts'
import { run, startDeadline } from './run-command.ts'

export async function reportWorker(context: MongoContext, report: WorkerReport): Promise<void> {
  await run(startDeadline(), (limit) =>
    workersIn(context).updateOne(
      { _id: report.id },
      { $set: workerFields(report, nowOf(context)) },
      { upsert: true, ...limit },
    ),
  )
}

export async function removeWorker(context: MongoContext, id: string): Promise<void> {
  await run(startDeadline(), (limit) => workersIn(context).deleteOne({ _id: id }, limit))
}

/** Of more than fit those seen last: the living are not crowded out by the dead. */
export async function listWorkers(context: MongoContext): Promise<WorkerRecord[]> {
  const since = new Date(context.clock.now() - WORKER_KEPT_MS)
  const found = await run(startDeadline(), (limit) =>
    workersIn(context)
      .find(
        { seenAt: { $gt: since } },
        {
          sort: { seenAt: -1 },
          limit: MAX_WORKERS,
          batchSize: MAX_WORKERS + 1,
          ...limit,
        },
      )
      .toArray(),
  )
  return found.map(workerOf).sort((a, b) => (a.id < b.id ? -1 : 1))
}

function workersIn({ db }: MongoContext): Collection<WorkerDocument> {
  return db.collection(COLLECTIONS.workers)
}
