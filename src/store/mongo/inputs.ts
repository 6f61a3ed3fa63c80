// The inputs of jobs: they are made from the results of the jobs that a job needs, and stored by
// the write that unblocks it. A crash before that write leaves a blocked job, which a sweep checks
// again. Until then a needed job is not purged: a process that deletes one looks for waiting jobs
// that need it, and then proves by `neededCount` that none has come since. A job that begins to
// wait raises that count before its own write, and again after it, and then reads the states of the
// needed jobs.
import type { UpdateFilter } from 'mongodb'
import type { Failure } from '../../job/job.ts'
import { type MadeInputs, makeInputs, type Need, type NeededJob } from '../../job/needs.ts'
import { deleteBodies, readWhole, storeBodies, withBodies } from './bodies.ts'
import {
  type Deadline,
  type MongoContext,
  NEWEST,
  nowOf,
  run,
  startDeadline,
} from './connection.ts'
import { guardOf, reportDeaths } from './guards.ts'
import {
  atEndpoints,
  type BodyDocument,
  BY_ID,
  failureFields,
  inputsFields,
  type JobDocument,
  newBody,
  ownBytes,
  randomId,
  stateOf,
  toFinal,
} from './job-document.ts'

/** Limit of needed jobs whose results, of up to 64 KiB each, are in memory together. */
const RESULTS_AT_ONCE = 100
/** Limit of the inputs of one write, so that other writes are not delayed. */
const BYTES_PER_WRITE = 8 * 1_048_576
/** Longer than any verb takes. */
const WRITTEN_AFTER_MS = 10_000

/** What making the inputs of a job needs to know of it. */
export const AWAITING_FIELDS = { needs: 1, awaitsInputs: 1, inputsId: 1, inputsBytes: 1 } as const
export type AwaitingJob = Pick<JobDocument, '_id' | 'endpoint' | keyof typeof AWAITING_FIELDS>

/** A job with the change that gives it its inputs. */
export interface WithInputs<J extends AwaitingJob> {
  job: J
  $set: ReturnType<typeof inputsFields>
  $unset: Partial<Record<'awaitsInputs' | 'inputs' | 'inputsId', ''>>
  /** Added to payloadBytes. */
  moreBytes: number
}

type Made<J extends AwaitingJob> = WithInputs<J> & { body: BodyDocument | null; byteCount: number }

/** The inputs of a job cannot be made. */
interface Unmade {
  job: AwaitingJob
  failure: Failure
}

/**
 * Makes the inputs of jobs whose needed jobs have ended.
 *
 * @param write called for some of the jobs at a time; the bodies that it names are stored
 */
export async function makeInputsOf<J extends AwaitingJob>(
  context: MongoContext,
  jobs: J[],
  write: (some: WithInputs<J>[]) => Promise<void>,
  deadline: Deadline,
): Promise<Unmade[]> {
  const unmade: Unmade[] = []
  let ready: Made<J>[] = []
  const flush = async () => {
    const some = ready
    ready = []
    await writeWithBodies(context, some, write, deadline)
  }
  for (const part of partsOf(jobs)) {
    const needed = await neededJobs(context, part, deadline)
    const earlier = await earlierInputs(context, part, deadline)
    for (const job of part) {
      const { needs = [], _id } = job
      const made = makeInputs(needs, (id) => needed.get(id) ?? null, earlier.get(_id) ?? null)
      if (made.kind === 'failed') unmade.push({ job, failure: made.failure })
      else ready.push(changeOf(context, job, made))
      const byteCount = ready.reduce((sum, one) => sum + one.byteCount, 0)
      if (byteCount > BYTES_PER_WRITE) await flush()
    }
    await flush()
  }
  return unmade
}

