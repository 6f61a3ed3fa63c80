// How documents of an outbox are named and lie there. An origin names database, collection and
// `_id`, so that whoever finishes the job finds the document, whatever OUTBOX is by then.
import { createHash } from 'node:crypto'
import { BSON, type Collection, type Db, type Document, ObjectId } from 'mongodb'
import { isJobId, timeOfJobId } from '../../job/job-id.ts'
import type { OutboxName } from '../outbox.ts'
import { ORIGIN_PREFIX } from './new-job-document.ts'

/** Of any BSON type in truth: it is only compared, and given back as it came. */
export type DocumentId = string | ObjectId
/** A document as this reads it: whatever an application has put there. */
export type OutboxDocument = Document & { _id: DocumentId }
export type OutboxCollection = Collection<OutboxDocument>

const { EJSON } = BSON

/** Numbers keep their types: an `_id` is to be found again, a payload to be written as it is. */
export const AS_STORED = {
  promoteValues: false,
  promoteBuffers: false,
  promoteLongs: false,
  // A pattern that only PCRE reads would be an error of every read that meets it.
  bsonRegExp: true,
  enableUtf8Validation: false,
} as const

export function outboxCollection(db: Db, { database, collection }: OutboxName): OutboxCollection {
  // The same client, whose databases share its connections, with majority writes as all others.
  return db.client.db(database).collection<OutboxDocument>(collection)
}

export function originOf({ database, collection }: OutboxName, id: DocumentId): string {
  return ORIGIN_PREFIX + EJSON.stringify([database, collection, id], { relaxed: false })
}

/** The same for two ids that are the same, of whatever type. */
export function keyOf(id: DocumentId): string {
  return EJSON.stringify([id], { relaxed: false })
}

/** Of the request that a document stands for, or of the document itself. */
export function hashOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** The document that an origin names. */
export function documentOf(originKey: string): OutboxName & { id: DocumentId } {
  const [database, collection, id] = EJSON.parse(originKey.slice(ORIGIN_PREFIX.length), {
    relaxed: false,
  }) as [string, string, DocumentId]
  return { database, collection, id }
}

/** @throws BSONError, with `utf8` also where a string is not UTF-8 */
export function deserialised(raw: Uint8Array, { utf8 }: { utf8: boolean }): OutboxDocument {
  return BSON.deserialize(raw, { ...AS_STORED, validation: { utf8 } }) as OutboxDocument
}

/** When a document was made, as its `_id` tells; null: it does not tell. */
export function madeAt(id: DocumentId): number | null {
  if (id instanceof ObjectId) return id.getTimestamp().getTime()
  return typeof id === 'string' && isJobId(id) ? timeOfJobId(id) : null
}
