// Figures: what ended at each endpoint within each minute, added up by all workers. The old ones go
// by the TTL index.
import type { AnyBulkWriteOperation } from 'mongodb'
import { MAX_FIGURES_READ, MINUTE_MS, minuteOf, wholeMinutes } from '../minute-figures.ts'
import {
  DURATION_BOUNDS_MS,
  FIGURES_KEPT_MS,
  type FiguresRead,
  type MinuteFigures,
} from '../records.ts'
import { StoreUnavailable } from '../store.ts'
import type { MongoContext } from './context.ts'
import type { FiguresDocument } from './record-documents.ts'
import { type Deadline, isOnlyDuplicateKeys, run, startDeadline } from './run-command.ts'

/** A server that flushes for each of them is to be done with these within the deadline. */
const ADDED_PER_COMMAND = 200
/** Two workers that both make a document: the one that comes second finds it the next time. */
const MAX_ROUNDS = 3

/** By upper bound in ms, so that a look into the database tells what they are. */
const BUCKETS = [...DURATION_BOUNDS_MS.map(String), 'above']

type Operation = AnyBulkWriteOperation<FiguresDocument>

export async function addFigures(context: MongoContext, figures: MinuteFigures[]): Promise<void> {
  const operations = figures.map(additionOf)
  for (let i = 0; i < operations.length; i += ADDED_PER_COMMAND) {
    await addSome(context, operations.slice(i, i + ADDED_PER_COMMAND), startDeadline())
  }
}

async function addSome(
  context: MongoContext,
  operations: Operation[],
  deadline: Deadline,
): Promise<void> {
  let open = operations
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const batch = open
    try {
      await run(deadline, (limit) => context.figures.bulkWrite(batch, { ordered: false, ...limit }))
      return
    } catch (error) {
      if (!isOnlyDuplicateKeys(error)) throw error
      const failed = new Set([error.writeErrors].flat().map(({ index }) => index))
      open = batch.filter((_, index) => failed.has(index))
    }
  }
  throw new StoreUnavailable('figures were made by others as often as they were to be added to')
}

export async function figuresSince(
  context: MongoContext,
  instant: number,
  endpoint: string | null,
): Promise<FiguresRead> {
  if (endpoint !== null) return figuresOfOne(context, instant, endpoint)
  const found = await run(startDeadline(), (limit) =>
    context.figures
      .find(
        { minute: { $gte: new Date(minuteOf(instant)) } },
        { sort: { minute: -1 }, limit: MAX_FIGURES_READ + 1, ...limit },
      )
      .toArray(),
  )
  return wholeMinutes(found.map(figuresOf))
}

/** By their ids: what other endpoints did is not read. */
async function figuresOfOne(
  context: MongoContext,
  instant: number,
  endpoint: string,
): Promise<FiguresRead> {
  const now = context.clock.now()
  const ids: string[] = []
  const first = minuteOf(Math.max(instant, now - FIGURES_KEPT_MS))
  for (let minute = first; minute <= now; minute += MINUTE_MS) ids.push(idOf(minute, endpoint))
  const found = await run(startDeadline(), (limit) =>
    context.figures.find({ _id: { $in: ids } }, { batchSize: ids.length + 1, ...limit }).toArray(),
  )
  const figures = found.map(figuresOf).sort((a, b) => a.minute - b.minute)
  return { figures, more: false }
}

function idOf(minute: number, endpoint: string): string {
  return `${minute} ${endpoint}`
}

/** An object of counts: $inc can make its fields, but not those of an array. */
function additionOf({ minute, endpoint, succeeded, failed, durations }: MinuteFigures): Operation {
  const counts = durations.flatMap((count, i) =>
    count === 0 ? [] : [[`durations.${BUCKETS[i]}`, count]],
  )
  return {
    updateOne: {
      filter: { _id: idOf(minute, endpoint) },
      update: {
        $setOnInsert: { minute: new Date(minute), endpoint },
        $inc: { succeeded, failed, ...Object.fromEntries(counts) },
      },
      upsert: true,
    },
  }
}

function figuresOf({ minute, endpoint, succeeded, failed, durations }: FiguresDocument) {
  const counts = BUCKETS.map((bucket) => durations?.[bucket] ?? 0)
  return { minute: minute.getTime(), endpoint, succeeded, failed, durations: counts }
}
