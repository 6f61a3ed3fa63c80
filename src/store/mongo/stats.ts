// Stats of endpoints: how many jobs are queued, due, running and dead; and of their fairness keys.
// Each count reads no more index entries than it can report. Only the age of the oldest due job
// needs documents.
import type { Document, Filter } from 'mongodb'
import { ALARM, NO_TURN } from '../../job/turns.ts'
import {
  type EndpointStats,
  type KeyStats,
  type KeysByWait,
  type KeyWait,
  type PlaceInLine,
  pageByWait,
} from '../stats.ts'
import {
  MAX_COUNT,
  MAX_DELETED_NAMES,
  MAX_ENTRIES_PER_PAGE,
  MAX_STATS_NAMES,
  type Page,
} from '../store.ts'
import { endpointsWith } from './claim.ts'
import { type Deadline, type MongoContext, nowOf, run, startDeadline } from './connection.ts'
import { notStored } from './deleted-endpoints.ts'
import type { JobIndex } from './indexes.ts'
import { type JobDocument, QUEUED_STATES } from './job-document.ts'

/** Limit of names in one command, with six pipelines each. */
const NAMES_PER_COMMAND = 10
/**
 * Documents that are read for the oldest due job, by runAt. The first is not always the oldest: a
 * job that was blocked is due only since it was unblocked. If more than these were unblocked
 * lately, the reported age is too small.
 */
export const OLDEST_LOOKED_AT = 100
/** Limit of keys in one command, with at most 13 pipelines each. */
const KEYS_PER_COMMAND = 10
/** Index entries of each state that one step of a page of keys reads. */
const ENTRIES_PER_STEP = 1_000
/** A key with more entries takes a step of its own. A page with too many such keys is short. */
const MAX_STEPS = MAX_ENTRIES_PER_PAGE / ENTRIES_PER_STEP
/** Named one by one, so that the claim index returns the due jobs of each in order of runAt. */
const PRIORITIES = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]

type Figure = 'queued' | 'due' | 'running' | 'dead' | 'keysDue'

interface Found {
  endpoint: string
  figure: Figure | 'oldest'
  count?: number
  since?: Date
}

export async function statsOf(context: MongoContext, names: string[]): Promise<EndpointStats[]> {
  if (names.length > MAX_STATS_NAMES) {
    throw new RangeError(`${names.length} names in a call of at most ${MAX_STATS_NAMES}`)
  }
  const namesToRead = names.length > NAMES_PER_COMMAND ? await withJobs(context, names) : names
  const found: Found[] = []
  for (let i = 0; i < namesToRead.length; i += NAMES_PER_COMMAND) {
    found.push(...(await readStats(context, namesToRead.slice(i, i + NAMES_PER_COMMAND))))
  }
  const keyedNames = await withKeys(context, namesToRead)
  for (let i = 0; i < keyedNames.length; i += NAMES_PER_COMMAND) {
    found.push(...(await readKeysDue(context, keyedNames.slice(i, i + NAMES_PER_COMMAND))))
  }
  const byName = Map.groupBy(found, ({ endpoint }) => endpoint)
  return names.map((name) => statsOfOne(byName.get(name) ?? []))
}

export async function deletedEndpoints(context: MongoContext): Promise<string[]> {
  const deadline = startDeadline()
  const names = await endpointsWith(context, 'dead', deadline)
  return (await notStored(context, names, deadline)).sort().slice(0, MAX_DELETED_NAMES)
}

/** Usually only few endpoints have such jobs. The indexes show their names. */
async function withJobs(context: MongoContext, names: string[]): Promise<string[]> {
  const busy = new Set<string>()
  for (const state of [...QUEUED_STATES, 'running', 'dead'] as const) {
    for (const name of await endpointsWith(context, state, startDeadline())) busy.add(name)
  }
  return names.filter((name) => busy.has(name))
}

function readStats(context: MongoContext, names: string[]): Promise<Found[]> {
  const now = nowOf(context)
  return readUnion(
    context,
    names.flatMap((name) => pipelinesOf(name, now)),
  )
}

/** Each pipeline returns at most one document. */
function readUnion<T extends Document>(context: MongoContext, pipelines: Document[][]) {
  return run(startDeadline(), (limit) =>
    context.jobs
      .aggregate<T>(unionOf(context, pipelines), { batchSize: pipelines.length + 1, ...limit })
      .toArray(),
  )
}

