// Stats of endpoints: how many jobs are queued, due, running and dead. Each count reads no more
// index entries than it can report. Only the age of the oldest due job needs documents.
import type { Document } from 'mongodb'
import { ALARM, NO_TURN } from '../../job/turns.ts'
import { type EndpointStats, MAX_COUNT, MAX_DELETED_NAMES, MAX_STATS_NAMES } from '../store.ts'
import { endpointsWith } from './claim.ts'
import { type MongoContext, nowOf, run, startDeadline } from './connection.ts'
import { notStored } from './deleted-endpoints.ts'
import { QUEUED_STATES } from './job-document.ts'

/** Limit of names in one command, with six pipelines each. */
const NAMES_PER_COMMAND = 10
/**
 * Documents that are read for the oldest due job, by runAt. The first is not always the oldest: a
 * job that was blocked is due only since it was unblocked. If more than these were unblocked
 * lately, the reported age is too small.
 */
export const OLDEST_LOOKED_AT = 100
/** Named one by one, so that the claim index returns the due jobs of each in order of runAt. */
const PRIORITIES = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]

type Figure = 'queued' | 'due' | 'running' | 'dead'

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
  const [first = [], ...others] = names.flatMap((name) => pipelinesOf(name, now))
  const unions = others.map((pipeline) => ({ $unionWith: { coll: context.names.jobs, pipeline } }))
  return run(startDeadline(), (limit) =>
    context.jobs
      .aggregate<Found>([...first, ...unions], { batchSize: others.length + 2, ...limit })
      .toArray(),
  )
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
    oldestDueAt: earliest(of('oldest').flatMap(({ since = [] }) => since)),
    more: Object.values(figures).some((figure) => figure > MAX_COUNT),
  }
}

function earliest(instants: Date[]): number | null {
  return instants.length === 0 ? null : Math.min(...instants.map((instant) => instant.getTime()))
}
