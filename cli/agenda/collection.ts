// Agenda's collection, which is only read.
import { type Collection, type Filter, MongoClient } from 'mongodb'
import { CommandFailed, EXIT, UsageError } from '../exit.ts'
import type { AgendaDocument } from './plan.ts'

const DEADLINE_MS = 5_000
const BATCH_SIZE = 200

/** Neither due nor repeating: it was done, or failed for good. */
const FINISHED: Filter<AgendaDocument> = {
  nextRunAt: null,
  lockedAt: null,
  repeatInterval: null,
  repeatAt: null,
}

export interface AgendaCollection {
  /** All but the finished ones, the oldest first. */
  documents(): AsyncIterable<AgendaDocument>
  finishedCount(): Promise<number>
}

/**
 * Hands the collection to `work`, and lets go of it afterwards.
 *
 * @param url with the name of the database in its path
 * @throws UsageError, CommandFailed
 */
export async function withAgenda<T>(
  url: string,
  name: string,
  work: (collection: AgendaCollection) => Promise<T>,
): Promise<T> {
  const client = clientOf(url)
  try {
    await client.connect()
    const collection = client.db().collection<AgendaDocument>(name) as Collection<AgendaDocument>
    return await work({
      documents: () =>
        collection.find({ $nor: [FINISHED] }, { sort: { _id: 1 }, batchSize: BATCH_SIZE }),
      finishedCount: () => collection.countDocuments(FINISHED),
    })
  } catch (error) {
    if (!(error instanceof Error) || !error.name.startsWith('Mongo')) throw error
    throw new CommandFailed(
      `The MongoDB that --from names does not answer as it should: ${error.message}`,
      EXIT.unreachable,
    )
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
    throw new UsageError(`--from can not be read as a MongoDB URL: ${(error as Error).message}`)
  }
}