function unionOf({ names }: MongoContext, [first = [], ...others]: Document[][]): Document[] {
  return [...first, ...others.map((pipeline) => ({ $unionWith: { coll: names.jobs, pipeline } }))]
}

/** Those that have queued jobs with a fairness key. */
async function withKeys(context: MongoContext, names: string[]): Promise<string[]> {
  if (names.length === 0) return []
  const stages = [
    { $match: { endpoint: { $in: names }, state: 'queued', fairnessKey: { $gt: '' } } },
    { $group: { _id: '$endpoint' } },
  ]
  const found = await run(startDeadline(), (limit) =>
    context.jobs
      .aggregate<{ _id: string }>(stages, {
        ...{ hint: 'turns' satisfies JobIndex, batchSize: names.length + 1 },
        ...limit,
      })
      .toArray(),
  )
  return found.map(({ _id }) => _id)
}

function readKeysDue(context: MongoContext, names: string[]): Promise<Found[]> {
  const now = nowOf(context)
  const pipelines = names.map((endpoint) => [
    ...unionOf(
      context,
      PRIORITIES.map((priority) => dueKeysOf({ endpoint, priority }, now)),
    ),
    { $group: { _id: '$_id' } },
    { $limit: MAX_COUNT },
    { $group: { _id: endpoint, count: { $sum: 1 } } },
    { $project: { _id: 0, endpoint: '$_id', figure: { $literal: 'keysDue' }, count: 1 } },
  ])
  return readUnion(context, pipelines)
}

/**
 * The keys of a lane that have a turn, or an alarm that no claim has seen: one seek for each key.
 */
function dueKeysOf(lane: { endpoint: string; priority: number }, now: Date): Document[] {
  return [
    { $match: { ...lane, state: 'queued', fairnessKey: { $gt: '' } } },
    { $sort: { fairnessKey: 1, turn: -1, runAt: 1 } },
    { $group: { _id: '$fairnessKey', turn: { $first: '$turn' }, runAt: { $first: '$runAt' } } },
    { $limit: MAX_COUNT },
    { $match: { $or: [{ turn: { $gt: NO_TURN } }, { runAt: { $lte: now } }] } },
  ]
}

function pipelinesOf(endpoint: string, now: Date): Document[][] {
  const queued = { endpoint, state: 'queued', priority: { $in: PRIORITIES } }
  // Jobs with a fairness key have a turn, or an alarm, or are outside.
  const due = { ...queued, turn: { $in: [NO_TURN, ALARM] }, runAt: { $lte: now } }
  const inTurn = { ...queued, turn: { $gt: NO_TURN } }
  const outside = { endpoint, state: 'waiting', runAt: { $lte: now } }
  return [
    // The states are counted one by one, because each has its own index.
    ...QUEUED_STATES.map((state) => countOf(endpoint, 'queued', { endpoint, state })),
    countOf(endpoint, 'running', { endpoint, state: 'running' }),
    countOf(endpoint, 'dead', { endpoint, state: 'dead' }),
    ...[due, inTurn, outside].map((filter) => countOf(endpoint, 'due', filter)),
    oldestOf(endpoint, due, { runAt: 1 }),
    oldestOf(endpoint, inTurn, { priority: -1, turn: 1 }),
    oldestOf(endpoint, outside, { runAt: 1 }),
  ]
}

function oldestOf(endpoint: string, filter: Document, order: Record<string, 1 | -1>): Document[] {
  return [
    { $match: filter },
    { $sort: order },
    { $limit: OLDEST_LOOKED_AT },
    { $project: { since: { $max: ['$runAt', '$promotedAt'] } } },
    { $group: { _id: endpoint, since: { $min: '$since' } } },
    { $project: { _id: 0, endpoint: '$_id', figure: { $literal: 'oldest' }, since: 1 } },
  ]
}

/** Counts in the index alone, up to one more than is reported. */
function countOf(endpoint: string, figure: Figure, filter: Document): Document[] {
  return [
    { $match: filter },
    { $limit: MAX_COUNT + 1 },
    { $group: { _id: { endpoint, figure }, count: { $sum: 1 } } },
    { $project: { _id: 0, endpoint: '$_id.endpoint', figure: '$_id.figure', count: 1 } },
  ]
}

