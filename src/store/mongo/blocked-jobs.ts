// Blocked jobs wait for others to succeed, or for the slot of their ordering key. The process that
// finishes a job checks those that wait for it. The sweep checks once those that a write has
// marked, and reads all other blocked jobs from time to time, in case a change was missed. The slot
// belongs to the earliest job of the key that is not final, by its id; a unique index allows only
// one.
import type { AnyBulkWriteOperation, Document } from 'mongodb'
import { dependencyFailed } from '../../job/attempt.ts'
import { checkDependencies } from '../../job/dependencies.ts'
import { dependencyState } from '../../job/groups.ts'
import type { JobState } from '../../job/job.ts'
import { isGroupId } from '../../job/job-id.ts'
import {
  type Deadline,
  isOnlyDuplicateKeys,
  type MongoContext,
  NEWEST,
  nowOf,
  run,
  startDeadline,
} from './connection.ts'
import { findGroups } from './group-document.ts'
import { guardOf, reportDeaths } from './guards.ts'
import {
  AWAITING_FIELDS,
  type AwaitingJob,
  failInputs,
  makeInputsOf,
  type WithInputs,
} from './inputs.ts'
import {
  atEndpoints,
  BY_ID,
  failureFields,
  type JobDocument,
  QUEUED_STATES,
  randomId,
  stateOf,
  toFinal,
} from './job-document.ts'

/** Blocked jobs that are checked together: each has up to 50 dependencies to read. */
const MAX_CHECKED = 200
/** A round over all blocked jobs begins at most this often. It only reads, unless it finds some. */
const ROUND_EVERY_MS = 10_000
const BLOCKED_FIELDS = {
  ...{ endpoint: 1, orderingKey: 1, waitingFor: 1 },
  ...AWAITING_FIELDS,
} as const

export type BlockedJob = Pick<JobDocument, '_id' | keyof typeof BLOCKED_FIELDS>

/** The round of this process over all blocked jobs, MAX_CHECKED with each sweep. */
export interface BlockedRound {
  /** The last id that was checked; null: the round is complete. */
  after: string | null
  /** By the monotonic clock. */
  beganAtMs: number
}

export interface Checked {
  promotedCount: number
  /** Whether any of them changed. */
  isChanged: boolean
  /** Ids of those that are dead now. */
  failed: string[]
}

export const NOTHING_CHECKED: Checked = { promotedCount: 0, isChanged: false, failed: [] }

export interface OrderingKey {
  endpoint: string
  orderingKey: string
}

/** Limit of keys in one command: more make a long command, fewer make many commands. */
const KEYS_PER_COMMAND = 64
/**
 * If a later job has the slot, it is blocked first, and then the earliest job is tried once more.
 */
const MAX_ROUNDS = 3

type Head = AwaitingJob & Pick<JobDocument, 'state' | 'waitingFor'> & { orderingKey: string }

interface FilledSlots {
  /** How many became claimable. */
  promotedCount: number
  /** Heads that wait for their dependencies: neither they nor the jobs behind them get the slot. */
  waiting: Head[]
  /** Ids of those whose inputs cannot be made, and that are dead now. */
  failed: string[]
}

/**
 * Marks jobs that others depend on, so that the effects of their finish include those others. Must
 * be called before their states are read: a job that finishes after the mark has these effects, and
 * one that finished before it is read as final.
 */
export async function markDependedOn(
  context: MongoContext,
  ids: string[],
  deadline: Deadline,
): Promise<void> {
  const jobIds = ids.filter((id) => !isGroupId(id))
  if (jobIds.length === 0) return
  context.pendingEffects.notePending(jobIds)
  await run(deadline, (limit) =>
    context.jobs.updateMany(
      { _id: { $in: jobIds }, state: { $in: [...QUEUED_STATES, 'running'] } },
      { $set: { hasDependents: true, effectsPending: true } },
      { ...BY_ID, ...limit },
    ),
  )
}

/**
 * Removes the dependencies that have succeeded, and promotes the jobs that wait for nothing more.
 *
 * @param fails whether jobs become dead that wait for a dead, cancelled or purged job, or whose
 * inputs cannot be made
 */
