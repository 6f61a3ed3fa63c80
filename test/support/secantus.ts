// Runs secantusd-rs, the MongoDB-compatible server for machines that cannot download mongod.
// It can be killed and started again on the same data, which is what the tests of faults need.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'

const CRATE = 'secantus-mdb'
const CRATE_VERSION = '0.5.3-beta.196'
/** Above this, Linux hands out ports to clients: a probe for the port can connect to itself. */
const FIRST_EPHEMERAL_PORT = 32_768
const LOWEST_PORT = 20_000
/** Another process may take a port between the look and the start. */
const MAX_PORT_TRIES = 5
/** A start takes 0.1 s, or some seconds when it recovers data on a busy machine. */
const START_DEADLINE_MS = 20_000
const STOP_DEADLINE_MS = 5_000

export interface Secantus {
  url: string
  port: number
  dataDir: string
  /** SIGKILL, as a crash would end it; the data stays. */
  kill(): Promise<void>
  /** Starts it again on the same port and data. */
  restart(): Promise<void>
  /** Ends it and removes its data. */
  stop(): Promise<void>
}

/** Starts the server on a free port and an empty folder, or on those given. */
export async function startSecantus(
  options: { port?: number; dataDir?: string; standalone?: boolean; auth?: boolean } = {},
): Promise<Secantus> {
  const binary = await secantusBinary()
  const dataDir = options.dataDir ?? (await mkdtemp(join(tmpdir(), 'posthorn-mongo-')))
  const flags = ['--storage-path', dataDir]
  if (options.standalone) flags.push('--standalone')
  if (options.auth) flags.push('--auth')
  let { child, port } = await spawnOnFreePort(binary, flags, options.port)
  const query = options.standalone ? '' : '?replicaSet=secantus'
  return {
    url: `mongodb://127.0.0.1:${port}/${query}`,
    port,
    dataDir,
    kill: () => end(child, 'SIGKILL'),
    async restart() {
      await end(child, 'SIGKILL')
      child = await spawnServer(binary, flags, port)
    },
    async stop() {
      await end(child, 'SIGTERM')
      await rm(dataDir, { recursive: true, force: true })
    },
  }
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

async function spawnOnFreePort(binary: string, flags: string[], wanted: number | undefined) {
  for (let tries = 1; ; tries++) {
    const port = wanted ?? (await freePort())
    try {
      return { child: await spawnServer(binary, flags, port), port }
    } catch (error) {
      if (wanted !== undefined || tries === MAX_PORT_TRIES) throw error
    }
  }
}

async function spawnServer(binary: string, flags: string[], port: number): Promise<ChildProcess> {
  const child = spawn(
    binary,
    // Without --sync-on-commit an acknowledged write dies with the process.
    ['--port', `${port}`, ...flags, '--sync-on-commit', '--log-level', 'ERROR']
      // The defaults take 4 GB of memory and 128 MB of disk for an empty store.
      .concat(['--cache-size', '256M', '--log-file-max', '16MB']),
    // In its own folder: a secantusd.toml found in ours would overrule the flags.
    { cwd: tmpdir(), stdio: ['ignore', 'pipe', 'pipe'] },
  )
  const killWithUs = () => child.kill('SIGKILL')
  process.once('exit', killWithUs)
  child.once('exit', () => process.off('exit', killWithUs))
  try {
    await listening(child)
  } catch (error) {
    await end(child, 'SIGKILL')
    throw error
  }
  // What it prints later is of no use, but a full pipe would stop it.
  child.stdout?.resume()
  child.stderr?.resume()
  return child
}

function listening(child: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => {
    let printed = ''
    const timer = setTimeout(() => {
      reject(new Error(`secantusd-rs did not listen within ${START_DEADLINE_MS} ms: ${printed}`))
    }, START_DEADLINE_MS)
    const look = (chunk: Buffer) => {
      printed = (printed + chunk).slice(-4096)
      if (!printed.includes('listening on')) return
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
      reject(new Error(`secantusd-rs ended at its start (${code ?? signal}): ${printed}`))
    })
  })
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  child.kill(signal)
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_DEADLINE_MS)
  await exited
  clearTimeout(timer)
}

/** Where the server's program is; built on first use. Throws a sentence when it cannot be built. */
async function secantusBinary(): Promise<string> {
  const cache = process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache')
  const root = join(cache, 'posthorn', `${CRATE}-${CRATE_VERSION}`)
  const binary = join(root, 'bin', 'secantusd-rs')
  if (existsSync(binary)) return binary
  process.stderr.write(`building ${CRATE} ${CRATE_VERSION} once, with cargo: it takes minutes\n`)
  const child = spawn(
    'cargo',
    ['install', CRATE, '--version', CRATE_VERSION, '--ignore-rust-version', '--locked'].concat([
      '--root',
      root,
    ]),
    // What cargo prints goes to stderr: stdout has the URL alone.
    { stdio: ['ignore', 2, 2] },
  )
  const code = await new Promise<number | string>((resolve) => {
    child.once('error', (error) => resolve(error.message))
    child.once('exit', (exitCode, signal) => resolve(exitCode ?? signal ?? 'unknown'))
  })
  if (code !== 0 || !existsSync(binary)) {
    throw new Error(`cargo install ${CRATE} failed (${code}); it needs cargo, a C compiler, cmake`)
  }
  return binary
}
