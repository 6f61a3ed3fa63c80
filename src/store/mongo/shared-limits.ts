// Limits that endpoints share. A claim of an endpoint that names a limit needs the admission of the
// limit, too (admission.ts): one claim at a time counts the running jobs of all its endpoints. A
// claim that does not get it claims nothing at these endpoints.
//
// A PUT of an endpoint that names a limit and a DELETE of the limit, at the same moment, can both
// succeed. The endpoint then names a limit that does not exist, and that limits nothing.
import type { Collection } from 'mongodb'
import {
  type DeleteLimitResult,
  type LimitRefusal,
  type LimitUse,
  MAX_ENDPOINTS_OF_LIMIT,
  MAX_LIMITS,
  type PutLimitResult,
  type SharedLimit,
  type SharedLimitSettings,
  type SharedRoom,
  sharedRoom,
  underNewSettings,
} from '../../endpoint/shared-limits.ts'
import { type IfVersion, isMet } from '../precondition.ts'
import { MAX_COUNT, type Page } from '../store.ts'
import { StoreUnavailable } from '../store-errors.ts'
import {
  type Deadline,
  isDuplicateKey,
  type MongoContext,
  NEWEST,
  nowOf,
  run,
  startDeadline,
} from './connection.ts'
import { union } from './turns.ts'

interface LimitDocument extends Omit<SharedLimit, 'name' | 'createdAt' | 'updatedAt'> {
  /** The name of the limit. */
  _id: string
  createdAt: Date
  updatedAt: Date
  /** The claim that holds its admission; null: none. */
  admissionHolder: string | null
  admissionUntil: Date | null
}

/** The most tries of a change. */
const MAX_ROUNDS = 10

/** The limits of one claim. */
export interface SharedLimits {
  /** null: another claim holds its admission. A limit that is missing does not exist. */
  rooms: ReadonlyMap<string, SharedRoom | null>
  /**
   * Releases the admission, and stores what was taken.
   *
   * @param costs of all jobs that were claimed, by endpoint
   * @returns false: another claim holds the admission of one of them by now
   */
  release(costs: ReadonlyMap<string, number>, deadline: Deadline): Promise<boolean>
}

const NO_LIMITS: SharedLimits = { rooms: new Map(), release: async () => true }

interface Holder {
  holderId: string
  untilMs: number
}

export async function acquireLimits(
  context: MongoContext,
  names: string[],
  holder: Holder,
  deadline: Deadline,
): Promise<SharedLimits> {
  if (names.length === 0) return NO_LIMITS
  const { holderId } = holder
  const found = await writeHolder(context, names, holder, deadline)
  const own = found.filter(({ admissionHolder }) => admissionHolder === holderId)
  const running = await countRunning(context, own, deadline)
  const at = context.clock.now()
  const opened = own.map((document) => {
    const limit = limitOf(document)
    return { limit, room: sharedRoom(limit, () => running.get(limit.name) ?? 0, at) }
  })
  return {
    rooms: new Map<string, SharedRoom | null>([
      ...found.map(({ _id }): [string, null] => [_id, null]),
      ...opened.map(({ room }): [string, SharedRoom] => [room.name, room]),
    ]),
    async release(costs, atMost) {
      if (opened.length === 0) return true
      const sentAt = context.clock.now()
      const writes = opened.map(({ limit, room }) => {
        const { rateFullAt, waits } = room.after(costs, sentAt)
        const tokens = rateFullAt === limit.rateFullAt ? {} : { rateFullAt }
        const update = { $set: { admissionHolder: null, admissionUntil: null, waits, ...tokens } }
        return { updateOne: { filter: { _id: limit.name, admissionHolder: holderId }, update } }
      })
      const { matchedCount } = await run(atMost, (limit) =>
        limitsIn(context).bulkWrite(writes, { ordered: false, ...limit }),
      )
      return matchedCount === writes.length
    },
  }
}

/** Returns all of these limits that exist. The holder has the admission of some of them. */
async function writeHolder(
  context: MongoContext,
  names: string[],
  { holderId, untilMs }: Holder,
  deadline: Deadline,
): Promise<LimitDocument[]> {
  const now = nowOf(context)
  const admissionUntil = new Date(now.getTime() + untilMs)
  const update = { $set: { admissionHolder: holderId, admissionUntil } }
  const filterOf = (name: string) => ({ _id: name, admissionUntil: { $not: { $gt: now } } })
  const [only = ''] = names
  if (names.length === 1) {
    const taken = await run(deadline, (limit) =>
      limitsIn(context).findOneAndUpdate(filterOf(only), update, {
        ...{ returnDocument: 'after', ...limit },
      }),
    )
    if (taken !== null) return [taken]
  } else {
    const updates = names.map((name) => ({ updateOne: { filter: filterOf(name), update } }))
    await run(deadline, (limit) =>
      limitsIn(context).bulkWrite(updates, { ordered: false, ...limit }),
    )
  }
  return findAll(context, names, deadline)
}

