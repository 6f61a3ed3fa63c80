// The outbox on MongoDB: documents that applications insert in transactions of their own.
//
// A document is held by whoever moves it, so that several movers share the work, and so that one
// that comes late finds nothing to move: its job may have been done and deleted meanwhile. What is
// here twice is found by the origin of the job, which is not purged or deleted before its document
// is gone (aftermath.ts). The documents belong to others: no index of theirs is asked for, and so
// the outbox is read as it lies, from its beginning.
import { type Filter, MongoBulkWriteError } from 'mongodb'
import { isJobId } from '../../job/job-id.ts'
import {
  OUTBOX_HOLD_MS,
  type Outbox,
  type OutboxFigures,
  type OutboxName,
  type RefusedDocument,
  type TakenDocument,
} from '../outbox.ts'
import { MAX_COUNT, StoreUnavailable } from '../store.ts'
import { randomId } from './changes.ts'
import { type MongoContext, nowOf } from './context.ts'
import { Hints } from './hints.ts'
import {
  AS_STORED,
  type DocumentId,
  deserialised,
  documentOf,
  madeAt,
  type OutboxCollection,
  type OutboxDocument,
  originOf,
} from './outbox-documents.ts'
import { requestOf, UnreadableDocument } from './outbox-json.ts'
import { run, startDeadline } from './run-command.ts'

/** What one take reads; a document alone may be larger. */
const MAX_TAKEN_BYTES = 16 * 1_048_576
/** MongoDB's own limit of 16 MiB, less what is written into a document to hold or to refuse it. */
const MAX_DOCUMENT_BYTES = 16 * 1_048_576 - 4_096
/** Names of fields can be as long as a document. */
const MAX_MESSAGE_LENGTH = 500
/** The origin is a key of an index. */
const MAX_ORIGIN_LENGTH = 1_024

/** An id, and how many bytes its document has. */
type Seen = Pick<OutboxDocument, '_id'> & { size: { valueOf(): number } }

interface Ground {
  context: MongoContext
  name: OutboxName
  waiting: OutboxCollection
  rejected: OutboxCollection
}

/** @param waiting the collection that `name` names */
export function openOutbox(
  context: MongoContext,
  name: OutboxName,
  { waiting, rejected }: Pick<Ground, 'waiting' | 'rejected'>,
): Outbox & { close(): Promise<void> } {
  const ground: Ground = { context, name, waiting, rejected }
  const hints = new Hints(waiting)
  return {
    take: (limit) => take(ground, limit),
    remove: (documents) => remove(ground, documents),
    setAside: (refused) => setAside(ground, refused),
    figures: () => figures(ground),
    onDocument: (listener) => hints.onWork(listener),
    close: () => hints.close(),
  }
}

async function take(ground: Ground, limit: number): Promise<TakenDocument[]> {
  const { context, name, waiting } = ground
  const deadline = startDeadline()
  const now = nowOf(context)
  const free: Filter<OutboxDocument> = {
    'posthornMove.at': { $not: { $gt: new Date(now.getTime() - OUTBOX_HOLD_MS) } },
  }
  const seen = await run(deadline, (commandLimit) =>
    waiting
      .find<Seen>(free, {
        projection: { _id: 1, size: { $bsonSize: '$$ROOT' } },
        limit,
        batchSize: limit + 1,
        ...AS_STORED,
        ...commandLimit,
      })
      .toArray(),
  )
  const { ids, oversized } = affordable(seen)
  const beyondUse = oversized.map((id) => unreadable(name, id, 'the document is too large'))
  if (ids.length === 0) return beyondUse
  const moveId = randomId()
  await run(deadline, (commandLimit) =>
    waiting.updateMany(
      { $and: [{ _id: { $in: ids } }, free] },
      { $set: { posthornMove: { id: moveId, at: now } } },
      commandLimit,
    ),
  )
  const held = await run(deadline, (commandLimit) =>
    waiting
      .find(
        { _id: { $in: ids }, 'posthornMove.id': moveId },
        { raw: true, batchSize: ids.length + 1, ...commandLimit },
      )
      .toArray(),
  )
  return [...beyondUse, ...held.map((raw) => taken(name, raw as unknown as Uint8Array))]
}

/** From the beginning as many as are not too large together; what can not be held is told apart. */
function affordable(seen: Seen[]): { ids: DocumentId[]; oversized: DocumentId[] } {
  const ids: DocumentId[] = []
  const oversized: DocumentId[] = []
  let leftBytes = MAX_TAKEN_BYTES
  for (const { _id, size } of seen) {
    const bytes = Number(size.valueOf())
    if (bytes > MAX_DOCUMENT_BYTES) oversized.push(_id)
    else if (bytes <= leftBytes) {
      ids.push(_id)
      leftBytes -= bytes
    } else break
  }
  return { ids, oversized }
}

