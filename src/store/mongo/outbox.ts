// The outbox on MongoDB: documents that applications insert in transactions of their own.
//
// A relay holds the documents that it moves, so that several relays share the work, and a late one
// moves nothing: by then, the job may have been done and deleted. If a document is found twice, the
// origin of its job identifies it (database, collection and `_id`, whatever OUTBOX is by then).
// That job is not purged or deleted before its document is deleted (finish-effects.ts).
//
// The documents belong to the application. They need no index, so that the outbox is read from its
// beginning. A collection with other data of an application is refused before anything is moved.
// Once accepted, it stays accepted: a later invalid document is set aside and does not stop a
// start.
import { createHash } from 'node:crypto'
import {
  BSON,
  type Collection,
  type Db,
  type Document,
  type Filter,
  MongoServerError,
  ObjectId,
} from 'mongodb'
import { isJobId, timeOfJobId } from '../../job/job-id.ts'
import { jsonOfBson, NoJsonForm } from '../bson-json.ts'
import {
  OUTBOX_HOLD_MS,
  type Outbox,
  type OutboxName,
  type OutboxStats,
  outboxNameProblem,
  REJECTED_SUFFIX,
  type RefusedDocument,
  type TakenDocument,
} from '../outbox.ts'
import { MAX_COUNT } from '../store.ts'
import { SettingUnusable, StoreUnavailable } from '../store-errors.ts'
import {
  isDuplicateKey,
  type MongoContext,
  NEWEST,
  nowOf,
  run,
  startDeadline,
} from './connection.ts'
import { ORIGIN_PREFIX, randomId } from './job-document.ts'
import { Notifier } from './notifier.ts'

/** Limit of the bytes of one take; a single document may be larger. */
const MAX_TAKEN_BYTES = 16 * 1_048_576
/** MongoDB's limit of 16 MiB, less the fields that hold or refuse a document. */
const MAX_DOCUMENT_BYTES = 16 * 1_048_576 - 4_096
/** A message can quote a field name, which can be as long as a document. */
const MAX_MESSAGE_LENGTH = 500
/**
 * Codes that concern one document (github.com/mongodb/mongo, error_codes.yml): a validation rule of
 * the application, an index of its own, an `_id` that cannot be stored, and the size.
 */
const DOCUMENT_REFUSALS: ReadonlySet<string> = new Set([
  ...['DocumentValidationFailure', 'CannotIndexParallelArrays', 'CannotBuildIndexKeys'],
  ...['DollarPrefixedFieldName', 'InvalidIdField', 'BSONObjectTooLarge'],
])
/**
 * What the server calls a code without a name. Those concern the document, such as 17420 (it is too
 * large) or 16755 (it has no point for a 2dsphere index). The codes of elections have names.
 */
const UNNAMED_CODE = /^Location\d+$/
/** The origin is a key of an index. */
const MAX_ORIGIN_LENGTH = 1_024

/** An id, and the size of its document. */
type Seen = Pick<OutboxDocument, '_id'> & { size: { valueOf(): number } }

interface OpenedOutbox {
  context: MongoContext
  name: OutboxName
  waiting: OutboxCollection
  rejected: OutboxCollection
}

/** In fact the id can have any BSON type: it is only compared, and written back unchanged. */
export type DocumentId = string | ObjectId
/** A document with any content. */
type OutboxDocument = Document & { _id: DocumentId }
export type OutboxCollection = Collection<OutboxDocument>

const { EJSON } = BSON

/** Numbers keep their types, to find an `_id` again and to write a payload unchanged. */
export const AS_STORED = {
  promoteValues: false,
  promoteBuffers: false,
  promoteLongs: false,
  // Otherwise, a pattern that is valid only in PCRE would fail every read of its document.
  bsonRegExp: true,
  enableUtf8Validation: false,
} as const

/** Fields of Posthorn, also in a document that is inserted again. They are no part of the job. */
const OUR_FIELDS = new Set(['_id', 'posthornMove', 'posthornError'])

/** How many documents are checked, from the beginning. */
const MAX_LOOKED_AT = 100

/** Stored once an outbox contained only jobs, or nothing, when it was first used. */
interface OutboxRecord {
  _id: `outbox:${string}`
  acceptedAt: Date
}

