// What follows when a job becomes final: its notice (onFinish) is enqueued, jobs that depend on it
// are unblocked or fail, the next job of its ordering key gets the slot, and the outbox document
// that it was made from is deleted, if it is still there. A job that may have such effects has the
// mark `effectsPending` before it becomes final. Each step can be repeated without harm; the last
// one removes the mark, and only then the job can be purged. The process that finishes a job runs
// its effects at once; any sweep runs those that were left undone.
import type { Filter } from 'mongodb'
import { addEffects, type FinishEffects, NO_EFFECTS } from '../../job/finish-effects.ts'
import { dueNotices, isFinalGroup } from '../../job/groups.ts'
import type { NewJob } from '../../job/job.ts'
import {
  type DropReason,
  groupNoticeOf,
  hasTooManyHops,
  noticeOf,
  sendsNotice,
} from '../../job/notice.ts'
import { FINAL_STATES, type FinalState } from '../../job/retention.ts'
import type { OutboxName } from '../outbox.ts'
import { StoreUnavailable } from '../store-errors.ts'
import {
  type BlockedJob,
  checkBlocked,
  fillOrderingSlots,
  type OrderingKey,
  waitingForAny,
} from './blocked-jobs.ts'
import { withBodies } from './bodies.ts'
import {
  type Deadline,
  type FinalMember,
  type MongoContext,
  NEWEST,
  type PendingEffects,
  run,
  startDeadline,
} from './connection.ts'
import { enqueue } from './enqueue.ts'
import { type GroupDocument, groupsIn } from './group-document.ts'
import { countRunning, failuresOf, finishGroups } from './group-members.ts'
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

/** Limit of jobs whose results, of up to 64 KiB each, are in memory together. */
const JOBS_AT_ONCE = 100
/**
 * Limit of jobs whose effects one call runs, including those that fail because of them. The sweep
 * runs the rest.
 */
const MAX_JOBS = 1_000
const DEPENDENTS_AT_ONCE = 200
/** After this many rounds, the remaining dependents are left to the sweep. */
const MAX_ROUNDS_OF_DEPENDENTS = 5
const EFFECT_FIELDS = {
  ...{ payload: 0, payloadId: 0, inputs: 0, inputsId: 0, attempts: 0, keys: 0 },
} as const

type FinishedJob = Omit<JobDocument, keyof typeof EFFECT_FIELDS> & {
  state: FinalState
  finishedAt: Date
}

/**
 * If there are more, all are forgotten. Then settlements read the jobs, which is one more command.
 */
const MAX_KNOWN = 50_000

/**
 * Runs the effects of jobs that have just become final. An outage of the store does not undo what
 * was written before: a sweep finds the marks.
 *
 * @param doomed jobs that depend on one of them, which has no mark of that: it became final before
 */
export async function tryFinishEffects(
  context: MongoContext,
  ids: string[],
  doomed: BlockedJob[] = [],
): Promise<FinishEffects> {
  const total = { ...NO_EFFECTS }
  try {
    const { failed } = await checkBlocked(context, doomed, { fails: true }, startDeadline())
    addEffects(total, { ...NO_EFFECTS, dependentsFailed: failed.length })
    await runFinishEffects(context, [...ids, ...failed], total)
  } catch (error) {
    if (!(error instanceof StoreUnavailable)) throw error
  }
  return total
}

/** @param total is increased step by step, so that it is correct also if the call throws */
export async function runFinishEffects(
  context: MongoContext,
  ids: string[],
  total: FinishEffects = { ...NO_EFFECTS },
): Promise<FinishEffects> {
  const queue = [...ids]
  for (let at = 0; at < Math.min(queue.length, MAX_JOBS); ) {
    const some = queue.slice(at, at + JOBS_AT_ONCE)
    at += some.length
    const { failed, effectsDone, promoted } = await runSomeEffects(context, some)
    addEffects(total, { effectsDone, promoted, dependentsFailed: failed.length })
    // Other jobs may depend on the jobs that failed because of it.
    queue.push(...failed)
  }
  return total
}

