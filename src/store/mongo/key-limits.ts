// The limits of fairness keys. A claim counts the running jobs of a key, within the admission of
// the endpoint. A job that is claimed within them has the mark `held`, which stays when it ends:
// the next claim sees it, and looks whether the key has room. A key at its limit is parked: it has
// no turns, and its first job is PARKED. The writer that parks a key marks its running jobs, which
// a claim may have taken that did not know of the limit, and looks again afterwards: so a job that
// ended meanwhile, or a limit that changed, is not missed.
//
// A round of the sweep finds keys whose writer died before it gave them turns, or looked again.
import {
  type CountedKey,
  type FairnessKey,
  type KeyLimits,
  type KeyRoom,
  type KeyState,
  keyRoom,
  limitsOfKey,
  NEW_KEY,
} from '../../endpoint/key-limits.ts'
import { keySlotsAfterRest } from '../../endpoint/key-rest.ts'
import { ALARM, PARKED } from '../../job/turns.ts'
import {
  type Deadline,
  type MongoContext,
  NEWEST,
  nowOf,
  run,
  startDeadline,
} from './connection.ts'
import type { EndpointDocument } from './endpoint-document.ts'
import { findKeys, idOfKey, setBuckets } from './fairness-keys.ts'
import { BY_ID, type JobDocument, type StoredState } from './job-document.ts'
import {
  giveTurns,
  type JobWrite,
  type KeyInLane,
  laneName,
  readEnds,
  readLines,
  textOf,
  union,
} from './turns.ts'

/** Jobs that have ended, and that one claim sees. */
const ENDED_PER_CLAIM = 200
const ENDED_STATES: StoredState[] = [
  ...(['queued', 'waiting', 'blocked', 'succeeded', 'dead', 'cancelled'] as const),
]
export const PRIORITIES = Array.from({ length: 10 }, (_, priority) => priority)
/** How long a key is parked if no job of it ends: its writer may die before it looks again. */
const PARKED_MS = 5 * 60_000
/** A round over all keys with jobs outside begins at most this often. */
const ROUND_EVERY_MS = 10_000
/** Limit of index entries that one sweep reads. A key with more is looked at once. */
const ENTRIES_PER_SWEEP = 1_000

/** An endpoint whose keys may have limits. */
interface LimitedKeys {
  perKey: KeyLimits | null
  hasKeySettings: boolean
}
type LimitedKeysByName = ReadonlyMap<string, LimitedKeys>

/** What one claim may take of each key. */
export interface Keys {
  /** null: the key has no limits. */
  room(key: FairnessKey): KeyRoom | null
  /** Stores what these jobs have taken from rate limits. They may be sent afterwards. */
  save(started: (FairnessKey & { cost: number })[], deadline: Deadline): Promise<void>
}

export const NO_KEYS: Keys = { room: () => null, save: async () => {} }

export async function openKeys(
  context: MongoContext,
  endpoints: LimitedKeysByName,
  keys: FairnessKey[],
  deadline: Deadline,
): Promise<Keys> {
  const limited = keys.filter(({ endpoint }) => endpoints.has(endpoint))
  if (limited.length === 0) return NO_KEYS
  const stored = limited.filter(({ endpoint }) => {
    const { perKey = null, hasKeySettings = false } = endpoints.get(endpoint) ?? {}
    return hasKeySettings || (perKey !== null && perKey.rateLimit !== null)
  })
  const states = await findKeys(context, stored, deadline)
  const now = context.clock.now()
  const counts = await countJobs(context, limited, states, now, deadline, ({ endpoint, key }) => {
    const { settings } = states.get(idOfKey({ endpoint, key })) ?? NEW_KEY
    return limitsOfKey(endpoints.get(endpoint)?.perKey ?? null, settings).concurrency !== null
  })
  const rooms = new Map(
    limited.map((key) => {
      const id = idOfKey(key)
      const perKey = endpoints.get(key.endpoint)?.perKey ?? null
      const { running, sending } = counts(key)
      const attempts = { running: () => running, sendingSince: () => sending }
      const room = keyRoom(perKey, states.get(id) ?? NEW_KEY, attempts, now)
      return [id, room]
    }),
  )
  return {
    room: (key) => rooms.get(idOfKey(key)) ?? null,
    save(started, atMost) {
      const at = context.clock.now()
      const buckets = [...Map.groupBy(started, idOfKey)].flatMap(([id, jobs]) => {
        const cost = jobs.reduce((sum, job) => sum + job.cost, 0)
        const bucket = rooms.get(id)?.bucketAfter(cost, at) ?? null
        return bucket === null ? [] : [{ id, bucket }]
      })
      return setBuckets(context, buckets, atMost)
    },
  }
}