function taken(name: OutboxName, raw: Uint8Array): TakenDocument {
  const document = deserialised(raw)
  const { _id } = document
  const originKey = originOf(name, _id)
  if (originKey.length > MAX_ORIGIN_LENGTH) return unreadable(name, _id, 'its _id is too long')
  try {
    const bytes = requestOf(document)
    const jobId = typeof _id === 'string' && isJobId(_id) ? _id : null
    return { originKey, jobId, request: { kind: 'body', bytes } }
  } catch (error) {
    if (error instanceof UnreadableDocument) return unreadable(name, _id, error.message)
    throw error
  }
}

function unreadable(name: OutboxName, id: DocumentId, message: string): TakenDocument {
  return { originKey: originOf(name, id), jobId: null, request: { kind: 'unreadable', message } }
}

/** By their ids: once its job is stored, whoever held a document last need not be asked. */
async function remove({ waiting }: Ground, documents: TakenDocument[]): Promise<number> {
  if (documents.length === 0) return 0
  const ids = documents.map(({ originKey }) => documentOf(originKey).id)
  const { deletedCount } = await run(startDeadline(), (limit) =>
    waiting.deleteMany({ _id: { $in: ids } }, limit),
  )
  return deletedCount
}

/** First it is there, then it is no longer here: who dies in between leaves it to be done again. */
async function setAside(ground: Ground, refused: RefusedDocument[]): Promise<number> {
  let count = 0
  let some: { copy: OutboxDocument; bytes: number }[] = []
  const flush = async () => {
    count += await moveAside(
      ground,
      some.map(({ copy }) => copy),
    )
    some = []
  }
  for (const { document, reason, message } of refused) {
    const { id } = documentOf(document.originKey)
    const [raw] = await run(startDeadline(), (limit) =>
      ground.waiting.find({ _id: id }, { raw: true, limit: 1, ...limit }).toArray(),
    )
    if (raw === undefined) continue
    const bytes = (raw as unknown as Uint8Array).byteLength
    if (some.reduce((sum, one) => sum + one.bytes, bytes) > MAX_TAKEN_BYTES) await flush()
    const { posthornMove, ...own } = deserialised(raw as unknown as Uint8Array)
    const at = nowOf(ground.context)
    const posthornError = { reason, message: message.slice(0, MAX_MESSAGE_LENGTH), at }
    // One that fills all that a document may hold has no room for a reason.
    const copy = bytes > MAX_DOCUMENT_BYTES ? own : { ...own, posthornError }
    some.push({ copy: copy as OutboxDocument, bytes })
  }
  await flush()
  return count
}

async function moveAside(ground: Ground, copies: OutboxDocument[]): Promise<number> {
  if (copies.length === 0) return 0
  const { waiting, rejected, context } = ground
  try {
    await run(startDeadline(), (limit) =>
      rejected.bulkWrite(
        copies.map((copy) => ({
          replaceOne: { filter: { _id: copy._id }, replacement: copy, upsert: true },
        })),
        { ordered: false, ...limit },
      ),
    )
  } catch (error) {
    if (error instanceof StoreUnavailable && !(error.cause instanceof MongoBulkWriteError)) {
      throw error
    }
    // The server refuses one, or this driver can not write it: it is not to stop the others. Alone
    // it stays where it is, and comes up again when nobody holds it any more.
    if (copies.length === 1) {
      context.settings.warn({ err: error }, 'outbox.not_set_aside')
      return 0
    }
    let count = 0
    for (const copy of copies) count += await moveAside(ground, [copy])
    return count
  }
  const { deletedCount } = await run(startDeadline(), (limit) =>
    waiting.deleteMany({ _id: { $in: copies.map(({ _id }) => _id) } }, limit),
  )
  return deletedCount
}

async function figures({ waiting, rejected }: Ground): Promise<OutboxFigures> {
  const deadline = startDeadline()
  const count = (collection: OutboxCollection) =>
    run(deadline, (limit) => collection.countDocuments({}, { limit: MAX_COUNT, ...limit }))
  const first = await run(deadline, (limit) =>
    waiting.findOne({}, { projection: { _id: 1 }, ...AS_STORED, ...limit }),
  )
  return {
    waiting: await count(waiting),
    setAside: await count(rejected),
    oldestAt: first === null ? null : madeAt(first._id),
  }
}
