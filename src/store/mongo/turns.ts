// The turns of fairness keys: src/job/turns.ts has the rules. A job with a key is queued with a tag
// or an alarm in `turn`, or it is outside: its state is `waiting`. Tags decide about the order only.
// Writers do not wait for each other, so two of them can give two jobs of one key the same tag.
//
// No job stays outside for ever: the process that claims a job that admits the next one then looks
// outside, and the process that stores a job outside then marks the one that admits it. The mark
// fails if that job was claimed meanwhile, and then the writer looks outside itself. If it dies
// before that, a round of the sweep finds the key.
import type { AnyBulkWriteOperation, Document } from 'mongodb'
import { DEFAULT_COST, type NewJob } from '../../job/job.ts'
import {
  ALARM,
  closedUp,
  FIRST_TURN,
  type Lane,
  laneAfter,
  NEW_LANE,
  NO_TURN,
  nextTurns,
  PARKED,
  type Pick as Picked,
  placeOf,
  type Turn,
  turnsToGive,
} from '../../job/turns.ts'
import { StoreUnavailable } from '../store-errors.ts'
import {
  type Deadline,
  type MongoContext,
  NEWEST,
  nowOf,
  run,
  startDeadline,
} from './connection.ts'
import type { EndpointDocument } from './endpoint-document.ts'
import { weightsOf } from './fairness-keys.ts'
import { atEndpoints, BY_ID, type JobDocument } from './job-document.ts'

/** The jobs of one key in one lane. */
export interface KeyInLane {
  endpoint: string
  priority: number
  key: string
}

/** With the most turns to give. */
export type KeyToFill = KeyInLane & { most?: number }

/** Turns that a change gives to one key. More are given when these are claimed. */
const TURNS_PER_CHANGE = 64
/** Limit of keys in one command: more make a long command, fewer make many commands. */
const KEYS_PER_COMMAND = 64
/** The job that admits the next one can be claimed each time it was read. */
const MAX_ROUNDS = 3

export const PLACE_FIELDS = { priority: 1, fairnessKey: 1, turn: 1, cost: 1 } as const
export type PlacedJob = Pick<JobDocument, '_id' | 'endpoint' | 'state' | keyof typeof PLACE_FIELDS>

/** A job that a claim may take. */
export interface LaneCandidate
  extends MaybeCost,
    Pick<JobDocument, '_id' | 'endpoint' | 'payloadBytes' | 'priority' | 'turn' | 'runAt'> {
  fairnessKey?: string | null
  admitsNext?: true | null
}

export type JobWrite = AnyBulkWriteOperation<JobDocument>
export type Lanes = NonNullable<EndpointDocument['lanes']>
/** What an endpoint stores of its lanes. */
export type EndpointLanes = Partial<Pick<EndpointDocument, 'lanes' | 'hasKeySettings'>>
type LanePick = Picked<Turn & { job: LaneCandidate }, { cost: number; job: LaneCandidate }>

/** What a claim knows about the lanes of its endpoints. */
export interface LaneLooks {
  picks: Map<string, { pick: LanePick; endpoint: string; priority: number }>
  lanes: Map<string, Lane>
  /** Lanes with jobs without a key that were not all looked at. */
  isPlainFull: Set<string>
  plainCounts: Map<string, number>
  /** Jobs whose alarm came, and that wait for a turn now. */
  aside: LaneCandidate[]
  /** The first jobs of keys without turns: their alarm came, or their key is parked no longer. */
  ripe: LaneCandidate[]
  /** Endpoints with keys that wait for room. */
  parkedAt: Set<string>
}

/**
 * After a claim: stores the lanes. Returns the keys whose next jobs get turns now.
 *
 * @param admitting the jobs that were claimed and admit the next one
 */
export async function advanceLanes(
  context: MongoContext,
  looks: LaneLooks,
  claimedIds: string[],
  admitting: KeyInLane[],
  deadline: Deadline,
): Promise<KeyToFill[]> {
  const claimed = claimedIds.flatMap((id) => looks.picks.get(id) ?? [])
  const byLane = Map.groupBy(claimed, ({ endpoint, priority }) => laneName(endpoint, priority))
  const updates = [...byLane].map(([name, some]): AnyBulkWriteOperation<EndpointDocument> => {
    const { endpoint, priority } = some[0] as (typeof some)[number]
    const picks = some.map(({ pick }) => pick)
    const plainCount = picks.filter(({ plain }) => plain !== undefined).length
    const isPlainLeft =
      looks.isPlainFull.has(name) || plainCount < (looks.plainCounts.get(name) ?? 0)
    const lane = laneAfter(looks.lanes.get(name) ?? NEW_LANE, picks, isPlainLeft)
    return {
      updateOne: {
        filter: { _id: endpoint },
        update: {
          $max: { [`lanes.${priority}.virtualTime`]: lane.virtualTime },
          $set: { [`lanes.${priority}.plainStart`]: lane.plainStart },
        },
      },
    }
  })
  if (updates.length > 0) {
    await run(deadline, (limit) =>
      context.endpoints.bulkWrite(updates, { ordered: false, ...limit }),
    )
  }
  const aside = await setAside(context, looks.aside, deadline)
  const counts = Map.groupBy([...admitting, ...aside], textOf)
  return [...counts.values()].map((some) => ({
    ...(some[0] as KeyInLane),
    most: turnsToGive(some.length, counts.size),
  }))
}

