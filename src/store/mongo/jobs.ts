// What is read of jobs: one, how many, which are final, which endpoints have work.
import type { Document } from 'mongodb'
import type { Job } from '../../job/job.ts'
import { COLLECTIONS } from '../collection-names.ts'
import type { EndpointCounts } from '../endpoint-results.ts'
import { type Due, MAX_COUNT } from '../store.ts'
import { type MongoContext, nowOf } from './context.ts'
import { jobOf, ownBytes, QUEUED_STATES } from './documents.ts'
import { type Deadline, run, startDeadline } from './run-command.ts'

/** Endpoints in one answer of a look for work. More come in further answers. */
const MAX_NAMES = 10_000
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
        { _id: { $in: ids }, state: { $in: [...QUEUED_STATES, 'running'] } },
        { projection: { _id: 1 }, batchSize: ids.length + 1, ...limit },
      )
      .toArray(),
  )
  const aliveIds = new Set(alive.map(({ _id }) => _id))
  return ids.filter((id) => !aliveIds.has(id))
}

export async function countJobs(context: MongoContext, names: string[]): Promise<EndpointCounts[]> {
  const deadline = startDeadline()
  const counts = new Map<string, number>()
  for (let i = 0; i < names.length; i += NAMES_PER_COUNT) {
    const pipelines = names
      .slice(i, i + NAMES_PER_COUNT)
      .flatMap((name) => [countOf(name, 'queued'), countOf(name, 'running')])
    const [first = [], ...others] = pipelines
    const unions = others.map((pipeline) => ({ $unionWith: { coll: COLLECTIONS.jobs, pipeline } }))
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
  const states = state === 'queued' ? QUEUED_STATES : [state]
  return [
    { $match: { endpoint, state: { $in: [...states] } } },
    { $limit: MAX_COUNT + 1 },
    { $group: { _id: { endpoint: '$endpoint', state: { $literal: state } }, count: { $sum: 1 } } },
  ]
}

export async function due(context: MongoContext, since: number | null): Promise<Due> {
  const deadline = startDeadline()
  const now = nowOf(context)
  const [endpoints, next] = await Promise.all([
    since === null
      ? endpointsWith(context, 'queued', deadline)
      : dueLately(context, new Date(since), now, deadline),
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

/** By state, the index that is read from name to name. */
const NAME_INDEXES = {
  queued: 'claim',
  held: 'by_endpoint',
  running: 'by_endpoint',
  dead: 'by_endpoint',
} as const

/**
 * Endpoints that have a job in this state, read from name to name in an index that begins with the
 * name. Not by `distinct`, which takes no hint before MongoDB 7.1, and without one any index that
 * holds what matches: that is a walk over all such jobs.
 */
export async function endpointsWith(
  context: MongoContext,
  state: keyof typeof NAME_INDEXES,
  deadline: Deadline,
): Promise<string[]> {
  const stages = [{ $match: { endpoint: { $gt: '' }, state } }, { $group: { _id: '$endpoint' } }]
  const hint = NAME_INDEXES[state]
  const found = await run(deadline, (limit) =>
    context.jobs
      .aggregate<{ _id: string }>(stages, { hint, batchSize: MAX_NAMES, ...limit })
      .toArray(),
  )
  return found.map(({ _id }) => _id)
}

/** By what has come due, and by what was let go though it had been due before. */
async function dueLately(
  context: MongoContext,
  since: Date,
  now: Date,
  deadline: Deadline,
): Promise<string[]> {
  const names = { $group: { _id: '$endpoint' } }
  const came = { state: 'queued', runAt: { $gt: since, $lte: now } }
  const freed = { state: 'queued', freedAt: { $gt: since }, runAt: { $lte: now } }
  const pipeline = [{ $match: freed }, names]
  const stages = [{ $match: came }, names, { $unionWith: { coll: COLLECTIONS.jobs, pipeline } }]
  const found = await run(deadline, (limit) =>
    context.jobs.aggregate<{ _id: string }>(stages, { batchSize: MAX_NAMES, ...limit }).toArray(),
  )
  return [...new Set(found.map(({ _id }) => _id))]
}
