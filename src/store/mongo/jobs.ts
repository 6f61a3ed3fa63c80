// Reads of jobs: one, a page, and which of many are final. Ids sort by creation, so that pages are
// ordered and bounded by ids. Running, dead and cancelled jobs have indexes of their own in that
// order. Queued and succeeded ones have none, because each job would be written to it and removed:
// they are looked for among all jobs of the endpoint, or of all endpoints.
import type { Document, Filter } from 'mongodb'
import type { Dependent } from '../../job/dependencies.ts'
import type { Job, JobState, JobSummary, JobWithAttempts } from '../../job/job.ts'
import { firstIdAt } from '../../job/job-id.ts'
import { type JobQuery, MAX_ENTRIES_PER_PAGE, type Page } from '../store.ts'
import { readWhole } from './bodies.ts'
import { endpointsWith } from './claim.ts'
import { type Deadline, type MongoContext, NEWEST, run, startDeadline } from './connection.ts'
import type { JobIndex } from './indexes.ts'
import {
  attemptOf,
  BY_ID,
  type JobDocument,
  jobOf,
  ownBytes,
  QUEUED_STATES,
  type StoredState,
  stateOf,
  summaryOf,
  WITHOUT_BULK,
} from './job-document.ts'

/** The fields that getJobWithAttempts leaves out. */
const UNREAD = { payload: 0, inputs: 0, result: 0, keys: 0 } as const
const WITHOUT_INPUTS = { inputs: 0, inputsId: 0 } as const
/** The states in the indexes `unsuccessful`. */
const UNSUCCESSFUL: ReadonlySet<JobState> = new Set(['dead', 'cancelled'])
/** Scans that MongoDB merges in the order of a sort: by default it does so with up to 200. */
const MAX_MERGED = 100

export async function getJob(context: MongoContext, id: string): Promise<Job | null> {
  const wanted = { count: 1, projection: WITHOUT_INPUTS }
  const [document] = await readWhole(context, { _id: id }, wanted, startDeadline())
  return document === undefined ? null : jobOf(document, context.box)
}

export async function getJobWithAttempts(
  context: MongoContext,
  id: string,
): Promise<JobWithAttempts | null> {
  const document = await run(startDeadline(), (limit) =>
    context.jobs.findOne<Omit<JobDocument, keyof typeof UNREAD>>(
      { _id: id },
      { projection: UNREAD, ...limit },
    ),
  )
  if (document === null) return null
  return { ...summaryOf(document, context.box), attempts: document.attempts.map(attemptOf) }
}

export async function getPayload(context: MongoContext, id: string): Promise<Uint8Array | null> {
  const wanted = { count: 1, projection: { endpoint: 1, payload: 1, payloadId: 1 } } as const
  const [document] = await readWhole(context, { _id: id }, wanted, startDeadline())
  return document === undefined ? null : ownBytes(document.payload)
}

export async function listJobs(context: MongoContext, query: JobQuery): Promise<Page<JobSummary>> {
  const deadline = startDeadline()
  const direction = query.oldestFirst ? 1 : -1
  const walk = await walkOf(context, query, deadline)
  // Matching jobs can be far apart in the index, so that a page reads a limited number of entries.
  const boundary =
    walk.rest === null ? null : await lastEntryOfPage(context, walk, direction, deadline)
  const range =
    boundary === null
      ? walk.range
      : { ...walk.range, [direction === 1 ? '$lte' : '$gte']: boundary }
  const found = await run(deadline, (limit) =>
    context.jobs
      .find<Omit<JobDocument, keyof typeof WITHOUT_BULK>>(
        { ...walk.indexed, ...walk.rest, ...idsIn(range) },
        {
          projection: WITHOUT_BULK,
          sort: { _id: direction },
          hint: walk.hint,
          limit: query.limit + 1,
          batchSize: query.limit + 1,
          ...limit,
        },
      )
      .toArray(),
  )
  const items = found.slice(0, query.limit).map((document) => summaryOf(document, context.box))
  const isFull = found.length > query.limit
  return { items, next: isFull ? (items.at(-1)?.id ?? null) : boundary }
}

export async function finalAmong(context: MongoContext, ids: string[]): Promise<string[]> {
  const deadline = startDeadline()
  const final = await withoutAlive(context, ids, {}, deadline)
  // A majority read can be older than the job, or than its retry.
  return withoutAlive(context, final, NEWEST, deadline)
}

export async function dependentsOf(
  context: MongoContext,
  ids: string[],
  limit: number,
): Promise<Dependent[]> {
  if (ids.length === 0 || limit <= 0) return []
  const deadline = startDeadline()
  const read = (filter: Filter<JobDocument>) =>
    run(deadline, (commandLimit) =>
      context.jobs
        .find(filter, {
          projection: { state: 1, dependsOn: 1, needs: 1 },
          limit,
          batchSize: limit,
          ...NEWEST,
          ...commandLimit,
        })
        .toArray(),
    )
  const [dead, waiting] = await Promise.all([
    read({ failureJobId: { $in: ids } }),
    read({ waitingFor: { $in: ids }, state: 'blocked' }),
  ])
  return [...dead, ...waiting]
    .slice(0, limit)
    .map(({ _id, state, dependsOn = [], needs = [] }) => ({
      ...{ id: _id, state: stateOf(state), dependsOn, needs },
    }))
}