/** Returns the keys of the jobs. */
async function setAside(
  context: MongoContext,
  jobs: LaneCandidate[],
  deadline: Deadline,
): Promise<KeyInLane[]> {
  if (jobs.length === 0) return []
  await run(deadline, (limit) =>
    context.jobs.updateMany(
      { ...atEndpoints(jobs), state: 'queued', turn: { $in: [ALARM, PARKED] } },
      { $set: { state: 'waiting', turn: ALARM }, $unset: { admitsNext: '', parkedUntil: '' } },
      { ...BY_ID, ...limit },
    ),
  )
  return jobs.flatMap(({ endpoint, priority, fairnessKey: key }) =>
    typeof key === 'string' ? [{ endpoint, priority, key }] : [],
  )
}

/** Gives turns to the jobs of these keys that are outside, as far as the rules allow. */
export async function giveTurns(
  context: MongoContext,
  keys: KeyToFill[],
  deadline: Deadline,
): Promise<void> {
  let open = [...new Map(keys.map((key) => [textOf(key), key])).values()]
  for (let round = 0; open.length > 0 && round < MAX_ROUNDS; round++) {
    const again: typeof open = []
    for (let i = 0; i < open.length; i += KEYS_PER_COMMAND) {
      const some = open.slice(i, i + KEYS_PER_COMMAND)
      again.push(...(await giveSome(context, some, deadline)))
    }
    open = again
  }
}

/** Returns the keys whose job that admits the next one was claimed meanwhile. */
async function giveSome(
  context: MongoContext,
  keys: KeyToFill[],
  deadline: Deadline,
): Promise<typeof keys> {
  const { found, lanes } = await unionWithLanes<LineOfKey>(
    context,
    linePipelines(keys),
    keys,
    deadline,
  )
  const lines = linesOf(keys, found)
  const hasSettings = (name: string) => lanes.get(name)?.hasKeySettings === true
  const weightOf = await weightsOf(context, keys, hasSettings, deadline)
  const now = nowOf(context)
  const writes: JobWrite[] = []
  const marks: { key: KeyToFill; write: JobWrite }[] = []
  keys.forEach((key, i) => {
    const { last = null, outside = [] } = lines[i] ?? {}
    // A claim gives turns to a parked key when it has room.
    if (outside.length === 0 || last?.turn === PARKED) return
    const most = key.most ?? TURNS_PER_CHANGE
    const waiting = outside.slice(0, most).map((entry) => ({
      cost: costOf(entry),
      dueAt: entry.runAt.getTime(),
    }))
    const { virtualTime } = lanes.get(key.endpoint)?.lanes?.[key.priority] ?? NEW_LANE
    const weight = weightOf(key)
    const tags = nextTurns(last?.turn ?? null, waiting, virtualTime, now.getTime(), weight)
    const admitsNext = tags.length < outside.length
    const give = ({ _id }: LineEntry, turn: number, admits: boolean) => ({
      updateOne: {
        filter: { _id, endpoint: key.endpoint, state: 'waiting' as const },
        update: {
          // Workers look for jobs that were freed lately.
          $set: {
            ...{ state: 'queued' as const, turn, freedAt: now },
            ...(admits ? { admitsNext: true as const } : {}),
          },
        },
        ...BY_ID,
      },
    })
    if (tags.length > 0) {
      writes.push(...tags.map((tag, at) => give(outside[at] as LineEntry, tag, admitsNext)))
    } else if (last !== null) {
      marks.push({ key, write: admitting(last._id, key.endpoint) })
    } else {
      writes.push(give(outside[0] as LineEntry, ALARM, outside.length > 1))
    }
  })
  if (writes.length > 0) {
    await run(deadline, (limit) => context.jobs.bulkWrite(writes, { ordered: false, ...limit }))
    context.notifyWork()
  }
  if (marks.length === 0) return []
  const { matchedCount } = await run(deadline, (limit) =>
    context.jobs.bulkWrite(
      marks.map(({ write }) => write),
      { ordered: false, ...limit },
    ),
  )
  return matchedCount === marks.length ? [] : marks.map(({ key }) => key)
}

