// The database with the collections and indexes that this version needs.
import { reserveCollections } from './collections.ts'
import { type Connection, connect, open } from './connect.ts'
import { createIndexes, missingIndexes } from './indexes.ts'

/** An index on a collection of many millions takes minutes, once. */
const INDEX_DEADLINE_MS = 15 * 60_000

/**
 * Connects, makes sure that the collections are ours, and creates missing indexes.
 *
 * @throws StoreUnusable, StoreUnavailable, and errors of the driver (see start-errors.ts)
 */
export async function openDatabase(url: string): Promise<Connection> {
  const connection = await connect(url)
  try {
    // First: an index on a collection of an application could delete its documents.
    await reserveCollections(connection.db)
    await makeIndexes(url, connection)
    return connection
  } catch (error) {
    await connection.client.close()
    throw error
  }
}

async function makeIndexes(url: string, { db }: Connection): Promise<void> {
  const missing = await missingIndexes(db)
  if (missing.size === 0) return
  // Of its own client, whose commands may take their time.
  const patient = await open(url, { retryWrites: false, socketTimeoutMS: INDEX_DEADLINE_MS })
  try {
    await createIndexes(patient.db, missing)
  } finally {
    await patient.client.close()
  }
}
