// The gate of an endpoint with limits: claims pass it one at a time, whoever claims. It is taken by
// a guarded write of its endpoint, then the running jobs are counted, then is claimed, and it is
// given back by a write of its holder, with the tokens that were used. What was claimed may be sent
// only after that: a holder that was too slow, so that another has it by now, sends nothing. So
// limits hold exactly, though nothing is locked; a holder that dies costs GATE_MS.
import type { Filter } from 'mongodb'
import { afterClaim, type Limits, slotsLeft } from '../../endpoint/admission.ts'
import { placesAfterRest } from '../../endpoint/health.ts'
import type { ClaimedJob } from '../../job/job.ts'
import { COLLECTIONS } from '../collection-names.ts'
import { randomId } from './changes.ts'
import { type MongoContext, nowOf } from './context.ts'
import type { JobDocument } from './documents.ts'
import {
  ELIGIBILITY,
  type Eligibility,
  type EndpointDocument,
  limitsOf,
} from './endpoint-documents.ts'
import { type Deadline, run } from './run-command.ts'

/** More than the deadline of a claim. */
const GATE_MS = 5_000
/** Gates that one claim holds at once: others are waiting for them. */
export const MAX_GATES = 32

export interface Gates {
  holderId: string
  /** By endpoint; one that is missing was not had: another holds it, or it hands out nothing. */
  rooms: Map<string, Room>
}

interface Room {
  limits: Limits
  /** So many jobs may be claimed. */
  slots: number
}

export async function takeGates(
  context: MongoContext,
  names: string[],
  deadline: Deadline,
): Promise<Gates> {
  const holderId = randomId()
  const taken = await take(context, names, holderId, deadline)
  const now = context.clock.now()
  const limited = new Map(taken.map((endpoint) => [endpoint._id, limitsOf(endpoint)]))
  const running = await countRunning(context, limited, deadline)
  const sending = await countSending(context, limited, now, deadline)
  const rooms = [...limited].map(([name, limits]): [string, Room] => {
    const counts = {
      running: () => running.get(name) ?? 0,
      sendingSince: () => sending.get(name) ?? 0,
    }
    return [name, { limits, slots: slotsLeft(limits, Infinity, counts, now) }]
  })
  return { holderId, rooms: new Map(rooms) }
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
    paused: false,
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
  limited: Map<string, Limits>,
  deadline: Deadline,
): Promise<Map<string, number>> {
  const counts = [...limited].flatMap(([endpoint, { concurrency }]) => {
    if (concurrency === null) return []
    return [{ match: { endpoint, state: 'running' as const }, most: concurrency }]
  })
  return countEach(context, counts, deadline)
}

/** Of the endpoints that come back from a rest. */
async function countSending(
  context: MongoContext,
  limited: Map<string, Limits>,
  now: number,
  deadline: Deadline,
): Promise<Map<string, number>> {
  const counts = [...limited].flatMap(([endpoint, limits]) => {
    const back = placesAfterRest(limits, now)
    if (back === null) return []
    const claimedAt = { $gte: new Date(back.since) }
    const match = { endpoint, state: 'running' as const, phase: 'sending' as const, claimedAt }
    return [{ match, most: back.places }]
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
  claimed: Map<string, ClaimedJob[]>,
  deadline: Deadline,
): Promise<boolean> {
  const now = context.clock.now()
  const updates = [...rooms].map(([name, { limits }]) => {
    const { rateFullAt } = afterClaim(limits, claimed.get(name)?.length ?? 0, now)
    const tokens = rateFullAt === limits.rateFullAt ? {} : { rateFullAt }
    const update = { $set: { gateHolder: null, gateUntil: null, ...tokens } }
    return { updateOne: { filter: { _id: name, gateHolder: holderId }, update } }
  })
  const { matchedCount } = await run(deadline, (limit) =>
    context.endpoints.bulkWrite(updates, { ordered: false, ...limit }),
  )
  return matchedCount === updates.length
}
