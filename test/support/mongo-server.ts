// A MongoDB server of the tests as a process. It starts on a free port and an empty folder. Tests
// of faults kill it, and start it again on the same data.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, statfs } from 'node:fs/promises'
import { createServer } from 'node:net'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'

/**
 * Above this port, Linux assigns ports to clients: a connection to such a port can connect to
 * itself.
 */
const FIRST_EPHEMERAL_PORT = 32_768
const LOWEST_PORT = 20_000
/** Another process may take a port between the check and the start. */
const MAX_PORT_TRIES = 5
/** A start takes 0.1 s, or some seconds when it recovers data on a busy machine. */
const START_DEADLINE_MS = 20_000

export interface MongoServerOptions {
  /** The server runs alone, outside of any replica set. */
  standalone?: boolean
  /** The server requires authentication, and has no users yet. */
  auth?: boolean
  /** The data is in memory if the machine has a file system there with enough room. */
  inMemory?: boolean
}

/** A file system in memory, on Linux. */
const MEMORY = '/dev/shm'
/** A run of all tests takes half of it. */
const LEAST_MEMORY_BYTES = 2 * 2 ** 30

/** How to run one of the servers. */
export interface MongoProgram {
  binary: string
  flags(dataDir: string, port: number): string[]
  /** A text that the server prints once it listens. */
  listens: string
  /** The query of its URL. */
  query: string
  /** Resolves once the server accepts writes. */
  ready?: ((port: number) => Promise<void>) | undefined
}

export interface MongoServer {
  url: string
  /** Sends SIGKILL, which acts like a crash; the data stays. */
  kill(): Promise<void>
  /** Starts the server again on the same port and data. */
  restart(): Promise<void>
  /** Ends the server and removes its data. */
  stop(): Promise<void>
}

/** Starts the program on a free port and an empty folder. */
export async function startMongoServer(
  prepare: (dataDir: string) => Promise<MongoProgram>,
  { inMemory = false }: MongoServerOptions = {},
): Promise<MongoServer> {
  const parent = inMemory && (await hasMemory()) ? MEMORY : tmpdir()
  const dataDir = await mkdtemp(join(parent, 'posthorn-mongo-'))
  const program = await prepare(dataDir)
  const start = (port: number) => spawnServer(program, dataDir, port)
  let { child, port } = await startOnFreePort(start)
  const server: MongoServer = {
    url: `mongodb://127.0.0.1:${port}/${program.query}`,
    kill: () => kill(child),
    async restart() {
      await kill(child)
      child = await start(port)
      await program.ready?.(port)
    },
    async stop() {
      await kill(child)
      await rm(dataDir, { recursive: true, force: true })
    },
  }
  try {
    await program.ready?.(port)
  } catch (error) {
    await server.stop()
    throw error
  }
  return server
}

async function hasMemory(): Promise<boolean> {
  try {
    const { bavail, bsize } = await statfs(MEMORY)
    return bavail * bsize >= LEAST_MEMORY_BYTES
  } catch {
    // The machine has no such file system.
    return false
  }
}

/** The folder of a program that the tests install. Later runs use it again. */
export function cacheFolder(name: string): string {
  const cache = process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache')
  return join(cache, 'posthorn', name)
}

/** Runs a program that installs another one. Resolves with why it failed, or null. */
export async function runInstaller(program: string, args: string[]): Promise<string | null> {
  // Its output goes to stderr, because stdout contains only the URL.
  const child = spawn(program, args, { stdio: ['ignore', 2, 2] })
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message))
    child.once('exit', (code, signal) => resolve(code === 0 ? null : `${code ?? signal}`))
  })
}

/** A port that nothing listens on now, below those that the system gives to clients. */
export async function freePort(): Promise<number> {
  for (let i = 0; i < 100; i++) {
    const port = LOWEST_PORT + Math.floor(Math.random() * (FIRST_EPHEMERAL_PORT - LOWEST_PORT))
    if (await isFree(port)) return port
  }
  throw new Error(`no free port found between ${LOWEST_PORT} and ${FIRST_EPHEMERAL_PORT}`)
}

async function isFree(port: number): Promise<boolean> {
  const probe = createServer()
  const free = await new Promise<boolean>((resolve) => {
    probe.once('error', () => resolve(false))
    probe.listen(port, '127.0.0.1', () => resolve(true))
  })
  if (free) await new Promise((resolve) => probe.close(resolve))
  return free
}

async function startOnFreePort(start: (port: number) => Promise<ChildProcess>) {
  for (let tries = 1; ; tries++) {
    const port = await freePort()
    try {
      return { child: await start(port), port }
    } catch (error) {
      if (tries === MAX_PORT_TRIES) throw error
    }
  }
}

async function spawnServer(
  { binary, flags, listens }: MongoProgram,
  dataDir: string,
  port: number,
): Promise<ChildProcess> {
  // The server runs in its own folder: a configuration file in ours would override the flags.
  const child = spawn(binary, flags(dataDir, port), {
    cwd: tmpdir(),
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const killWithUs = () => child.kill('SIGKILL')
  process.once('exit', killWithUs)
  child.once('exit', () => process.off('exit', killWithUs))
  try {
    await printed(child, listens)
  } catch (error) {
    await kill(child)
    throw error
  }
  // Later output is not used, but a full pipe would stop the server.
  child.stdout?.resume()
  child.stderr?.resume()
  return child
}

function printed(child: ChildProcess, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    let output = ''
    const timer = setTimeout(() => {
      reject(new Error(`it did not listen within ${START_DEADLINE_MS} ms: ${output}`))
    }, START_DEADLINE_MS)
    const look = (chunk: Buffer) => {
      output += chunk
      const isThere = output.includes(text)
      output = output.slice(-4096)
      if (!isThere) return
      clearTimeout(timer)
      child.stdout?.off('data', look)
      child.stderr?.off('data', look)
      resolve()
    }
    child.stdout?.on('data', look)
    child.stderr?.on('data', look)
    child.once('error', (error) => {
      clearTimeout(timer)
      reject(error)
    })
    child.once('exit', (code, signal) => {
      clearTimeout(timer)
      reject(new Error(`it ended at its start (${code ?? signal}): ${output}`))
    })
  })
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  child.kill('SIGKILL')
  await exited
}