function statsOfOne(found: Found[]): EndpointStats {
  const of = (wanted: Found['figure']) => found.filter(({ figure }) => figure === wanted)
  const countedOf = (figure: Figure) => of(figure).reduce((sum, { count = 0 }) => sum + count, 0)
  const figures = {
    queued: countedOf('queued'),
    due: countedOf('due'),
    running: countedOf('running'),
    dead: countedOf('dead'),
  }
  return {
    queued: Math.min(figures.queued, MAX_COUNT),
    due: Math.min(figures.due, MAX_COUNT),
    running: Math.min(figures.running, MAX_COUNT),
    dead: Math.min(figures.dead, MAX_COUNT),
    keysDue: countedOf('keysDue'),
    oldestDueAt: earliest(of('oldest').flatMap(({ since = [] }) => since)),
    more: Object.values(figures).some((figure) => figure > MAX_COUNT),
  }
}

function earliest(instants: Date[]): number | null {
  return instants.length === 0 ? null : Math.min(...instants.map((instant) => instant.getTime()))
}

/**
 * Where a key with queued or running jobs is found. The jobs that are outside are not searched: a
 * key that has some has a turn, an alarm, or a running job that admits them.
 */
const KEY_SOURCES = [
  { hint: 'turns', indexed: { state: 'queued', priority: { $in: PRIORITIES } } },
  { hint: 'running_of_key', indexed: { state: 'running' } },
  { hint: 'blocked_of_key', indexed: { state: 'blocked' } },
] as const satisfies { hint: JobIndex; indexed: Document }[]

export async function fairnessKeysOf(
  context: MongoContext,
  endpoint: string,
  after: string | null,
  limit: number,
): Promise<Page<KeyStats>> {
  const keys: string[] = []
  let lookedTo: string | null = after ?? ''
  for (let step = 0; lookedTo !== null && keys.length <= limit && step < MAX_STEPS; step++) {
    const found: Step = await nextKeys(context, endpoint, lookedTo)
    keys.push(...found.keys)
    lookedTo = found.lookedTo
  }
  const page = keys.slice(0, limit)
  const lanes = await lanesOutside(context, endpoint)
  const items: KeyStats[] = []
  for (let i = 0; i < page.length; i += KEYS_PER_COMMAND) {
    const some = page.slice(i, i + KEYS_PER_COMMAND)
    items.push(...(await readKeys(context, lanes, some)))
  }
  return { items, next: keys.length > limit ? (page.at(-1) ?? null) : lookedTo }
}

interface Step {
  /** In order. */
  keys: string[]
  /** The last key that was looked at; null: all were. */
  lookedTo: string | null
}

/** The next keys. Each seek goes past all jobs of the keys before. */
async function nextKeys(context: MongoContext, endpoint: string, after: string): Promise<Step> {
  const deadline = startDeadline()
  const found = await Promise.all(
    KEY_SOURCES.map(({ hint, indexed }) => {
      const stages = [
        { $match: { endpoint, ...indexed, fairnessKey: { $gt: after } } },
        { $sort: { fairnessKey: 1 } },
        { $limit: ENTRIES_PER_STEP },
        { $group: { _id: '$fairnessKey', count: { $sum: 1 } } },
      ]
      return run(deadline, (limit) =>
        context.jobs
          .aggregate<{ _id: string; count: number }>(stages, {
            ...{ hint, batchSize: ENTRIES_PER_STEP + 1 },
            ...limit,
          })
          .toArray(),
      )
    }),
  )
  // A source that returned as many entries as it may has more after its last key.
  const ends = found
    .filter((some) => some.reduce((sum, { count }) => sum + count, 0) === ENTRIES_PER_STEP)
    .map((some) => inOrder(some.map(({ _id }) => _id)).at(-1) as string)
  const lookedTo = inOrder(ends)[0] ?? null
  const keys = inOrder([...new Set(found.flat().map(({ _id }) => _id))])
  return { keys: lookedTo === null ? keys : keys.slice(0, keys.indexOf(lookedTo) + 1), lookedTo }
}

/** As MongoDB compares them: by their bytes in UTF-8. */
function inOrder(keys: string[]): string[] {
  return keys.sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
}

interface Lanes {
  endpoint: string
  /** The priorities that have jobs outside. */
  priorities: number[]
}

