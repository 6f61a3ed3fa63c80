// Figures: what ended at each endpoint within each minute, added up by all workers. The old ones go
// by the TTL index.
import type { AnyBulkWriteOperation, Collection } from 'mongodb'
import { COLLECTIONS } from '../collection-names.ts'
import {
  MAX_FIGURES_READ,
  MINUTE_MS,
  minuteOf,
  refuseTooMany,
  wholeMinutes,
} from '../minute-figures.ts'
import {
  DURATION_BOUNDS_MS,
  FIGURES_KEPT_MS,
  type FiguresRead,
  type FiguresReport,
  type MinuteFigures,
} from '../records.ts'
import { StoreUnavailable } from '../store.ts'
import type { MongoContext } from './context.ts'
import type { FiguresDocument } from './record-documents.ts'
import { type Deadline, isOnlyDuplicateKeys, run, startDeadline } from './run-command.ts'

/** Two workers that both make a document: the one that comes second finds it the next time. */
const MAX_ROUNDS = 3

/** By upper bound in ms, so that a look into the database tells what they are. */
const BUCKETS = [...DURATION_BOUNDS_MS.map(String), 'above']

export async function addFigures(
  context: MongoContext,
  figures: MinuteFigures[],
  report: FiguresReport,
): Promise<void> {
  refuseTooMany(figures)
  const deadline = startDeadline()
  let open = figures
  for (let round = 0; open.length > 0; round++) {
    if (round === MAX_ROUNDS) {
      throw new StoreUnavailable(
        'other processes created the figures each time this one tried to add to them',
      )
    }
    const refused = await add(context, open, report, deadline)
    open = refused.length === 0 ? [] : await notAdded(context, refused, report, deadline)
  }
}

/** Those whose document was made at this moment by another, or has this report already. */
async function add(
  context: MongoContext,
  figures: MinuteFigures[],
  report: FiguresReport,
  deadline: Deadline,
): Promise<MinuteFigures[]> {
  const operations = figures.map((one) => additionOf(one, report))
  try {
    await run(deadline, (limit) =>
      figuresIn(context).bulkWrite(operations, { ordered: false, ...limit }),
    )
    return []
  } catch (error) {
    if (!isOnlyDuplicateKeys(error)) throw error
    const failed = new Set([error.writeErrors].flat().map(({ index }) => index))
    return figures.filter((_, index) => failed.has(index))
  }
}

async function notAdded(
  context: MongoContext,
  figures: MinuteFigures[],
  { writer, number }: FiguresReport,
  deadline: Deadline,
): Promise<MinuteFigures[]> {
  const ids = figures.map(({ minute, endpoint }) => idOf(minute, endpoint))
  const found = await run(deadline, (limit) =>
    figuresIn(context)
      .find(
        { _id: { $in: ids }, [`reports.${writer}`]: { $gte: number } },
        { projection: { _id: 1 }, batchSize: ids.length + 1, ...limit },
      )
      .toArray(),
  )
  const added = new Set(found.map(({ _id }) => _id))
  return figures.filter(({ minute, endpoint }) => !added.has(idOf(minute, endpoint)))
}

export async function figuresSince(
  context: MongoContext,
  instant: number,
  endpoint: string | null,
): Promise<FiguresRead> {
  if (endpoint !== null) return figuresOfOne(context, instant, endpoint)
  const found = await run(startDeadline(), (limit) =>
    figuresIn(context)
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
    figuresIn(context)
      .find({ _id: { $in: ids } }, { batchSize: ids.length + 1, ...limit })
      .toArray(),
  )
  const figures = found.map(figuresOf).sort((a, b) => a.minute - b.minute)
  return { figures, more: false }
}

function idOf(minute: number, endpoint: string): string {
  return `${minute} ${endpoint}`
}

/**
 * An object of counts: $inc can make its fields, but not those of an array. A document that has the
 * report already does not match, and its insert is then refused.
 */
function additionOf(
  { minute, endpoint, succeeded, failed, durations }: MinuteFigures,
  { writer, number }: FiguresReport,
): AnyBulkWriteOperation<FiguresDocument> {
  const counts = durations.flatMap((count, i) =>
    count === 0 ? [] : [[`durations.${BUCKETS[i]}`, count]],
  )
  const last = `reports.${writer}`
  return {
    updateOne: {
      // Not $ne: a write whose answer was lost may come after a later report.
      filter: { _id: idOf(minute, endpoint), [last]: { $not: { $gte: number } } },
      update: {
        $setOnInsert: { minute: new Date(minute), endpoint },
        $set: { [last]: number },
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

function figuresIn({ db }: MongoContext): Collection<FiguresDocument> {
  return db.collection(COLLECTIONS.figures)
}
