// Jobs whose endpoint is gone or being deleted: they are buried in batches, and an endpoint being
// deleted is removed when none is left.
import type { Failure } from '../../job/job.ts'
import { afterFinish } from './aftermath.ts'
import { failureFields, pushAttempt, randomId, toFinal } from './changes.ts'
import { type MongoContext, nowOf } from './context.ts'
import { QUEUED_STATES } from './documents.ts'
import { guardOf } from './guards.ts'
import { BY_ID } from './indexes.ts'
import { endpointsWith } from './jobs.ts'
import { leaseOf, lostAttempt, SEEN_LEASE, type SeenLease } from './lost-attempts.ts'
import { type Deadline, run, startDeadline } from './run-command.ts'

/** An enqueue that saw the endpoint before it was marked has ended by then: its deadline is 3 s. */
const LATE_ENQUEUES_MS = 4_000
/** Orphans come only of an enqueue that raced a deletion: rare, and looked for rarely. */
const LOOK_FOR_ORPHANS_MS = 10_000
/** Endpoints being deleted that one sweep looks at. */
const MAX_ENDPOINTS = 100

const ENDPOINT_GONE: Failure = {
  reason: 'endpoint_gone',
  message: 'its endpoint was deleted',
}

export interface GoneEndpoints {
  /** At most `limit` jobs of each kind. */
  bury(limit: number): Promise<{ abandoned: number; evicted: number }>
}

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
      let abandoned = 0
      let evicted = 0
      if (deleting.length > 0) {
        const names = deleting.map(({ _id }) => _id)
        abandoned += await abandon(
          context,
          await queuedOf(context, names, limit, deadline),
          deadline,
        )
        evicted += await evict(context, names, limit, deadline)
        if (abandoned + evicted === 0) {
          for (const endpoint of deleting) await remove(context, endpoint, forget, deadline)
        }
      }
      const room = limit - abandoned
      if (room > 0 && performance.now() - orphansLookedForAt >= LOOK_FOR_ORPHANS_MS) {
        const orphans = await abandonOrphans(context, room)
        // As many as it might look at: there may be more, and the next sweep is to see.
        if (orphans < room) orphansLookedForAt = performance.now()
        abandoned += orphans
      }
      return { abandoned, evicted }
    },
  }
}

async function queuedOf(
  context: MongoContext,
  names: string[],
  limit: number,
  deadline: Deadline,
): Promise<string[]> {
  const found = await run(deadline, (commandLimit) =>
    context.jobs
      .find(
        { endpoint: { $in: names }, state: { $in: [...QUEUED_STATES] } },
        { projection: { _id: 1 }, limit, batchSize: limit, ...commandLimit },
      )
      .toArray(),
  )
  return found.map(({ _id }) => _id)
}

async function abandon(context: MongoContext, ids: string[], deadline: Deadline): Promise<number> {
  if (ids.length === 0) return 0
  const now = nowOf(context)
  const { modifiedCount } = await run(deadline, (limit) =>
    context.jobs.updateMany(
      { _id: { $in: ids }, ...guardOf('abandon', { now }) },
      toFinal('dead', now, failureFields(ENDPOINT_GONE)),
      limit,
    ),
  )
  if (modifiedCount > 0) await afterFinish(context, ids)
  return modifiedCount
}

async function evict(
  context: MongoContext,
  names: string[],
  limit: number,
  deadline: Deadline,
): Promise<number> {
  const seen = await run(deadline, (commandLimit) =>
    context.jobs
      .find<SeenLease>(
        { endpoint: { $in: names }, state: 'running' },
        { projection: SEEN_LEASE, limit, batchSize: limit, ...commandLimit },
      )
      .toArray(),
  )
  if (seen.length === 0) return 0
  const now = nowOf(context)
  const updates = seen.map((job) => {
    const attempt = lostAttempt(job, now, 'cancelled', { event: 'evict', writeId: randomId() })
    const change = toFinal('dead', now, failureFields(ENDPOINT_GONE))
    const { fence, leaseId } = leaseOf(job)
    const filter = { _id: job._id, fence, leaseId, ...guardOf('evict', { now }) }
    return { updateOne: { filter, update: { ...change, ...pushAttempt(attempt) }, ...BY_ID } }
  })
  const { modifiedCount } = await run(deadline, (commandLimit) =>
    context.jobs.bulkWrite(updates, { ordered: false, ...commandLimit }),
  )
  if (modifiedCount > 0) {
    await afterFinish(
      context,
      seen.map(({ _id }) => _id),
    )
  }
  return modifiedCount
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
async function abandonOrphans(context: MongoContext, limit: number): Promise<number> {
  const deadline = startDeadline()
  const names: string[] = []
  // One by one, for each state has its own place in the indexes.
  for (const state of QUEUED_STATES) {
    const some = await endpointsWith(context, state, deadline)
    names.push(...some.filter((name) => !names.includes(name)))
  }
  const suspects = await notStored(context, names, deadline)
  if (suspects.length === 0) return 0
  const orphans = await run(deadline, (commandLimit) =>
    context.jobs
      .find(
        { endpoint: { $in: suspects }, state: { $in: [...QUEUED_STATES] } },
        { projection: { endpoint: 1 }, limit, batchSize: limit, ...commandLimit },
      )
      .toArray(),
  )
  const gone = new Set(await notStored(context, suspects, deadline))
  const ids = orphans.filter(({ endpoint }) => gone.has(endpoint)).map(({ _id }) => _id)
  return abandon(context, ids, deadline)
}

async function notStored(
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