/** Counts the jobs themselves, whether or not they are marked. By idOfKey. */
async function countRunning(
  context: MongoContext,
  keys: FairnessKey[],
  deadline: Deadline,
): Promise<Map<string, number>> {
  const byEndpoint = Map.groupBy(keys, ({ endpoint }) => endpoint)
  const pipelines = [...byEndpoint].map(([endpoint, some]) => [
    {
      $match: {
        ...{ endpoint, state: 'running' },
        fairnessKey: { $in: [...new Set(some.map(({ key }) => key))] },
      },
    },
    { $group: { _id: { endpoint: '$endpoint', key: '$fairnessKey' }, count: { $sum: 1 } } },
  ])
  if (pipelines.length === 0) return new Map()
  const found = await union<{ _id: FairnessKey; count: number }>(context, pipelines, deadline)
  return new Map(found.map(({ _id, count }) => [idOfKey(_id), count]))
}

/**
 * The running jobs of these keys, and those that count for the recovery of a key.
 *
 * @param isCounted whether the running jobs of the key are counted: there can be 100,000 of a key
 * without a limit
 */
export async function countJobs(
  context: MongoContext,
  keys: FairnessKey[],
  states: ReadonlyMap<string, KeyState>,
  now: number,
  deadline: Deadline,
  isCounted: (key: FairnessKey) => boolean = () => true,
): Promise<(key: FairnessKey) => Pick<CountedKey, 'running' | 'sending'>> {
  const since = new Map(
    keys.flatMap((key): [string, number][] => {
      const id = idOfKey(key)
      const back = keySlotsAfterRest(states.get(id)?.rest ?? null, now)
      return back === null ? [] : [[id, back.since]]
    }),
  )
  const running = await countRunning(context, keys.filter(isCounted), deadline)
  const recovering = keys.filter((key) => since.has(idOfKey(key)))
  const sending = await countSending(context, recovering, since, deadline)
  return (key) => ({
    running: running.get(idOfKey(key)) ?? 0,
    sending: sending.get(idOfKey(key)) ?? 0,
  })
}

/**
 * Counts the attempts of these keys that are being sent.
 *
 * @param since by idOfKey: those that were claimed earlier do not count
 */
async function countSending(
  context: MongoContext,
  keys: FairnessKey[],
  since: ReadonlyMap<string, number>,
  deadline: Deadline,
): Promise<Map<string, number>> {
  const counts = new Map<string, number>()
  if (keys.length === 0) return counts
  const match = {
    endpoint: { $in: [...new Set(keys.map(({ endpoint }) => endpoint))] },
    ...{ state: 'running', phase: 'sending' },
    fairnessKey: { $in: [...new Set(keys.map(({ key }) => key))] },
    claimedAt: { $gte: new Date(Math.min(...since.values())) },
  }
  // The jobs of one claim have one instant.
  const group = { endpoint: '$endpoint', key: '$fairnessKey', claimedAt: '$claimedAt' }
  const found = await run(deadline, (limit) =>
    context.jobs
      .aggregate<{ _id: FairnessKey & { claimedAt: Date }; count: number }>(
        [{ $match: match }, { $group: { _id: group, count: { $sum: 1 } } }],
        { hint: 'running_of_key', batchSize: 10_000, ...NEWEST, ...limit },
      )
      .toArray(),
  )
  for (const { _id, count } of found) {
    const id = idOfKey(_id)
    const from = since.get(id) ?? Number.POSITIVE_INFINITY
    if (_id.claimedAt.getTime() >= from) counts.set(id, (counts.get(id) ?? 0) + count)
  }
  return counts
}

/** Looks at the parked keys of jobs that have ended, of these endpoints. */
export async function wakeFreed(
  context: MongoContext,
  endpoints: string[],
  deadline: Deadline,
): Promise<void> {
  if (endpoints.length === 0) return
  const ended = await run(deadline, (limit) =>
    context.jobs
      .find<Pick<JobDocument, '_id' | 'endpoint' | 'fairnessKey' | 'fence'>>(
        { endpoint: { $in: endpoints }, held: true, state: { $in: ENDED_STATES } },
        {
          projection: { endpoint: 1, fairnessKey: 1, fence: 1 },
          ...{ limit: ENDED_PER_CLAIM, batchSize: ENDED_PER_CLAIM, hint: 'held' },
          ...NEWEST,
          ...limit,
        },
      )
      .toArray(),
  )
  if (ended.length === 0) return
  const keys = ended.flatMap(({ endpoint, fairnessKey: key }) =>
    key === undefined ? [] : [{ endpoint, key }],
  )
  // With its fence, so that a job that was claimed and has ended again keeps its mark.
  const seen = ended.map(({ _id, endpoint, fence }): JobWrite => {
    const filter = { _id, endpoint, fence, held: true as const, state: { $in: ENDED_STATES } }
    return { updateOne: { filter, update: { $unset: { held: '' } }, ...BY_ID } }
  })
  const writes = [...wakesOf(context, keys), ...seen]
  await run(deadline, (limit) => context.jobs.bulkWrite(writes, { ordered: true, ...limit }))
}

