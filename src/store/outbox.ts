// The outbox: documents that applications insert in their own transactions. Each becomes one job.
// The relay takes some documents, stores their jobs, and only then removes the documents. A move
// that was interrupted is repeated, and finds the jobs that exist already by their origin.
import { isOwnCollection, isSystemDatabase } from './collection-names.ts'

/** The database and the collection of the documents, in the cluster of the store. */
export interface OutboxName {
  database: string
  collection: string
}

export interface Outbox {
  /** Takes at most `limit` documents. The caller holds each for OUTBOX_HOLD_MS. */
  take(limit: number): Promise<TakenDocument[]>
  /** Removes documents that have become jobs and are still held. Returns how many it removed. */
  remove(documents: TakenDocument[]): Promise<number>
  /** Moves documents that cannot become jobs to another collection. Returns how many it moved. */
  setAside(refused: RefusedDocument[]): Promise<number>
  stats(): Promise<OutboxStats>
  /**
   * Calls `listener` when there may be a document. Such a hint can be missing or false. Returns a
   * function that removes the listener.
   */
  onDocument(listener: () => void): () => void
  /** Whether listeners are called for each insert of any process now. */
  readonly hintsAtAllDocuments: boolean
}

/**
 * The limit for database, dot and collection together (mongodb.com/docs/manual/reference/limits).
 */
const MAX_NAMESPACE_BYTES = 255

/** Why this name cannot be an outbox, as a phrase that follows "expected"; null: it can. */
export function outboxNameProblem({ database, collection }: OutboxName): string | null {
  const name = collection.toLowerCase()
  if (isOwnCollection(name)) {
    return `a collection of your application, not ${collection}, which holds data of Posthorn`
  }
  if (isSystemDatabase(database) || name.startsWith('system.')) {
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
  /** Identifies the document, so that it becomes one job only (NewJob.originKey). */
  originKey: string
  /** The `_id` of the document, if it has the form of a job id; null: the job gets a new id. */
  jobId: string | null
  /** Identifies this take; null: the document is too large to be updated. */
  holdId: string | null
  /** The body of POST /jobs that the document represents. */
  request:
    | {
        kind: 'body'
        bytes: Buffer
        /** Distinguishes it from an earlier document with the same `_id`. */
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
  /**
   * When the oldest waiting document was created, by its `_id`; null: its `_id` contains no time.
   */
  oldestAt: number | null
}

/** After this time, other relays take the documents of a relay that died. */
export const OUTBOX_HOLD_MS = 10_000
/** The ending of the collection for rejected documents: `<collection>_rejected`. */
export const REJECTED_SUFFIX = '_rejected'
