// Posthorn under measurement: processes started as a user starts them, and used only through the
// API.
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { ENDPOINT, JOB_BODY } from './load.ts'
import { type Child, cpuUsOf, nextMessage, startChild, stopChild } from './processes.ts'

const CLI = '../cli/posthorn.ts'
const MAX_BATCH = 1_000
/** Batch requests in flight: two, so that the API always has one. */
const BATCH_REQUESTS = 2
const LOOK_INTERVAL_MS = 10
/**
 * With MongoDB there is no key file. One key for the whole run, because all processes of a store
 * must have the same one.
 */
const ENCRYPTION_KEY = randomBytes(32).toString('base64')

export interface Posthorn {
  apiUrl: string
  api: Child
  workers: Child[]
  /** Starts another worker; resolves when it is up. */
  startWorker(): Promise<Child>
  /** Throws an error with the text of the response unless it is 2xx. */
  ask(method: string, path: string, body?: string): Promise<unknown>
  /** Creates an endpoint whose URL is the sink. */
  register(name: string, settings: object): Promise<void>
  /**
   * Enqueues jobs by POST /jobs/batch, 1,000 in a request.
   *
   * @param keyOf the fairness key of each; absent: they have none
   */
  enqueue(count: number, endpoint?: string, keyOf?: (index: number) => string): Promise<void>
  /** Resolves once no job of the endpoint is queued or running. */
  untilDone(endpoint?: string): Promise<void>
  /** CPU so far in microseconds: of the API, and of all workers together. */
  cpuUs(): { api: number; worker: number }
  /** Stops all processes; resolves with the number of store commands of each. */
  stop(): Promise<{ api: number; worker: number }>
}

interface Counted {
  counts: { queued: number; running: number }
}

export interface PosthornSettings {
  storeUrl: string
  /** Folder for the logs. */
  folder: string
  workers?: number
  env?: NodeJS.ProcessEnv
}

export async function startPosthorn(settings: PosthornSettings): Promise<Posthorn> {
  const { storeUrl, folder, workers: workerCount = 1 } = settings
  const env = {
    ...{ STORE_URL: storeUrl, PORT: '0', LOG_LEVEL: 'info', API_KEYS: '' },
    ...(storeUrl.startsWith('sqlite:') ? {} : { ENCRYPTION_KEY }),
    ...{ WORKER_CONCURRENCY: '100', ...settings.env },
  }
  let logs = 0
  const start = (command: string) => {
    logs += 1
    const logPath = join(folder, `${command}-${Date.now()}-${logs}.log`)
    return startChild(CLI, [command], { env, logPath })
  }
  const api = start('api')
  const apiUrl: string = (await nextMessage(api)).url
  const workers: Child[] = []

  async function ask(method: string, path: string, body?: string): Promise<unknown> {
    const response = await fetch(`${apiUrl}${path}`, {
      method,
      ...(body === undefined ? {} : { body, headers: { 'content-type': 'application/json' } }),
    })
    const text = await response.text()
    if (!response.ok) throw new Error(`${method} ${path} got ${response.status}: ${text}`)
    return text === '' ? null : JSON.parse(text)
  }

  async function startWorker(): Promise<Child> {
    const worker = start('worker')
    await nextMessage(worker)
    workers.push(worker)
    return worker
  }

  for (let i = 0; i < workerCount; i++) await startWorker()
  return {
    ...{ apiUrl, api, workers, ask, startWorker },
    async register(name, endpoint) {
      await ask('PUT', `/endpoints/${name}`, JSON.stringify(endpoint))
    },
    enqueue: (count, endpoint = ENDPOINT, keyOf) => enqueue(ask, count, endpoint, keyOf),
    async untilDone(endpoint = ENDPOINT) {
      for (;;) {
        const { counts } = (await ask('GET', `/endpoints/${endpoint}`)) as Counted
        if (counts.queued === 0 && counts.running === 0) return
        await sleep(LOOK_INTERVAL_MS)
      }
    },
    cpuUs: () => ({
      api: cpuUsOf(api),
      worker: workers.reduce((sum, worker) => sum + cpuUsOf(worker), 0),
    }),
    async stop() {
      const ended = await Promise.all(workers.map(stopChild))
      const { storeCommands = 0 } = await stopChild(api)
      return {
        api: storeCommands,
        worker: ended.reduce((sum, { storeCommands: count = 0 }) => sum + count, 0),
      }
    },
  }
}

async function enqueue(
  ask: Posthorn['ask'],
  count: number,
  endpoint: string,
  keyOf?: (index: number) => string,
): Promise<void> {
  const job = JOB_BODY.replace(`"${ENDPOINT}"`, JSON.stringify(endpoint))
  const jobOf = (index: number) =>
    keyOf === undefined ? job : `{"fairnessKey":${JSON.stringify(keyOf(index))},${job.slice(1)}`
  let left = count
  async function postUntilDone(): Promise<void> {
    while (left > 0) {
      const size = Math.min(MAX_BATCH, left)
      left -= size
      const jobs = Array.from({ length: size }, (_, i) => jobOf(left + i))
      await ask('POST', '/jobs/batch', `{"jobs":[${jobs.join(',')}]}`)
    }
  }
  await Promise.all(Array.from({ length: BATCH_REQUESTS }, postUntilDone))
}
