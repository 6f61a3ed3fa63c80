// Jobs whose endpoint was deleted or is being deleted: they are made dead in batches, and an
// endpoint that is being deleted is removed when none is left.
import { ENDPOINT_GONE } from '../../job/attempt.ts'
import { type FinishEffects, NO_EFFECTS, sumEffects } from '../../job/finish-effects.ts'
import { endpointsWith } from './claim.ts'
import {
  type Deadline,
  type MongoContext,
  NEWEST,
  nowOf,
  run,
  startDeadline,
} from './connection.ts'
import type { EndpointDocument } from './endpoint-document.ts'
import { countJobs } from './endpoints.ts'
import { forgetKeys } from './fairness-keys.ts'
import { tryFinishEffects } from './finish-effects.ts'
import { guardOf, reportDeaths, reportEndedAttempts } from './guards.ts'
import {
  atEndpoints,
  BY_ID,
  endedAttempt,
  failureFields,
  type JobDocument,
  leaseOf,
  pushAttempt,
  QUEUED_STATES,
  RUNNING_FIELDS,
  type RunningJob,
  randomId,
  toFinal,
} from './job-document.ts'

/**
 * After this time, enqueues that read the endpoint before its mark have ended: their deadline is 3
 * s.
 */
const LATE_ENQUEUES_MS = 4_000
/** Only an enqueue that races a deletion leaves orphans: they are rare. */
const CHECK_ORPHANS_EVERY_MS = 60_000
/** Limit of endpoints that one sweep handles. */
const MAX_ENDPOINTS = 100

/** The state of a process between its sweeps. */
export interface DeletedEndpoints {
  context: MongoContext
  /** Makes the claims of this process read the endpoint again. */
  forget(name: string): void
  /** By the monotonic clock. */
  orphansCheckedAt: number
}

type DeletingEndpoint = Pick<EndpointDocument, '_id' | 'version'> & { deletingSince: Date }
type Queued = Pick<JobDocument, '_id' | 'endpoint'>

/** How many jobs a write has ended, and what followed. */
export interface EndedJobs {
  count: number
  after: FinishEffects
}

export const NO_JOBS: EndedJobs = { count: 0, after: NO_EFFECTS }

export function trackDeletedEndpoints(
  context: MongoContext,
  forget: (name: string) => void,
): DeletedEndpoints {
  return { context, forget, orphansCheckedAt: Number.NEGATIVE_INFINITY }
}

/**
 * @param limit of each kind of job
 * @param isAnyDeleting whether an endpoint is being deleted
 */
export async function endJobsOfDeletedEndpoints(
  deleted: DeletedEndpoints,
  { limit, isAnyDeleting }: { limit: number; isAnyDeleting: boolean },
): Promise<{ abandoned: number; evicted: number; after: FinishEffects }> {
  const { context, forget } = deleted
  const deadline = startDeadline()
  const deleting = isAnyDeleting ? await deletingEndpoints(context, deadline) : []
  let abandoned = NO_JOBS
  let evicted = NO_JOBS
  if (deleting.length > 0) {
    const names = deleting.map(({ _id }) => _id)
    const queued = await queuedOf(context, names, limit, deadline)
    abandoned = await abandon(context, queued, deadline)
    evicted = await evict(context, names, limit, deadline)
    if (abandoned.count + evicted.count === 0) {
      for (const endpoint of deleting) await removeEndpoint(context, endpoint, forget, deadline)
    }
  }
  const left = limit - abandoned.count
  let orphans = NO_JOBS
  if (left > 0 && performance.now() - deleted.orphansCheckedAt >= CHECK_ORPHANS_EVERY_MS) {
    orphans = await abandonOrphans(context, left)
    // If the limit was filled, there may be more: the next sweep checks again.
    if (orphans.count < left) deleted.orphansCheckedAt = performance.now()
  }
  return {
    abandoned: abandoned.count + orphans.count,
    evicted: evicted.count,
    after: sumEffects([abandoned.after, evicted.after, orphans.after]),
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
        { projection: { _id: 1 }, batchSize: names.length + 1, ...NEWEST, ...limit },
      )
      .toArray(),
  )
  const known = new Set(stored.map(({ _id }) => _id))
  return names.filter((name) => !known.has(name))
}

function deletingEndpoints(context: MongoContext, deadline: Deadline): Promise<DeletingEndpoint[]> {
  return run(deadline, (limit) =>
    context.endpoints
      .find<DeletingEndpoint>(
        { deleting: true },
        {
          projection: { version: 1, deletingSince: 1 },
          limit: MAX_ENDPOINTS,
          batchSize: MAX_ENDPOINTS,
          ...NEWEST,
          ...limit,
        },
      )
      .toArray(),
  )
}

