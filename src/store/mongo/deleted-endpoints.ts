// Jobs whose endpoint was deleted or is being deleted: they are made dead in batches, and an
// endpoint that is being deleted is removed when none is left.
import { ENDPOINT_GONE } from '../../job/attempt.ts'
import { type FinishEffects, NO_EFFECTS, sumEffects } from '../../job/finish-effects.ts'
import { endpointsWith } from './claim.ts'
import { type Deadline, type MongoContext, nowOf, run, startDeadline } from './connection.ts'
import { tryFinishEffects } from './finish-effects.ts'
import { guardOf, tellAttemptsEnded, tellDied } from './guards.ts'
import {
  BY_ID,
  endedAttempt,
  failureFields,
  type JobDocument,
  leaseOf,
  pushAttempt,
  QUEUED_STATES,
  randomId,
  SEEN_LEASE,
  type SeenLease,
  toFinal,
} from './job-document.ts'

/** An enqueue that saw the endpoint before it was marked has ended by then: its deadline is 3 s. */
const LATE_ENQUEUES_MS = 4_000
/** Orphans come only of an enqueue that raced a deletion: rare, and looked for rarely. */
const LOOK_FOR_ORPHANS_MS = 10_000
/** Endpoints being deleted that one sweep looks at. */
const MAX_ENDPOINTS = 100

export interface GoneEndpoints {
  /** At most `limit` jobs of each kind. */
  bury(limit: number): Promise<{ abandoned: number; evicted: number; after: FinishEffects }>
}

type Queued = Pick<JobDocument, '_id' | 'endpoint'>

interface Ended {
  count: number
  after: FinishEffects
}

const NONE: Ended = { count: 0, after: NO_EFFECTS }

export function watchGoneEndpoints(
  context: MongoContext,
  forget: (name: string) => void,
): GoneEndpoints {
  let orphansLookedForAt = Number.NEGATIVE_INFINITY
  return {
    async bury(limit) {
      const deadline = startDeadline()
      const deleting = await run(deadline, (commandLimit) =>
        context.endpoints
          .find(
            { deleting: true },
            {
              projection: { version: 1, deletingSince: 1 },
              limit: MAX_ENDPOINTS,
              batchSize: MAX_ENDPOINTS,
              ...commandLimit,
            },
          )
          .toArray(),
      )
      let abandoned = NONE
      let evicted = NONE
      if (deleting.length > 0) {
        const names = deleting.map(({ _id }) => _id)
        const queued = await queuedOf(context, names, limit, deadline)
        abandoned = await abandon(context, queued, deadline)
        evicted = await evict(context, names, limit, deadline)
        if (abandoned.count + evicted.count === 0) {
          for (const endpoint of deleting) await remove(context, endpoint, forget, deadline)
        }
      }
      const room = limit - abandoned.count
      let orphans = NONE
      if (room > 0 && performance.now() - orphansLookedForAt >= LOOK_FOR_ORPHANS_MS) {
        orphans = await abandonOrphans(context, room)
        // As many as it might look at: there may be more, and the next sweep is to see.
        if (orphans.count < room) orphansLookedForAt = performance.now()
      }
      return {
        abandoned: abandoned.count + orphans.count,
        evicted: evicted.count,
        after: sumEffects([abandoned.after, evicted.after, orphans.after]),
      }
    },
  }
}

export async function notStored(
  context: MongoContext,
  names: string[],
  deadline: Deadline,
): Promise<string[]> {
  if (names.length === 0) return []
  const stored = await run(deadline, (limit) =>
    context.endpoints
      .find(
        { _id: { $in: names } },
        { projection: { _id: 1 }, batchSize: names.length + 1, ...limit },
      )
      .toArray(),
  )
  const known = new Set(stored.map(({ _id }) => _id))
  return names.filter((name) => !known.has(name))
}

async function queuedOf(
  context: MongoContext,
  names: string[],
  limit: number,
  deadline: Deadline,
): Promise<Queued[]> {
  return run(deadline, (commandLimit) =>
    context.jobs
      .find(
        { endpoint: { $in: names }, state: { $in: [...QUEUED_STATES] } },
        { projection: { endpoint: 1 }, limit, batchSize: limit, ...commandLimit },
      )
      .toArray(),
  )
}