/** Usually there are none or few. Each needs a pipeline, so that no other index is used. */
async function lanesOutside(context: MongoContext, endpoint: string): Promise<Lanes> {
  const stages = [{ $match: { endpoint, state: 'waiting' } }, { $group: { _id: '$priority' } }]
  const found = await run(startDeadline(), (limit) =>
    context.jobs
      .aggregate<{ _id: number }>(stages, {
        ...{ hint: 'outside' satisfies JobIndex, batchSize: PRIORITIES.length + 1 },
        ...limit,
      })
      .toArray(),
  )
  return { endpoint, priorities: found.map(({ _id }) => _id) }
}

async function readKeys(context: MongoContext, lanes: Lanes, keys: string[]): Promise<KeyStats[]> {
  const now = nowOf(context)
  const found = await readUnion<FoundOfKey>(
    context,
    keys.flatMap((key) => pipelinesOfKey(lanes, key, now)),
  )
  return keys.map((key) => statsOfKey(key, found))
}

interface FoundOfKey {
  key: string
  figure: 'queued' | 'running'
  count: number
  due: number
}

/** The sorts have the due jobs first. */
function pipelinesOfKey({ endpoint, priorities }: Lanes, key: string, now: Date): Document[][] {
  const ofKey = { endpoint, fairnessKey: key }
  const isRipe = { $lte: ['$runAt', now] }
  const isDue = { $or: [{ $gt: ['$turn', NO_TURN] }, isRipe] }
  const count = (figure: FoundOfKey['figure'], due: Document | number) => [
    { $limit: MAX_COUNT + 1 },
    { $group: { _id: figure, count: { $sum: 1 }, due: { $sum: due } } },
    { $project: { _id: 0, figure: '$_id', key: { $literal: key }, count: 1, due: 1 } },
  ]
  return [
    [
      { $match: { ...ofKey, state: 'queued', priority: { $in: PRIORITIES } } },
      { $sort: { turn: -1, runAt: 1, _id: 1 } },
      ...count('queued', { $cond: [isDue, 1, 0] }),
    ],
    ...priorities.map((priority) => [
      { $match: { ...ofKey, state: 'waiting', priority } },
      { $sort: { runAt: 1, _id: 1 } },
      ...count('queued', { $cond: [isRipe, 1, 0] }),
    ]),
    [{ $match: { ...ofKey, state: 'blocked' } }, ...count('queued', { $literal: 0 })],
    [{ $match: { ...ofKey, state: 'running' } }, ...count('running', { $literal: 0 })],
  ]
}

function statsOfKey(key: string, found: FoundOfKey[]): KeyStats {
  const own = found.filter((one) => one.key === key)
  const sum = (figure: FoundOfKey['figure'], field: 'count' | 'due') =>
    own.reduce((total, one) => total + (one.figure === figure ? one[field] : 0), 0)
  const figures = {
    ...{ queued: sum('queued', 'count'), due: sum('queued', 'due') },
    running: sum('running', 'count'),
  }
  return {
    key,
    queued: Math.min(figures.queued, MAX_COUNT),
    due: Math.min(figures.due, MAX_COUNT),
    running: Math.min(figures.running, MAX_COUNT),
    more: Object.values(figures).some((figure) => figure > MAX_COUNT),
  }
}

export async function keysByWait(
  context: MongoContext,
  endpoint: string,
  after: KeyWait | null,
  limit: number,
): Promise<KeysByWait> {
  const now = nowOf(context)
  const pipelines = PRIORITIES.flatMap((priority) => waitsOf({ endpoint, priority }, now))
  const found = await run(startDeadline(), (limits) =>
    context.jobs
      .aggregate<FoundWait>(unionOf(context, pipelines), { batchSize: MAX_COUNT, ...limits })
      .toArray(),
  )
  const counts = Map.groupBy(found, ({ part }) => part)
  const waits = found.map(({ _id: key, since }) => ({ key, dueSince: since.getTime() }))
  const { keys, next } = pageByWait(waits, after, limit)
  const lanes = await lanesOutside(context, endpoint)
  const items: KeyStats[] = []
  for (let i = 0; i < keys.length; i += KEYS_PER_COMMAND) {
    items.push(...(await readKeys(context, lanes, keys.slice(i, i + KEYS_PER_COMMAND))))
  }
  return { items, next, partial: [...counts.values()].some((some) => some.length > MAX_COUNT) }
}

interface FoundWait {
  /** The key. */
  _id: string
  since: Date
  /** The priority, and whether it is that of an alarm. */
  part: string
}

