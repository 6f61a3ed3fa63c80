// Commands of people: cancel, retry, edit and delete a job. Cancel and retry read all the jobs,
// then write one after another in the given order, each guarded by the version that was read. A job
// that changed meanwhile is read again before the next one is written.
import type { UpdateFilter } from 'mongodb'
import { decideRetry, isRetryable, type RetryOptions } from '../../job/dependencies.ts'
import { instantsAfterEdit, type JobChange, refusalOfEdit } from '../../job/edit.ts'
import type { JobState } from '../../job/job.ts'
import { LIFECYCLE } from '../../job/lifecycle.ts'
import { ALARM } from '../../job/turns.ts'
import type { CommandResult, DeleteJobResult, EditResult, RetryResult } from '../store.ts'
import { StoreUnavailable } from '../store-errors.ts'
import {
  type BlockedJob,
  blockLaterJobs,
  checkBlocked,
  fillOrderingSlots,
  markDependedOn,
  type OrderingKey,
  statesOf,
} from './blocked-jobs.ts'
import { bodiesOf, deleteBodies, readWhole, storeBodies, withBodies } from './bodies.ts'
import {
  type Deadline,
  isDuplicateKey,
  type MongoContext,
  NEWEST,
  nowOf,
  run,
  startDeadline,
} from './connection.ts'
import { runFinishEffects, settleGroups, tryFinishEffects } from './finish-effects.ts'
import { type InSession, takeOut } from './group-members.ts'
import { guardOf } from './guards.ts'
import { AWAITING_FIELDS, announceNeeds, keepNeeded, neededBy } from './inputs.ts'
import {
  type AttemptDocument,
  attemptOf,
  type BodyDocument,
  BY_ID,
  dateOrNull,
  endedAttempt,
  isFinalState,
  isRunning,
  type JobDocument,
  jobOf,
  newBody,
  payloadFields,
  pushAttempt,
  RUNNING_FIELDS,
  randomId,
  stateOf,
  toFinal,
} from './job-document.ts'
import { HELD_FIELDS, wakeBeforeDelete } from './key-limits.ts'
import { closeGaps, joinAgain, PLACE_FIELDS } from './turns.ts'

/** Limit of unacknowledged cancels that a process remembers. Beyond it, the oldest is forgotten. */
const MAX_UNACKNOWLEDGED = 1_000
/** If other callers change a job this often in 3 s, one more round is useless. */
const MAX_ROUNDS = 10

const COMMAND_FIELDS = {
  ...RUNNING_FIELDS,
  state: 1,
  maxAttempts: 1,
  version: 1,
  dedupeKey: 1,
  orderingKey: 1,
  effectsPending: 1,
  waitingFor: 1,
  ...AWAITING_FIELDS,
  group: 1,
  counted: 1,
  'attempts.writeId': 1,
  ...PLACE_FIELDS,
} as const

type CommandJob = Pick<
  JobDocument,
  '_id' | Exclude<keyof typeof COMMAND_FIELDS, 'attempts.writeId'>
> & { attempts: Pick<AttemptDocument, 'writeId'>[] }

/** A result, or the change to write and the result once it is written. */
type Decision =
  | RetryResult
  | Change
  /** Something had to be done first: the job must be read again. */
  | { kind: 'read_again' }

interface Change {
  kind: 'change'
  update: UpdateFilter<JobDocument>
  result: RetryResult
  /** The attempt that the change ends; absent: none. */
  attempt?: AttemptDocument
}

/** One call of cancel or retry. */
interface Command {
  context: MongoContext
  event: 'cancel' | 'retry'
  seen: Map<string, CommandJob>
  deadline: Deadline
  decide(job: CommandJob): Decision | Promise<Decision>
  /** Called after each change, before the decision about the next job. */
  onWritten?(job: CommandJob, change: Change): void
  /** Called if the store did not say whether it wrote the change. */
  onUnacknowledged?(job: CommandJob, change: Change): void
}

const EDIT_FIELDS = {
  endpoint: 1,
  state: 1,
  version: 1,
  attemptCount: 1,
  firstRunAt: 1,
  runAt: 1,
  expiresAt: 1,
  payloadId: 1,
  inputsBytes: 1,
  ...PLACE_FIELDS,
} as const

type EditedJob = Pick<JobDocument, '_id' | keyof typeof EDIT_FIELDS>