/** States are read one by one, because each has its own index. */
async function queuedOf(
  context: MongoContext,
  names: string[],
  limit: number,
  deadline: Deadline,
): Promise<Queued[]> {
  const found: Queued[] = []
  for (const state of QUEUED_STATES) {
    const left = limit - found.length
    if (left === 0) break
    const some = await run(deadline, (commandLimit) =>
      context.jobs
        .find(
          { endpoint: { $in: names }, state },
          { projection: { endpoint: 1 }, limit: left, batchSize: left, ...commandLimit },
        )
        .toArray(),
    )
    found.push(...some)
  }
  return found
}

async function abandon(
  context: MongoContext,
  jobs: Queued[],
  deadline: Deadline,
): Promise<EndedJobs> {
  if (jobs.length === 0) return NO_JOBS
  const now = nowOf(context)
  const writeId = randomId()
  const { modifiedCount: count } = await run(deadline, (limit) =>
    context.jobs.updateMany(
      { ...atEndpoints(jobs), ...guardOf('abandon', { now }) },
      toFinal('dead', now, { ...failureFields(ENDPOINT_GONE), writeId }),
      { ...BY_ID, ...limit },
    ),
  )
  const { reason } = ENDPOINT_GONE
  const ended = await reportDeaths(context, jobs, reason, { writeId, count }, deadline)
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
): Promise<EndedJobs> {
  const seen = await run(deadline, (commandLimit) =>
    context.jobs
      .find<RunningJob>(
        { endpoint: { $in: names }, state: 'running' },
        { projection: RUNNING_FIELDS, hint: 'running', limit, batchSize: limit, ...commandLimit },
      )
      .toArray(),
  )
  if (seen.length === 0) return NO_JOBS
  const now = nowOf(context)
  const writeId = randomId()
  const ends = seen.map((job) => ({
    job,
    attempt: endedAttempt(job, now, 'endpoint_deleted', { event: 'evict', writeId }),
  }))
  const updates = ends.map(({ job, attempt }) => {
    const change = toFinal('dead', now, failureFields(ENDPOINT_GONE))
    const { fence, leaseId } = leaseOf(job)
    const { _id, endpoint } = job
    const filter = { _id, endpoint, fence, leaseId, ...guardOf('evict', { now }) }
    return { updateOne: { filter, update: { ...change, ...pushAttempt(attempt) }, ...BY_ID } }
  })
  const { modifiedCount: count } = await run(deadline, (commandLimit) =>
    context.jobs.bulkWrite(updates, { ordered: false, ...commandLimit }),
  )
  const { reason } = ENDPOINT_GONE
  const ended = await reportEndedAttempts(context, ends, reason, { writeId, count }, deadline)
  return { count, after: await tryFinishEffects(context, idsOf(ended)) }
}

/** Removes the endpoint when it has no job left and no late enqueue can add one. */
async function removeEndpoint(
  context: MongoContext,
  endpoint: DeletingEndpoint,
  forget: (name: string) => void,
  deadline: Deadline,
): Promise<void> {
  const sinceMs = context.clock.now() - endpoint.deletingSince.getTime()
  if (sinceMs < LATE_ENQUEUES_MS) return
  // Read after the wait: a late enqueue may have added a job since the jobs were read.
  const [{ queued, running } = { queued: 0, running: 0 }] = await countJobs(context, [endpoint._id])
  if (queued + running > 0) return
  await run(deadline, (limit) =>
    context.endpoints.deleteOne(
      { _id: endpoint._id, deleting: true, version: endpoint.version },
      limit,
    ),
  )
  await forgetKeys(context, endpoint._id, deadline)
  forget(endpoint._id)
}

/**
 * Queued jobs of an endpoint that is not stored at all. Their ids are read before the endpoint is
 * read again, so that an endpoint that is created meanwhile keeps its new jobs.
 */
async function abandonOrphans(context: MongoContext, limit: number): Promise<EndedJobs> {
  const deadline = startDeadline()
  const names: string[] = []
  // States are read one by one, because each has its own range of the indexes.
  for (const state of QUEUED_STATES) {
    const some = await endpointsWith(context, state, deadline)
    names.push(...some.filter((name) => !names.includes(name)))
  }
  const suspects = await notStored(context, names, deadline)
  if (suspects.length === 0) return NO_JOBS
  const orphans = await queuedOf(context, suspects, limit, deadline)
  const gone = new Set(await notStored(context, suspects, deadline))
  return abandon(
    context,
    orphans.filter(({ endpoint }) => gone.has(endpoint)),
    deadline,
  )
}