/** Makes these jobs dead. Returns the ids of those that are. */
export async function failInputs(
  context: MongoContext,
  unmade: Unmade[],
  deadline: Deadline,
): Promise<string[]> {
  const failed: string[] = []
  for (const [reason, some] of Map.groupBy(unmade, ({ failure }) => failure.reason)) {
    const now = nowOf(context)
    const writeId = randomId()
    const updates = some.map(({ job: { _id, endpoint }, failure }) => ({
      updateOne: {
        filter: { _id, endpoint, ...guardOf('fail_inputs', { now }), awaitsInputs: true as const },
        update: toFinal('dead', now, { ...failureFields(failure), writeId }),
        ...BY_ID,
      },
    }))
    const { modifiedCount: count } = await run(deadline, (limit) =>
      context.jobs.bulkWrite(updates, { ordered: false, ...limit }),
    )
    const jobs = some.map(({ job }) => job)
    const dead = await reportDeaths(context, jobs, reason, { writeId, count }, deadline)
    failed.push(...dead.map(({ _id }) => _id))
  }
  return failed
}

/**
 * Called before jobs that will wait are written: for a while, no sweep purges what they need. So it
 * does not matter whether a crash prevents keepNeeded.
 */
export function announceNeeds(
  context: MongoContext,
  jobs: { needs?: readonly Need[] }[],
  deadline: Deadline,
): Promise<void> {
  const keptUntil = new Date(context.clock.now() + WRITTEN_AFTER_MS)
  return raiseNeeded(context, jobs, { $max: { keptUntil } }, deadline)
}

/**
 * Called after the write of the waiting jobs, and before the needed ones are read. From now on a
 * sweep finds the waiting jobs.
 */
export function keepNeeded(
  context: MongoContext,
  waiting: { needs?: readonly Need[] }[],
  deadline: Deadline,
): Promise<void> {
  return raiseNeeded(context, waiting, { $unset: { keptUntil: '' } }, deadline)
}

async function raiseNeeded(
  context: MongoContext,
  jobs: { needs?: readonly Need[] }[],
  change: UpdateFilter<JobDocument>,
  deadline: Deadline,
): Promise<void> {
  const ids = idsNeededBy(jobs)
  if (ids.length === 0) return
  const update = { $inc: { neededCount: 1 }, ...change }
  await run(deadline, (limit) =>
    context.jobs.updateMany({ _id: { $in: ids } }, update, { ...BY_ID, ...limit }),
  )
}

/** For each of these jobs whose result a waiting job needs, the id of such a job. */
export async function neededBy(
  context: MongoContext,
  jobs: Pick<JobDocument, '_id' | 'neededCount'>[],
  deadline: Deadline,
): Promise<Map<string, string>> {
  const ids = jobs.flatMap(({ _id, neededCount }) => (neededCount === undefined ? [] : [_id]))
  if (ids.length === 0) return new Map()
  const stages = [
    { $match: { 'needs.jobId': { $in: ids }, awaitsInputs: true, state: 'blocked' } },
    { $project: { needed: '$needs.jobId' } },
    { $unwind: '$needed' },
    { $match: { needed: { $in: ids } } },
    { $group: { _id: '$needed', dependent: { $first: '$_id' } } },
  ]
  const found = await run(deadline, (limit) =>
    context.jobs
      .aggregate<{ _id: string; dependent: string }>(stages, {
        hint: 'needed',
        batchSize: ids.length + 1,
        ...NEWEST,
        ...limit,
      })
      .toArray(),
  )
  return new Map(found.map(({ _id, dependent }) => [_id, dependent]))
}

export async function getInputs(context: MongoContext, id: string): Promise<Uint8Array | null> {
  const projection = { endpoint: 1, awaitsInputs: 1, inputs: 1, inputsId: 1 } as const
  const wanted = { count: 1, projection }
  const [document] = await readWhole(context, { _id: id }, wanted, startDeadline())
  if (document?.inputs === undefined || document.awaitsInputs) return null
  return ownBytes(document.inputs)
}

function idsNeededBy(jobs: { needs?: readonly Need[] }[]): string[] {
  return [...new Set(jobs.flatMap(({ needs = [] }) => needs.map(({ jobId }) => jobId)))]
}