const DELETE_FIELDS = {
  ...{ endpoint: 1, state: 1, version: 1, payloadId: 1, inputsId: 1, resultId: 1 },
  ...{ neededCount: 1, ...HELD_FIELDS },
} as const

export async function cancel(context: MongoContext, ids: string[]): Promise<CommandResult[]> {
  const deadline = startDeadline()
  const left: CommandJob[] = []
  const results = await runCommand(ids, {
    ...{ context, event: 'cancel', deadline, seen: await readJobs(context, ids, deadline) },
    decide(job) {
      if (isFinalState(job.state)) {
        reportUnacknowledged(context, job)
        return { kind: 'refused', state: stateOf(job.state) }
      }
      const now = nowOf(context)
      const result = { kind: 'applied' } as const
      const update = toFinal('cancelled', now, {})
      if (!isRunning(job)) return { kind: 'change', update, result }
      const writer = { event: 'cancel', writeId: randomId() } as const
      const attempt = endedAttempt(job, now, 'job_cancelled', writer)
      return { kind: 'change', update: { ...update, ...pushAttempt(attempt) }, result, attempt }
    },
    onWritten(job, { attempt }) {
      const { _id: jobId, endpoint } = job
      left.push(job)
      if (attempt === undefined) return
      context.ends.emit({ jobId, endpoint, attempt: attemptOf(attempt), deathReason: null })
    },
    onUnacknowledged({ _id }, { attempt }) {
      const { unacknowledgedCancels: noted } = context
      if (attempt === undefined) return
      noted.set(_id, attempt)
      const [oldest] = noted.keys()
      if (noted.size > MAX_UNACKNOWLEDGED && oldest !== undefined) noted.delete(oldest)
    },
  })
  await tryFinishEffects(
    context,
    ids.filter((_, i) => results[i]?.kind === 'applied'),
  )
  await closeGaps(context, left)
  // Only a retry can break the unique index of dedupe keys or be refused for its dependencies.
  return results as CommandResult[]
}

/** The write of an earlier cancel was stored, but not acknowledged in time: it ended the attempt. */
function reportUnacknowledged(
  { unacknowledgedCancels, ends }: MongoContext,
  { _id: jobId, endpoint, attempts }: CommandJob,
): void {
  const attempt = unacknowledgedCancels.get(jobId)
  if (attempt === undefined) return
  unacknowledgedCancels.delete(jobId)
  if (!attempts.some(({ writeId }) => writeId === attempt.writeId)) return
  ends.emit({ jobId, endpoint, attempt: attemptOf(attempt), deathReason: null })
}

export async function retry(
  context: MongoContext,
  ids: string[],
  options: RetryOptions = { waives: true },
): Promise<RetryResult[]> {
  const deadline = startDeadline()
  const seen = await readJobs(context, ids, deadline)
  const names = new Set([...seen.values()].map(({ endpoint }) => endpoint))
  const accepting = await acceptingEndpoints(context, [...names], deadline)
  const states = await statesOfUnmet(context, [...seen.values()], deadline)
  const queued: BlockedJob[] = []
  const results = await runCommand(ids, {
    ...{ context, event: 'retry', deadline, seen },
    async decide(job) {
      const state = stateOf(job.state)
      if (job.effectsPending && isRetryable(state)) {
        // The effects of this finish must run before there can be another one.
        await runFinishEffects(context, [job._id])
        return { kind: 'read_again' }
      }
      const endpointAccepts = accepting.has(job.endpoint)
      const decision = decideRetry(
        {
          ...{ state, endpointAccepts, unmet: job.waitingFor ?? [], needs: job.needs ?? [] },
          hasInputs: job.inputsBytes !== undefined,
        },
        (id) => states.get(id) ?? null,
        options,
      )
      if (decision.kind !== 'retry') return decision
      const { waitingFor, waived } = decision
      return {
        kind: 'change',
        update: retryUpdate(job, waitingFor, nowOf(context)),
        result: waived.length === 0 ? { kind: 'applied' } : { kind: 'applied', waived },
      }
    },
    onWritten(job, { update: { $set } }) {
      // From here on, later jobs of this call may wait for this job.
      states.set(job._id, 'queued')
      const needsInputs = job.needs === undefined ? {} : { awaitsInputs: true as const }
      queued.push({ ...job, ...needsInputs, waitingFor: $set?.waitingFor ?? [] })
    },
  })
  if (queued.length > 0) await unblockRetried(context, queued)
  return results
}

