// Which endpoints hand out jobs, and how many. Each process remembers for a moment which endpoints
// do. At an endpoint with limits, one claim runs at a time, over all processes: a guarded write of
// the endpoint acquires its admission, the running jobs are counted, the claim is made, and a write
// of the same holder releases the admission and stores the used tokens. Claimed jobs may be sent
// only after that: a holder that was too slow, so that another claim has the admission by now,
// sends nothing. So limits are exact without a lock; a holder that dies blocks the endpoint for
// ADMISSION_MS.
import type { Filter } from 'mongodb'
import { afterClaim, isLimited, type Limits, slotsLeft } from '../../endpoint/admission.ts'
import { slotsAfterRest } from '../../endpoint/health.ts'
import type { KeyLimits } from '../../endpoint/key-limits.ts'
import type { SharedRoom } from '../../endpoint/shared-limits.ts'
import { type Deadline, type MongoContext, NEWEST, nowOf, run } from './connection.ts'
import {
  ELIGIBILITY,
  type Eligibility,
  type EndpointDocument,
  limitsOf,
} from './endpoint-document.ts'
import { type JobDocument, randomId } from './job-document.ts'
import { acquireLimits, type SharedLimits } from './shared-limits.ts'

/** A change must reach every worker within 1 s, and the workers remember endpoints, too. */
const REMEMBERED_MS = 400
/** If there are more names than this, all are forgotten. */
const MAX_REMEMBERED = 20_000

export interface EligibleEndpoints {
  /**
   * Those of the names whose endpoints return jobs to claims; `isLimited`: only within their
   * admission; `isKeyed`: their jobs may have fairness keys.
   */
  among(names: string[], now: number, deadline: Deadline): Promise<Map<string, EligibleEndpoint>>
  forget(name: string): void
}

interface EligibleEndpoint {
  isLimited: boolean
  isKeyed: boolean
  /** Its keys may have limits. */
  hasKeyLimits: boolean
  /** Its keys may have settings, and so other weights than 1, or rest. */
  hasKeySettings: boolean
}

/** Longer than the deadline of a claim. */
const ADMISSION_MS = 5_000
/** Endpoints that one claim is admitted to at once: other claims wait for them. */
export const MAX_ADMITTED = 32

export interface Admission {
  holderId: string
  /** When the slots were counted. */
  at: number
  /**
   * By name. A missing endpoint was not acquired: another claim holds it, or it returns no jobs.
   */
  endpoints: Map<string, Admitted>
  /** The limits that these endpoints share. */
  shared: SharedLimits
}

/** An endpoint at which this claim alone may claim now. */
export interface Admitted {
  limits: Limits
  perKey: KeyLimits | null
  hasKeySettings: boolean
  /** How many jobs it may claim. */
  slots: number
  shared: SharedRoom[]
  /** Shared limits whose admission another claim holds: there are no slots. */
  heldLimits: string[]
}

export function rememberEligibleEndpoints(endpoints: MongoContext['endpoints']): EligibleEndpoints {
  const remembered = new Map<string, { endpoint: Eligibility | null; until: number }>()
  const ask = async (names: string[], deadline: Deadline) => {
    const until = performance.now() + REMEMBERED_MS
    const found = await run(deadline, (limit) =>
      endpoints
        .find<Eligibility>(
          { _id: { $in: names }, deleting: false },
          { projection: ELIGIBILITY, batchSize: names.length + 1, ...NEWEST, ...limit },
        )
        .toArray(),
    )
    const byName = new Map(found.map((endpoint) => [endpoint._id, endpoint]))
    if (remembered.size + names.length > MAX_REMEMBERED) remembered.clear()
    for (const name of names) {
      remembered.set(name, { endpoint: byName.get(name) ?? null, until })
    }
    return byName
  }
  return {
    async among(names, now, deadline) {
      const monotonicMs = performance.now()
      const unknown = names.filter((name) => (remembered.get(name)?.until ?? 0) < monotonicMs)
      const asked = unknown.length === 0 ? new Map() : await ask([...new Set(unknown)], deadline)
      const eligible = new Map<string, EligibleEndpoint>()
      for (const name of names) {
        const endpoint = asked.get(name) ?? remembered.get(name)?.endpoint ?? null
        if (endpoint !== null && isEligible(endpoint, now)) {
          const hasKeySettings = endpoint.hasKeySettings === true
          const hasKeyLimits = endpoint.perKey !== null || hasKeySettings
          eligible.set(name, {
            // One claim at a time counts the running jobs of a key or a shared limit.
            isLimited: isLimited(limitsOf(endpoint)) || hasKeyLimits || endpoint.limits.length > 0,
            isKeyed: endpoint.lanes !== undefined || hasKeyLimits,
            ...{ hasKeyLimits, hasKeySettings },
          })
        }
      }
      return eligible
    },
    forget(name) {
      remembered.delete(name)
    },
  }
}

