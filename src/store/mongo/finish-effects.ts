// What follows when a job becomes final: its notice (onFinish), the jobs that depend on it, the
// next job of its ordering key; and the document of an outbox that it was made from is deleted, if
// it is still there. A job with any of these carries a mark, `owes`, that the write to the final
// state leaves in place. Each step here can be repeated without harm; the last one removes the mark
// and lets the job be purged. The process that finishes a job does this right after, and any sweep
// does what was left.
import { addEffects, type FinishEffects, NO_EFFECTS } from '../../job/finish-effects.ts'
import { type DropReason, hasTooManyHops, isToldOf, noticeOf } from '../../job/notice.ts'
import { FINAL_STATES, type FinalState } from '../../job/retention.ts'
import type { OutboxName } from '../outbox.ts'
import { StoreUnavailable } from '../store.ts'
import { checkHeld, type OrderedLane, promoteHeads, waitingForAny } from './blocked-jobs.ts'
import {
  type Deadline,
  type KnownDebts,
  type MongoContext,
  run,
  startDeadline,
} from './connection.ts'
import { enqueue } from './enqueue.ts'
import { BY_ID, failureOf, isFromOutbox, type JobDocument } from './job-document.ts'
import {
  AS_STORED,
  type DocumentId,
  documentOf,
  keyOf,
  type OutboxCollection,
  outboxCollection,
  requestHashOf,
} from './outbox.ts'

/** Jobs whose results are in memory at once, up to 64 KiB each. */
const JOBS_AT_ONCE = 100
/** Jobs that one finish may bring down with it before the rest is left to the sweeper. */
const MAX_JOBS = 1_000
const DEPENDENTS_AT_ONCE = 200
/** Beyond, the rest of its dependents is left to the sweeper. */
const MAX_TURNS_OF_DEPENDENTS = 5
const OWING = { payload: 0, attempts: 0, keys: 0 } as const

type Owing = Omit<JobDocument, keyof typeof OWING> & { state: FinalState; finishedAt: Date }

/** Beyond, all is forgotten: then settlements look, which costs them a command. */
const MAX_KNOWN = 50_000

/**
 * For jobs that have just become final; those that owe nothing are passed over. That a store is
 * away now takes nothing from what was written before: the sweeper finds the marks.
 */
export async function afterFinish(context: MongoContext, ids: string[]): Promise<FinishEffects> {
  const total = { ...NO_EFFECTS }
  try {
    await doAftermath(context, ids, total)
  } catch (error) {
    if (!(error instanceof StoreUnavailable)) throw error
  }
  return total
}

/** @param total what is done is added to it, step by step: also of a call that throws in the end */
export async function doAftermath(
  context: MongoContext,
  ids: string[],
  total: FinishEffects = { ...NO_EFFECTS },
): Promise<FinishEffects> {
  const queue = [...ids]
  for (let at = 0; at < Math.min(queue.length, MAX_JOBS); ) {
    const some = queue.slice(at, at + JOBS_AT_ONCE)
    at += some.length
    const { failed, aftermaths, promoted } = await doSome(context, some)
    addEffects(total, { aftermaths, promoted, dependentsFailed: failed.length })
    // Those that died of it may be waited for in their turn.
    queue.push(...failed)
  }
  return total
}

/** Jobs whose aftermath was left undone. */
export async function doLeftAftermaths(
  context: MongoContext,
  limit: number,
): Promise<FinishEffects> {
  const found = await run(startDeadline(), (commandLimit) =>
    context.jobs
      .find(
        { owes: true, state: { $in: [...FINAL_STATES] } },
        { projection: { _id: 1 }, limit, batchSize: limit, ...commandLimit },
      )
      .toArray(),
  )
  return doAftermath(
    context,
    found.map(({ _id }) => _id),
  )
}

export function rememberDebts(): KnownDebts {
  const owesById = new Map<string, boolean>()
  return {
    noteClaimed(jobs) {
      if (owesById.size + jobs.length > MAX_KNOWN) owesById.clear()
      for (const { _id, owes } of jobs) owesById.set(_id, owes === true)
    },
    noteOwing(jobIds) {
      for (const id of jobIds) if (owesById.has(id)) owesById.set(id, true)
    },
    takeOwing(jobIds) {
      const owing = jobIds.filter((id) => owesById.get(id) !== false)
      for (const id of jobIds) owesById.delete(id)
      return owing
    },
  }
}

