// The outbox on MongoDB: documents that applications insert in transactions of their own.
//
// A document is held by whoever moves it, so that several movers share the work, and so that one
// that comes late finds nothing to move: its job may have been done and deleted meanwhile. What is
// here twice is found by the origin of the job, which is not purged or deleted before its document
// is gone (aftermath.ts). The documents belong to others: no index of theirs is asked for, and so
// the outbox is read as it lies, from its beginning.
import { BSON, type Filter, MongoServerError } from 'mongodb'
import { isJobId } from '../../job/job-id.ts'
import { NoJsonForm } from '../bson-json.ts'
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
  hashOf,
  keyOf,
  madeAt,
  type OutboxCollection,
  type OutboxDocument,
  originOf,
} from './outbox-documents.ts'
import { requestOf } from './outbox-json.ts'
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
  return [...beyondUse, ...held.map((raw) => taken(name, raw as unknown as Uint8Array, moveId))]
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

function taken(name: OutboxName, raw: Uint8Array, holdId: string): TakenDocument {
  const { _id } = deserialised(raw, { utf8: false })
  const refused = (message: string) => unreadable(name, _id, message, holdId)
  const originKey = originOf(name, _id)
  if (originKey.length > MAX_ORIGIN_LENGTH) return refused('its _id is too long')
  try {
    const bytes = requestOf(deserialised(raw, { utf8: true }))
    const jobId = typeof _id === 'string' && isJobId(_id) ? _id : null
    return { originKey, jobId, holdId, request: { kind: 'body', bytes, hash: hashOf(bytes) } }
  } catch (error) {
    if (error instanceof NoJsonForm) return refused(error.message)
    if (error instanceof BSON.BSONError) return refused('it contains a string that is not UTF-8')
    throw error
  }
}

function unreadable(
  name: OutboxName,
  id: DocumentId,
  message: string,
  holdId: string | null = null,
): TakenDocument {
  const request = { kind: 'unreadable', message } as const
  return { originKey: originOf(name, id), jobId: null, holdId, request }
}

/**
 * Only what is still held: whoever took it since has found its job and removes it, and what is
 * there under the same `_id` by then may be another document.
 */
async function remove({ waiting }: Ground, documents: TakenDocument[]): Promise<number> {
  if (documents.length === 0) return 0
  const { deletedCount } = await run(startDeadline(), (limit) =>
    waiting.deleteMany(heldAs(documents), limit),
  )
  return deletedCount
}

function heldAs(documents: TakenDocument[]): Filter<OutboxDocument> {
  const byHold = Map.groupBy(documents, ({ holdId }) => holdId)
  const alternatives = [...byHold].map(([holdId, some]) => ({
    _id: { $in: some.map(idOf) },
    ...(holdId === null ? {} : { 'posthornMove.id': holdId }),
  }))
  return { $or: alternatives }
}

function idOf({ originKey }: TakenDocument): DocumentId {
  return documentOf(originKey).id
}

/** First it is there, then it is no longer here: who dies in between leaves it to be done again. */
async function setAside(ground: Ground, refused: RefusedDocument[]): Promise<number> {
  let count = 0
  const at = nowOf(ground.context)
  const alike = Map.groupBy(refused, ({ document, reason, message }) =>
    JSON.stringify([document.holdId, reason, message]),
  )
  for (const some of alike.values()) {
    const documents = some.map(({ document }) => document)
    const { reason, message } = some[0] as RefusedDocument
    const posthornError = { reason, message: message.slice(0, MAX_MESSAGE_LENGTH), at }
    // One that fills all that a document may hold has no room for a reason.
    const beside = documents[0]?.holdId === null ? {} : { posthornError }
    const others = await otherDocuments(ground, documents)
    const plain = documents.filter((document) => !others.has(document))
    count += await moveAside(ground, plain, beside)
    for (const [document, _id] of others) {
      count += await moveAside(ground, [document], { ...beside, _id })
    }
  }
  return count
}

/**
 * Documents under whose `_id` another one was set aside before, each with an `_id` that tells it
 * from that one, and stays the same when the move is repeated.
 */
async function otherDocuments(
  { waiting, rejected }: Ground,
  documents: TakenDocument[],
): Promise<Map<TakenDocument, DocumentId>> {
  const others = new Map<TakenDocument, DocumentId>()
  const known = await run(startDeadline(), (limit) =>
    rejected
      .find(
        { _id: { $in: documents.map(idOf) } },
        { projection: { _id: 1 }, ...AS_STORED, ...limit },
      )
      .toArray(),
  )
  const keys = new Set(known.map(({ _id }) => keyOf(_id)))
  for (const document of documents) {
    const id = idOf(document)
    if (!keys.has(keyOf(id))) continue
    const own = await contentOf(waiting, id)
    if (own === undefined || contentIsIn(own, await contentOf(rejected, id))) continue
    const sha256 = hashOf(own)
    // Of any BSON type in truth.
    others.set(document, { id, sha256 } as unknown as DocumentId)
  }
  return others
}

/** As the application has written it, byte for byte. */
async function contentOf(
  collection: OutboxCollection,
  _id: DocumentId,
): Promise<Uint8Array | undefined> {
  const projection = { posthornMove: 0, posthornError: 0 }
  const [raw] = await run(startDeadline(), (limit) =>
    collection.find({ _id }, { raw: true, projection, limit: 1, ...limit }).toArray(),
  )
  return raw as Uint8Array | undefined
}

function contentIsIn(own: Uint8Array, stored: Uint8Array | undefined): boolean {
  return stored !== undefined && Buffer.compare(own, stored) === 0
}

/**
 * The server copies them, so that each stays as it is: a driver would write some of what it reads
 * in another form, or refuse to.
 */
async function moveAside(
  ground: Ground,
  documents: TakenDocument[],
  beside: Partial<OutboxDocument>,
): Promise<number> {
  if (documents.length === 0) return 0
  const { waiting, rejected, context } = ground
  const pipeline = [
    { $match: heldAs(documents) },
    { $unset: 'posthornMove' },
    { $replaceWith: { $mergeObjects: ['$$ROOT', { $literal: beside }] } },
    {
      $merge: {
        into: { db: rejected.dbName, coll: rejected.collectionName },
        ...{ on: '_id', whenMatched: 'replace', whenNotMatched: 'insert' },
      },
    },
  ]
  try {
    await run(startDeadline(), (limit) => waiting.aggregate(pipeline, limit).toArray())
  } catch (error) {
    const isRefused = error instanceof StoreUnavailable && error.cause instanceof MongoServerError
    if (!isRefused) throw error
    // The server refuses one: it is not to stop the others. Alone it stays where it is, and comes
    // up again when nobody holds it any more.
    if (documents.length === 1) {
      context.settings.warn({ err: error }, 'outbox.not_set_aside')
      return 0
    }
    let count = 0
    for (const one of documents) count += await moveAside(ground, [one], beside)
    return count
  }
  return remove(ground, documents)
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
