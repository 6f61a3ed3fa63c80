// The outbox: documents that applications insert in transactions of their own, each of which is to
// become one job. What moves them takes some, stores their jobs, and only then removes them; a move
// that is broken off is begun again, and finds the jobs it had made by their origin.
import { isOwnCollection } from './collection-names.ts'

/** Where the documents are: any database of the cluster that the store is on. */
export interface OutboxName {
  database: string
  collection: string
}

export interface Outbox {
  /** Takes at most `limit` documents. Whoever takes one has it for OUTBOX_HOLD_MS. */
  take(limit: number): Promise<TakenDocument[]>
  /** Those that have become jobs and are still held. Returns how many were there. */
  remove(documents: TakenDocument[]): Promise<number>
  /** Those that can not become jobs, out of the way of the others. Returns how many. */
  setAside(refused: RefusedDocument[]): Promise<number>
  stats(): Promise<OutboxStats>
  /** A hint that there is a document; may be missed, may be false. Returns how to stop it. */
  onDocument(listener: () => void): () => void
}

/** MongoDB's own. */
const SYSTEM_DATABASES = ['admin', 'config', 'local']
/** Of database, dot and collection together (mongodb.com/docs/manual/reference/limits). */
const MAX_NAMESPACE_BYTES = 255

/** Why the documents there are not to be taken, as what is expected; null: they may be. */
export function outboxNameProblem({ database, collection }: OutboxName): string | null {
  const name = collection.toLowerCase()
  if (isOwnCollection(name)) {
    return `a collection of your application, not ${collection}, which holds data of Posthorn`
  }
  if (SYSTEM_DATABASES.includes(database.toLowerCase()) || name.startsWith('system.')) {
    return 'a collection of your application, not one that MongoDB keeps for itself'
  }
  if (name.endsWith(REJECTED_SUFFIX)) {
    return `a name that does not end in ${REJECTED_SUFFIX}: documents of an outbox are set aside there`
  }
  const rejected = `${database}.${collection}${REJECTED_SUFFIX}`
  if (Buffer.byteLength(rejected) <= MAX_NAMESPACE_BYTES) return null
  return `a name that leaves room for ${REJECTED_SUFFIX} in the ${MAX_NAMESPACE_BYTES} bytes of MongoDB`
}

export interface TakenDocument {
  /** Names the document, and makes its job the only one (NewJob.originKey). */
  originKey: string
  /** Its `_id`, where that is the id of a job; else null: any id will do. */
  jobId: string | null
  /** Of this take; null: the document is too large to be written to. */
  holdId: string | null
  /** What POST /jobs would be sent for it. */
  request:
    | {
        kind: 'body'
        bytes: Buffer
        /** Tells it from another document that had this `_id` before. */
        hash: string
      }
    | { kind: 'unreadable'; message: string }
}

export interface RefusedDocument {
  document: TakenDocument
  /** A code of src/errors.ts. */
  reason: string
  message: string
}

/** Each count is exact up to MAX_COUNT, which also stands for more. */
export interface OutboxStats {
  waiting: number
  setAside: number
  /** When the first of those that wait was made, as far as its `_id` tells; null: it does not. */
  oldestAt: number | null
}

/** A mover that died leaves its documents to others after this. */
export const OUTBOX_HOLD_MS = 10_000
/** What is kept beside an outbox: `<collection>_rejected`. */
export const REJECTED_SUFFIX = '_rejected'