export const HELD_FIELDS = { fairnessKey: 1, held: 1 } as const

/** These final jobs may be deleted before a claim sees their marks. */
export async function wakeBeforeDelete(
  context: MongoContext,
  jobs: Pick<JobDocument, 'endpoint' | keyof typeof HELD_FIELDS>[],
  deadline: Deadline,
): Promise<void> {
  const keys = jobs.flatMap(({ endpoint, fairnessKey: key, held }) =>
    held === undefined || key === undefined ? [] : [{ endpoint, key }],
  )
  await wake(context, keys, deadline)
}

function wakesOf(context: MongoContext, keys: FairnessKey[]): JobWrite[] {
  const now = nowOf(context)
  return [...Map.groupBy(keys, ({ endpoint }) => endpoint)].map(([endpoint, some]) => ({
    updateMany: {
      filter: {
        ...{ endpoint, state: 'queued' as const, priority: { $in: PRIORITIES } },
        ...{ fairnessKey: { $in: [...new Set(some.map(({ key }) => key))] }, turn: PARKED },
      },
      update: { $set: { parkedUntil: now, freedAt: now } },
      hint: 'turns',
    },
  }))
}

/** A key that is at its limit. */
export type FullKey = KeyInLane & {
  /** Of its next job. */
  cost: number
  /** When it may have room; null: when a job of it has ended, or its settings have changed. */
  until: number | null
}

/** Takes the turns of keys that are at their limit. Returns those that have jobs that wait. */
export async function parkKeys(
  context: MongoContext,
  keys: FullKey[],
  deadline: Deadline,
): Promise<FullKey[]> {
  if (keys.length === 0) return []
  await takeTurns(context, keys, deadline)
  const lines = await readLines(
    context,
    keys.map((key) => ({ ...key, most: 1 })),
    deadline,
  )
  const now = nowOf(context)
  const parks = lines.flatMap(({ outside: [first] }, i): JobWrite[] => {
    if (first === undefined) return []
    const { endpoint, until } = keys[i] as FullKey
    const parkedUntil = new Date(until ?? now.getTime() + PARKED_MS)
    // The others are due even later.
    const place = first.runAt > now ? { turn: ALARM } : { turn: PARKED, parkedUntil }
    const update = { $set: { state: 'queued' as const, admitsNext: true as const, ...place } }
    return [
      { updateOne: { filter: { _id: first._id, endpoint, state: 'waiting' }, update, ...BY_ID } },
    ]
  })
  if (parks.length === 0) return []
  const waiting = keys.filter(({ until }) => until === null)
  const writes = [...parks, ...holdsOf(waiting)]
  await run(deadline, (limit) => context.jobs.bulkWrite(writes, { ordered: true, ...limit }))
  const endpoints = await limitedKeysOf(context, keys, deadline)
  const again = await openKeys(context, endpoints, keys, deadline)
  const free = keys.filter((key) => again.room(key)?.canTake(key.cost) !== false)
  await wake(context, free, deadline)
  return keys.filter((_, i) => lines[i]?.outside.length !== 0)
}

/** Marks the running jobs of these keys. */
function holdsOf(keys: FairnessKey[]): JobWrite[] {
  return [...Map.groupBy(keys, ({ endpoint }) => endpoint)].map(([endpoint, some]) => ({
    updateMany: {
      filter: {
        ...{ endpoint, state: 'running' as const, held: { $ne: true as const } },
        fairnessKey: { $in: [...new Set(some.map(({ key }) => key))] },
      },
      update: { $set: { held: true as const } },
      hint: 'running_of_key',
    },
  }))
}

/** As they are now: a claim may have read limits that have changed since. */
async function limitedKeysOf(
  context: MongoContext,
  keys: FairnessKey[],
  deadline: Deadline,
): Promise<LimitedKeysByName> {
  const names = [...new Set(keys.map(({ endpoint }) => endpoint))]
  const found = await run(deadline, (limit) =>
    context.endpoints
      .find<Pick<EndpointDocument, '_id' | 'perKey' | 'hasKeySettings'>>(
        { _id: { $in: names } },
        {
          projection: { perKey: 1, hasKeySettings: 1 },
          ...{ batchSize: names.length + 1, ...NEWEST, ...limit },
        },
      )
      .toArray(),
  )
  return new Map(
    found.map(({ _id, perKey = null, hasKeySettings = false }) => [
      _id,
      { perKey, hasKeySettings },
    ]),
  )
}

