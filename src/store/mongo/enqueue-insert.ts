// The insert of a batch. Whose key was taken comes back as a duplicate-key error; an insert that
// was not answered is read back by the ids that we gave.
import type { WriteError } from 'mongodb'
import type { NewJob } from '../../job/job.ts'
import { MAX_ANSWER_MS, StoreUnavailable } from '../store.ts'
import type { MongoContext } from './context.ts'
import type { JobDocument } from './documents.ts'
import { BY_ID } from './indexes.ts'
import {
  type Deadline,
  isBareDuplicateKey,
  isDuplicateKey,
  isOnlyDuplicateKeys,
  run,
  startDeadline,
} from './run-command.ts'

/** Kept back from the insert, to find out what became of one that was not answered. */
const READ_BACK_MS = 500

/** Longer than any verb takes: until then no sweeper looks at a job that is not complete yet. */
const KEYLESS_MS = 10_000

/** A job of the batch on its way into the store. */
export interface Item {
  index: number
  job: NewJob
  document: JobDocument
}

/**
 * Inserts; returns those that were refused because a key, or their id, is stored already. Which of
 * the two is not read from the server's message: it quotes the key, which is a caller's text.
 */
export async function insert(
  context: MongoContext,
  items: Item[],
  deadline: Deadline,
): Promise<Set<Item>> {
  const ownMs = Math.min(MAX_ANSWER_MS, deadline.leftMs()) - READ_BACK_MS
  try {
    await run(startDeadline(ownMs), (limit) =>
      context.jobs.insertMany(
        items.map(({ document }) => document),
        { ordered: false, ...limit },
      ),
    )
    return new Set()
  } catch (error) {
    if (isOnlyDuplicateKeys(error)) return refusedItems(items, [error.writeErrors].flat())
    if (!(error instanceof StoreUnavailable)) throw error
    const missing = await notStored(context, items, deadline)
    if (missing.size === 0) return missing
    if (isBareDuplicateKey(error.cause)) return missing
    throw error
  }
}

/**
 * Inserts without the dedupe key, held, and then gives it the key. Slower, and so only where an
 * insert was refused for a key that nobody has: on some engines a key that was given up once still
 * stands in the way of inserts, but not of updates (secantusd-rs 0.5). Returns those whose key was
 * taken.
 */
export async function insertKeyless(
  context: MongoContext,
  items: Item[],
  deadline: Deadline,
): Promise<Set<Item>> {
  const checkedAt = new Date(context.clock.now() + KEYLESS_MS)
  const keyless = items.map(({ document: { dedupeHolder, ...rest }, ...item }) => ({
    ...item,
    document: { ...rest, state: 'held' as const, checkedAt },
  }))
  const refused = await insert(context, keyless, deadline)
  // One that the driver sent twice, when the first answer was lost, is refused and stored.
  const missing = refused.size === 0 ? refused : await notStored(context, [...refused], deadline)
  const taken = new Set<Item>()
  for (const [i, item] of items.entries()) {
    const isStored = !missing.has(keyless[i] as Item)
    if (!isStored || !(await giveKey(context, item, deadline))) taken.add(item)
  }
  return taken
}

async function giveKey(context: MongoContext, item: Item, deadline: Deadline): Promise<boolean> {
  const { _id, dedupeHolder, state } = item.document
  if (dedupeHolder === undefined) throw new Error('only a job with a dedupe key can get one')
  try {
    await run(deadline, (limit) =>
      context.jobs.updateOne(
        { _id, state: 'held' },
        { $set: { dedupeHolder, state, checkedAt: new Date(0) } },
        { ...BY_ID, ...limit },
      ),
    )
    return true
  } catch (error) {
    if (!isDuplicateKey(error)) throw error
    await run(deadline, (limit) => context.jobs.deleteOne({ _id, state: 'held' }, limit))
    return false
  }
}

function refusedItems(items: Item[], errors: WriteError[]): Set<Item> {
  return new Set(errors.flatMap(({ index }) => items[index] ?? []))
}

/** Those that were not stored, after an insert of which that was not told. */
async function notStored(
  context: MongoContext,
  items: Item[],
  deadline: Deadline,
): Promise<Set<Item>> {
  const ids = items.map(({ job }) => job.id)
  const found = await run(deadline, (limit) =>
    context.jobs
      .find(
        { _id: { $in: ids } },
        { projection: { originKey: 1, originHash: 1 }, batchSize: ids.length + 1, ...limit },
      )
      .toArray(),
  )
  const stored = new Map(found.map((document) => [document._id, document]))
  return new Set(items.filter(({ job }) => !isSameJob(job, stored.get(job.id))))
}

/** An application can give a document of its outbox the id of a job that was made before. */
export function isSameJob(
  job: NewJob,
  stored: Pick<JobDocument, '_id' | 'originKey' | 'originHash'> | undefined,
): boolean {
  if (stored?._id !== job.id || (stored.originKey ?? null) !== job.originKey) return false
  return stored.originHash === job.originHash
}
