// Reads Agenda's collection, and never writes to it. Each document is decoded by itself: one that
// cannot be decoded does not stop the others.
import { BSON, type Filter, MongoClient } from 'mongodb'
import { isOwnCollection } from '../../src/store/collection-names.ts'
import { CommandFailed, EXIT, UsageError } from '../exit.ts'
import type { AgendaDocument } from './plan.ts'

const DEADLINE_MS = 5_000
const BATCH_SIZE = 200

/** Documents that are neither due nor repeating: completed, failed for good, or never scheduled. */
const FINISHED: Filter<AgendaDocument> = {
  nextRunAt: null,
  lockedAt: null,
  repeatInterval: null,
  repeatAt: null,
}

/** Keeps the types of numbers, so that none is rounded, and patterns that only PCRE can read. */
const AS_STORED = {
  promoteValues: false,
  promoteBuffers: false,
  promoteLongs: false,
  bsonRegExp: true,
} as const

/** `problem`: why the document cannot be imported; null: it was decoded completely. */
export interface ReadDocument {
  document: AgendaDocument
  problem: string | null
}

export interface AgendaCollection {
  /** Database and name: another collection can have the same ids. */
  source: string
  /** All documents except the finished ones, oldest first. */
  documents(): AsyncIterable<ReadDocument>
  finishedCount(): Promise<number>
}

/**
 * Connects, calls `work` with the collection, and disconnects.
 *
 * @param url with the name of the database in its path
 * @throws UsageError, CommandFailed
 */
export async function withAgenda<T>(
  url: string,
  name: string,
  work: (collection: AgendaCollection) => Promise<T>,
): Promise<T> {
  if (isOwnCollection(name)) {
    throw new UsageError(`--collection is "${name}", which holds data of Posthorn, not of Agenda.`)
  }
  const client = clientOf(url)
  try {
    await client.connect()
    const collection = client.db().collection<AgendaDocument>(name)
    const options = { sort: { _id: 1 }, batchSize: BATCH_SIZE, raw: true } as const
    return await work({
      source: collection.namespace,
      async *documents() {
        for await (const raw of collection.find({ $nor: [FINISHED] }, options)) {
          yield decoded(raw as unknown as Uint8Array)
        }
      },
      finishedCount: () => collection.countDocuments(FINISHED),
    })
  } catch (error) {
    if (!(error instanceof Error) || !error.name.startsWith('Mongo')) throw error
    throw new CommandFailed(`The MongoDB of --from failed: ${error.message}`, EXIT.unreachable)
  } finally {
    await client.close()
  }
}

function clientOf(url: string): MongoClient {
  if (!/^mongodb(\+srv)?:\/\/[^/]+\/[^?]/.test(url)) {
    throw new UsageError(
      '--from needs a MongoDB URL with the database of Agenda, like mongodb://localhost:27017/agenda.',
    )
  }
  try {
    return new MongoClient(url, {
      appName: 'posthorn import',
      serverSelectionTimeoutMS: DEADLINE_MS,
      connectTimeoutMS: DEADLINE_MS,
    })
  } catch (error) {
    throw new UsageError(`--from cannot be read as a MongoDB URL: ${(error as Error).message}`)
  }
}

/** @param raw the bytes of one document */
export function decoded(raw: Uint8Array): ReadDocument {
  try {
    return { document: withUtf8(raw, true), problem: null }
  } catch (error) {
    if (!(error instanceof BSON.BSONError)) throw error
    return { document: withUtf8(raw, false), problem: 'it contains a string that is not UTF-8' }
  }
}

function withUtf8(raw: Uint8Array, utf8: boolean): AgendaDocument {
  return BSON.deserialize(raw, { ...AS_STORED, validation: { utf8 } }) as AgendaDocument
}
