// secantusd-rs, the MongoDB-compatible server for machines that have no mongod.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import {
  cacheFolder,
  type MongoServer,
  type MongoServerOptions,
  runInstaller,
  startMongoServer,
} from './mongo-server.ts'

const CRATE = 'secantus-mdb'
const CRATE_VERSION = '0.5.3-beta.196'

export async function startSecantus(options: MongoServerOptions = {}): Promise<MongoServer> {
  const binary = await secantusBinary()
  const own = [options.standalone ? ['--standalone'] : [], options.auth ? ['--auth'] : []].flat()
  const program = {
    binary,
    flags: (dataDir: string, port: number) => [
      ...['--port', `${port}`, '--storage-path', dataDir, ...own],
      // Without --sync-on-commit an acknowledged write is lost when the process is killed.
      ...['--sync-on-commit', '--log-level', 'ERROR'],
      // The defaults take 4 GB of memory and 128 MB of disk for an empty store.
      ...['--cache-size', '256M', '--log-file-max', '16MB'],
    ],
    listens: 'listening on',
    query: options.standalone ? '' : '?replicaSet=secantus',
  }
  return startMongoServer(async () => program, options)
}

/**
 * The path of the server's program, which is built on first use. Throws an error with a sentence if
 * the build fails.
 */
async function secantusBinary(): Promise<string> {
  const root = cacheFolder(`${CRATE}-${CRATE_VERSION}`)
  const binary = join(root, 'bin', 'secantusd-rs')
  if (existsSync(binary)) return binary
  process.stderr.write(`building ${CRATE} ${CRATE_VERSION} once, with cargo: it takes minutes\n`)
  const version = ['--version', CRATE_VERSION, '--ignore-rust-version', '--locked']
  const failure = await runInstaller('cargo', ['install', CRATE, ...version, '--root', root])
  if (failure === null && existsSync(binary)) return binary
  throw new Error(`cargo install ${CRATE} failed (${failure}); it needs cargo, a C compiler, cmake`)
}