export async function putLimit(
  context: MongoContext,
  settings: SharedLimitSettings,
  ifVersion: IfVersion,
): Promise<PutLimitResult> {
  const deadline = startDeadline()
  const { name } = settings
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const [stored = null] = await findAll(context, [name], deadline)
    const version = stored?.version ?? null
    if (!isMet(ifVersion, version)) return { kind: 'stale', version }
    if (stored === null && (await isFull(context, deadline))) return { kind: 'too_many_limits' }
    const written =
      stored === null
        ? await insert(context, settings, deadline)
        : await replace(context, settings, stored, deadline)
    if (written === null) continue
    return { kind: stored === null ? 'created' : 'replaced', limit: limitOf(written) }
  }
  throw new StoreUnavailable('the limit changed each time it was read')
}

/** Returns null if another process created it meanwhile. */
async function insert(
  context: MongoContext,
  { name, concurrency, rateLimit }: SharedLimitSettings,
  deadline: Deadline,
): Promise<LimitDocument | null> {
  const now = nowOf(context)
  const document: LimitDocument = {
    ...{ _id: name, concurrency, rateLimit, rateFullAt: null, waits: [] },
    ...{ createdAt: now, updatedAt: now, version: 1 },
    ...{ admissionHolder: null, admissionUntil: null },
  }
  try {
    await run(deadline, (limit) => limitsIn(context).insertOne(document, { ...limit }))
    return document
  } catch (error) {
    if (isDuplicateKey(error)) return null
    throw error
  }
}

/** Returns null if it changed since it was read. */
function replace(
  context: MongoContext,
  settings: SharedLimitSettings,
  { _id, version, rateLimit: before, rateFullAt: fullAt }: LimitDocument,
  deadline: Deadline,
): Promise<LimitDocument | null> {
  const now = nowOf(context)
  const { concurrency, rateLimit } = settings
  const stored = { rateLimit: before, rateFullAt: fullAt }
  const rateFullAt = underNewSettings(stored, settings, now.getTime())
  return run(deadline, (limit) =>
    limitsIn(context).findOneAndUpdate(
      // Does not overwrite tokens that a claim takes meanwhile.
      { _id, version, rateFullAt: fullAt },
      { $set: { concurrency, rateLimit, rateFullAt, updatedAt: now }, $inc: { version: 1 } },
      { returnDocument: 'after', ...limit },
    ),
  )
}

export async function limitsNamed(context: MongoContext, names: string[]): Promise<SharedLimit[]> {
  if (names.length === 0) return []
  return (await findAll(context, names, startDeadline())).map(limitOf)
}

export async function listLimits(
  context: MongoContext,
  after: string | null,
  limit: number,
): Promise<Page<SharedLimit>> {
  const found = await run(startDeadline(), (commandLimit) =>
    limitsIn(context)
      .find(after === null ? {} : { _id: { $gt: after } }, {
        ...{ sort: { _id: 1 }, limit: limit + 1, batchSize: limit + 1 },
        ...commandLimit,
      })
      .toArray(),
  )
  const items = found.slice(0, limit).map(limitOf)
  return { items, next: found.length > limit ? (items.at(-1)?.name ?? null) : null }
}

export async function limitUse(context: MongoContext, name: string): Promise<LimitUse> {
  const deadline = startDeadline()
  const endpoints = await endpointsOf(context, [name], deadline)
  const counts = await countEach(context, [{ name, endpoints, most: MAX_COUNT }], deadline)
  return { endpoints, running: counts.get(name) ?? 0 }
}

export async function deleteLimit(
  context: MongoContext,
  name: string,
  ifVersion: number | null,
): Promise<DeleteLimitResult> {
  const deadline = startDeadline()
  const [stored] = await findAll(context, [name], deadline)
  if (stored === undefined) return { kind: 'not_found' }
  const { version } = stored
  if (ifVersion !== null && version !== ifVersion) return { kind: 'stale', version }
  const [endpoint] = await endpointsOf(context, [name], deadline)
  if (endpoint !== undefined) return { kind: 'in_use', endpoint }
  const { deletedCount } = await run(deadline, (limit) =>
    limitsIn(context).deleteOne({ _id: name, version }, limit),
  )
  if (deletedCount === 0) throw new StoreUnavailable('the limit has just changed')
  return { kind: 'deleted' }
}

