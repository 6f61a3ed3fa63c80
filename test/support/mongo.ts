// Finds a real MongoDB for the tests: MONGODB_URL, a mongod on PATH, one that is downloaded, or a
// MongoDB-compatible server. `node test/support/mongo.ts` starts it by hand and prints its URL.
import { constants } from 'node:fs'
import { access } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { DryMongoBinary, MongoMemoryReplSet, MongoMemoryServer } from 'mongodb-memory-server-core'
import { startSecantus } from './secantus.ts'

/** Only `mongod` explains its queries truthfully; see the tests of query plans. */
export type MongoEngine = 'mongod' | 'secantusd-rs' | 'given'

export interface RunningMongo {
  url: string
  engine: MongoEngine
  /** null: this one cannot be killed and started again from here. */
  crashes: { kill(): Promise<void>; restart(): Promise<void> } | null
  stop(): Promise<void>
}

const DOWNLOAD_HOST = 'https://fastdl.mongodb.org'
/** A machine without the internet must find out in seconds, not in the downloader's minutes. */
const REACH_DEADLINE_MS = 3_000

/** Starts the first engine that can be had and says on stderr which one. */
export async function startMongo(): Promise<RunningMongo> {
  const given = process.env.MONGODB_URL
  if (given) return named('the one that MONGODB_URL names', keepRunning(given))
  return startOwn({ standalone: false })
}

/** One that runs alone, outside of any replica set. Whatever MONGODB_URL names is left in peace. */
export function startStandaloneMongo(): Promise<RunningMongo> {
  return startOwn({ standalone: true })
}

async function startOwn(options: { standalone: boolean }): Promise<RunningMongo> {
  const onPath = await findOnPath('mongod')
  if (onPath !== null) return named(`mongod (${onPath})`, await startMongod(onPath, options))
  const problems: string[] = []
  try {
    if (await canDownload()) return named('mongod (downloaded)', await startMongod(null, options))
    problems.push(`mongod can not be downloaded: ${DOWNLOAD_HOST} is not reached`)
  } catch (error) {
    problems.push(`mongod can not be downloaded: ${messageOf(error)}`)
  }
  try {
    const server = await startSecantus(options)
    const { url, stop } = server
    const running = { url, engine: 'secantusd-rs', crashes: server, stop } as const
    return named('secantusd-rs, a stand-in for mongod', running)
  } catch (error) {
    problems.push(messageOf(error))
  }
  throw new Error(
    `No MongoDB for the tests: set MONGODB_URL, or install mongod or cargo. ${problems.join('; ')}`,
  )
}

/** The URL of another database of the same server: tests that share a server share no data. */
export function databaseUrl(url: string, database: string): string {
  const [, base, query = ''] = /^([^/]+\/\/[^/?]+)(?:\/[^?]*)?(\?.*)?$/.exec(url) ?? []
  if (base === undefined) throw new Error(`not a MongoDB URL: ${url}`)
  return `${base}/${database}${query}`
}

function named(name: string, running: RunningMongo): RunningMongo {
  process.stderr.write(`MongoDB for the tests: ${name}\n`)
  return running
}

function keepRunning(url: string): RunningMongo {
  return { url, engine: 'given', crashes: null, stop: async () => {} }
}

/** A replica set of one in a temporary folder; null: the program is downloaded when missing. */
async function startMongod(
  systemBinary: string | null,
  { standalone }: { standalone: boolean },
): Promise<RunningMongo> {
  const binary = systemBinary === null ? {} : { binary: { systemBinary } }
  const storageEngine = 'wiredTiger'
  const server = standalone
    ? await MongoMemoryServer.create({ ...binary, instance: { storageEngine } })
    : await MongoMemoryReplSet.create({ ...binary, replSet: { count: 1, storageEngine } })
  return {
    url: server.getUri(),
    engine: 'mongod',
    crashes: null,
    stop: async () => {
      await server.stop({ doCleanup: true, force: true })
    },
  }
}

/** Whether mongod was downloaded before, or its source answers. */
async function canDownload(): Promise<boolean> {
  const binary = await DryMongoBinary.locateBinary(await DryMongoBinary.generateOptions())
  if (binary !== undefined) return true
  // Through a proxy, or from a mirror, the downloader knows its way and we do not.
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
  const running = await startMongo()
  process.stdout.write(`${running.url}\n`)
  // A process with nothing to do ends; this one is to wait for a signal.
  const alive = setInterval(() => {}, 60_000)
  const stop = async () => {
    clearInterval(alive)
    await running.stop()
  }
  process.once('SIGTERM', stop)
  process.once('SIGINT', stop)
}

if (import.meta.main) await runUntilStopped()