async function abandon(context: MongoContext, jobs: Queued[], deadline: Deadline): Promise<Ended> {
  if (jobs.length === 0) return NONE
  const now = nowOf(context)
  const writeId = randomId()
  const ids = jobs.map(({ _id }) => _id)
  const { modifiedCount: count } = await run(deadline, (limit) =>
    context.jobs.updateMany(
      { _id: { $in: ids }, ...guardOf('abandon', { now }) },
      toFinal('dead', now, { ...failureFields(ENDPOINT_GONE), writeId }),
      limit,
    ),
  )
  const { reason } = ENDPOINT_GONE
  const ended = await tellDied(context, jobs, reason, { writeId, count }, deadline)
  return { count, after: await tryFinishEffects(context, idsOf(ended)) }
}

function idsOf(jobs: Queued[]): string[] {
  return jobs.map(({ _id }) => _id)
}

async function evict(
  context: MongoContext,
  names: string[],
  limit: number,
  deadline: Deadline,
): Promise<Ended> {
  const seen = await run(deadline, (commandLimit) =>
    context.jobs
      .find<SeenLease>(
        { endpoint: { $in: names }, state: 'running' },
        { projection: SEEN_LEASE, limit, batchSize: limit, ...commandLimit },
      )
      .toArray(),
  )
  if (seen.length === 0) return NONE
  const now = nowOf(context)
  const writeId = randomId()
  const ends = seen.map((job) => ({
    job,
    attempt: endedAttempt(job, now, 'endpoint_deleted', { event: 'evict', writeId }),
  }))
  const updates = ends.map(({ job, attempt }) => {
    const change = toFinal('dead', now, failureFields(ENDPOINT_GONE))
    const { fence, leaseId } = leaseOf(job)
    const filter = { _id: job._id, fence, leaseId, ...guardOf('evict', { now }) }
    return { updateOne: { filter, update: { ...change, ...pushAttempt(attempt) }, ...BY_ID } }
  })
  const { modifiedCount: count } = await run(deadline, (commandLimit) =>
    context.jobs.bulkWrite(updates, { ordered: false, ...commandLimit }),
  )
  const { reason } = ENDPOINT_GONE
  const ended = await tellAttemptsEnded(context, ends, reason, { writeId, count }, deadline)
  return { count, after: await tryFinishEffects(context, idsOf(ended)) }
}

/** Removes it when it has no job left and late enqueues have been waited out. */
async function remove(
  context: MongoContext,
  endpoint: { _id: string; version: number; deletingSince: Date | null },
  forget: (name: string) => void,
  deadline: Deadline,
): Promise<void> {
  const sinceMs = context.clock.now() - (endpoint.deletingSince?.getTime() ?? 0)
  if (sinceMs < LATE_ENQUEUES_MS) return
  // Read after the wait: what was found before it may have been too early.
  const left = await run(deadline, (limit) =>
    context.jobs.countDocuments(
      { endpoint: endpoint._id, state: { $in: [...QUEUED_STATES, 'running'] } },
      { limit: 1, ...limit },
    ),
  )
  if (left > 0) return
  await run(deadline, (limit) =>
    context.endpoints.deleteOne(
      { _id: endpoint._id, deleting: true, version: endpoint.version },
      limit,
    ),
  )
  forget(endpoint._id)
}

/**
 * Queued jobs of an endpoint that is not stored at all. The ids are read before the endpoint is
 * looked for again: one that is made anew meanwhile keeps its new jobs.
 */
async function abandonOrphans(context: MongoContext, limit: number): Promise<Ended> {
  const deadline = startDeadline()
  const names: string[] = []
  // One by one, for each state has its own place in the indexes.
  for (const state of QUEUED_STATES) {
    const some = await endpointsWith(context, state, deadline)
    names.push(...some.filter((name) => !names.includes(name)))
  }
  const suspects = await notStored(context, names, deadline)
  if (suspects.length === 0) return NONE
  const orphans = await run(deadline, (commandLimit) =>
    context.jobs
      .find(
        { endpoint: { $in: suspects }, state: { $in: [...QUEUED_STATES] } },
        { projection: { endpoint: 1 }, limit, batchSize: limit, ...commandLimit },
      )
      .toArray(),
  )
  const gone = new Set(await notStored(context, suspects, deadline))
  return abandon(
    context,
    orphans.filter(({ endpoint }) => gone.has(endpoint)),
    deadline,
  )
}