async function takeTurns(
  context: MongoContext,
  keys: KeyInLane[],
  deadline: Deadline,
): Promise<void> {
  const lanes = [...Map.groupBy(keys, (key) => laneName(key.endpoint, key.priority)).values()]
  const takes = lanes.map((some): JobWrite => {
    const { endpoint, priority } = some[0] as KeyInLane
    const fairnessKey = { $in: some.map(({ key }) => key) }
    return {
      updateMany: {
        filter: { endpoint, state: 'queued', priority, fairnessKey },
        update: {
          $set: { state: 'waiting', turn: ALARM },
          $unset: { admitsNext: '', parkedUntil: '' },
        },
        hint: 'turns',
      },
    }
  })
  await run(deadline, (limit) => context.jobs.bulkWrite(takes, { ordered: false, ...limit }))
}

export async function wake(
  context: MongoContext,
  keys: FairnessKey[],
  deadline: Deadline,
): Promise<void> {
  if (keys.length === 0) return
  await run(deadline, (limit) =>
    context.jobs.bulkWrite(wakesOf(context, keys), { ordered: false, ...limit }),
  )
  context.notifyWork()
}

/** The limits of the keys of the endpoint have changed. */
export async function applyKeyLimits(
  context: MongoContext,
  endpoint: string,
  deadline: Deadline,
): Promise<void> {
  const now = nowOf(context)
  await run(deadline, (limit) =>
    context.jobs.updateMany(
      { endpoint, state: 'queued', turn: PARKED, parkedUntil: { $gt: now } },
      { $set: { parkedUntil: now, freedAt: now } },
      { hint: 'parked', ...limit },
    ),
  )
  context.notifyWork()
}

/** The round of this process over all keys with jobs outside. */
export interface KeyRound {
  /** The last key that was looked at; null: the round is complete. */
  after: KeyInLane | null
  /** By the monotonic clock. */
  beganAtMs: number
}

export function startKeyRound(): KeyRound {
  return { after: null, beganAtMs: Number.NEGATIVE_INFINITY }
}

export function isKeyRoundDue({ after, beganAtMs }: KeyRound): boolean {
  return after !== null || performance.now() - beganAtMs >= ROUND_EVERY_MS
}

/**
 * Gives turns to the next keys that have jobs outside and no job that admits them, and looks at
 * parked keys of which no job runs.
 */
export async function checkKeys(context: MongoContext, round: KeyRound): Promise<void> {
  const deadline = startDeadline()
  if (round.after === null) round.beganAtMs = performance.now()
  const keys = await nextKeys(context, round.after, deadline)
  round.after = keys.at(-1) ?? null
  if (keys.length === 0) return
  const ends = await readEnds(context, keys, deadline)
  const stuck = keys.filter((key) => ends.get(textOf(key))?.admitsNext !== true)
  await giveTurns(context, stuck, deadline)
  const parked = keys.filter((key) => ends.get(textOf(key))?.turn === PARKED)
  const running = await countRunning(context, parked, deadline)
  await wake(
    context,
    parked.filter((key) => !running.has(idOfKey(key))),
    deadline,
  )
}

/** Of one lane. Each seek goes past all jobs of the lane before. */
async function nextKeys(
  context: MongoContext,
  after: KeyInLane | null,
  deadline: Deadline,
): Promise<KeyInLane[]> {
  const { endpoint = '', priority = -1, key = '' } = after ?? {}
  const ranges = [
    { endpoint, priority, fairnessKey: { $gt: key } },
    { endpoint, priority: { $gt: priority } },
    { endpoint: { $gt: endpoint } },
  ]
  for (const range of ranges) {
    const found = await run(deadline, (limit) =>
      context.jobs
        .find<Pick<JobDocument, 'endpoint' | 'priority' | 'fairnessKey'>>(
          { ...range, state: 'waiting' },
          {
            projection: { _id: 0, endpoint: 1, priority: 1, fairnessKey: 1 },
            sort: { endpoint: 1, state: 1, priority: 1, fairnessKey: 1 },
            limit: ENTRIES_PER_SWEEP,
            batchSize: ENTRIES_PER_SWEEP,
            hint: 'outside',
            ...NEWEST,
            ...limit,
          },
        )
        .toArray(),
    )
    const [first] = found
    if (first === undefined) continue
    const names = found.flatMap(({ fairnessKey = [], ...lane }) =>
      lane.endpoint === first.endpoint && lane.priority === first.priority ? fairnessKey : [],
    )
    return [...new Set(names)].map((name) => ({
      ...{ endpoint: first.endpoint, priority: first.priority, key: name },
    }))
  }
  return []
}