interface OutboxCollections {
  name: OutboxName
  waiting: OutboxCollection
  rejected: OutboxCollection
}

/** @param waiting the collection that `name` names */
export function openOutbox(
  context: MongoContext,
  name: OutboxName,
  { waiting, rejected }: Pick<OpenedOutbox, 'waiting' | 'rejected'>,
): Outbox & { close(): Promise<void> } {
  const outbox: OpenedOutbox = { context, name, waiting, rejected }
  const { changeStream = true } = context.settings
  const notifier = new Notifier(changeStream ? waiting : null)
  return {
    take: (limit) => takeDocuments(outbox, limit),
    remove: (documents) => removeDocuments(outbox, documents),
    setAside: (refused) => setAside(outbox, refused),
    stats: () => stats(outbox),
    onDocument: (listener) => notifier.onWork(listener),
    get hintsAtAllDocuments() {
      return notifier.isWatching
    },
    close: () => notifier.close(),
  }
}

/** @throws SettingUnusable with a sentence for the operator */
export async function acceptOutbox(
  context: MongoContext,
  outbox: OutboxCollections,
): Promise<void> {
  const { database, collection } = outbox.name
  const problem = outboxNameProblem(outbox.name)
  if (problem !== null) {
    throw new SettingUnusable(`OUTBOX names ${collection}; expected ${problem}.`)
  }
  await refuseUnmovable(outbox)
  const records = context.db.collection<OutboxRecord>(context.names.meta)
  const _id = `outbox:${database}.${collection}` as const
  const known = await run(startDeadline(), (limit) => records.findOne({ _id }, limit))
  if (known !== null) return
  await refuseOtherData(outbox)
  await storeRecord(records, { _id, acceptedAt: new Date(context.clock.now()) })
}

export function outboxCollection(db: Db, { database, collection }: OutboxName): OutboxCollection {
  // This is the same client, with the same connections and majority writes.
  return db.client.db(database).collection<OutboxDocument>(collection)
}

/** Distinguishes two documents with the same `_id`; null: it cannot become a job. */
export function requestHashOf(raw: Uint8Array): string | null {
  try {
    return hashOf(requestOf(deserialised(raw, { utf8: true })))
  } catch (error) {
    if (error instanceof NoJsonForm || error instanceof BSON.BSONError) return null
    throw error
  }
}

/** The document that an origin names. */
export function documentOf(originKey: string): OutboxName & { id: DocumentId } {
  const [database, collection, id] = EJSON.parse(originKey.slice(ORIGIN_PREFIX.length), {
    relaxed: false,
  }) as [string, string, DocumentId]
  return { database, collection, id }
}

/** Equal for equal ids, of whatever type. */
export function keyOf(id: DocumentId): string {
  return EJSON.stringify([id], { relaxed: false })
}

async function takeDocuments(outbox: OpenedOutbox, limit: number): Promise<TakenDocument[]> {
  const { context, name, waiting } = outbox
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
  const tooLarge = oversized.map((id) => unreadable(name, id, 'the document is too large'))
  if (ids.length === 0) return tooLarge
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
        { raw: true, batchSize: ids.length + 1, ...NEWEST, ...commandLimit },
      )
      .toArray(),
  )
  return [
    ...tooLarge,
    ...held.map((raw) => takenDocument(name, raw as unknown as Uint8Array, moveId)),
  ]
}

/** The first documents that fit together, and those that are too large to be held. */
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