export async function edit(
  context: MongoContext,
  id: string,
  change: JobChange,
  ifVersion: number | null,
): Promise<EditResult> {
  const deadline = startDeadline()
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const seen = await run(deadline, (limit) =>
      context.jobs.findOne<EditedJob>({ _id: id }, { projection: EDIT_FIELDS, ...limit }),
    )
    if (seen === null) return { kind: 'not_found' }
    const { version, attemptCount } = seen
    const state = stateOf(seen.state)
    const refusal = refusalOfEdit({ state, version, wasSent: attemptCount > 0 }, change, ifVersion)
    if (refusal !== null) return refusal
    const written = await writeEdit(context, seen, change, deadline)
    if (written === null) continue
    context.notifyWork()
    if (isMoved(change)) await closeGaps(context, [seen])
    const [job] = await withBodies(context, [written], deadline)
    // If the job has changed again since then, this is the job as it is now.
    const [now] = job ? [job] : await readWhole(context, { _id: id }, { count: 1 }, deadline)
    return now ? { kind: 'applied', job: jobOf(now, context.box) } : { kind: 'not_found' }
  }
  throw new StoreUnavailable('the job changed each time it was read')
}

/** null: the job changed since it was read. */
async function writeEdit(
  context: MongoContext,
  seen: EditedJob,
  change: JobChange,
  deadline: Deadline,
): Promise<JobDocument | null> {
  const { _id, endpoint, version, attemptCount } = seen
  const now = nowOf(context)
  const body = change.payload ? newBody(seen, change.payload, now.getTime()) : null
  const own = body === null ? [] : [body]
  await storeBodies(context, own, deadline)
  const written = await run(deadline, (limit) =>
    context.jobs.findOneAndUpdate(
      { _id, endpoint, ...guardOf('edit', { now, version }), attemptCount },
      editUpdate(seen, change, body),
      { returnDocument: 'after', ...BY_ID, ...limit },
    ),
  )
  const replaced = change.payload === undefined ? [] : bodiesOf(seen)
  await deleteBodies(context, written === null ? own : replaced, deadline)
  return written
}

export async function deleteJob(
  context: MongoContext,
  id: string,
  ifVersion: number | null = null,
): Promise<DeleteJobResult> {
  const deadline = startDeadline()
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const seen = await run(deadline, (limit) =>
      context.jobs.findOne({ _id: id }, { projection: DELETE_FIELDS, ...limit }),
    )
    if (seen === null) return { kind: 'not_found' }
    const { endpoint, version, neededCount = null } = seen
    if (ifVersion !== null && version !== ifVersion) return { kind: 'stale', version }
    if (!isFinalState(seen.state)) return { kind: 'refused', state: stateOf(seen.state) }
    const needing = (await neededBy(context, [seen], deadline)).get(id)
    if (needing !== undefined) return { kind: 'needed', jobId: needing }
    await wakeBeforeDelete(context, [seen], deadline)
    const { deletedCount } = await run(deadline, (limit) =>
      context.jobs.deleteOne(
        // The bodies that were read are those of this version.
        { _id: id, endpoint, version, ...guardOf('delete', { now: nowOf(context), neededCount }) },
        { ...BY_ID, ...limit },
      ),
    )
    if (deletedCount === 1) {
      await deleteBodies(context, bodiesOf(seen), deadline)
      return { kind: 'applied' }
    }
    // The finish effects of the job come first.
    await runFinishEffects(context, [id])
  }
  throw new StoreUnavailable('its finish effects could not be completed in time')
}

/** Those of these endpoints that exist and are not being deleted. */
export async function acceptingEndpoints(
  context: MongoContext,
  names: string[],
  deadline: Deadline,
): Promise<Set<string>> {
  const found = await run(deadline, (limit) =>
    context.endpoints
      .find(
        { _id: { $in: names }, deleting: false },
        { projection: { _id: 1 }, batchSize: names.length + 1, ...NEWEST, ...limit },
      )
      .toArray(),
  )
  return new Set(found.map(({ _id }) => _id))
}

/**
 * Marks the dependencies before it reads them. A dependency that finishes afterwards then finds the
 * jobs that wait for it.
 */
