// What a request with a dedupe key does to the queued or running job that has the key.
import type { UpdateFilter } from 'mongodb'
import type { NewJob } from '../../job/job.ts'
import { toFinal } from './changes.ts'
import { type MongoContext, nowOf } from './context.ts'
import { dateOrNull, type JobDocument, sealHeaders } from './documents.ts'
import type { Holder } from './enqueue-conflicts.ts'
import { guardOf } from './guards.ts'
import { BY_ID } from './indexes.ts'
import { type Deadline, isDuplicateKey, run } from './run-command.ts'

/** Keys that one job answers to. The oldest are forgotten, but for the one that made it. */
const MAX_KEYS = 1_000

export type TakenOver =
  | { kind: 'dedupe_conflict'; jobId: string }
  /** The request is answered with the job. */
  | { kind: 'unchanged' | 'changed' }
  /** The job has no longer the key. */
  | { kind: 'given_up'; isFinal: boolean }
  /** It is no longer what was read. */
  | { kind: 'raced' }

export async function takeOver(
  context: MongoContext,
  job: NewJob,
  holder: Holder,
  deadline: Deadline,
): Promise<TakenOver> {
  const now = nowOf(context)
  const { _id, version, state, attemptCount } = holder
  const write = (filter: object, update: UpdateFilter<JobDocument>) =>
    writeOne(context, _id, { dedupeHolder: job.dedupe?.key, ...filter }, update, deadline)
  switch (job.dedupe?.mode) {
    case 'reject':
      return { kind: 'dedupe_conflict', jobId: _id }
    case 'keep': {
      if (job.idempotency === null) return { kind: 'unchanged' }
      const isWritten = await write({}, keyAdded(job))
      return { kind: isWritten ? 'unchanged' : 'raced' }
    }
    case 'replace': {
      if (state === 'running') {
        const guard = guardOf('supersede', { now })
        const isWritten = await write(guard, {
          $set: { superseded: true },
          $unset: { dedupeHolder: '' },
          $inc: { version: 1 },
        })
        return isWritten ? { kind: 'given_up', isFinal: false } : { kind: 'raced' }
      }
      if (attemptCount > 0) {
        const guard = guardOf('displace', { now })
        const isWritten = await write(guard, toFinal('cancelled', now, {}))
        return isWritten ? { kind: 'given_up', isFinal: true } : { kind: 'raced' }
      }
      const guard = { ...guardOf('replace', { now, version }), attemptCount: 0 }
      const isWritten = await write(guard, replaced(context, job, _id))
      return { kind: isWritten ? 'changed' : 'raced' }
    }
    default:
      return { kind: 'raced' }
  }
}

/** Of one of which nothing was sent: what the request gives, and no more. */
function replaced({ box }: MongoContext, job: NewJob, id: string): UpdateFilter<JobDocument> {
  const runAt = new Date(job.runAt)
  return {
    ...keyAdded(job),
    $set: {
      ...(job.idempotency === null ? {} : { hasKey: true }),
      payload: job.payload,
      payloadBytes: job.payload.byteLength,
      payloadChanged: true,
      runAt,
      firstRunAt: runAt,
      priority: job.priority,
      metadata: JSON.stringify(job.metadata),
      headers: sealHeaders(job.headers, id, box),
      expiresAt: dateOrNull(job.expiresAt),
      ...(job.tags.length > 0 ? { tags: job.tags } : {}),
    },
    ...(job.tags.length > 0 ? {} : { $unset: { tags: '' } }),
    $inc: { version: 1 },
  }
}

function keyAdded({ idempotency }: NewJob): UpdateFilter<JobDocument> {
  if (idempotency === null) return {}
  const entry = { key: idempotency.key, hash: idempotency.requestHash }
  return {
    $push: { keys: { $each: [entry], $slice: -MAX_KEYS } },
    $set: { hasKey: true },
  }
}

/** A key that another job took at this moment is found by the next look. */
async function writeOne(
  context: MongoContext,
  id: string,
  filter: object,
  update: UpdateFilter<JobDocument>,
  deadline: Deadline,
): Promise<boolean> {
  try {
    const { matchedCount } = await run(deadline, (limit) =>
      context.jobs.updateOne({ _id: id, ...filter }, update, { ...BY_ID, ...limit }),
    )
    return matchedCount === 1
  } catch (error) {
    if (isDuplicateKey(error)) return false
    throw error
  }
}
