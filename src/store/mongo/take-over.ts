// What a request with a dedupe key does to the queued or running job that has the key.
import type { Filter, UpdateFilter } from 'mongodb'
import { type DedupeDecision, decideDedupe } from '../../job/dedupe.ts'
import type { NewJob } from '../../job/job.ts'
import { toFinal } from './changes.ts'
import { type MongoContext, nowOf } from './context.ts'
import { dateOrNull, type JobDocument, sealHeaders, stateOf } from './documents.ts'
import type { Holder } from './enqueue-conflicts.ts'
import { guardOf } from './guards.ts'
import { BY_ID } from './indexes.ts'
import { type Deadline, isDuplicateKey, run } from './run-command.ts'

/** Keys that one job answers to. The oldest are forgotten, but for the one that made it. */
const MAX_KEYS = 1_000

export type TakenOver =
  | { kind: 'dedupe_conflict'; jobId: string }
  /** The request is answered with the job as it is; null: it has not been read since. */
  | { kind: 'kept'; document: JobDocument | null }
  | { kind: 'replaced'; document: JobDocument }
  /** The job has no longer the key. */
  | { kind: 'given_up'; isFinal: boolean }
  /** It is no longer what was read. */
  | { kind: 'raced' }

const RACED: TakenOver = { kind: 'raced' }

export async function takeOver(
  context: MongoContext,
  job: NewJob,
  holder: Holder,
  deadline: Deadline,
): Promise<TakenOver> {
  if (job.dedupe === null) return RACED
  const now = nowOf(context)
  const { _id, version, state, attemptCount } = holder
  const owned = { _id, dedupeHolder: job.dedupe.key }
  const decision = decideDedupe(job.dedupe.mode, { state: stateOf(state), attemptCount })
  switch (decision.kind) {
    case 'reject':
      return { kind: 'dedupe_conflict', jobId: _id }
    case 'keep': {
      if (job.idempotency === null) return { kind: 'kept', document: null }
      const document = await updateOwner(context, owned, keyAdded(job), deadline)
      return document === null ? RACED : { kind: 'kept', document }
    }
    case 'replace': {
      const filter = { ...owned, ...guardOf('replace', { now, version }), attemptCount: 0 }
      const document = await updateOwner(context, filter, replaced(context, job, _id), deadline)
      return document === null ? RACED : { kind: 'replaced', document }
    }
    case 'displace': {
      const filter = { ...owned, ...guardOf('displace', { now }) }
      const isWritten = await releaseKey(context, filter, toFinal('cancelled', now, {}), deadline)
      return isWritten ? { kind: 'given_up', isFinal: true } : RACED
    }
    case 'supersede': {
      const filter = { ...owned, ...guardOf('supersede', { now }) }
      const isWritten = await releaseKey(context, filter, SUPERSEDE, deadline)
      return isWritten ? { kind: 'given_up', isFinal: false } : RACED
    }
    default:
      throw new Error(`unknown decision ${(decision satisfies never as DedupeDecision).kind}`)
  }
}

const SUPERSEDE = {
  $set: { superseded: true as const },
  $unset: { dedupeHolder: '' as const },
  $inc: { version: 1 },
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

/** null: it is not what the filter says, or another job took the key of the request just now. */
async function updateOwner(
  context: MongoContext,
  filter: Filter<JobDocument>,
  update: UpdateFilter<JobDocument>,
  deadline: Deadline,
): Promise<JobDocument | null> {
  try {
    return await run(deadline, (limit) =>
      context.jobs.findOneAndUpdate(filter, update, {
        returnDocument: 'after',
        ...BY_ID,
        ...limit,
      }),
    )
  } catch (error) {
    if (isDuplicateKey(error)) return null
    throw error
  }
}

async function releaseKey(
  context: MongoContext,
  filter: Filter<JobDocument>,
  update: UpdateFilter<JobDocument>,
  deadline: Deadline,
): Promise<boolean> {
  const { matchedCount } = await run(deadline, (limit) =>
    context.jobs.updateOne(filter, update, { ...BY_ID, ...limit }),
  )
  return matchedCount === 1
}