/** Parts of the jobs that need few others together. */
function partsOf<J extends AwaitingJob>(jobs: J[]): J[][] {
  const parts: J[][] = []
  let part: J[] = []
  const needed = new Set<string>()
  for (const job of jobs) {
    for (const id of idsNeededBy([job])) needed.add(id)
    part.push(job)
    if (needed.size < RESULTS_AT_ONCE) continue
    parts.push(part)
    part = []
    needed.clear()
  }
  return part.length === 0 ? parts : [...parts, part]
}

async function neededJobs(
  context: MongoContext,
  waiting: AwaitingJob[],
  deadline: Deadline,
): Promise<Map<string, NeededJob>> {
  const ids = idsNeededBy(waiting)
  const found = await run(deadline, (limit) =>
    context.jobs
      .find(
        { _id: { $in: ids } },
        { projection: NEEDED_FIELDS, batchSize: ids.length + 1, ...NEWEST, ...BY_ID, ...limit },
      )
      .toArray(),
  )
  // The body of a result is deleted after its job: one that lacks it is gone.
  const whole = await withBodies(context, found, deadline)
  return new Map(
    whole.map(({ _id, state, result, resultTruncated }) => [
      _id,
      { state: stateOf(state), result, resultTruncated },
    ]),
  )
}

const NEEDED_FIELDS = {
  ...{ endpoint: 1, state: 1, result: 1, resultId: 1, resultTruncated: 1 },
} as const

/** The inputs that retried jobs had before, by the ids of the jobs. */
async function earlierInputs(
  context: MongoContext,
  jobs: AwaitingJob[],
  deadline: Deadline,
): Promise<Map<string, Uint8Array>> {
  const retried = jobs.filter(({ inputsBytes }) => inputsBytes !== undefined)
  if (retried.length === 0) return new Map()
  const found = await readWhole(
    context,
    atEndpoints(retried),
    { count: retried.length, projection: { endpoint: 1, inputs: 1, inputsId: 1 } },
    deadline,
  )
  return new Map(found.flatMap(({ _id, inputs }) => (inputs === undefined ? [] : [[_id, inputs]])))
}

function changeOf<J extends AwaitingJob>(
  context: MongoContext,
  job: J,
  { inputs }: Extract<MadeInputs, { kind: 'made' }>,
): Made<J> {
  const body = newBody(job, inputs, context.clock.now())
  return {
    ...{ job, body, byteCount: inputs.byteLength },
    $set: inputsFields(inputs, body),
    $unset: { awaitsInputs: '', ...(body === null ? { inputsId: '' } : { inputs: '' }) },
    moreBytes: inputs.byteLength - (job.inputsBytes ?? 0),
  }
}

/** Stores the bodies first, and then deletes those that no job names. */
async function writeWithBodies<J extends AwaitingJob>(
  context: MongoContext,
  some: Made<J>[],
  write: (some: WithInputs<J>[]) => Promise<void>,
  deadline: Deadline,
): Promise<void> {
  if (some.length === 0) return
  const bodies = some.flatMap(({ body }) => body ?? [])
  await storeBodies(context, bodies, deadline)
  await write(some)
  const before = some.flatMap(({ job: { inputsId: _id, endpoint } }) =>
    _id === undefined ? [] : [{ _id, endpoint }],
  )
  const names = [...before, ...bodies.map(({ _id, endpoint }) => ({ _id, endpoint }))]
  if (names.length === 0) return
  const jobs = some.map(({ job }) => job)
  const found = await run(deadline, (limit) =>
    context.jobs
      .find(atEndpoints(jobs), {
        projection: { inputsId: 1 },
        batchSize: jobs.length + 1,
        ...NEWEST,
        ...BY_ID,
        ...limit,
      })
      .toArray(),
  )
  const named = new Set(found.map(({ inputsId }) => inputsId))
  await deleteBodies(
    context,
    names.filter(({ _id }) => !named.has(_id)),
    deadline,
  )
}