async function doSome(context: MongoContext, ids: string[]) {
  const owing = await run(startDeadline(), (limit) =>
    context.jobs
      .find<Owing>(
        { _id: { $in: ids }, owes: true, state: { $in: [...FINAL_STATES] } },
        { projection: OWING, batchSize: ids.length + 1, ...BY_ID, ...limit },
      )
      .toArray(),
  )
  if (owing.length === 0) return { aftermaths: 0, promoted: 0, failed: [] }
  await tell(context, owing)
  await clearOutbox(context, owing)
  const dependents = await releaseDependents(context, owing)
  const lanes = owing.flatMap(({ endpoint, orderingKey }): OrderedLane[] =>
    orderingKey === undefined ? [] : [{ endpoint, orderingKey }],
  )
  const deadline = startDeadline()
  const turns = await promoteHeads(context, lanes, deadline)
  if (turns.promotedCount > 0) context.hint()
  // One whose dependency was dead before it came would keep the turn from those behind it.
  const next = await checkHeld(context, turns.waiting, { fails: true }, deadline)
  const done = owing.filter(({ hasDependents }) => dependents.isComplete || !hasDependents)
  const aftermaths = await clear(context, done, deadline)
  const promoted = dependents.promotedCount + turns.promotedCount + next.promotedCount
  return { aftermaths, promoted, failed: [...dependents.failed, ...next.failed] }
}

/** The notice's key holds the count of finishes: there is one for each, whoever makes it. */
async function tell(context: MongoContext, owing: Owing[]): Promise<void> {
  const now = context.clock.now()
  const drop = (jobId: string, endpoint: string, reason: DropReason) =>
    context.settings.warn({ jobId, endpoint, reason }, 'notice.dropped')
  const told = owing.flatMap((job) => {
    const onFinish = job.onFinish ?? null
    if (!isToldOf(onFinish, job.state)) return []
    const finished = {
      id: job._id,
      createdAt: job.createdAt.getTime(),
      endpoint: job.endpoint,
      state: job.state,
      result: job.result,
      failure: failureOf(job),
      metadata: JSON.parse(job.metadata) as Record<string, string>,
      hops: job.hops ?? 0,
    }
    const notice = noticeOf(finished, job.finishes ?? 1, onFinish.endpoint, now)
    if (!hasTooManyHops(notice)) return [{ jobId: job._id, notice }]
    drop(job._id, notice.endpoint, 'too_many_hops')
    return []
  })
  if (told.length === 0) return
  const { results } = await enqueue(
    context,
    told.map(({ notice }) => notice),
  )
  results.forEach(({ kind }, i) => {
    if (kind !== 'unknown_endpoint') return
    const { jobId, notice } = told[i] as (typeof told)[number]
    drop(jobId, notice.endpoint, 'endpoint_not_found')
  })
}

/** A job that could be removed before its document is, would be made a second time. */
async function clearOutbox(context: MongoContext, owing: Owing[]): Promise<void> {
  const made = owing.flatMap(({ originKey, originHash }) =>
    isFromOutbox(originKey) ? [{ ...documentOf(originKey), hash: originHash }] : [],
  )
  const names = Map.groupBy(made, ({ database, collection }) => `${database}.${collection}`)
  for (const some of names.values()) {
    const outbox = outboxCollection(context.db, some[0] as OutboxName)
    const ids = some.map(({ id }) => id)
    const left = await run(startDeadline(), (limit) =>
      outbox
        .find({ _id: { $in: ids } }, { projection: { _id: 1 }, ...AS_STORED, ...limit })
        .toArray(),
    )
    for (const { _id } of left) {
      const job = some.find(({ id }) => keyOf(id) === keyOf(_id))
      await clearDocument(outbox, _id, job?.hash)
    }
  }
}

/** Another document with the same `_id` has not become this job: it is left to the mover. */
async function clearDocument(
  outbox: OutboxCollection,
  _id: DocumentId,
  hash: string | undefined,
): Promise<void> {
  const [raw] = await run(startDeadline(), (limit) =>
    outbox.find({ _id }, { raw: true, limit: 1, ...limit }).toArray(),
  )
  if (raw === undefined || requestHashOf(raw as unknown as Uint8Array) !== hash) return
  await run(startDeadline(), (limit) => outbox.deleteOne({ _id }, limit))
}

async function releaseDependents(context: MongoContext, owing: Owing[]) {
  const ids = owing.flatMap(({ _id, hasDependents }) => (hasDependents ? [_id] : []))
  const failed: string[] = []
  let promotedCount = 0
  for (let turn = 0; ids.length > 0; turn++) {
    if (turn === MAX_TURNS_OF_DEPENDENTS) return { promotedCount, failed, isComplete: false }
    const deadline = startDeadline()
    const held = await waitingForAny(context, ids, DEPENDENTS_AT_ONCE, deadline)
    if (held.length === 0) break
    const checked = await checkHeld(context, held, { fails: true }, deadline)
    promotedCount += checked.promotedCount
    failed.push(...checked.failed)
    if (held.length < DEPENDENTS_AT_ONCE) break
  }
  return { promotedCount, failed, isComplete: true }
}

/** Only for the finish that was seen: a job may have been retried and be final once more. */
async function clear(context: MongoContext, done: Owing[], deadline: Deadline): Promise<number> {
  if (done.length === 0) return 0
  const updates = done.map((job) => ({
    updateOne: {
      filter: { _id: job._id, state: job.state, owes: true as const, finishes: job.finishes ?? 1 },
      update: { $unset: { owes: '' as const } },
      ...BY_ID,
    },
  }))
  const { modifiedCount } = await run(deadline, (limit) =>
    context.jobs.bulkWrite(updates, { ordered: false, ...limit }),
  )
  return modifiedCount
}
