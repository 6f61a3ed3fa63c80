// The gate of an endpoint with limits: claims pass it one at a time, whoever claims. It is taken by
// a guarded write of its endpoint, then the running jobs are counted, then is claimed, and it is
// given back by a write of its holder, with the tokens that were used. What was claimed may be sent
// only after that: a holder that was too slow, so that another has it by now, sends nothing. So
// limits hold exactly, though nothing is locked; a holder that dies costs GATE_MS.
import type { Filter, UpdateFilter } from 'mongodb'
import { placesAfterRest } from '../../endpoint/health.ts'
import { freeAt, fullAfterTaking, wholeTokens } from '../../endpoint/rate-bucket.ts'
import type { ClaimedJob } from '../../job/job.ts'
import { randomId } from './changes.ts'
import { COLLECTIONS } from './collections.ts'
import { type MongoContext, nowOf } from './context.ts'
import type { JobDocument } from './documents.ts'
import {
  ELIGIBILITY,
  type Eligibility,
  type EndpointDocument,
  restOf,
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
  const now = context.clock.now()
  const running = await countRunning(context, taken, deadline)
  const back = new Map(taken.map((one) => [one._id, placesAfterRest(restOf(one), now)]))
  const sending = await countSendingSince(context, back, deadline)
  const rooms = taken.map((endpoint): [string, Room] => {
    const { _id, concurrency = null, rateLimit = null, rateFullAt = null } = endpoint
    const free = concurrency === null ? Infinity : concurrency - (running.get(_id) ?? 0)
    const limit = back.get(_id) ?? null
    const afterRest = limit === null ? Infinity : limit.places - (sending.get(_id) ?? 0)
    const tokens = rateLimit === null ? Infinity : wholeTokens(rateLimit, rateFullAt, now)
    const places = Math.max(0, Math.min(free, afterRest, tokens))
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
  const counts = endpoints.flatMap(({ _id, concurrency = null }) => {
    if (concurrency === null) return []
    return [{ match: { endpoint: _id, state: 'running' as const }, most: concurrency }]
  })
  return countEach(context, counts, deadline)
}

/** The attempts under way that began after the rest of their endpoint, up to its places. */
async function countSendingSince(
  context: MongoContext,
  back: Map<string, ReturnType<typeof placesAfterRest>>,
  deadline: Deadline,
): Promise<Map<string, number>> {
  const counts = [...back].flatMap(([endpoint, limit]) => {
    if (limit === null) return []
    const claimedAt = { $gte: new Date(limit.since) }
    const match = { endpoint, state: 'running' as const, phase: 'sending' as const, claimedAt }
    return [{ match, most: limit.places }]
  })
  return countEach(context, counts, deadline)
}

async function countEach(
  context: MongoContext,
  counts: { match: Filter<JobDocument>; most: number }[],
  deadline: Deadline,
): Promise<Map<string, number>> {
  const group = { $group: { _id: '$endpoint', count: { $sum: 1 } } }
  const pipelines = counts.map(({ match, most }) => [{ $match: match }, { $limit: most }, group])
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
      update: usedUp(endpoint, byEndpoint.get(name)?.length ?? 0, now),
    },
  }))
  const { matchedCount } = await run(deadline, (limit) =>
    context.endpoints.bulkWrite(updates, { ordered: false, ...limit }),
  )
  return matchedCount === updates.length
}

function usedUp(
  endpoint: Eligibility,
  claimedCount: number,
  now: number,
): UpdateFilter<EndpointDocument> {
  const { rateLimit = null, rateFullAt = null } = endpoint
  const usesTokens = rateLimit !== null && claimedCount > 0
  return {
    $set: {
      gateHolder: null,
      gateUntil: null,
      ...(usesTokens
        ? { rateFullAt: fullAfterTaking(rateLimit, rateFullAt, now, claimedCount) }
        : {}),
    },
  }
}
