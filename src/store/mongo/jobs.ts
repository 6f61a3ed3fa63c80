// What is read of jobs: one, a page, how many, which are final, which endpoints have work.
import type { Document, Filter } from 'mongodb'
import { firstIdAt, JOB_STATES, type Job, type JobSummary } from '../../job/job.ts'
import {
  type Due,
  type EndpointCounts,
  type JobQuery,
  MAX_COUNT,
  MAX_ENTRIES_PER_PAGE,
  type Page,
} from '../store.ts'
import { type MongoContext, nowOf } from './context.ts'
import { type JobDocument, jobOf, ownBytes, summaryOf, WITHOUT_BULK } from './documents.ts'
import { type Deadline, run, startDeadline } from './run-command.ts'

/** Any endpoint, said so that the index of claims is skipped through from name to name. */
export const EVERY_NAME = { endpoint: { $gt: '' } } as const
/** Names in one command of counts: two pipelines each. */
const NAMES_PER_COUNT = 32

export async function getJob(context: MongoContext, id: string): Promise<Job | null> {
  const document = await run(startDeadline(), (limit) =>
    context.jobs.findOne({ _id: id }, { ...limit }),
  )
  return document === null ? null : jobOf(document, context.box)
}

export async function getPayload(context: MongoContext, id: string): Promise<Uint8Array | null> {
  const document = await run(startDeadline(), (limit) =>
    context.jobs.findOne({ _id: id }, { projection: { payload: 1 }, ...limit }),
  )
  return document === null ? null : ownBytes(document.payload)
}

export async function finalAmong(context: MongoContext, ids: string[]): Promise<string[]> {
  if (ids.length === 0) return []
  const alive = await run(startDeadline(), (limit) =>
    context.jobs
      .find(
        { _id: { $in: ids }, state: { $in: ['queued', 'running'] } },
        { projection: { _id: 1 }, batchSize: ids.length + 1, ...limit },
      )
      .toArray(),
  )
  const aliveIds = new Set(alive.map(({ _id }) => _id))
  return ids.filter((id) => !aliveIds.has(id))
}

export async function listJobs(context: MongoContext, query: JobQuery): Promise<Page<JobSummary>> {
  const deadline = startDeadline()
  const range = idRangeOf(query)
  // A tag has its own index, and what else is asked is sifted out of it: so not too far.
  const boundary =
    query.tag === undefined ? null : await lastEntryOfPage(context, query.tag, range, deadline)
  const filter: Filter<JobDocument> = { ...sieveOf(query) }
  const bounded = boundary === null ? range : { ...range, $gte: boundary }
  if (Object.keys(bounded).length > 0) filter._id = bounded
  const found = await run(deadline, (limit) =>
    context.jobs
      .find<Omit<JobDocument, keyof typeof WITHOUT_BULK>>(filter, {
        projection: WITHOUT_BULK,
        sort: { _id: -1 },
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

/** Ids sort by creation, so that bounds in time are bounds of ids. */
function idRangeOf({ createdAfter, createdBefore, after }: JobQuery) {
  const lowest = createdAfter === undefined ? undefined : firstIdAt(createdAfter)
  const uppers = [createdBefore === undefined ? undefined : firstIdAt(createdBefore), after]
  const upper = uppers.filter((id) => id !== undefined).sort()[0]
  return {
    ...(lowest === undefined ? {} : { $gte: lowest }),
    ...(upper === undefined ? {} : { $lt: upper }),
  }
}

function sieveOf({ endpoint, states, tag }: JobQuery): Filter<JobDocument> {
  const byState = states !== undefined && states.length > 0
  return {
    ...(endpoint === undefined ? {} : { endpoint }),
    // With all states named, the index of an endpoint gives its jobs in order of their ids.
    ...(byState || endpoint !== undefined
      ? { state: { $in: byState ? states : [...JOB_STATES] } }
      : {}),
    ...(tag === undefined ? {} : { tags: tag }),
  }
}

/** The id of the last index entry that a page of this tag may look at; null: it may look at all. */
async function lastEntryOfPage(
  context: MongoContext,
  tag: string,
  range: Document,
  deadline: Deadline,
): Promise<string | null> {
  const filter: Filter<JobDocument> = { tags: tag }
  if (Object.keys(range).length > 0) filter._id = range
  const [last] = await run(deadline, (limit) =>
    context.jobs
      .find(filter, {
        projection: { _id: 1 },
        sort: { _id: -1 },
        skip: MAX_ENTRIES_PER_PAGE - 1,
        limit: 1,
        ...limit,
      })
      .toArray(),
  )
  return last?._id ?? null
}

export async function countJobs(context: MongoContext, names: string[]): Promise<EndpointCounts[]> {
  const deadline = startDeadline()
  const counts = new Map<string, number>()
  for (let i = 0; i < names.length; i += NAMES_PER_COUNT) {
    const pipelines = names
      .slice(i, i + NAMES_PER_COUNT)
      .flatMap((name) => [countOf(name, 'queued'), countOf(name, 'running')])
    const [first = [], ...others] = pipelines
    const unions = others.map((pipeline) => ({ $unionWith: { coll: 'jobs', pipeline } }))
    const found = await run(deadline, (limit) =>
      context.jobs
        .aggregate<{ _id: { endpoint: string; state: string }; count: number }>(
          [...first, ...unions],
          { batchSize: pipelines.length + 1, ...limit },
        )
        .toArray(),
    )
    for (const { _id, count } of found) counts.set(`${_id.endpoint} ${_id.state}`, count)
  }
  return names.map((name) => {
    const queued = counts.get(`${name} queued`) ?? 0
    const running = counts.get(`${name} running`) ?? 0
    return {
      queued: Math.min(queued, MAX_COUNT),
      running: Math.min(running, MAX_COUNT),
      more: queued > MAX_COUNT || running > MAX_COUNT,
    }
  })
}

/** Counts in the index alone, and one beyond what is told. */
export function countOf(endpoint: string, state: 'queued' | 'running'): Document[] {
  return [
    { $match: { endpoint, state } },
    { $limit: MAX_COUNT + 1 },
    { $group: { _id: { endpoint: '$endpoint', state: '$state' }, count: { $sum: 1 } } },
  ]
}

export async function due(context: MongoContext, since: number | null): Promise<Due> {
  const deadline = startDeadline()
  const now = nowOf(context)
  const lately = since === null ? EVERY_NAME : { runAt: { $gt: new Date(since), $lte: now } }
  const [endpoints, next] = await Promise.all([
    run(deadline, (limit) =>
      context.jobs.distinct('endpoint', { state: 'queued', ...lately }, limit),
    ),
    run(deadline, (limit) =>
      context.jobs
        .find(
          { state: 'queued', runAt: { $gt: now } },
          { projection: { _id: 0, runAt: 1 }, sort: { runAt: 1 }, limit: 1, ...limit },
        )
        .toArray(),
    ),
  ])
  return { endpoints, nextAt: next[0]?.runAt.getTime() ?? null }
}