function takenDocument(name: OutboxName, raw: Uint8Array, holdId: string): TakenDocument {
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
 * Deletes only the documents that this relay still holds. If another relay holds one by now, that
 * relay finds its job and deletes it. The document with this `_id` may also be a later one.
 */
async function removeDocuments(
  { waiting }: OpenedOutbox,
  documents: TakenDocument[],
): Promise<number> {
  if (documents.length === 0) return 0
  const { deletedCount } = await run(startDeadline(), (limit) =>
    waiting.deleteMany(filterOfHeld(documents), limit),
  )
  return deletedCount
}

function filterOfHeld(documents: TakenDocument[]): Filter<OutboxDocument> {
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

/** Copies, then deletes: after a crash in between, both are repeated. */
async function setAside(outbox: OpenedOutbox, refused: RefusedDocument[]): Promise<number> {
  let count = 0
  const at = nowOf(outbox.context)
  const alike = Map.groupBy(refused, ({ document, reason, message }) =>
    JSON.stringify([document.holdId, reason, message]),
  )
  for (const some of alike.values()) {
    const documents = some.map(({ document }) => document)
    const { reason, message } = some[0] as RefusedDocument
    const posthornError = { reason, message: message.slice(0, MAX_MESSAGE_LENGTH), at }
    // A document of the maximum size has no space for a reason.
    const beside = documents[0]?.holdId === null ? {} : { posthornError }
    const others = await otherDocuments(outbox, documents)
    const plain = documents.filter((document) => !others.has(document))
    count += await moveAside(outbox, plain, beside)
    for (const [document, _id] of others) {
      count += await moveAside(outbox, [document], { ...beside, _id })
    }
  }
  return count
}

/**
 * Finds the documents whose `_id` is already the `_id` of a different rejected document. Returns a
 * new `_id` for each, derived from its content, so that a repeated move uses the same one.
 */
async function otherDocuments(
  { waiting, rejected }: OpenedOutbox,
  documents: TakenDocument[],
): Promise<Map<TakenDocument, DocumentId>> {
  const others = new Map<TakenDocument, DocumentId>()
  const known = await run(startDeadline(), (limit) =>
    rejected
      .find(
        { _id: { $in: documents.map(idOf) } },
        { projection: { _id: 1 }, ...AS_STORED, ...NEWEST, ...limit },
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
    // In fact the id can have any BSON type.
    others.set(document, { id, sha256 } as unknown as DocumentId)
  }
  return others
}

/** The bytes that the application wrote. */
async function contentOf(
  collection: OutboxCollection,
  _id: DocumentId,
): Promise<Uint8Array | undefined> {
  const projection = { posthornMove: 0, posthornError: 0 }
  const [raw] = await run(startDeadline(), (limit) =>
    collection.find({ _id }, { raw: true, projection, limit: 1, ...NEWEST, ...limit }).toArray(),
  )
  return raw as Uint8Array | undefined
}

function contentIsIn(own: Uint8Array, stored: Uint8Array | undefined): boolean {
  return stored !== undefined && Buffer.compare(own, stored) === 0
}

/** The server copies them, because the driver would change or refuse some of what it reads. */
async function moveAside(
  outbox: OpenedOutbox,
  documents: TakenDocument[],
  beside: Partial<OutboxDocument>,
): Promise<number> {
  if (documents.length === 0) return 0
  const { waiting, rejected, context } = outbox
  const pipeline = [
    { $match: filterOfHeld(documents) },
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
    // A copy of older data would lack documents that the delete after it deletes.
    await run(startDeadline(), (limit) =>
      waiting.aggregate(pipeline, { ...NEWEST, ...limit }).toArray(),
    )
  } catch (error) {
    if (!refusesDocument(error)) throw error
    // The server refuses one of them, which must not stop the others. A single one stays where it
    // is, and is taken again when its hold has ended.
    if (documents.length === 1) {
      context.settings.warn({ err: error }, 'outbox.not_set_aside')
      return 0
    }
    let count = 0
    for (const one of documents) count += await moveAside(outbox, [one], beside)
    return count
  }
  return removeDocuments(outbox, documents)
}

/** Whether the server cannot store a document of the command, whichever server is the primary. */
function refusesDocument(error: unknown): boolean {
  if (isDuplicateKey(error)) return true
  if (!(error instanceof StoreUnavailable && error.cause instanceof MongoServerError)) return false
  const { codeName = '' } = error.cause
  return DOCUMENT_REFUSALS.has(codeName) || UNNAMED_CODE.test(codeName)
}

async function stats({ waiting, rejected }: OpenedOutbox): Promise<OutboxStats> {
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

function originOf({ database, collection }: OutboxName, id: DocumentId): string {
  return ORIGIN_PREFIX + EJSON.stringify([database, collection, id], { relaxed: false })
}

/** The hash of the request that a document represents, or of the document itself. */
function hashOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** @throws BSONError, with `utf8` also if a string is not UTF-8 */
function deserialised(raw: Uint8Array, { utf8 }: { utf8: boolean }): OutboxDocument {
  return BSON.deserialize(raw, { ...AS_STORED, validation: { utf8 } }) as OutboxDocument
}

/** When a document was created, by its `_id`; null: its `_id` has no time. */
function madeAt(id: DocumentId): number | null {
  if (id instanceof ObjectId) return id.getTimestamp().getTime()
  return typeof id === 'string' && isJobId(id) ? timeOfJobId(id) : null
}

/**
 * The body of POST /jobs that the document represents.
 *
 * @param document deserialised without promoting values, so that every number has its type
 * @throws NoJsonForm with a sentence why the document cannot become a job
 */
function requestOf(document: Record<string, unknown>): Buffer {
  const parts: string[] = []
  for (const [name, value] of Object.entries(document)) {
    if (OUR_FIELDS.has(name)) continue
    if (name !== 'payloadJson') {
      const json = jsonOfBson(value, [name], { largeIntegers: 'number' })
      parts.push(`${JSON.stringify(name)}:${json}`)
    } else if ('payload' in document) {
      throw new NoJsonForm('payload and payloadJson cannot both be given')
    } else {
      parts.push(`"payload":${wholeJson(value)}`)
    }
  }
  return Buffer.from(`{${parts.join(',')}}`)
}

/** Accepts only one whole JSON value: anything else could add fields to the request. */
function wholeJson(value: unknown): string {
  if (typeof value !== 'string') throw new NoJsonForm('payloadJson is not a string')
  try {
    JSON.parse(value)
  } catch {
    throw new NoJsonForm('payloadJson is not JSON text')
  }
  return value
}

/** Views, and on some servers capped collections and time series, do not allow deletes. */
async function refuseUnmovable({ name, waiting, rejected }: OutboxCollections): Promise<void> {
  const { database } = name
  const names = [waiting.collectionName, rejected.collectionName]
  const listed = await run(startDeadline(), () =>
    waiting.db.listCollections({ name: { $in: names } }).toArray(),
  )
  for (const { name: found, type, ...info } of listed) {
    const isCapped = 'options' in info && info.options?.capped === true
    if (type === 'collection' && !isCapped) continue
    throw new SettingUnusable(
      `OUTBOX needs plain collections, but ${database}.${found} is a ` +
        `${isCapped ? 'capped collection' : type}: documents cannot be moved there. Name another.`,
    )
  }
}

async function refuseOtherData({ name, waiting, rejected }: OutboxCollections): Promise<void> {
  const { database, collection } = name
  const found = await typesOf(waiting)
  const isJob = ({ endpoint, payload, payloadJson }: FieldTypes) =>
    endpoint === 'string' && (payload !== 'missing' || payloadJson !== 'missing')
  if (found.length > 0 && !found.some(isJob)) {
    throw new SettingUnusable(
      `OUTBOX names ${database}.${collection}, which holds documents that are not jobs: none has ` +
        'an endpoint and a payload. Name a collection that holds outbox documents only.',
    )
  }
  const aside = await typesOf(rejected)
  if (aside.length > 0 && !aside.some(({ reason }) => reason === 'string')) {
    throw new SettingUnusable(
      `Documents of the outbox are set aside in ${database}.${collection}${REJECTED_SUFFIX}, but ` +
        'it holds other documents. Name another collection in OUTBOX.',
    )
  }
}

/** The names of BSON types, or `missing`. */
type FieldTypes = Record<'endpoint' | 'payload' | 'payloadJson' | 'reason', string>

/** Types only, because the values may be large. */
function typesOf(collection: OutboxCollection): Promise<FieldTypes[]> {
  const fields = {
    _id: 0,
    endpoint: { $type: '$endpoint' },
    payload: { $type: '$payload' },
    payloadJson: { $type: '$payloadJson' },
    reason: { $type: '$posthornError.reason' },
  }
  return run(startDeadline(), (limit) =>
    collection
      .aggregate<FieldTypes>([{ $limit: MAX_LOOKED_AT }, { $project: fields }], limit)
      .toArray(),
  )
}

async function storeRecord(records: Collection<OutboxRecord>, record: OutboxRecord): Promise<void> {
  try {
    await run(startDeadline(), (limit) => records.insertOne(record, limit))
  } catch (error) {
    // Another process that starts at the same time was first.
    if (!isDuplicateKey(error)) throw error
  }
}