/** Final jobs whose effects are not complete. */
export const EFFECTS_PENDING: Filter<JobDocument> = {
  effectsPending: true,
  state: { $in: [...FINAL_STATES] },
}

/** Runs the effects that other processes left undone. */
export async function runPendingEffects(
  context: MongoContext,
  limit: number,
): Promise<FinishEffects> {
  const found = await run(startDeadline(), (commandLimit) =>
    context.jobs
      .find(EFFECTS_PENDING, { projection: { _id: 1 }, limit, batchSize: limit, ...commandLimit })
      .toArray(),
  )
  return runFinishEffects(
    context,
    found.map(({ _id }) => _id),
  )
}

export function rememberPendingEffects(): PendingEffects {
  const isPendingById = new Map<string, boolean>()
  return {
    noteClaimed(jobs) {
      if (isPendingById.size + jobs.length > MAX_KNOWN) isPendingById.clear()
      for (const { _id, effectsPending } of jobs) isPendingById.set(_id, effectsPending === true)
    },
    notePending(jobIds) {
      for (const id of jobIds) if (isPendingById.has(id)) isPendingById.set(id, true)
    },
    takePending(jobIds) {
      const pending = jobIds.filter((id) => isPendingById.get(id) !== false)
      for (const id of jobIds) isPendingById.delete(id)
      return pending
    },
  }
}

async function runSomeEffects(context: MongoContext, ids: string[]) {
  const finished = await run(startDeadline(), (limit) =>
    context.jobs
      .find<FinishedJob>(
        { _id: { $in: ids }, effectsPending: true, state: { $in: [...FINAL_STATES] } },
        { projection: EFFECT_FIELDS, batchSize: ids.length + 1, ...BY_ID, ...limit },
      )
      .toArray(),
  )
  if (finished.length === 0) return { effectsDone: 0, promoted: 0, failed: [] }
  await enqueueNotices(context, finished)
  await deleteOutboxDocuments(context, finished)
  const dependents = await resolveDependents(context, finished)
  const keys = finished.flatMap(({ endpoint, orderingKey }): OrderingKey[] =>
    orderingKey === undefined ? [] : [{ endpoint, orderingKey }],
  )
  const deadline = startDeadline()
  const slots = await fillOrderingSlots(context, keys, { fails: true }, deadline)
  if (slots.promotedCount > 0) context.notifyWork()
  // A head that waits for a dead job must fail, or it blocks the jobs behind it.
  const next = await checkBlocked(context, slots.waiting, { fails: true }, deadline)
  const done = finished.filter(({ hasDependents }) => dependents.isComplete || !hasDependents)
  const members = done.filter(isUncounted)
  const others = done.filter((job) => !isUncounted(job))
  const cleared = await clearMarks(context, others, deadline)
  const effectsDone = cleared + (await countAll(context, members))
  const promoted = dependents.promotedCount + slots.promotedCount + next.promotedCount
  return { effectsDone, promoted, failed: [...dependents.failed, ...slots.failed, ...next.failed] }
}

function isUncounted(job: FinishedJob): job is FinishedJob & FinalMember {
  return job.group !== undefined && job.counted === undefined
}

/** Counting is the last effect of a member, and removes its mark. Returns how many were counted. */
async function countAll(context: MongoContext, members: FinalMember[]): Promise<number> {
  const effects = await context.memberCounter.count(
    members.map(({ _id, endpoint, state, finishes, group }) => ({
      ...{ _id, endpoint, state, finishes, group },
    })),
  )
  if (effects === 'left') return 0
  const following = effects.filter(({ isFirstDead, mayFinish }) => isFirstDead || mayFinish)
  await settleGroups(
    context,
    following.map(({ groupId }) => groupId),
  )
  return members.length
}