export async function checkBlocked(
  context: MongoContext,
  blocked: BlockedJob[],
  { fails }: { fails: boolean },
  deadline: Deadline,
): Promise<Checked> {
  const states = await statesOf(
    context,
    blocked.flatMap(({ waitingFor = [] }) => waitingFor),
    deadline,
  )
  const checks = blocked.map((job) => {
    const { waitingFor = [] } = job
    const { unmet, failed } = checkDependencies(
      waitingFor,
      (id) => states.get(id) ?? null,
      job.needs,
    )
    return { job, waitingFor, unmet, failed }
  })
  const lost = checks.flatMap(({ job: { _id, endpoint }, failed: dependency }) =>
    dependency === null ? [] : [{ _id, endpoint, dependency }],
  )
  const isTaken = await takeMet(
    context,
    checks.map(({ job: { _id, endpoint }, waitingFor, unmet }) => ({
      ...{ _id, endpoint },
      met: waitingFor.filter((id) => !unmet.includes(id)),
    })),
    deadline,
  )
  const ready = checks.flatMap(({ job, unmet }) => (unmet.length === 0 ? [job] : []))
  const failed = fails ? await failDependents(context, lost, deadline) : []
  const promoted = await promote(context, ready, { fails }, deadline)
  const { promotedCount } = promoted
  failed.push(...promoted.failed)
  return { promotedCount, isChanged: isTaken || promotedCount + failed.length > 0, failed }
}

/**
 * Gives the slot of each key to its earliest job that is not final: its head.
 *
 * @param fails as of checkBlocked
 */
export async function fillOrderingSlots(
  context: MongoContext,
  keys: OrderingKey[],
  { fails }: { fails: boolean },
  deadline: Deadline,
): Promise<FilledSlots> {
  let open = [...new Map(keys.map((key) => [textOf(key), key])).values()]
  const slots: FilledSlots = { promotedCount: 0, waiting: [], failed: [] }
  for (let round = 0; open.length > 0 && round < MAX_ROUNDS; round++) {
    const blocked = (await headsOf(context, open, deadline)).filter(
      ({ state }) => state === 'blocked',
    )
    const isFree = ({ waitingFor = [] }: Head) => waitingFor.length === 0
    const free = blocked.filter(isFree)
    slots.waiting.push(...blocked.filter((head) => !isFree(head)))
    if (free.length === 0) break
    const refused: Head[] = []
    const give = async (heads: Head[], made: WithInputs<Head>[] = []) => {
      const given = await giveSlots(context, heads, made, deadline)
      slots.promotedCount += given.count
      refused.push(...given.refused)
    }
    const awaiting = free.filter(({ awaitsInputs }) => awaitsInputs)
    const others = free.filter(({ awaitsInputs }) => !awaitsInputs)
    if (others.length > 0) await give(others)
    const unmade = await makeInputsOf(context, awaiting, (made) => give([], made), deadline)
    if (fails) slots.failed.push(...(await failInputs(context, unmade, deadline)))
    open = await blockLaterJobs(context, refused, deadline)
  }
  return slots
}

/**
 * A later job that has the slot but is not running loses it to the head. Returns the heads if any
 * such job was blocked; if none was, the later job is running, or the slot has moved on by itself.
 */
export async function blockLaterJobs<Earlier extends OrderingKey & { _id: string }>(
  context: MongoContext,
  heads: Earlier[],
  deadline: Deadline,
): Promise<Earlier[]> {
  if (heads.length === 0) return []
  const updates = heads.map(
    ({ _id, endpoint, orderingKey }): AnyBulkWriteOperation<JobDocument> => ({
      updateOne: {
        filter: { endpoint, orderingSlot: orderingKey, state: 'queued', _id: { $gt: _id } },
        update: {
          $set: { state: 'blocked', recheckAt: new Date(context.clock.now()) },
          $unset: { orderingSlot: '' },
          $inc: { version: 1 },
        },
      },
    }),
  )
  const { modifiedCount } = await run(deadline, (limit) =>
    context.jobs.bulkWrite(updates, { ordered: false, ...limit }),
  )
  return modifiedCount === 0 ? [] : heads
}