async function statesOfUnmet(
  context: MongoContext,
  seen: CommandJob[],
  deadline: Deadline,
): Promise<Map<string, JobState>> {
  const unmet = [
    ...new Set(
      seen.flatMap(({ waitingFor = [], needs = [] }) => [
        ...waitingFor,
        ...needs.map(({ jobId }) => jobId),
      ]),
    ),
  ]
  await markDependedOn(context, unmet, deadline)
  await announceNeeds(context, seen, deadline)
  return statesOf(context, unmet, deadline)
}

/** Promotes the jobs that wait for nothing; those that wait take the slot from later jobs. */
async function unblockRetried(context: MongoContext, queued: BlockedJob[]): Promise<void> {
  const deadline = startDeadline()
  const keys = queued.flatMap(({ endpoint, orderingKey }): OrderingKey[] =>
    orderingKey === undefined ? [] : [{ endpoint, orderingKey }],
  )
  await keepNeeded(context, queued, deadline)
  const waiting = queued.filter(
    ({ waitingFor = [], awaitsInputs, orderingKey }) =>
      waitingFor.length > 0 || (awaitsInputs && orderingKey === undefined),
  )
  const ordered = waiting.flatMap(({ orderingKey, ...job }) =>
    orderingKey === undefined ? [] : [{ ...job, orderingKey }],
  )
  await blockLaterJobs(context, ordered, deadline)
  await fillOrderingSlots(context, keys, { fails: false }, deadline)
  // A dependency may have succeeded since it was read. One that died is left to the sweep.
  if (waiting.length > 0) await checkBlocked(context, waiting, { fails: false }, deadline)
  context.notifyWork()
}

function retryUpdate(seen: CommandJob, waitingFor: string[], now: Date): UpdateFilter<JobDocument> {
  const { dedupeKey, orderingKey, fairnessKey, maxAttempts, needs } = seen
  const waits = waitingFor.length > 0
  const isBlocked = waits || orderingKey !== undefined || needs !== undefined
  return {
    $set: {
      state: isBlocked ? 'blocked' : 'queued',
      ...(isBlocked ? { recheckAt: new Date(0) } : {}),
      ...(waits ? { waitingFor } : {}),
      ...(needs === undefined ? {} : { awaitsInputs: true as const }),
      ...(fairnessKey === undefined ? {} : { turn: ALARM }),
      ...(dedupeKey === undefined ? {} : { dedupeHolder: dedupeKey }),
      runAt: now,
      firstRunAt: now,
      attemptsLeft: maxAttempts,
      freeAttempts: 0,
      failureReason: null,
      failureMessage: null,
      result: null,
      resultTruncated: false,
      progress: null,
      expiresAt: null,
      // Another job may depend on it since it became final: such jobs set no mark.
      hasDependents: true,
      effectsPending: true,
    },
    $unset: {
      ...{ finishedAt: '', superseded: '', failureJobId: '', counted: '' },
      ...(waits ? {} : { waitingFor: '' }),
    },
    $inc: { version: 1 },
  }
}

async function runCommand(ids: string[], command: Command): Promise<RetryResult[]> {
  const results: RetryResult[] = []
  const handled = new Set<string>()
  for (const id of ids) {
    const result = await changeOne(id, command)
    // If an id is given twice, the second one is refused because of the state that the first one
    // led to.
    const isRepeat = handled.has(id) && result.kind === 'applied'
    results.push(isRepeat ? { kind: 'refused', state: LIFECYCLE[command.event].to } : result)
    handled.add(id)
  }
  return results
}

async function changeOne(id: string, command: Command): Promise<RetryResult> {
  const { context, seen, deadline, decide, onWritten, onUnacknowledged } = command
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const found = round === 0 ? seen : await readJobs(context, [id], deadline)
    const job = found.get(id)
    const decision = job === undefined ? ({ kind: 'not_found' } as const) : await decide(job)
    if (decision.kind === 'read_again') continue
    if (decision.kind !== 'change' || job === undefined) return decision as RetryResult
    const written = await writeChange(job, decision.update, command).catch((error: unknown) => {
      if (error instanceof StoreUnavailable) onUnacknowledged?.(job, decision)
      throw error
    })
    if (written.kind === 'read_again') continue
    if (written.kind !== 'applied') return written
    onWritten?.(job, decision)
    return decision.result
  }
  throw new StoreUnavailable('the job changed each time it was read')
}