export async function acquireAdmission(
  context: MongoContext,
  names: string[],
  deadline: Deadline,
): Promise<Admission> {
  const holderId = randomId()
  const acquired = await writeHolder(context, names, holderId, deadline)
  const limitNames = [...new Set(acquired.flatMap(({ limits }) => limits))]
  const holder = { holderId, untilMs: ADMISSION_MS }
  const now = context.clock.now()
  const limitsByName = new Map(acquired.map((endpoint) => [endpoint._id, limitsOf(endpoint)]))
  const byName = new Map(acquired.map((endpoint) => [endpoint._id, endpoint]))
  const [shared, running, sending] = await Promise.all([
    acquireLimits(context, limitNames, holder, deadline),
    countRunning(context, limitsByName, deadline),
    countSending(context, limitsByName, now, deadline),
  ])
  const admitted = [...limitsByName].map(([name, limits]): [string, Admitted] => {
    const counts = {
      running: () => running.get(name) ?? 0,
      sendingSince: () => sending.get(name) ?? 0,
    }
    const { perKey = null, hasKeySettings = false, limits: own = [] } = byName.get(name) ?? {}
    const heldLimits = own.filter((limit) => shared.rooms.get(limit) === null)
    const slots = heldLimits.length > 0 ? 0 : slotsLeft(limits, Infinity, counts, now)
    const rooms = own.flatMap((limit) => shared.rooms.get(limit) ?? [])
    return [name, { limits, perKey, hasKeySettings, slots, shared: rooms, heldLimits }]
  })
  return { holderId, at: now, endpoints: new Map(admitted), shared }
}

/**
 * @param costs of all jobs that were claimed, by endpoint
 * @returns false: another claim holds one of them by now, and the jobs claimed there
 * must not be sent
 */
export async function releaseAdmission(
  context: MongoContext,
  { holderId, endpoints, shared }: Admission,
  costs: ReadonlyMap<string, number>,
  deadline: Deadline,
): Promise<boolean> {
  const now = context.clock.now()
  const updates = [...endpoints].map(([name, { limits }]) => {
    const { rateFullAt } = afterClaim(limits, costs.get(name) ?? 0, now)
    const tokens = rateFullAt === limits.rateFullAt ? {} : { rateFullAt }
    const update = { $set: { admissionHolder: null, admissionUntil: null, ...tokens } }
    return { updateOne: { filter: { _id: name, admissionHolder: holderId }, update } }
  })
  const [areLimitsHeld, { matchedCount }] = await Promise.all([
    shared.release(costs, deadline),
    run(deadline, (limit) => context.endpoints.bulkWrite(updates, { ordered: false, ...limit })),
  ])
  return areLimitsHeld && matchedCount === updates.length
}

function isEligible(endpoint: Eligibility, now: number): boolean {
  const { deleting, paused, disabledReason, restingUntil } = endpoint
  if (deleting || paused || disabledReason !== null) return false
  return restingUntil === null || restingUntil.getTime() <= now
}

async function writeHolder(
  context: MongoContext,
  names: string[],
  holderId: string,
  deadline: Deadline,
): Promise<Eligibility[]> {
  const now = nowOf(context)
  const admissionUntil = new Date(now.getTime() + ADMISSION_MS)
  const update = { $set: { admissionHolder: holderId, admissionUntil } }
  const filterOf = (name: string): Filter<EndpointDocument> => ({
    _id: name,
    deleting: false,
    paused: false,
    disabledReason: null,
    restingUntil: { $not: { $gt: now } },
    admissionUntil: { $not: { $gt: now } },
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
        { _id: { $in: names }, admissionHolder: holderId },
        { projection: ELIGIBILITY, batchSize: names.length + 1, ...NEWEST, ...limit },
      )
      .toArray(),
  )
}

/** Counts the jobs themselves: a stored number would differ from them after every crash. */
async function countRunning(
  context: MongoContext,
  limitsByName: Map<string, Limits>,
  deadline: Deadline,
): Promise<Map<string, number>> {
  const counts = [...limitsByName].flatMap(([endpoint, { concurrency }]) => {
    if (concurrency === null) return []
    return [{ match: { endpoint, state: 'running' as const }, most: concurrency }]
  })
  return countEach(context, counts, deadline)
}

/** Counts the attempts that are being sent, for endpoints that recover from a rest. */
async function countSending(
  context: MongoContext,
  limitsByName: Map<string, Limits>,
  now: number,
  deadline: Deadline,
): Promise<Map<string, number>> {
  const counts = [...limitsByName].flatMap(([endpoint, limits]) => {
    const back = slotsAfterRest(limits, now)
    if (back === null) return []
    const claimedAt = { $gte: new Date(back.since) }
    const match = { endpoint, state: 'running' as const, phase: 'sending' as const, claimedAt }
    return [{ match, most: back.slots }]
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
  const unions = others.map((pipeline) => ({ $unionWith: { coll: context.names.jobs, pipeline } }))
  const found = await run(deadline, (limit) =>
    context.jobs
      .aggregate<{ _id: string; count: number }>([...first, ...unions], {
        batchSize: pipelines.length + 1,
        ...NEWEST,
        ...limit,
      })
      .toArray(),
  )
  return new Map(found.map(({ _id, count }) => [_id, count]))
}