/**
 * Enqueues the notices that are due, finishes the groups whose members are all final, and enqueues
 * the notices of that. Each step can be repeated without harm.
 */
export async function settleGroups(context: MongoContext, ids: string[]): Promise<void> {
  if (ids.length === 0) return
  await runGroupEffects(context, ids)
  if ((await finishGroups(context, ids)) === 0) return
  await runGroupEffects(context, ids)
}

/** What follows from a finish, or from a first dead member. */
async function runGroupEffects(context: MongoContext, ids: string[]): Promise<void> {
  const pending = await run(startDeadline(), (limit) =>
    groupsIn(context)
      .find(
        { _id: { $in: ids }, effectsPending: true },
        { batchSize: ids.length + 1, hint: { _id: 1 }, ...NEWEST, ...limit },
      )
      .toArray(),
  )
  for (const group of pending) {
    await enqueueNoticesOf(context, group)
    if (isFinalGroup(group.state)) await unblockDependents(context, group._id)
    await clearGroupMark(context, group)
  }
}

/** Those that are left after this many rounds are left to the sweep. */
async function unblockDependents(context: MongoContext, groupId: string): Promise<void> {
  const failed: string[] = []
  for (let round = 0; round < MAX_ROUNDS_OF_DEPENDENTS; round++) {
    const deadline = startDeadline()
    const blocked = await waitingForAny(context, [groupId], DEPENDENTS_AT_ONCE, deadline)
    if (blocked.length === 0) break
    const checked = await checkBlocked(context, blocked, { fails: true }, deadline)
    failed.push(...checked.failed)
  }
  await tryFinishEffects(context, failed)
}

async function enqueueNoticesOf(context: MongoContext, document: GroupDocument): Promise<void> {
  const due = dueNotices(document)
  if (due.length === 0) return
  const deadline = startDeadline()
  const group = await countRunning(context, document, deadline)
  const failures = await failuresOf(context, group.id, deadline)
  const now = context.clock.now()
  await storeNotices(
    context,
    due.map((one) => ({
      source: { groupId: group.id },
      notice: groupNoticeOf(group, one, failures, now),
    })),
  )
}

/** Of the finish that was read, or of a first dead member since then. */
async function clearGroupMark(
  context: MongoContext,
  { _id, state, finishes }: GroupDocument,
): Promise<void> {
  const isFinal = isFinalGroup(state)
  await run(startDeadline(), (limit) =>
    groupsIn(context).updateOne(
      { _id, finishes, effectsPending: true },
      {
        $unset: { effectsPending: '' },
        ...(isFinal ? {} : { $set: { deadNotified: true as const } }),
      },
      limit,
    ),
  )
}

/** The key of a notice contains the number of the finish: each finish has one notice. */
async function enqueueNotices(context: MongoContext, finished: FinishedJob[]): Promise<void> {
  const now = context.clock.now()
  const withNotice = finished.filter(({ onFinish = null, state }) => sendsNotice(onFinish, state))
  const notices = (await withBodies(context, withNotice, startDeadline())).flatMap((job) => {
    const onFinish = job.onFinish ?? null
    if (!sendsNotice(onFinish, job.state)) return []
    const finishedJob = {
      id: job._id,
      createdAt: job.createdAt.getTime(),
      endpoint: job.endpoint,
      state: job.state,
      result: job.result,
      failure: failureOf(job),
      metadata: JSON.parse(job.metadata) as Record<string, string>,
      fairnessKey: job.fairnessKey ?? null,
      hops: job.hops,
    }
    const notice = noticeOf(finishedJob, job.finishes, onFinish.endpoint, now)
    return [{ source: { jobId: job._id }, notice }]
  })
  await storeNotices(context, notices)
}

/** A notice, and what finished, for the log. */
interface SourcedNotice {
  source: Record<string, string>
  notice: NewJob
}

