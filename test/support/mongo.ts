// Finds a MongoDB for the tests: MONGODB_URL, a mongod on the PATH, a downloaded one, one from a
// wheel, or a MongoDB-compatible server. MONGO_ENGINE=mongod or MONGO_ENGINE=secantusd-rs selects
// one of them. `node test/support/mongo.ts` starts it by hand and prints its URL.
import { constants } from 'node:fs'
import { access } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { DryMongoBinary, MongoBinary } from 'mongodb-memory-server-core'
import type { MongoServer, MongoServerOptions } from './mongo-server.ts'
import {
  installedMongod,
  installMongod,
  type MongodSet,
  startMongod,
  startMongodSet,
} from './mongod.ts'
import { startSecantus } from './secantus.ts'

/** The stand-in explains no query truthfully; see the tests of query plans. */
export type MongoEngine = 'mongod' | 'secantusd-rs' | 'given'

export interface RunningMongo {
  url: string
  engine: MongoEngine
  /** null: this server cannot be killed and started again from here. */
  crashes: { kill(): Promise<void>; restart(): Promise<void> } | null
  stop(): Promise<void>
}

const DOWNLOAD_HOST = 'https://fastdl.mongodb.org'
/**
 * A machine without internet access must find that out in seconds. The downloader would take
 * minutes.
 */
const REACH_DEADLINE_MS = 3_000

/** Starts the first available engine, and prints on stderr which one it is. */
export async function startMongo(options: MongoServerOptions = {}): Promise<RunningMongo> {
  const given = process.env.MONGODB_URL
  if (!given) return startOwnMongo(options)
  say('the one that MONGODB_URL names')
  return { url: given, engine: 'given', crashes: null, stop: async () => {} }
}

/** Starts a server that no other test uses. The database in MONGODB_URL itself is not changed. */
export async function startOwnMongo(options: MongoServerOptions): Promise<RunningMongo> {
  const wanted = process.env.MONGO_ENGINE
  const problems: string[] = []
  if (wanted !== 'secantusd-rs') {
    try {
      const found = await findMongod()
      // An installed mongod may lack a system library.
      const server = await startMongod(found, options)
      say(`mongod (${found})`)
      return running('mongod', server)
    } catch (error) {
      problems.push(messageOf(error))
    }
  }
  if (wanted !== 'mongod') {
    try {
      const server = await startSecantus(options)
      say(`secantusd-rs, a stand-in for mongod. ${problems.join('; ')}`)
      return running('secantusd-rs', server)
    } catch (error) {
      problems.push(messageOf(error))
    }
  }
  throw new Error(
    `No MongoDB for the tests: set MONGODB_URL, or install mongod or cargo. ${problems.join('; ')}`,
  )
}

/** Starts a replica set of three members. The stand-in has only one. */
export async function startMongoSet(): Promise<MongodSet> {
  return startMongodSet(await findMongod())
}

/** The path of a mongod. Throws an error with a sentence if none can be installed. */
async function findMongod(): Promise<string> {
  const found = (await findOnPath('mongod')) ?? installedMongod()
  if (found !== null) return found
  const problems: string[] = []
  for (const source of [downloadMongod, installMongod]) {
    try {
      return await source()
    } catch (error) {
      problems.push(messageOf(error))
    }
  }
  throw new Error(`mongod cannot be installed: ${problems.join('; ')}`)
}

async function downloadMongod(): Promise<string> {
  if (await canDownload()) return MongoBinary.getPath(await DryMongoBinary.generateOptions())
  throw new Error(`${DOWNLOAD_HOST} is not reached`)
}

/** The URL of another database of the same server: tests that share a server share no data. */
export function databaseUrl(url: string, database: string): string {
  const [, base, query = ''] = /^([^/]+\/\/[^/?]+)(?:\/[^?]*)?(\?.*)?$/.exec(url) ?? []
  if (base === undefined) throw new Error(`not a MongoDB URL: ${url}`)
  return `${base}/${database}${query}`
}

function running(engine: MongoEngine, server: MongoServer): RunningMongo {
  return { url: server.url, engine, crashes: server, stop: server.stop }
}

function say(name: string): void {
  process.stderr.write(`MongoDB for the tests: ${name}\n`)
}

/** Whether mongod was downloaded before, or its download server responds. */
async function canDownload(): Promise<boolean> {
  const binary = await DryMongoBinary.locateBinary(await DryMongoBinary.generateOptions())
  if (binary !== undefined) return true
  // Through a proxy, or from a mirror, the downloader may have access although this check has not.
  if (process.env.HTTPS_PROXY ?? process.env.https_proxy) return true
  if (process.env.MONGOMS_DOWNLOAD_MIRROR ?? process.env.MONGOMS_DOWNLOAD_URL) return true
  try {
    const signal = AbortSignal.timeout(REACH_DEADLINE_MS)
    await fetch(DOWNLOAD_HOST, { method: 'HEAD', signal })
    return true
  } catch {
    return false
  }
}

async function findOnPath(program: string): Promise<string | null> {
  for (const folder of (process.env.PATH ?? '').split(delimiter)) {
    if (folder === '') continue
    const path = join(folder, program)
    const found = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    )
    if (found) return path
  }
  return null
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

async function runUntilStopped(): Promise<void> {
  const { url, stop: end } = await startMongo()
  process.stdout.write(`${url}\n`)
  // A process without work would end. This one must wait for a signal.
  const alive = setInterval(() => {}, 60_000)
  const stop = async () => {
    clearInterval(alive)
    await end()
  }
  process.once('SIGTERM', stop)
  process.once('SIGINT', stop)
}

if (import.meta.main) await runUntilStopped()