function admitting(_id: string, endpoint: string): JobWrite {
  return {
    updateOne: {
      filter: { _id, endpoint, state: 'queued' },
      update: { $set: { admitsNext: true } },
      ...BY_ID,
    },
  }
}

type LineEntry = Pick<JobDocument, '_id' | 'runAt' | 'turn'> & MaybeCost

/** Of a key, its last turn and its first jobs outside. */
interface KeyLines {
  last: LineEntry | null
  outside: LineEntry[]
}

type LineOfKey = LineEntry & { line: number }

export async function readLines(
  context: MongoContext,
  keys: KeyToFill[],
  deadline: Deadline,
): Promise<KeyLines[]> {
  return linesOf(keys, await union<LineOfKey>(context, linePipelines(keys), deadline))
}

function linePipelines(keys: KeyToFill[]): Document[][] {
  return keys.flatMap(({ endpoint, priority, key, most = TURNS_PER_CHANGE }, i) => {
    const ofKey = { endpoint, priority, fairnessKey: key }
    const project = { $project: { runAt: 1, turn: 1, cost: 1, line: { $literal: i } } }
    return [
      [
        { $match: { ...ofKey, state: 'queued', turn: { $gt: NO_TURN } } },
        { $sort: { turn: -1 } },
        { $limit: 1 },
        project,
      ],
      [
        { $match: { ...ofKey, state: 'waiting' } },
        { $sort: { runAt: 1, _id: 1 } },
        { $limit: most + 1 },
        project,
      ],
    ]
  })
}

function linesOf(keys: KeyToFill[], found: LineOfKey[]): KeyLines[] {
  const byLine = Map.groupBy(found, ({ line }) => line)
  return keys.map((_, i) => {
    const own = byLine.get(i) ?? []
    return {
      last: own.find(({ turn }) => turn > NO_TURN) ?? null,
      outside: own.filter(({ turn }) => turn <= NO_TURN),
    }
  })
}

export function union<T extends Document>(
  context: MongoContext,
  [first = [], ...others]: Document[][],
  deadline: Deadline,
  last: Document[] = [],
): Promise<T[]> {
  const unions = others.map((pipeline) => ({ $unionWith: { coll: context.names.jobs, pipeline } }))
  return run(deadline, (limit) =>
    context.jobs
      .aggregate<T>([...first, ...unions, ...last], { batchSize: 10_000, ...NEWEST, ...limit })
      .toArray(),
  )
}

/** The same, and the lanes of the endpoints of these keys, in one command. */
async function unionWithLanes<T extends { line: number }>(
  context: MongoContext,
  pipelines: Document[][],
  keys: KeyInLane[],
  deadline: Deadline,
): Promise<{ found: T[]; lanes: Map<string, EndpointLanes> }> {
  const names = [...new Set(keys.map(({ endpoint }) => endpoint))]
  const last = lanesOfAll(context, names)
  const all = await union<T | LanesOfEndpoint>(context, pipelines, deadline, [last])
  return {
    found: all.filter((one) => 'line' in one),
    lanes: new Map(all.flatMap((one) => ('line' in one ? [] : [[one.endpoint, one]]))),
  }
}

export interface LanesOfEndpoint extends EndpointLanes {
  endpoint: string
  isEndpoint: true
}

/** Adds what the endpoints store of their lanes. */
export function lanesOfAll(context: MongoContext, names: string[]): Document {
  const project = { _id: 0, endpoint: '$_id', isEndpoint: { $literal: true } }
  const pipeline = [
    { $match: { _id: { $in: names } } },
    { $project: { ...project, lanes: 1, hasKeySettings: 1 } },
  ]
  return { $unionWith: { coll: context.names.endpoints, pipeline } }
}

/**
 * Sets the places of new jobs in their documents: one command for all keys.
 *
 * @param lanes by endpoint, as they were read when the batch began
 * @returns the keys with new jobs outside, and the jobs that admit them
 */
