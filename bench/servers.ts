// The servers of the peers, each with its own data: a Redis as the pages of BullMQ recommend, and a
// PostgreSQL with its defaults.
import { type ChildProcess, execFileSync, type SpawnOptions, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { freePort } from '../test/support/mongo-server.ts'
import { cpuUsOfTree, endWithRun } from './processes.ts'

export interface Server {
  url: string
  /** The name, such as `Redis 7.0.15`. */
  version: string
  /** CPU so far of the server and all its processes, in microseconds. */
  cpuUs(): number
  stop(): Promise<void>
}

const HOST = '127.0.0.1'
const START_DEADLINE_MS = 30_000
/** Output of a server that is kept for the error if it does not start. */
const LAST_WORDS_BYTES = 2_000
/** Where Debian installs programs that are not in every PATH: a folder for each version. */
const DEBIAN_POSTGRESQL = '/usr/lib/postgresql'
/** initdb and postgres refuse to run as root. Debian creates this user for them. */
const POSTGRES_USER = 'postgres'

/** AOF every second and no snapshots, as "Going to production" of BullMQ recommends. */
export async function startRedis(folder: string): Promise<Server> {
  const program = onPath('redis-server')
  if (program === null) {
    throw new Error('redis-server is not on PATH: the Debian package redis-server has it')
  }
  const port = await freePort()
  const flags = [
    ...['--bind', HOST, '--port', String(port), '--dir', mkdtempSync(join(folder, 'redis-'))],
    ...['--appendonly', 'yes', '--appendfsync', 'everysec', '--save', ''],
    ...['--maxmemory-policy', 'noeviction', '--daemonize', 'no'],
  ]
  const child = await startServer(program, flags, 'Ready to accept connections')
  const [version = '?'] = /(?<=v=)[\d.]+/.exec(textOf(program, ['--version'])) ?? []
  return {
    url: `redis://${HOST}:${port}`,
    version: `Redis ${version}`,
    cpuUs: () => cpuUsOfTree(child.pid as number),
    stop: () => end(child, 'SIGTERM'),
  }
}

/**
 * Starts PostgreSQL with all defaults: each commit is flushed. Its data is outside the folder of
 * the run, which only root can enter.
 */
export async function startPostgres(): Promise<Server> {
  const programs = postgresFolder()
  if (programs === null) {
    throw new Error('no initdb on PATH or in /usr/lib/postgresql: the Debian package postgresql')
  }
  const data = mkdtempSync(join(tmpdir(), 'posthorn-postgres-'))
  const user = postgresUser(data)
  const initFlags = ['-D', data, '-U', POSTGRES_USER, '--auth=trust', '--encoding=UTF8']
  execFileSync(join(programs, 'initdb'), initFlags, { ...user, cwd: data, stdio: 'pipe' })
  const port = await freePort()
  const flags = ['-D', data, '-p', String(port), '-c', `listen_addresses=${HOST}`, '-k', data]
  const program = join(programs, 'postgres')
  const ready = 'ready to accept connections'
  const child = await startServer(program, flags, ready, { ...user, cwd: data })
  const [version = '?'] = /[\d.]+/.exec(textOf(program, ['--version'])) ?? []
  return {
    url: `postgres://${POSTGRES_USER}@${HOST}:${port}/postgres`,
    version: `PostgreSQL ${version}`,
    cpuUs: () => cpuUsOfTree(child.pid as number),
    async stop() {
      // SIGINT: PostgreSQL ends its sessions; SIGTERM would wait for them.
      await end(child, 'SIGINT')
      rmSync(data, { recursive: true, force: true })
    },
  }
}

/**
 * The user to run PostgreSQL as, which becomes the owner of `data`; none unless this process is
 * root.
 */
function postgresUser(data: string): { uid?: number; gid?: number } {
  if (process.getuid?.() !== 0) return {}
  const idOf = (flag: string) => {
    try {
      return Number(textOf('id', [flag, POSTGRES_USER]))
    } catch {
      throw new Error('PostgreSQL does not run as root, and there is no user named postgres')
    }
  }
  const [uid, gid] = [idOf('-u'), idOf('-g')]
  chownSync(data, uid, gid)
  return { uid, gid }
}

function postgresFolder(): string | null {
  const initdb = onPath('initdb')
  if (initdb !== null) return join(initdb, '..')
  if (!existsSync(DEBIAN_POSTGRESQL)) return null
  const versions = readdirSync(DEBIAN_POSTGRESQL).toSorted((a, b) => Number(b) - Number(a))
  const folders = versions.map((version) => join(DEBIAN_POSTGRESQL, version, 'bin'))
  return folders.find((folder) => existsSync(join(folder, 'initdb'))) ?? null
}

/** Resolves when its log contains `ready`. */
async function startServer(
  program: string,
  flags: string[],
  ready: string,
  options: SpawnOptions = {},
): Promise<ChildProcess> {
  const child = spawn(program, flags, { ...options, stdio: ['ignore', 'pipe', 'pipe'] })
  endWithRun(child)
  let said = ''
  await new Promise<void>((resolve, reject) => {
    const fail = (why: string) => reject(new Error(`${program} ${why}: ${said.trim()}`))
    const timer = setTimeout(() => {
      child.kill('SIGKILL')
      fail('did not start in time')
    }, START_DEADLINE_MS)
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        said = (said + text).slice(-LAST_WORDS_BYTES)
        if (!said.includes(ready)) return
        clearTimeout(timer)
        resolve()
      })
    }
    child.once('error', reject)
    child.once('exit', (code) => fail(`ended with ${code}`))
  })
  return child
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  child.kill(signal)
  await exited
}

function onPath(program: string): string | null {
  const folders = (process.env.PATH ?? '').split(delimiter).filter((folder) => folder !== '')
  return folders.map((folder) => join(folder, program)).find(existsSync) ?? null
}

const textOf = (program: string, flags: string[]) => execFileSync(program, flags).toString()
