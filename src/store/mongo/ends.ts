// Tells which jobs a batch has ended. A batch answers only how many matched: if not all did, those
// that carry its mark are read back.
import type { Filter } from 'mongodb'
import type { FailureReason } from '../../job/job.ts'
import { type AttemptDocument, attemptOf } from './attempt-documents.ts'
import type { MongoContext } from './context.ts'
import type { JobDocument } from './documents.ts'
import { BY_ID } from './indexes.ts'
import { type Deadline, run } from './run-command.ts'

type Ended = Pick<JobDocument, '_id' | 'endpoint'>

/** For jobs that died without an attempt, by a write that set `releaseId` to `writeId`. */
export async function tellDied<T extends Ended>(
  context: MongoContext,
  jobs: T[],
  diedOf: FailureReason,
  { writeId, count }: { writeId: string; count: number },
  deadline: Deadline,
): Promise<T[]> {
  const ended = await writtenAmong(context, jobs, { releaseId: writeId }, count, deadline)
  for (const { _id: jobId, endpoint } of ended) {
    context.ends.tell({ jobId, endpoint, attempt: null, diedOf })
  }
  return ended
}

/** For attempts that a write ended in the place of their holders. */
export async function tellAttemptsEnded<T extends Ended>(
  context: MongoContext,
  ends: { job: T; attempt: AttemptDocument }[],
  diedOf: FailureReason | null,
  { writeId, count }: { writeId: string; count: number },
  deadline: Deadline,
): Promise<T[]> {
  const jobs = ends.map(({ job }) => job)
  const mark = { 'attempts.writeId': writeId }
  const ended = new Set(await writtenAmong(context, jobs, mark, count, deadline))
  for (const { job, attempt } of ends) {
    if (!ended.has(job)) continue
    const { _id: jobId, endpoint } = job
    context.ends.tell({ jobId, endpoint, attempt: attemptOf(attempt), diedOf })
  }
  return [...ended]
}

async function writtenAmong<T extends Ended>(
  context: MongoContext,
  jobs: T[],
  mark: Filter<JobDocument>,
  count: number,
  deadline: Deadline,
): Promise<T[]> {
  if (count === jobs.length || count === 0) return count === 0 ? [] : jobs
  const ids = jobs.map(({ _id }) => _id)
  const found = await run(deadline, (limit) =>
    context.jobs
      .find(
        { $and: [{ _id: { $in: ids } }, mark] },
        { projection: { _id: 1 }, batchSize: ids.length + 1, ...BY_ID, ...limit },
      )
      .toArray(),
  )
  const marked = new Set(found.map(({ _id }) => _id))
  return jobs.filter(({ _id }) => marked.has(_id))
}
