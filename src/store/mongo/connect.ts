// From a URL to a database that can keep a promise: a replica set or a sharded cluster, majority
// writes, deadlines everywhere.
import { type Db, MongoClient } from 'mongodb'
import { MAX_ANSWER_MS, StoreUnusable } from '../store.ts'
import { unreadableUrl } from './start-errors.ts'

const DEFAULT_DATABASE = 'posthorn'
/** Longer than any command's own deadline; it ends those of a connection that has gone silent. */
const SOCKET_DEADLINE_MS = 6_000

export interface Connection {
  client: MongoClient
  db: Db
}

/** @throws StoreUnusable, StoreUnavailable, and errors of the driver (see start-errors.ts) */
export async function connect(url: string): Promise<Connection> {
  const connection = await open(url, { retryWrites: true })
  try {
    const isAlone = await isStandalone(connection)
    if (isAlone && !/[?&]directConnection=true(&|$)/i.test(url)) {
      throw new StoreUnusable(
        'The MongoDB server runs alone, not in a replica set: it cannot guarantee that a write ' +
          'is kept, or repeat one safely. Start it with --replSet and run rs.initiate() once. To ' +
          'try Posthorn without a replica set, add directConnection=true to STORE_URL.',
      )
    }
    if (!isAlone) return connection
  } catch (error) {
    await connection.client.close()
    throw error
  }
  // Retryable writes need a replica set: a server alone refuses them.
  await connection.client.close()
  return open(url, { retryWrites: false })
}

export async function open(
  url: string,
  options: { retryWrites: boolean; socketTimeoutMS?: number },
): Promise<Connection> {
  let client: MongoClient
  try {
    client = new MongoClient(url, {
      appName: 'posthorn',
      serverSelectionTimeoutMS: MAX_ANSWER_MS,
      connectTimeoutMS: MAX_ANSWER_MS,
      waitQueueTimeoutMS: MAX_ANSWER_MS,
      socketTimeoutMS: SOCKET_DEADLINE_MS,
      readPreference: 'primary',
      readConcern: { level: 'majority' },
      writeConcern: { w: 'majority', journal: true, wtimeoutMS: MAX_ANSWER_MS },
      // Bytes as they are, without a wrapper around each.
      promoteBuffers: true,
      // For the count of commands.
      monitorCommands: true,
      ...options,
    })
  } catch (error) {
    throw unreadableUrl(url, error)
  }
  try {
    await client.connect()
  } catch (error) {
    await client.close()
    throw error
  }
  return { client, db: client.db(databaseName(url)) }
}

/** The name in the path of the URL, which may list several hosts: URL can not parse it. */
export function databaseName(url: string): string {
  const [, name = ''] = /^mongodb(?:\+srv)?:\/\/[^/?]*\/([^?]*)/.exec(url) ?? []
  return name === '' ? DEFAULT_DATABASE : decodeURIComponent(name)
}

async function isStandalone({ client }: Connection): Promise<boolean> {
  const hello = await client.db('admin').command({ hello: 1 })
  const isBehindRouter = hello.msg === 'isdbgrid' || hello.serviceId !== undefined
  return hello.setName === undefined && !isBehindRouter
}
