// Reads of jobs: one, a page, and which of many are final. Ids sort by creation, so that pages are
// ordered and bounded by ids.
import type { Document, Filter } from 'mongodb'
import type { Job, JobState, JobSummary } from '../../job/job.ts'
import { firstIdAt } from '../../job/job-id.ts'
import { FINAL_STATES } from '../../job/retention.ts'
import { type JobQuery, MAX_ENTRIES_PER_PAGE, type Page } from '../store.ts'
import { readWhole } from './bodies.ts'
import { type Deadline, type MongoContext, run, startDeadline } from './connection.ts'
import {
  type JobDocument,
  jobOf,
  ownBytes,
  QUEUED_STATES,
  type StoredState,
  summaryOf,
  WITHOUT_BULK,
} from './job-document.ts'

const ALL_STATES: StoredState[] = [...QUEUED_STATES, 'running', ...FINAL_STATES]

export async function getJob(context: MongoContext, id: string): Promise<Job | null> {
  const [document] = await readWhole(context, { _id: id }, { count: 1 }, startDeadline())
  return document === undefined ? null : jobOf(document, context.box)
}

export async function getPayload(context: MongoContext, id: string): Promise<Uint8Array | null> {
  const wanted = { count: 1, projection: { endpoint: 1, payload: 1, payloadId: 1 } } as const
  const [document] = await readWhole(context, { _id: id }, wanted, startDeadline())
  return document === undefined ? null : ownBytes(document.payload)
}

export async function listJobs(context: MongoContext, query: JobQuery): Promise<Page<JobSummary>> {
  const deadline = startDeadline()
  const range = idRangeOf(query)
  const direction = query.oldestFirst ? 1 : -1
  const { indexed, rest } = splitQuery(query)
  // Matching jobs can be far apart in the index, so that a page reads a limited number of entries.
  const boundary =
    rest === null ? null : await lastEntryOfPage(context, indexed, range, direction, deadline)
  const filter: Filter<JobDocument> = { ...indexed, ...rest }
  const bounded =
    boundary === null ? range : { ...range, [direction === 1 ? '$lte' : '$gte']: boundary }
  if (Object.keys(bounded).length > 0) filter._id = bounded
  const found = await run(deadline, (limit) =>
    context.jobs
      .find<Omit<JobDocument, keyof typeof WITHOUT_BULK>>(filter, {
        projection: WITHOUT_BULK,
        sort: { _id: direction },
        limit: query.limit + 1,
        batchSize: query.limit + 1,
        ...limit,
      })
      .toArray(),
  )
  const items = found.slice(0, query.limit).map((document) => summaryOf(document, context.box))
  const isFull = found.length > query.limit
  return { items, next: isFull ? (items.at(-1)?.id ?? null) : boundary }
}

export async function finalAmong(context: MongoContext, ids: string[]): Promise<string[]> {
  if (ids.length === 0) return []
  const alive = await run(startDeadline(), (limit) =>
    context.jobs
      .find(
        { _id: { $in: ids }, state: { $in: [...QUEUED_STATES, 'running'] } },
        { projection: { _id: 1 }, batchSize: ids.length + 1, ...limit },
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

/** The part of the query that an index answers, and the rest; null: there is no rest. */
function splitQuery(query: JobQuery): {
  indexed: Filter<JobDocument>
  rest: Filter<JobDocument> | null
} {
  const { endpoint, states = [], tag, dedupeKey, failureReason } = query
  const placed: Filter<JobDocument> = {
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(states.length > 0 ? { state: { $in: storedStates(states) } } : {}),
  }
  const failed = failureReason === undefined ? {} : { failureReason }
  if (dedupeKey !== undefined) {
    const rest = { ...placed, ...failed, ...(tag === undefined ? {} : { tags: tag }) }
    return { indexed: { dedupeKey }, rest: orNull(rest) }
  }
  if (tag !== undefined) return { indexed: { tags: tag }, rest: orNull({ ...placed, ...failed }) }
  const indexed =
    // With all states named, by_endpoint returns the jobs in the order of their ids.
    endpoint !== undefined && states.length === 0
      ? { ...placed, state: { $in: ALL_STATES } }
      : failureReason !== undefined && states.length === 0
        ? { ...placed, state: { $in: [...FINAL_STATES] } }
        : placed
  return { indexed, rest: orNull(failed) }
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
  indexed: Filter<JobDocument>,
  range: Document,
  direction: 1 | -1,
  deadline: Deadline,
): Promise<string | null> {
  const filter: Filter<JobDocument> = { ...indexed }
  if (Object.keys(range).length > 0) filter._id = range
  const [last] = await run(deadline, (limit) =>
    context.jobs
      .find(filter, {
        projection: { _id: 1 },
        sort: { _id: direction },
        skip: MAX_ENTRIES_PER_PAGE - 1,
        limit: 1,
        ...limit,
      })
      .toArray(),
  )
  return last?._id ?? null
}