export async function placeNew(
  context: MongoContext,
  items: { job: NewJob; document: JobDocument }[],
  lanes: ReadonlyMap<string, EndpointLanes>,
  deadline: Deadline,
): Promise<Admitted[]> {
  const keyed = items.flatMap(({ job, document }) => {
    const { endpoint, priority, fairnessKey: key } = job
    return key !== null && document.state === 'queued'
      ? [{ job, document, endpoint, priority, key }]
      : []
  })
  if (keyed.length === 0) return []
  const outside = new Map<string, Admitted>()
  const ends = await readEnds(context, keyed, deadline)
  const hasSettings = (name: string) => lanes.get(name)?.hasKeySettings === true
  const weightOf = await weightsOf(context, keyed, hasSettings, deadline)
  const now = context.clock.now()
  for (const { job, document, endpoint, priority, key } of keyed) {
    const of = { endpoint, priority, key }
    const name = textOf(of)
    const end = ends.get(name) ?? { id: null, turn: NO_TURN, admitsNext: false, dueAt: 0 }
    const { virtualTime } = lanes.get(endpoint)?.lanes?.[priority] ?? NEW_LANE
    const isParked = end.turn === PARKED
    const line = {
      lastTurn: end.turn > NO_TURN && !isParked ? end.turn : null,
      admitsNext: end.admitsNext,
      alarmAt: isParked ? Number.NEGATIVE_INFINITY : end.turn === ALARM ? end.dueAt : null,
    }
    const waiting = { cost: job.cost, dueAt: job.runAt }
    const place = placeOf(waiting, line, virtualTime, now, weightOf(of))
    if (place.kind === 'outside') {
      document.state = 'waiting'
      ends.set(name, { ...end, admitsNext: true })
      outside.set(name, { ...of, admittedBy: end.id })
    } else {
      document.turn = place.kind === 'turn' ? place.tag : ALARM
      const placed = { id: document._id, turn: document.turn, dueAt: job.runAt }
      ends.set(name, { ...placed, admitsNext: false })
    }
  }
  return [...outside.values()]
}

/** A key with jobs outside. */
interface Admitted extends KeyInLane {
  /** null: no job of the key has a turn or an alarm. */
  admittedBy: string | null
}

interface End {
  /** null: no job of the key has a turn or an alarm. */
  id: string | null
  turn: number
  admitsNext: boolean
  /** Of an alarm. */
  dueAt: number
}

/** Of each key, its last turn, or its first alarm. */
export async function readEnds(
  context: MongoContext,
  keys: KeyInLane[],
  deadline: Deadline,
): Promise<Map<string, End>> {
  const lanes = [...Map.groupBy(keys, (key) => laneName(key.endpoint, key.priority)).values()]
  const pipelines = lanes.map((some, i) => {
    const { endpoint, priority } = some[0] as KeyInLane
    const names = [...new Set(some.map(({ key }) => key))]
    return [
      { $match: { endpoint, state: 'queued', priority, fairnessKey: { $in: names } } },
      { $sort: { fairnessKey: 1, turn: -1, runAt: 1 } },
      {
        $group: {
          _id: '$fairnessKey',
          ...{ id: { $first: '$_id' }, turn: { $first: '$turn' }, dueAt: { $first: '$runAt' } },
          admitsNext: { $first: '$admitsNext' },
        },
      },
      { $project: { id: 1, turn: 1, dueAt: 1, admitsNext: 1, line: { $literal: i } } },
    ]
  })
  type Found = { _id: string; id: string; turn: number; admitsNext?: true | null; dueAt: Date }
  const found = await union<Found & { line: number }>(context, pipelines, deadline)
  return new Map(
    found.map(({ _id: key, line, admitsNext, dueAt, ...end }) => {
      const [first] = lanes[line] as [KeyInLane]
      const text = textOf({ ...first, key })
      return [text, { ...end, admitsNext: admitsNext === true, dueAt: dueAt.getTime() }]
    }),
  )
}

/** Marks the jobs that admit those that were stored outside, after they were stored. */
export async function admitStored(
  context: MongoContext,
  outside: Admitted[],
  deadline: Deadline,
): Promise<void> {
  if (outside.length === 0) return
  const marks = outside.flatMap(({ admittedBy, endpoint }) =>
    admittedBy === null ? [] : [admitting(admittedBy, endpoint)],
  )
  const { matchedCount } =
    marks.length === 0
      ? { matchedCount: 0 }
      : await run(deadline, (limit) => context.jobs.bulkWrite(marks, { ordered: false, ...limit }))
  if (matchedCount < outside.length) await giveTurns(context, outside, deadline)
}

/**
 * Jobs with turns, or the alarm of their key, have left the queue or their lane. The other turns of
 * their keys follow each other again, as if those had never been, and further jobs get turns. An
 * outage of the store leaves gaps, and keys to the round of the sweep.
 *
 * @param jobs as they were before
 */