async function storeNotices(context: MongoContext, all: SourcedNotice[]): Promise<void> {
  const drop = ({ source, notice: { endpoint } }: SourcedNotice, reason: DropReason) =>
    context.settings.warn({ ...source, endpoint, reason }, 'notice.dropped')
  for (const one of all) if (hasTooManyHops(one.notice)) drop(one, 'too_many_hops')
  const notices = all.filter(({ notice }) => !hasTooManyHops(notice))
  if (notices.length === 0) return
  const { results } = await enqueue(
    context,
    notices.map(({ notice }) => notice),
    () => true,
  )
  results.forEach(({ kind }, i) => {
    if (kind !== 'unknown_endpoint') return
    drop(notices[i] as SourcedNotice, 'endpoint_not_found')
  })
}

/** If the job were purged before its document is deleted, the relay would make it again. */
async function deleteOutboxDocuments(
  context: MongoContext,
  finished: FinishedJob[],
): Promise<void> {
  const made = finished.flatMap(({ originKey, originHash }) =>
    isFromOutbox(originKey) ? [{ ...documentOf(originKey), hash: originHash }] : [],
  )
  const names = Map.groupBy(made, ({ database, collection }) => `${database}.${collection}`)
  for (const some of names.values()) {
    const outbox = outboxCollection(context.db, some[0] as OutboxName)
    const ids = some.map(({ id }) => id)
    const left = await run(startDeadline(), (limit) =>
      outbox
        .find({ _id: { $in: ids } }, { projection: { _id: 1 }, ...AS_STORED, ...NEWEST, ...limit })
        .toArray(),
    )
    for (const { _id } of left) {
      const job = some.find(({ id }) => keyOf(id) === keyOf(_id))
      await deleteDocument(outbox, _id, job?.hash)
    }
  }
}

/** A later document with the same `_id` did not become this job: it is left to the relay. */
async function deleteDocument(
  outbox: OutboxCollection,
  _id: DocumentId,
  hash: string | undefined,
): Promise<void> {
  const [raw] = await run(startDeadline(), (limit) =>
    outbox.find({ _id }, { raw: true, limit: 1, ...NEWEST, ...limit }).toArray(),
  )
  if (raw === undefined || requestHashOf(raw as unknown as Uint8Array) !== hash) return
  await run(startDeadline(), (limit) => outbox.deleteOne({ _id }, limit))
}

async function resolveDependents(context: MongoContext, finished: FinishedJob[]) {
  const ids = finished.flatMap(({ _id, hasDependents }) => (hasDependents ? [_id] : []))
  const failed: string[] = []
  let promotedCount = 0
  for (let round = 0; ids.length > 0; round++) {
    if (round === MAX_ROUNDS_OF_DEPENDENTS) return { promotedCount, failed, isComplete: false }
    const deadline = startDeadline()
    const blocked = await waitingForAny(context, ids, DEPENDENTS_AT_ONCE, deadline)
    if (blocked.length === 0) break
    const checked = await checkBlocked(context, blocked, { fails: true }, deadline)
    promotedCount += checked.promotedCount
    failed.push(...checked.failed)
    if (blocked.length < DEPENDENTS_AT_ONCE) break
  }
  return { promotedCount, failed, isComplete: true }
}

/**
 * Clears the marks of the finish that was read, and of no other: the job may have been retried and
 * be final again.
 */
async function clearMarks(
  context: MongoContext,
  done: FinishedJob[],
  deadline: Deadline,
): Promise<number> {
  if (done.length === 0) return 0
  const updates = done.map((job) => ({
    updateOne: {
      filter: {
        _id: job._id,
        state: job.state,
        endpoint: job.endpoint,
        effectsPending: true as const,
        finishes: job.finishes,
      },
      update: { $unset: { effectsPending: '' as const } },
      ...BY_ID,
    },
  }))
  const { modifiedCount } = await run(deadline, (limit) =>
    context.jobs.bulkWrite(updates, { ordered: false, ...limit }),
  )
  return modifiedCount
}
