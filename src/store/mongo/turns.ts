// The turn of an ordering key: the earliest job of the key that is not final has it, and a unique
// index keeps it to one. Ids are in the order of enqueueing.
import type { AnyBulkWriteOperation, Document } from 'mongodb'
import { COLLECTIONS } from '../collection-names.ts'
import type { MongoContext } from './context.ts'
import { type JobDocument, QUEUED_STATES } from './documents.ts'
import { guardOf } from './guards.ts'
import { BY_ID } from './indexes.ts'
import { type Deadline, isOnlyDuplicateKeys, run } from './run-command.ts'

export interface OrderedLane {
  endpoint: string
  orderingKey: string
}

/** Keys in one command. More make it long, fewer make many. */
const KEYS_PER_COMMAND = 64
/** A later job that has the turn is held again first; then the earliest is tried once more. */
const MAX_ROUNDS = 3

type Head = Pick<JobDocument, '_id' | 'endpoint' | 'state' | 'waitingFor'> & { orderingKey: string }

export interface Turns {
  /** How many became claimable. */
  promotedCount: number
  /** Heads that wait for their dependencies: they get no turn, and nobody behind them does. */
  waiting: Head[]
}

/** Gives each key's turn to its earliest job that is not final. */
export async function promoteHeads(
  context: MongoContext,
  lanes: OrderedLane[],
  deadline: Deadline,
): Promise<Turns> {
  let open = [...new Map(lanes.map((lane) => [textOf(lane), lane])).values()]
  const turns: Turns = { promotedCount: 0, waiting: [] }
  for (let round = 0; open.length > 0 && round < MAX_ROUNDS; round++) {
    const held = (await headsOf(context, open, deadline)).filter(({ state }) => state === 'held')
    const isFree = ({ waitingFor = [] }: Head) => waitingFor.length === 0
    const free = held.filter(isFree)
    turns.waiting.push(...held.filter((head) => !isFree(head)))
    if (free.length === 0) break
    const { count, refused } = await giveTurns(context, free, deadline)
    turns.promotedCount += count
    open = await holdLaterOnes(context, refused, deadline)
  }
  return turns
}

export async function headOfOrderingKey(
  context: MongoContext,
  lane: OrderedLane,
  deadline: Deadline,
): Promise<string | null> {
  const [head] = await headsOf(context, [lane], deadline)
  return head?._id ?? null
}

async function headsOf(
  context: MongoContext,
  lanes: OrderedLane[],
  deadline: Deadline,
): Promise<Head[]> {
  const heads: Head[] = []
  for (let i = 0; i < lanes.length; i += KEYS_PER_COMMAND) {
    const pipelines = lanes.slice(i, i + KEYS_PER_COMMAND).map(headPipeline)
    const [first = [], ...others] = pipelines
    const unions = others.map((pipeline) => ({ $unionWith: { coll: COLLECTIONS.jobs, pipeline } }))
    const found = await run(deadline, (limit) =>
      context.jobs
        .aggregate<Head>([...first, ...unions], { batchSize: pipelines.length + 1, ...limit })
        .toArray(),
    )
    heads.push(...found)
  }
  return heads
}

function headPipeline({ endpoint, orderingKey }: OrderedLane): Document[] {
  return [
    { $match: { endpoint, orderingKey, state: { $in: [...QUEUED_STATES, 'running'] } } },
    { $sort: { _id: 1 } },
    { $limit: 1 },
    { $project: { endpoint: 1, orderingKey: 1, state: 1, waitingFor: 1 } },
  ]
}

/** `refused`: another job of the key has the turn. */
async function giveTurns(
  context: MongoContext,
  heads: Head[],
  deadline: Deadline,
): Promise<{ count: number; refused: Head[] }> {
  const now = new Date(context.clock.now())
  const guard = guardOf('promote', { now })
  const updates = heads.map(({ _id, orderingKey }) => ({
    updateOne: {
      filter: { _id, ...guard },
      update: {
        $set: { state: 'queued' as const, turn: orderingKey, freedAt: now, promotedAt: now },
        $inc: { version: 1 },
      },
      ...BY_ID,
    },
  }))
  try {
    const { modifiedCount } = await run(deadline, (limit) =>
      context.jobs.bulkWrite(updates, { ordered: false, ...limit }),
    )
    return { count: modifiedCount, refused: [] }
  } catch (error) {
    if (!isOnlyDuplicateKeys(error)) throw error
    const refused = [error.writeErrors].flat().flatMap(({ index }) => heads[index] ?? [])
    return { count: error.result.modifiedCount, refused }
  }
}

/**
 * A later job that has the turn but is not running gives it up to the head. Returns the heads when
 * any was held again; else the later job runs, or the turn has moved on by itself.
 */
export async function holdLaterOnes<Earlier extends OrderedLane & { _id: string }>(
  context: MongoContext,
  heads: Earlier[],
  deadline: Deadline,
): Promise<Earlier[]> {
  if (heads.length === 0) return []
  const updates = heads.map(
    ({ _id, endpoint, orderingKey }): AnyBulkWriteOperation<JobDocument> => ({
      updateOne: {
        filter: { endpoint, turn: orderingKey, state: 'queued', _id: { $gt: _id } },
        update: {
          $set: { state: 'held', checkedAt: new Date(context.clock.now()) },
          $unset: { turn: '' },
          $inc: { version: 1 },
        },
      },
    }),
  )
  const { modifiedCount } = await run(deadline, (limit) =>
    context.jobs.bulkWrite(updates, { ordered: false, ...limit }),
  )
  return modifiedCount === 0 ? [] : heads
}

/** A name holds no line break, so that two pairs never look the same. */
function textOf({ endpoint, orderingKey }: OrderedLane): string {
  return `${endpoint}\n${orderingKey}`
}