async function withoutAlive(
  context: MongoContext,
  ids: string[],
  concern: Partial<typeof NEWEST>,
  deadline: Deadline,
): Promise<string[]> {
  if (ids.length === 0) return []
  const alive = await run(deadline, (limit) =>
    context.jobs
      .find(
        { _id: { $in: ids }, state: { $in: [...QUEUED_STATES, 'running'] } },
        { projection: { _id: 1 }, batchSize: ids.length + 1, ...concern, ...limit },
      )
      .toArray(),
  )
  const aliveIds = new Set(alive.map(({ _id }) => _id))
  return ids.filter((id) => !aliveIds.has(id))
}

/** Bounds in time become bounds of ids. */
function idRangeOf({ createdAfter, createdBefore, after, oldestFirst }: JobQuery) {
  const lowest = createdAfter === undefined ? undefined : firstIdAt(createdAfter)
  const highest = createdBefore === undefined ? undefined : firstIdAt(createdBefore)
  const uppers = [highest, oldestFirst ? undefined : after]
  const upper = uppers.filter((id) => id !== undefined).sort()[0]
  return {
    ...(lowest === undefined ? {} : { $gte: lowest }),
    ...(upper === undefined ? {} : { $lt: upper }),
    ...(oldestFirst && after !== undefined ? { $gt: after } : {}),
  }
}

/** A part of an index in order of the ids, in which a list looks for its jobs. */
interface Walk {
  hint: JobIndex | typeof BY_ID.hint
  /** The conditions that the index serves. */
  indexed: Filter<JobDocument>
  range: Document
  /** The conditions that are compared with each job; null: none. */
  rest: Filter<JobDocument> | null
}

async function walkOf(context: MongoContext, query: JobQuery, deadline: Deadline): Promise<Walk> {
  const { endpoint, tag, dedupeKey, group, fairnessKey, failureReason } = query
  const range = idRangeOf(query)
  // A failure is of a dead job: a retry removes it.
  const states = query.states ?? (failureReason === undefined ? [] : ['dead'])
  const ofEndpoint = endpoint === undefined ? {} : { endpoint }
  const inStates = states.length === 0 ? {} : { state: { $in: storedStates(states) } }
  const filtered = {
    ...(failureReason === undefined ? {} : { failureReason }),
    ...(fairnessKey === undefined ? {} : { fairnessKey }),
    ...(group === undefined ? {} : { group }),
  }
  const tagged = tag === undefined ? {} : { tags: tag }
  if (dedupeKey !== undefined) {
    const rest = orNull({ ...ofEndpoint, ...inStates, ...filtered, ...tagged })
    return { hint: 'by_dedupe_key', indexed: { dedupeKey }, range, rest }
  }
  if (group !== undefined) {
    const { group: _, ...others } = filtered as { group?: string }
    const rest = orNull({ ...ofEndpoint, ...inStates, ...others, ...tagged })
    return { hint: 'of_group', indexed: { group }, range, rest }
  }
  if (tag !== undefined) {
    const rest = orNull({ ...ofEndpoint, ...inStates, ...filtered })
    return { hint: 'by_tag', indexed: tagged, range, rest }
  }
  if (states.length > 0 && states.every((state) => UNSUCCESSFUL.has(state))) {
    const hint = endpoint === undefined ? 'unsuccessful' : 'unsuccessful_of_endpoint'
    return { hint, indexed: { ...ofEndpoint, ...inStates }, range, rest: orNull(filtered) }
  }
  if (states.length > 0 && states.every((state) => state === 'running')) {
    const names = endpoint === undefined ? await namesToMerge(context, deadline) : [endpoint]
    if (names !== null) {
      const indexed = { endpoint: { $in: names }, state: 'running' as const }
      return { hint: 'running', indexed, range, rest: orNull(filtered) }
    }
  }
  const hint = endpoint === undefined ? BY_ID.hint : 'by_endpoint'
  return { hint, indexed: ofEndpoint, range, rest: orNull({ ...inStates, ...filtered }) }
}

/**
 * The endpoints with running jobs; null: there are more than MongoDB merges in order of the ids.
 */
async function namesToMerge(context: MongoContext, deadline: Deadline): Promise<string[] | null> {
  const names = await endpointsWith(context, 'running', deadline)
  return names.length > MAX_MERGED ? null : names
}

function idsIn(range: Document): Filter<JobDocument> {
  return Object.keys(range).length === 0 ? {} : { _id: range }
}

function orNull(filter: Filter<JobDocument>): Filter<JobDocument> | null {
  return Object.keys(filter).length === 0 ? null : filter
}

function storedStates(states: JobState[]): StoredState[] {
  return states.flatMap((state): StoredState[] =>
    state === 'queued' ? [...QUEUED_STATES] : [state],
  )
}

/** The id of the last index entry that a page may read; null: it may read all. */
async function lastEntryOfPage(
  context: MongoContext,
  { hint, indexed, range }: Walk,
  direction: 1 | -1,
  deadline: Deadline,
): Promise<string | null> {
  const [last] = await run(deadline, (limit) =>
    context.jobs
      .find(
        { ...indexed, ...idsIn(range) },
        {
          projection: { _id: 1 },
          sort: { _id: direction },
          hint,
          skip: MAX_ENTRIES_PER_PAGE - 1,
          limit: 1,
          ...limit,
        },
      )
      .toArray(),
  )
  return last?._id ?? null
}