export async function headOfOrderingKey(
  context: MongoContext,
  key: OrderingKey,
  deadline: Deadline,
): Promise<string | null> {
  const [head] = await headsOf(context, [key], deadline)
  return head?._id ?? null
}

/** Blocked jobs that wait for one of these, not more than `limit`. */
export function waitingForAny(
  context: MongoContext,
  ids: string[],
  limit: number,
  deadline: Deadline,
): Promise<BlockedJob[]> {
  return run(deadline, (commandLimit) =>
    context.jobs
      .find<BlockedJob>(
        { waitingFor: { $in: ids }, state: 'blocked' },
        { projection: BLOCKED_FIELDS, limit, batchSize: limit, ...NEWEST, ...commandLimit },
      )
      .toArray(),
  )
}

/** Of jobs and groups. One that is not stored has none. */
export async function statesOf(
  context: MongoContext,
  ids: string[],
  deadline: Deadline,
): Promise<Map<string, JobState>> {
  const groupIds = [...new Set(ids.filter(isGroupId))]
  const jobs = await jobStatesOf(
    context,
    ids.filter((id) => !isGroupId(id)),
    deadline,
  )
  if (groupIds.length === 0) return jobs
  const groups = await findGroups(context, groupIds, deadline)
  return new Map([
    ...jobs,
    ...groups.map(({ _id, state }): [string, JobState] => [_id, dependencyState(state)]),
  ])
}

async function jobStatesOf(
  context: MongoContext,
  ids: string[],
  deadline: Deadline,
): Promise<Map<string, JobState>> {
  const unique = [...new Set(ids)]
  if (unique.length === 0) return new Map()
  const found = await run(deadline, (limit) =>
    context.jobs
      .find(
        { _id: { $in: unique } },
        { projection: { state: 1 }, batchSize: unique.length + 1, ...NEWEST, ...limit },
      )
      .toArray(),
  )
  return new Map(found.map(({ _id, state }) => [_id, stateOf(state)]))
}

/** Checks the blocked jobs that a write has marked, and removes the marks. */
export async function checkMarked(context: MongoContext): Promise<Checked> {
  const deadline = startDeadline()
  const now = nowOf(context)
  const marked = await run(deadline, (limit) =>
    context.jobs
      .find<BlockedJob>(
        { state: 'blocked', recheckAt: { $lte: now } },
        {
          projection: BLOCKED_FIELDS,
          sort: { recheckAt: 1 },
          limit: MAX_CHECKED,
          batchSize: MAX_CHECKED,
          ...limit,
        },
      )
      .toArray(),
  )
  if (marked.length === 0) return NOTHING_CHECKED
  const checked = await checkBlocked(context, marked, { fails: true }, deadline)
  // The marks are removed last: after a failure the jobs are checked again. A mark that was set
  // meanwhile may be lost, and its job is left to the round.
  await run(deadline, (limit) =>
    context.jobs.updateMany(
      { ...atEndpoints(marked), state: 'blocked', recheckAt: { $lte: now } },
      { $unset: { recheckAt: '' } },
      { ...BY_ID, ...limit },
    ),
  )
  return checked
}

export function startBlockedRound(): BlockedRound {
  return { after: null, beganAtMs: Number.NEGATIVE_INFINITY }
}

export function isRoundDue({ after, beganAtMs }: BlockedRound): boolean {
  return after !== null || performance.now() - beganAtMs >= ROUND_EVERY_MS
}

/** Ends the round, because there are no more jobs to check. */
export function endRound(round: BlockedRound): void {
  round.after = null
  round.beganAtMs = performance.now()
}

/** A marked job may be incomplete until its mark is due (enqueue.ts). */
export const UNMARKED = { state: 'blocked', recheckAt: { $exists: false } } as const