/**
 * The first turn of each key of a lane, and its first alarm that no claim has seen. That a job was
 * unblocked after its runAt is not in the index.
 */
function waitsOf(lane: { endpoint: string; priority: number }, now: Date): Document[][] {
  const inLane = { ...lane, state: 'queued', fairnessKey: { $gt: '' } }
  const firstOf = (part: string) => [
    { $group: { _id: '$fairnessKey', since: { $first: '$runAt' } } },
    { $limit: MAX_COUNT + 1 },
    { $project: { since: 1, part: { $literal: part } } },
  ]
  return [
    [
      { $match: { ...inLane, turn: { $gt: NO_TURN } } },
      { $sort: { fairnessKey: -1, turn: 1, runAt: -1 } },
      ...firstOf(`${lane.priority} turn`),
    ],
    [
      { $match: { ...inLane, turn: ALARM, runAt: { $lte: now } } },
      { $sort: { fairnessKey: 1, turn: -1, runAt: 1 } },
      ...firstOf(`${lane.priority} alarm`),
    ],
  ]
}

export async function placeInLine(
  context: MongoContext,
  endpoint: string,
  jobId: string,
): Promise<PlaceInLine | null> {
  const deadline = startDeadline()
  const now = nowOf(context)
  const job = await run(deadline, (limit) =>
    context.jobs.findOne<JobInLine>(
      { _id: jobId, endpoint, state: { $in: ['queued', 'waiting'] }, runAt: { $lte: now } },
      { projection: PLACE, ...limit },
    ),
  )
  if (job === null) return null
  const keyed = await countKeys(context, job, now, deadline)
  if (keyed === 0 && job.fairnessKey === undefined) return null
  const count = ({ hint, filter }: Part, most: number) =>
    run(deadline, (limit) => context.jobs.countDocuments(filter, { hint, limit: most, ...limit }))
  const { priority } = job
  const plain = { endpoint, state: 'queued', priority, turn: NO_TURN } as const
  const [anyPlainDue = 0, ...before] = await Promise.all([
    count({ hint: 'claim', filter: { ...plain, runAt: { $lte: now } } }, 1),
    ...partsBefore(job).map((part) => count(part, MAX_COUNT)),
  ])
  const jobsBefore = before.reduce((sum, some) => sum + some, 0)
  return {
    jobsBefore: Math.min(jobsBefore, MAX_COUNT),
    keyCount: Math.min(keyed + anyPlainDue, MAX_COUNT),
  }
}

const PLACE = { endpoint: 1, state: 1, priority: 1, fairnessKey: 1, turn: 1, runAt: 1 } as const
type JobInLine = Pick<JobDocument, '_id' | keyof typeof PLACE>

async function countKeys(
  context: MongoContext,
  { endpoint, priority }: JobInLine,
  now: Date,
  deadline: Deadline,
): Promise<number> {
  const counted = { $group: { _id: null, count: { $sum: 1 } } }
  const stages = [...dueKeysOf({ endpoint, priority }, now), counted]
  const [found] = await run(deadline, (limit) =>
    context.jobs
      .aggregate<{ count: number }>(stages, { hint: 'turns' satisfies JobIndex, ...limit })
      .toArray(),
  )
  return found?.count ?? 0
}

/** A part of the jobs that come before another one. */
interface Part {
  hint: JobIndex
  filter: Filter<JobDocument>
}

function partsBefore(job: JobInLine): Part[] {
  const { _id, endpoint, state, priority, fairnessKey, turn, runAt } = job
  const earlier = (hint: JobIndex, filter: Filter<JobDocument>): Part[] => [
    { hint, filter: { ...filter, runAt: { $lt: runAt } } },
    { hint, filter: { ...filter, runAt, _id: { $lt: _id } } },
  ]
  const queued = { endpoint, state: 'queued', priority } as const
  if (fairnessKey === undefined) return earlier('claim', { ...queued, turn: NO_TURN })
  const ofKey = { ...queued, fairnessKey }
  if (state === 'queued' && turn > NO_TURN) {
    return [{ hint: 'turns', filter: { ...ofKey, turn: { $gt: NO_TURN, $lt: turn } } }]
  }
  return [
    { hint: 'turns', filter: { ...ofKey, turn: { $gt: NO_TURN } } },
    ...earlier('turns', { ...ofKey, turn: ALARM }),
    ...earlier('outside', { ...ofKey, state: 'waiting' }),
  ]
}
