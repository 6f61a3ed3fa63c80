// The gate of an endpoint with limits: claims pass it one at a time, whoever claims. It is taken by
// a guarded write of its endpoint, then the running jobs are counted, then is claimed, and it is
// given back by a write of its holder, with the tokens that were used. What was claimed may be sent
// only after that: a holder that was too slow, so that another has it by now, sends nothing. So
// limits hold exactly, though nothing is locked; a holder that dies costs GATE_MS.
import type { Filter, UpdateFilter } from 'mongodb'
import { freeAt, fullAfterTaking, wholeTokens } from '../../endpoint/rate-bucket.ts'
import type { ClaimedJob } from '../../job/job.ts'
import { randomId } from './changes.ts'
import { COLLECTIONS } from './collections.ts'
import { type MongoContext, nowOf } from './context.ts'
import {
  ELIGIBILITY,
  type Eligibility,
  type EndpointDocument,
  hasTripped,
} from './endpoint-documents.ts'
import { type Deadline, run } from './run-command.ts'

/** More than the deadline of a claim. */
const GATE_MS = 5_000
/** When a lane whose limit is used up, or whose gate another has, may be asked again. */
export const ASK_AGAIN_MS = 250
/** Gates that one claim holds at once: others are waiting for them. */
export const MAX_GATES = 32

export interface Gates {
  holderId: string
  /** By endpoint; one that is missing was not had: another holds it, or it hands out nothing. */
  rooms: Map<string, Room>
}

interface Room {
  endpoint: Eligibility
  /** So many jobs may be claimed. */
  places: number
  /** When to ask again if they are not enough, by the store's clock. */
  againAt: number
}

export async function takeGates(
  context: MongoContext,
  names: string[],
  deadline: Deadline,
): Promise<Gates> {
  const holderId = randomId()
  const taken = await take(context, names, holderId, deadline)
  const running = await countRunning(context, taken, deadline)
  const probing = await probesUnderWay(context, taken.filter(hasTripped), deadline)
  const now = context.clock.now()
  const rooms = taken.map((endpoint): [string, Room] => {
    const { _id, concurrency = null, rateLimit = null, rateFullAt = null } = endpoint
    const free = concurrency === null ? Infinity : concurrency - (running.get(_id) ?? 0)
    const probes = hasTripped(endpoint) ? (probing.has(_id) ? 0 : 1) : Infinity
    const tokens = rateLimit === null ? Infinity : wholeTokens(rateLimit, rateFullAt, now)
    const places = Math.max(0, Math.min(free, probes, tokens))
    return [_id, { endpoint, places, againAt: askAgainAt(endpoint, places, tokens, now) }]
  })
  return { holderId, rooms: new Map(rooms) }
}

/** When the next token comes, if it is tokens that are lacking; it is never known for the rest. */
function askAgainAt(endpoint: Eligibility, places: number, tokens: number, now: number): number {
  const { rateLimit = null, rateFullAt = null } = endpoint
  if (rateLimit === null || tokens > places) return now + ASK_AGAIN_MS
  const emptied = fullAfterTaking(rateLimit, rateFullAt, now, places)
  return freeAt(rateLimit, emptied, now) ?? now + ASK_AGAIN_MS
}

async function take(
  context: MongoContext,
  names: string[],
  holderId: string,
  deadline: Deadline,
): Promise<Eligibility[]> {
  const now = nowOf(context)
  const gateUntil = new Date(now.getTime() + GATE_MS)
  const update = { $set: { gateHolder: holderId, gateUntil } }
  const filterOf = (name: string): Filter<EndpointDocument> => ({
    _id: name,
    deleting: false,
    paused: { $ne: true },
    disabledReason: null,
    restingUntil: { $not: { $gt: now } },
    gateUntil: { $not: { $gt: now } },
  })
  const [only] = names
  if (only !== undefined && names.length === 1) {
    const found = await run(deadline, (limit) =>
      context.endpoints.findOneAndUpdate(filterOf(only), update, {
        returnDocument: 'after',
        projection: ELIGIBILITY,
        ...limit,
      }),
    )
    return found === null ? [] : [found]
  }
  const updates = names.map((name) => ({ updateOne: { filter: filterOf(name), update } }))
  const { matchedCount } = await run(deadline, (limit) =>
    context.endpoints.bulkWrite(updates, { ordered: false, ...limit }),
  )
  if (matchedCount === 0) return []
  return run(deadline, (limit) =>
    context.endpoints
      .find<Eligibility>(
        { _id: { $in: names }, gateHolder: holderId },
        { projection: ELIGIBILITY, batchSize: names.length + 1, ...limit },
      )
      .toArray(),
  )
}