/** Checks the next jobs of the round. */
export async function checkNextOfRound(
  context: MongoContext,
  round: BlockedRound,
): Promise<Checked> {
  const deadline = startDeadline()
  if (round.after === null) round.beganAtMs = performance.now()
  const next = await run(deadline, (limit) =>
    context.jobs
      .find<BlockedJob>(
        {
          ...UNMARKED,
          ...(round.after === null ? {} : { _id: { $lt: round.after } }),
        },
        {
          projection: BLOCKED_FIELDS,
          sort: { _id: -1 },
          limit: MAX_CHECKED,
          batchSize: MAX_CHECKED,
          ...limit,
        },
      )
      .toArray(),
  )
  round.after = next.length < MAX_CHECKED ? null : (next.at(-1)?._id ?? null)
  return next.length === 0
    ? NOTHING_CHECKED
    : checkBlocked(context, next, { fails: true }, deadline)
}

/** Removes met dependencies, in one update per dependency. Returns whether there were any. */
async function takeMet(
  context: MongoContext,
  jobs: { _id: string; endpoint: string; met: string[] }[],
  deadline: Deadline,
): Promise<boolean> {
  const pairs = jobs.flatMap(({ met, ...job }) => met.map((dependency) => ({ ...job, dependency })))
  const updates = byDependency(pairs).map(([dependency, own]) => ({
    updateMany: {
      filter: { ...atEndpoints(own), state: 'blocked' as const },
      update: { $pull: { waitingFor: dependency } },
      ...BY_ID,
    },
  }))
  if (updates.length === 0) return false
  await run(deadline, (limit) => context.jobs.bulkWrite(updates, { ordered: false, ...limit }))
  return true
}

async function failDependents(
  context: MongoContext,
  lost: Pair[],
  deadline: Deadline,
): Promise<string[]> {
  if (lost.length === 0) return []
  const now = nowOf(context)
  const writeId = randomId()
  const updates = byDependency(lost).map(([dependency, own]) => {
    const failure = dependencyFailed(dependency)
    return {
      updateMany: {
        // A job that was retried by hand meanwhile no longer waits for it.
        filter: {
          ...atEndpoints(own),
          ...guardOf('fail_dependent', { now }),
          waitingFor: dependency,
        },
        update: toFinal('dead', now, { ...failureFields(failure), writeId }),
        ...BY_ID,
      },
    }
  })
  const { modifiedCount } = await run(deadline, (limit) =>
    context.jobs.bulkWrite(updates, { ordered: false, ...limit }),
  )
  const written = { writeId, count: modifiedCount }
  const failed = await reportDeaths(context, lost, 'dependency_failed', written, deadline)
  return failed.map(({ _id }) => _id)
}

/** A job, and one of its dependencies. */
interface Pair {
  _id: string
  endpoint: string
  dependency: string
}

function byDependency(pairs: Pair[]): [string, Pair[]][] {
  return [...Map.groupBy(pairs, ({ dependency }) => dependency)]
}

async function promote(
  context: MongoContext,
  ready: BlockedJob[],
  { fails }: { fails: boolean },
  deadline: Deadline,
): Promise<Pick<Checked, 'promotedCount' | 'failed'>> {
  const free = ready.filter(({ orderingKey }) => orderingKey === undefined)
  const unordered = free.filter(({ awaitsInputs }) => !awaitsInputs)
  const awaiting = free.filter(({ awaitsInputs }) => awaitsInputs)
  const keys = ready.flatMap(({ endpoint, orderingKey }): OrderingKey[] =>
    orderingKey === undefined ? [] : [{ endpoint, orderingKey }],
  )
  const now = nowOf(context)
  const slots = await fillOrderingSlots(context, keys, { fails }, deadline)
  const { failed } = slots
  let { promotedCount } = slots
  if (unordered.length > 0) {
    const { modifiedCount } = await run(deadline, (limit) =>
      context.jobs.updateMany(
        { ...atEndpoints(unordered), ...guardOf('promote', { now }) },
        { $set: { state: 'queued', freedAt: now, promotedAt: now }, $inc: { version: 1 } },
        { ...BY_ID, ...limit },
      ),
    )
    promotedCount += modifiedCount
  }
  const write = async (some: WithInputs<BlockedJob>[]) => {
    const updates = some.map((made) => promotion(made.job, { now, made }))
    const { modifiedCount } = await run(deadline, (limit) =>
      context.jobs.bulkWrite(updates, { ordered: false, ...limit }),
    )
    promotedCount += modifiedCount
  }
  const unmade = await makeInputsOf(context, awaiting, write, deadline)
  if (fails) failed.push(...(await failInputs(context, unmade, deadline)))
  if (promotedCount > 0) context.notifyWork()
  return { promotedCount, failed }
}