/** Why the endpoint cannot name these limits; null: it can. */
export async function refusedLimit(
  context: MongoContext,
  { after, before }: { after: string[]; before: string[] },
  deadline: Deadline,
): Promise<LimitRefusal | null> {
  if (after.length === 0) return null
  const found = await findAll(context, after, deadline)
  const missing = after.find((name) => !found.some(({ _id }) => _id === name))
  if (missing !== undefined) return { kind: 'unknown_limit', limit: missing }
  for (const limit of after) {
    if (before.includes(limit)) continue
    const endpoints = await endpointsOf(context, [limit], deadline)
    if (endpoints.length >= MAX_ENDPOINTS_OF_LIMIT) return { kind: 'too_many_endpoints', limit }
  }
  return null
}

function limitsIn({ db, names }: MongoContext): Collection<LimitDocument> {
  return db.collection<LimitDocument>(names.limits)
}

function limitOf(document: LimitDocument): SharedLimit {
  const { concurrency, rateLimit, rateFullAt, waits, version } = document
  return {
    ...{ name: document._id, concurrency, rateLimit, rateFullAt, waits, version },
    createdAt: document.createdAt.getTime(),
    updatedAt: document.updatedAt.getTime(),
  }
}

function findAll(
  context: MongoContext,
  names: string[],
  deadline: Deadline,
): Promise<LimitDocument[]> {
  return run(deadline, (limit) =>
    limitsIn(context)
      .find({ _id: { $in: names } }, { batchSize: names.length + 1, ...NEWEST, ...limit })
      .toArray(),
  )
}

async function isFull(context: MongoContext, deadline: Deadline): Promise<boolean> {
  const count = await run(deadline, (limit) =>
    limitsIn(context).countDocuments(
      { _id: { $gt: '' } },
      { limit: MAX_LIMITS, ...NEWEST, ...limit },
    ),
  )
  return count >= MAX_LIMITS
}

/** The names of the endpoints that name one of these limits, in order. */
async function endpointsOf(
  context: MongoContext,
  names: string[],
  deadline: Deadline,
): Promise<string[]> {
  return (await namersOf(context, names, deadline)).map(({ _id }) => _id).sort()
}

function namersOf(context: MongoContext, names: string[], deadline: Deadline) {
  const batchSize = names.length * MAX_ENDPOINTS_OF_LIMIT + 1
  return run(deadline, (limit) =>
    context.endpoints
      .find<{ _id: string; limits: string[] }>(
        { limits: { $in: names } },
        { projection: { limits: 1 }, batchSize, ...NEWEST, ...limit },
      )
      .toArray(),
  )
}

/** By name, as far as the limits count running jobs. */
async function countRunning(
  context: MongoContext,
  limits: LimitDocument[],
  deadline: Deadline,
): Promise<Map<string, number>> {
  const counting = limits.flatMap(({ _id: name, concurrency: most }) =>
    most === null ? [] : [{ name, most }],
  )
  if (counting.length === 0) return new Map()
  const names = counting.map(({ name }) => name)
  const namers = await namersOf(context, names, deadline)
  const counts = counting.map(({ name, most }) => ({
    ...{ name, most },
    endpoints: namers.flatMap(({ _id, limits: some }) => (some.includes(name) ? [_id] : [])),
  }))
  return countEach(context, counts, deadline)
}

/** Counts the jobs themselves: a stored number would differ from them after every crash. */
async function countEach(
  context: MongoContext,
  limits: { name: string; endpoints: string[]; most: number }[],
  deadline: Deadline,
): Promise<Map<string, number>> {
  const pipelines = limits.flatMap(({ name, endpoints, most }) =>
    endpoints.length === 0
      ? []
      : [
          [
            { $match: { endpoint: { $in: endpoints }, state: 'running' } },
            { $limit: most },
            { $group: { _id: { $literal: name }, count: { $sum: 1 } } },
          ],
        ],
  )
  if (pipelines.length === 0) return new Map()
  const found = await union<{ _id: string; count: number }>(context, pipelines, deadline)
  return new Map(found.map(({ _id, count }) => [_id, count]))
}
