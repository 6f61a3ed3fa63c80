// posthorn start: runs one API, and one worker or several, as child processes, and restarts those
// that crash.
import { type ChildProcess, spawn } from 'node:child_process'
import { type Config, readConfig } from '../../src/config.ts'
import { VERSION } from '../../src/version.ts'
import { action } from '../command.ts'
import { loadEnvFile } from '../env-file.ts'
import { EXIT } from '../exit.ts'
import { wholeNumber } from '../input.ts'
import { printError } from '../output.ts'

const FIRST_RESTART_MS = 500
const MAX_RESTART_MS = 30_000
/** A process that ran this long before it crashed is restarted with the shortest delay again. */
const STEADY_MS = 60_000
const PARENT_CHECK_MS = 500
/** Each is a process of 100 to 200 MB under load. */
const MAX_WORKERS = 64

interface Child {
  /**
   * Resolves with the message of the child once it is up; rejects with its exit code if it ends
   * before.
   */
  up: Promise<Record<string, string>>
  stop(signal: NodeJS.Signals): void
  /** Resolves when it has ended and will not be restarted. */
  ended: Promise<void>
}

export const command = action({
  summary: 'Run an API and workers, restarted when they crash; reads .env',
  arguments: [],
  options: {
    workers: {
      type: 'string',
      value: 'N',
      help: `run N worker processes, 1 to ${MAX_WORKERS}; default 1`,
    },
  },
  details: `With several workers, WORKER_ID and WORKER_PORT apply like this: the workers are named
ID-1, ID-2 and so on; the first serves WORKER_PORT, and each further one the next port.`,
  examples: ['PORT=9000 posthorn start', 'PORT=9000 posthorn start --workers 2'],
  async run({ values }) {
    await start(wholeNumber('--workers', values.workers ?? '1', 1, MAX_WORKERS))
    return EXIT.done
  },
})

/** Runs until it is stopped or a child cannot start; ends the process with the right exit code. */
async function start(workerCount: number): Promise<void> {
  loadEnvFile()
  const config = readConfig(process.env)
  const workers = workerSettings(config, workerCount)
  // A worker that gets a wrong setting here would only say so after the API is up.
  for (const settings of workers) readConfig({ ...process.env, ...settings })
  const children: Child[] = []
  let isStopping = false
  const stopAll = (signal: NodeJS.Signals) => {
    isStopping = true
    for (const child of children) child.stop(signal)
  }
  const onSignal = () => stopAll(isStopping ? 'SIGKILL' : 'SIGTERM')
  process.on('SIGINT', onSignal)
  process.on('SIGTERM', onSignal)
  whenNpmIsGone(() => stopAll('SIGTERM'))

  const begin = (command: string, settings: Settings) => {
    const child = keepRunning(command, settings)
    children.push(child)
    return child.up
  }
  try {
    const { url } = await begin('api', {})
    if (!isStopping) await Promise.all(workers.map((settings) => begin('worker', settings)))
    if (!isStopping) printError(welcome(config, url as string))
  } catch (exitCode) {
    // A stop during the start is not a failure, nor is a second signal, which kills the children.
    const wasAsked = isStopping
    if (!wasAsked) stopAll('SIGTERM')
    await Promise.all(children.map((child) => child.ended))
    process.exit(wasAsked ? 0 : (exitCode as number))
  }
  await Promise.all(children.map((child) => child.ended))
  process.exit(0)
}

/**
 * `npm start` runs a shell that runs this process. A signal to npm ends the shell but not this
 * process, which would keep running unnoticed and keep the port.
 */
function whenNpmIsGone(stop: () => void): void {
  if (process.env.npm_lifecycle_event === undefined) return
  const parent = process.ppid
  const timer = setInterval(() => {
    if (process.ppid === parent) return
    clearInterval(timer)
    stop()
  }, PARENT_CHECK_MS)
  timer.unref()
}

/** Environment variables that a child gets in addition to those of this process. */
type Settings = Record<string, string>

/** Two workers can share neither an id nor a port. A port of 0 is another one each time. */
function workerSettings({ WORKER_ID: id, WORKER_PORT: port }: Config, count: number): Settings[] {
  if (count === 1) return [{}]
  return Array.from({ length: count }, (_, i) => ({
    ...(id === null ? {} : { WORKER_ID: `${id}-${i + 1}` }),
    ...(port === null || port === 0 ? {} : { WORKER_PORT: String(port + i) }),
  }))
}

function keepRunning(command: string, settings: Settings): Child {
  let current: ChildProcess
  let isStopping = false
  let restartMs = FIRST_RESTART_MS
  let restartTimer: NodeJS.Timeout | undefined
  const up = Promise.withResolvers<Record<string, string>>()
  const ended = Promise.withResolvers<void>()
  let wasUp = false

  function run(): void {
    const startedAtMs = performance.now()
    // The store existed: after a crash the API must not replace a missing store by an empty one.
    const words = wasUp && command === 'api' ? ['--existing-store'] : []
    current = spawnChild([command, ...words], settings)
    current.once('message', (message) => {
      wasUp = true
      up.resolve(message as Record<string, string>)
    })
    current.once('exit', (code, signal) => {
      if (isStopping || !wasUp) {
        // A process that failed has said why, but not one that the system killed.
        if (!isStopping && signal !== null) {
          printError(`posthorn ${command} was killed by ${signal} before it was ready; stopping`)
        }
        up.reject(code ?? 1)
        ended.resolve()
        return
      }
      if (performance.now() - startedAtMs > STEADY_MS) restartMs = FIRST_RESTART_MS
      printError(
        `posthorn ${command} ended (${signal ?? `exit code ${code}`}); starting it again in ${restartMs} ms`,
      )
      restartTimer = setTimeout(run, restartMs)
      restartMs = Math.min(restartMs * 2, MAX_RESTART_MS)
    })
  }

  run()
  return {
    up: up.promise,
    ended: ended.promise,
    stop(signal) {
      isStopping = true
      clearTimeout(restartTimer)
      if (current.exitCode === null && current.signalCode === null) current.kill(signal)
      else ended.resolve()
    },
  }
}

/** The child has a process group of its own: a Ctrl-C must reach it once, through this process. */
function spawnChild(words: string[], settings: Settings): ChildProcess {
  const script = process.argv[1] as string
  return spawn(process.execPath, [script, ...words], {
    env: { ...process.env, ...settings },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    detached: true,
  })
}

function welcome(config: Config, url: string): string {
  const access =
    config.API_KEYS === null
      ? 'local mode: no key is needed, only this machine can connect, and endpoints may be on this machine'
      : 'an API key is required; in these commands, $API_KEY stands for one of API_KEYS'
  const json = "-H 'content-type: application/json'"
  // The key itself must not be on a terminal.
  const key = config.API_KEYS === null ? '' : ' -H "Authorization: Bearer $API_KEY"'
  return `
Posthorn ${VERSION}

  API        ${url}
             ${access}
  Dashboard  ${url}/dashboard
  Store      ${withoutPassword(config.STORE_URL)}

Next, in another terminal, with your handler listening on port 3000:

  curl -X PUT ${url}/endpoints/hello${key} ${json} -d '{"url":"http://127.0.0.1:3000/"}'
  curl ${url}/jobs${key} ${json} -d '{"endpoint":"hello","payload":{"name":"World"}}'
`
}

function withoutPassword(storeUrl: string): string {
  return storeUrl.replace(/\/\/[^@/]*@/, '//***@')
}