export async function closeGaps(context: MongoContext, jobs: PlacedJob[]): Promise<void> {
  const gone = Map.groupBy(
    // A job that was outside when it was read may have got a turn since.
    jobs.filter(({ state }) => state === 'queued' || state === 'waiting').flatMap(turnOfKey),
    textOf,
  )
  if (gone.size === 0) return
  const deadline = startDeadline()
  try {
    const keys = [...gone.values()].map((some) => some[0] as TurnOfKey)
    for (let i = 0; i < keys.length; i += KEYS_PER_COMMAND) {
      const some = keys.slice(i, i + KEYS_PER_COMMAND)
      await moveUp(
        context,
        some.map((key) => ({ ...key, gone: gone.get(textOf(key)) ?? [] })),
        deadline,
      )
    }
    await giveTurns(
      context,
      keys.map(({ endpoint, priority, key, turn }) => ({
        ...{ endpoint, priority, key },
        // A claim gives more if the key has room.
        ...(turn === PARKED ? { most: 1 } : {}),
      })),
      deadline,
    )
  } catch (error) {
    if (!(error instanceof StoreUnavailable)) throw error
  }
}

/** The fields of a queued job that moves to another place of the order: a claim finds it there. */
export function joinAgain({ state, fairnessKey }: PlacedJob): Partial<JobDocument> {
  if (fairnessKey === undefined || state === 'blocked') return {}
  return { state: 'queued', turn: ALARM }
}

interface TurnOfKey extends KeyInLane {
  turn: number
  cost: number
}

function turnOfKey(job: PlacedJob): TurnOfKey[] {
  const { endpoint, priority, fairnessKey: key, turn } = job
  return key === undefined ? [] : [{ endpoint, priority, key, turn, cost: costOf(job) }]
}

/** Without those that were released, and without parked ones. */
const AFTER_FIRST = { $gt: FIRST_TURN, $lt: PARKED }

/**
 * The weight of these keys has changed: their turns get the tags that they would have.
 *
 * @param before their weight until now
 */
export async function retag(
  context: MongoContext,
  keys: KeyInLane[],
  before: number,
  deadline: Deadline,
): Promise<void> {
  if (keys.length === 0) return
  await moveUp(
    context,
    keys.map((key) => ({ ...key, gone: [] })),
    deadline,
    before,
  )
  await giveTurns(context, keys, deadline)
}

async function moveUp(
  context: MongoContext,
  keys: (KeyInLane & { gone: TurnOfKey[] })[],
  deadline: Deadline,
  before?: number,
): Promise<void> {
  const pipelines = keys.map(({ endpoint, priority, key }, i) => [
    {
      $match: { endpoint, state: 'queued', priority, fairnessKey: key, turn: AFTER_FIRST },
    },
    { $sort: { turn: 1 } },
    { $project: { turn: 1, cost: 1, line: { $literal: i } } },
  ])
  type Found = { _id: string; turn: number; line: number } & MaybeCost
  const { found, lanes } = await unionWithLanes<Found>(context, pipelines, keys, deadline)
  if (found.length === 0) return
  const hasSettings = (name: string) => lanes.get(name)?.hasKeySettings === true
  const weightOf = await weightsOf(context, keys, hasSettings, deadline)
  const byLine = Map.groupBy(found, ({ line }) => line)
  const updates = keys.flatMap((key, i): JobWrite[] => {
    const { endpoint, priority, gone } = key
    const turns = (byLine.get(i) ?? []).map((one) => ({ ...one, cost: costOf(one) }))
    const { virtualTime } = lanes.get(endpoint)?.lanes?.[priority] ?? NEW_LANE
    const tags = closedUp(gone, turns, virtualTime, weightOf(key), before)
    return turns.flatMap(({ _id, turn }, at) => {
      const tag = tags[at] as number
      if (tag === turn) return []
      const filter = { _id, endpoint, state: 'queued' as const, turn }
      return [{ updateOne: { filter, update: { $set: { turn: tag } }, ...BY_ID } }]
    })
  })
  if (updates.length === 0) return
  await run(deadline, (limit) => context.jobs.bulkWrite(updates, { ordered: false, ...limit }))
}

/** A field that is absent is null in what is read from an index alone. */
interface MaybeCost {
  cost?: number | null
}

export function costOf({ cost }: MaybeCost): number {
  return cost ?? DEFAULT_COST
}

/** A name has no line break, so that two lanes never get one text. */
export function laneName(endpoint: string, priority: number): string {
  return `${endpoint}\n${priority}`
}

export function textOf({ endpoint, priority, key }: KeyInLane): string {
  return `${laneName(endpoint, priority)}\n${key}`
}
