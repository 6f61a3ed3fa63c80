// The programs of docs/ that use a server, unchanged. They run behind a proxy that causes faults,
// in front of an API that is killed and started again.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { Posthorn } from '../../src/client/client.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import type { Process } from '../support/process.ts'
import { until } from '../support/until.ts'
import { type FaultyProxy, startFaultyProxy } from './faulty-proxy.ts'
import { type Installed, installClient } from './installed.ts'
import { clientExamples, exampleOf } from './printed-examples.ts'
import { newSecret } from './signed.ts'

/** Programs that end by themselves. */
export const ONE_SHOTS = ['register.ts', 'enqueue.ts', 'many.ts', 'schedule.ts', 'errors.ts']

interface Program {
  name: string
  child: ChildProcess
  printed(): string
}

/** A program that does jobs, and the payloads that its page allows. */
export interface Worker extends Program {
  endpoint: string
  payload: unknown
  /** A payload that makes its work throw; null: its work cannot throw. */
  poison: unknown
}

export interface Scene {
  /** A client that does not use the proxy. */
  posthorn: Posthorn
  proxy: FaultyProxy
  workers: Worker[]
  /** Kills the API and starts it again. */
  restart(): Promise<void>
  /** Runs one of ONE_SHOTS to its end. */
  run(name: string): Promise<{ code: number | null; printed: string }>
  close(): Promise<void>
}

const HAS_PYTHON = spawnSync('python3', ['--version']).status === 0
const SECRET = newSecret()
/** A message for which a report would be refused: too long, and with NUL. */
const POISON = `\0${'x'.repeat(5_000)}`

export async function setScene(): Promise<Scene> {
  const installed = installClient()
  for (const [name, text] of clientExamples()) installed.write(name, text)
  installed.write('async-work.mjs', exampleOf('async-work.md', 'js'))
  installed.write('pull-workers.py', exampleOf('pull-workers.md', 'python'))
  let deployment: Deployment | undefined
  const proxy = await startFaultyProxy(() => deployment?.url() ?? '')
  deployment = deploy('sqlite', { PUBLIC_URL: proxy.url })
  let api: Process = await deployment.startApi()
  await deployment.startWorker()
  const client = () => new Posthorn({ url: deployment.url() })
  const port = await freePort()
  const env = { HANDLER_URL: `http://127.0.0.1:${port}/`, PORT: String(port) }
  const scene = {
    posthorn: client(),
    proxy,
    workers: [] as Worker[],
    async restart() {
      await api.stop('SIGKILL')
      api = await deployment.startApi()
      scene.posthorn = client()
    },
    async run(name: string) {
      const program = start(installed, name, { ...env, POSTHORN_URL: proxy.url })
      const [code] = await once(program.child, 'close')
      return { code, printed: program.printed() }
    },
    async close() {
      for (const { child } of [...scene.workers, handler]) child.kill('SIGKILL')
      await proxy.close()
      await deployment.close()
      installed.remove()
    },
  }
  const handler = start(installed, 'handler.ts', env)
  scene.workers = await startWorkers(installed, scene.posthorn, proxy)
  return scene
}

async function startWorkers(
  installed: Installed,
  posthorn: Posthorn,
  proxy: FaultyProxy,
): Promise<Worker[]> {
  const pulled = async (name: string, endpoint: string, payload: unknown, poison: unknown) => {
    await posthorn.endpoints.put(endpoint, { url: null })
    return { ...start(installed, name, { POSTHORN_URL: proxy.url }), endpoint, payload, poison }
  }
  const sent = async (name: string, endpoint: string, payload: unknown, poison: unknown) => {
    const port = await freePort()
    const url = `http://127.0.0.1:${port}/`
    const completionTimeout = '10s'
    const settings = { url, completion: 'async', completionTimeout, secret: SECRET } as const
    // The handler may not listen yet.
    await posthorn.endpoints.put(endpoint, { ...settings, circuitBreaker: null })
    const env = { POSTHORN_URL: proxy.url, PORT: String(port) }
    return { ...start(installed, name, env), endpoint, payload, poison }
  }
  return [
    await pulled('pull-worker.ts', 'thumbnails', { image: 'a.png' }, { image: POISON }),
    ...(HAS_PYTHON ? [await pulled('pull-workers.py', 'render', { scene: 7 }, [])] : []),
    await sent('async-handler.ts', 'import', { rows: 3 }, null),
    await sent('async-work.mjs', 'excel-import', { rows: 3 }, null),
  ]
}

function start(installed: Installed, name: string, env: Record<string, string>): Program {
  const command = name.endsWith('.py') ? 'python3' : process.execPath
  const child = spawn(command, [join(installed.folder, name)], {
    env: { PATH: process.env.PATH as string, POSTHORN_SECRET: SECRET, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let printed = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      printed += chunk.toString()
    })
  }
  return { name, child, printed: () => printed }
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address() as { port: number }
  await new Promise((resolve) => probe.close(resolve))
  return port
}

/**
 * Failed attempts are retried at once and often: the tests only check that the job succeeds in the
 * end.
 */
const BACKOFF = { type: 'fixed', delay: '100ms' } as const
const MANY_ATTEMPTS = 100
/**
 * Enough attempts that one of them is reported. Many more would open the circuit of the endpoint.
 */
const POISON_ATTEMPTS = 8

export async function enqueue({ posthorn }: Scene, { endpoint, payload }: Worker): Promise<string> {
  const retry = { maxAttempts: MANY_ATTEMPTS, backoff: BACKOFF }
  return (await posthorn.enqueue({ endpoint, payload, retry })).id
}

export async function poison({ posthorn }: Scene, worker: Worker): Promise<string> {
  const { endpoint, poison: payload } = worker
  const retry = { maxAttempts: POISON_ATTEMPTS, backoff: BACKOFF }
  return (await posthorn.enqueue({ endpoint, payload, retry })).id
}

/** Waits until the job has succeeded. If it has not in time, throws the output of its program. */
export async function succeeded(
  scene: Scene,
  worker: Worker,
  id: string,
  deadlineMs: number,
): Promise<void> {
  const isDone = async () => (await scene.posthorn.get(id)).state === 'succeeded'
  await until(isDone, deadlineMs).catch(async () => {
    const job = JSON.stringify(await scene.posthorn.get(id))
    throw new Error(`${worker.name} has not done ${job}; it printed ${worker.printed()}`)
  })
}

/** Waits until an attempt of the job was reported as failed. Returns the message. */
export async function failedMessage(scene: Scene, worker: Worker, id: string, deadlineMs: number) {
  const failure = async () =>
    (await scene.posthorn.get(id)).attempts.find(({ outcome }) => outcome === 'failed')?.message
  await until(async () => (await failure()) !== undefined, deadlineMs).catch(() => {
    throw new Error(`${worker.name} has not reported a failure; it printed ${worker.printed()}`)
  })
  return (await failure()) ?? ''
}