/** Counted, not kept count of: a number beside the jobs would stray from them with every crash. */
async function countRunning(
  context: MongoContext,
  endpoints: Eligibility[],
  deadline: Deadline,
): Promise<Map<string, number>> {
  const pipelines = endpoints.flatMap(({ _id, concurrency = null }) => {
    if (concurrency === null) return []
    const match = { $match: { endpoint: _id, state: 'running' } }
    const group = { $group: { _id: '$endpoint', count: { $sum: 1 } } }
    return [[match, { $limit: concurrency }, group]]
  })
  const [first, ...others] = pipelines
  if (first === undefined) return new Map()
  const unions = others.map((pipeline) => ({ $unionWith: { coll: COLLECTIONS.jobs, pipeline } }))
  const found = await run(deadline, (limit) =>
    context.jobs
      .aggregate<{ _id: string; count: number }>([...first, ...unions], {
        batchSize: pipelines.length + 1,
        ...limit,
      })
      .toArray(),
  )
  return new Map(found.map(({ _id, count }) => [_id, count]))
}

/** The endpoints whose probe still runs with the fence that it was claimed with. */
async function probesUnderWay(
  context: MongoContext,
  endpoints: Eligibility[],
  deadline: Deadline,
): Promise<Set<string>> {
  const jobIds = endpoints.flatMap(({ probe }) => (probe ? [probe.jobId] : []))
  if (jobIds.length === 0) return new Set()
  const found = await run(deadline, (limit) =>
    context.jobs
      .find(
        { _id: { $in: jobIds }, state: 'running' },
        { projection: { fence: 1 }, batchSize: jobIds.length + 1, ...limit },
      )
      .toArray(),
  )
  const fences = new Map(found.map(({ _id, fence }) => [_id, fence]))
  const probing = endpoints.filter(({ probe }) => probe && fences.get(probe.jobId) === probe.fence)
  return new Set(probing.map(({ _id }) => _id))
}

/** false: not all were still ours, so that what was claimed through them may not be sent. */
export async function giveBackGates(
  context: MongoContext,
  { holderId, rooms }: Gates,
  claimed: ClaimedJob[],
  deadline: Deadline,
): Promise<boolean> {
  const byEndpoint = Map.groupBy(claimed, ({ endpoint }) => endpoint)
  const now = context.clock.now()
  const updates = [...rooms].map(([name, { endpoint }]) => ({
    updateOne: {
      filter: { _id: name, gateHolder: holderId },
      update: usedUp(endpoint, byEndpoint.get(name) ?? [], now),
    },
  }))
  const { matchedCount } = await run(deadline, (limit) =>
    context.endpoints.bulkWrite(updates, { ordered: false, ...limit }),
  )
  return matchedCount === updates.length
}

function usedUp(
  endpoint: Eligibility,
  claimed: ClaimedJob[],
  now: number,
): UpdateFilter<EndpointDocument> {
  const { rateLimit = null, rateFullAt = null } = endpoint
  const [first] = claimed
  const isProbe = hasTripped(endpoint) && first !== undefined
  const usesTokens = rateLimit !== null && claimed.length > 0
  return {
    $set: {
      gateHolder: null,
      gateUntil: null,
      ...(isProbe ? { probe: { jobId: first.jobId, fence: first.fence } } : {}),
      ...(usesTokens
        ? { rateFullAt: fullAfterTaking(rateLimit, rateFullAt, now, claimed.length) }
        : {}),
    },
  }
}