/** @param made of a job that awaits its inputs; `slot`: its ordering key */
function promotion(
  { _id, endpoint, inputsId }: AwaitingJob,
  { now, made, slot }: { now: Date; made?: WithInputs<AwaitingJob> | undefined; slot?: string },
): AnyBulkWriteOperation<JobDocument> {
  const queued = {
    state: 'queued' as const,
    ...(slot === undefined ? {} : { orderingSlot: slot }),
    ...{ freedAt: now, promotedAt: now },
  }
  const guard = guardOf('promote', { now, makesInputs: made !== undefined })
  if (made === undefined) {
    const update = { $set: queued, $inc: { version: 1 } }
    return { updateOne: { filter: { _id, endpoint, ...guard }, update, ...BY_ID } }
  }
  return {
    updateOne: {
      // The inputs that it had before are still those that were read.
      filter: { _id, endpoint, ...guard, inputsId: inputsId ?? { $exists: false } },
      update: {
        $set: { ...queued, ...made.$set },
        $unset: made.$unset,
        $inc: { version: 1, payloadBytes: made.moreBytes },
      },
      ...BY_ID,
    },
  }
}

async function headsOf(
  context: MongoContext,
  keys: OrderingKey[],
  deadline: Deadline,
): Promise<Head[]> {
  const heads: Head[] = []
  for (let i = 0; i < keys.length; i += KEYS_PER_COMMAND) {
    const pipelines = keys.slice(i, i + KEYS_PER_COMMAND).map(headPipeline)
    const [first = [], ...others] = pipelines
    const unions = others.map((pipeline) => ({
      $unionWith: { coll: context.names.jobs, pipeline },
    }))
    const found = await run(deadline, (limit) =>
      context.jobs
        .aggregate<Head>([...first, ...unions], {
          batchSize: pipelines.length + 1,
          ...NEWEST,
          ...limit,
        })
        .toArray(),
    )
    heads.push(...found)
  }
  return heads
}

function headPipeline({ endpoint, orderingKey }: OrderingKey): Document[] {
  return [
    { $match: { endpoint, orderingKey, state: { $in: [...QUEUED_STATES, 'running'] } } },
    { $sort: { _id: 1 } },
    { $limit: 1 },
    { $project: { ...BLOCKED_FIELDS, state: 1 } },
  ]
}

/** `refused`: another job of the key has the slot. */
async function giveSlots(
  context: MongoContext,
  plain: Head[],
  made: WithInputs<Head>[],
  deadline: Deadline,
): Promise<{ count: number; refused: Head[] }> {
  const now = new Date(context.clock.now())
  const heads = [...plain, ...made.map(({ job }) => job)]
  const updates = heads.map((head, i) =>
    promotion(head, { now, made: made[i - plain.length], slot: head.orderingKey }),
  )
  try {
    const { modifiedCount } = await run(deadline, (limit) =>
      context.jobs.bulkWrite(updates, { ordered: false, ...limit }),
    )
    return { count: modifiedCount, refused: [] }
  } catch (error) {
    if (!isOnlyDuplicateKeys(error)) throw error
    const refused = [error.writeErrors].flat().flatMap(({ index }) => heads[index] ?? [])
    return { count: error.result.modifiedCount, refused }
  }
}

/** A name contains no line break, so that two pairs never get one text. */
function textOf({ endpoint, orderingKey }: OrderingKey): string {
  return `${endpoint}\n${orderingKey}`
}