async function readJobs(
  context: MongoContext,
  ids: string[],
  deadline: Deadline,
): Promise<Map<string, CommandJob>> {
  const found = await run(deadline, (limit) =>
    context.jobs
      .find<CommandJob>(
        { _id: { $in: ids } },
        { projection: COMMAND_FIELDS, batchSize: ids.length + 1, ...limit },
      )
      .toArray(),
  )
  return new Map(found.map((document) => [document._id, document]))
}

/**
 * Jobs are written one by one, because the count of a batch does not show which of two callers
 * changed which job.
 */
async function writeChange(
  seen: CommandJob,
  update: UpdateFilter<JobDocument>,
  { context, event, deadline }: Command,
): Promise<RetryResult | { kind: 'read_again' }> {
  const { _id, endpoint, version } = seen
  const guard = guardOf(event, { now: nowOf(context) })
  // A retry sets the mark of a later finish. Pending effects of the last one must run before.
  const settled = event === 'retry' ? { effectsPending: { $ne: true as const } } : {}
  const write = async (session: InSession, within: Deadline) => {
    const { matchedCount } = await run(within, (limit) =>
      context.jobs.updateOne({ $and: [{ _id, endpoint, version, ...settled }, guard] }, update, {
        ...BY_ID,
        ...session,
        ...limit,
      }),
    )
    return matchedCount === 1
  }
  try {
    const { group, counted } = seen
    const isMember = event === 'retry' && group !== undefined && counted !== undefined
    const taken = isMember ? await takeOut(context, { group, counted }, write) : 'gone'
    if (taken === 'effects_pending') await settleGroups(context, [group as string])
    // A group that is gone counts nothing.
    const isWritten = taken === 'gone' ? await write({}, deadline) : taken === 'done'
    return { kind: isWritten ? 'applied' : 'read_again' }
  } catch (error) {
    if (!isDuplicateKey(error)) throw error
    return dedupeConflict(context, seen, deadline)
  }
}

/**
 * Returns the job that now has the dedupe key. If that key is free again, the retry is repeated.
 */
async function dedupeConflict(
  context: MongoContext,
  { endpoint, dedupeKey }: CommandJob,
  deadline: Deadline,
): Promise<RetryResult | { kind: 'read_again' }> {
  if (dedupeKey === undefined) return { kind: 'read_again' }
  const holder = await run(deadline, (limit) =>
    context.jobs.findOne(
      { endpoint, dedupeHolder: dedupeKey },
      { projection: { _id: 1 }, ...limit },
    ),
  )
  return holder === null ? { kind: 'read_again' } : { kind: 'dedupe_conflict', jobId: holder._id }
}

/** Whether the job gets another place in the order. */
function isMoved({ priority, runAt }: JobChange): boolean {
  return priority !== undefined || runAt !== undefined
}

function editUpdate(
  seen: EditedJob,
  change: JobChange,
  body: BodyDocument | null,
): UpdateFilter<JobDocument> {
  const { payload, priority, tags, metadata } = change
  const withoutTags = tags !== undefined && tags.length === 0
  const inline = payload !== undefined && body === null
  return {
    $set: {
      ...instantFields(seen, change),
      ...(priority === undefined ? {} : { priority }),
      ...(isMoved(change) ? joinAgain(seen) : {}),
      ...(tags === undefined || withoutTags ? {} : { tags }),
      ...(metadata === undefined ? {} : { metadata: JSON.stringify(metadata) }),
      ...(payload === undefined
        ? {}
        : {
            ...payloadFields(payload, body),
            payloadBytes: payload.byteLength + (seen.inputsBytes ?? 0),
            payloadChanged: true as const,
          }),
    },
    $unset: {
      ...(withoutTags ? { tags: '' as const } : {}),
      ...(inline ? { payloadId: '' as const } : {}),
    },
    $inc: { version: 1 },
  }
}

function instantFields(seen: EditedJob, change: JobChange) {
  const before = {
    runAt: seen.runAt.getTime(),
    firstRunAt: seen.firstRunAt.getTime(),
    expiresAt: seen.expiresAt?.getTime() ?? null,
    wasSent: seen.attemptCount > 0,
  }
  const { runAt, firstRunAt, expiresAt } = instantsAfterEdit(before, change)
  return {
    runAt: new Date(runAt),
    firstRunAt: new Date(firstRunAt),
    expiresAt: dateOrNull(expiresAt),
  }
}
