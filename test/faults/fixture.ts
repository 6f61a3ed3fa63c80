// The fixture of a round: real processes on a store of their own, a client, a receiver, and the log
// of all injected faults.

import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { RunningMongo } from '../support/mongo.ts'
import { freePort } from '../support/mongo-server.ts'
import { type Process, runPosthorn } from '../support/process.ts'
import { until } from '../support/until.ts'
import {
  type EndpointFacts,
  type Engine,
  type FaultKind,
  type History,
  nowMs,
  type RunSettings,
} from './history.ts'
import { readGroups, readRecords } from './records.ts'
import { createSeededRandom, type SeededRandom } from './seeded-random.ts'
import {
  mongoFixture,
  replicaSetFixture,
  type StoreFixture,
  sqliteFixture,
} from './store-fixture.ts'
import { createWorkClient, type WorkClient } from './work-client.ts'
import { startWorkReceiver, type WorkReceiver } from './work-receiver.ts'

export interface FixtureSettings extends RunSettings {
  engine: Engine
  seed: number
  /** Further environment variables of each process. */
  env?: Record<string, string>
  endpoint?: Partial<EndpointFacts>
  /** SQLite only: the store is on a small file system of its own. */
  isSmallDisk?: boolean
  /** MongoDB only: the server is a replica set that has elections. */
  isReplicaSet?: boolean
}

/** A process of the run, with its name in the log of faults. */
export interface Member {
  name: string
  process: Process
  /** A metric of this worker, summed over its labels; 0 if it is missing. */
  metric(name: string): Promise<number>
}

export interface Fixture {
  engine: Engine
  random: SeededRandom
  settings: RunSettings
  store: StoreFixture
  client: WorkClient
  receiver: WorkReceiver
  /** The API that was started last. */
  api(): Member
  /** Starts the API, or restarts it at the same address. */
  startApi(env?: Record<string, string>): Promise<Member>
  /** Starts a worker with a name of its own. */
  startWorker(env?: Record<string, string>): Promise<Member>
  /** Creates an endpoint at the receiver, with the retry policy of the run. */
  register(name: string, settings?: object): Promise<void>
  /** Sends SIGKILL and logs it as a fault. */
  kill(member: Member): Promise<void>
  /** Sends SIGTERM and logs it as a fault; resolves with the exit code. */
  terminate(member: Member): Promise<number | null>
  /** Logs the fault for the duration of the work. */
  during<T>(kind: FaultKind, target: string, work: () => Promise<T>): Promise<T>
  /**
   * Counts how often a moment that the round needs has occurred. With 0 times the round tried to
   * meet it, but it did not occur.
   */
  hit(window: string, times?: number): void
  windows: Map<string, number>
  /** Records a measured figure of a promise, D1 to D19; the largest value of the run counts. */
  measure(promise: string, what: string, value: number): void
  figures: Map<string, number>
  /** Reports that a promise of this round itself was broken. */
  complain(message: string): void
  complaints: string[]
  /** Waits until no job is queued or running. */
  drained(deadlineMs?: number): Promise<void>
  /** Reads what is stored, and stops everything. */
  finish(): Promise<History>
  /** Stops everything at once. */
  close(): Promise<void>
}

const COUNT_EVERY_MS = 250
const DRAIN_DEADLINE_MS = 120_000
/** A text that is long enough not to occur in another text by chance. */
const canary = (what: string) => `canary-${what}-${randomBytes(18).toString('hex')}`

export async function openFixture(
  {
    engine,
    seed,
    env = {},
    endpoint = {},
    isSmallDisk,
    isReplicaSet,
    ...settings
  }: FixtureSettings,
  mongo: RunningMongo | null,
): Promise<Fixture> {
  const openMongo = isReplicaSet ? replicaSetFixture : mongoFixture
  const store = mongo === null ? sqliteFixture(isSmallDisk ?? false) : await openMongo(mongo)
  const receiver = await startWorkReceiver()
  const apiKey = canary('key')
  const headerValue = canary('header')
  const secrets = [apiKey, headerValue]
  const port = await freePort()
  const client = createWorkClient(`http://127.0.0.1:${port}`, apiKey)
  const members: Member[] = []
  const windows = new Map<string, number>()
  const figures = new Map<string, number>()
  const complaints: string[] = []
  const encryptionKey = randomBytes(32).toString('base64')
  secrets.push(encryptionKey)
  const common = {
    ENCRYPTION_KEY: encryptionKey,
    API_KEYS: apiKey,
    ALLOWED_TARGETS: '127.0.0.0/8',
    LEASE_DURATION: `${settings.leaseMs}ms`,
    SWEEP_INTERVAL: `${settings.sweepMs}ms`,
    POLL_INTERVAL: `${settings.pollMs}ms`,
    ...env,
  }
  const facts: EndpointFacts = {
    ...{ name: 'work', maxAttempts: 20, retryDelayMs: 200, jitter: 0.2 },
    ...endpoint,
  }
  const history: History = {
    ...{ engine, seed, settings, endpoints: [], deliveries: receiver.deliveries, faults: [] },
    ...{
      calls: client.calls,
      sightings: client.sightings,
      records: [],
      groups: [],
      texts: [],
      secrets,
    },
    epochOffsetMs: Date.now() - nowMs(),
  }

  async function start(name: string, command: string, ready: string, more: object) {
    const process = runPosthorn([command], { ...common, ...more })
    const metricsPort = (more as { WORKER_PORT?: string }).WORKER_PORT
    const member: Member = {
      name,
      process,
      metric: (metric) => readMetric(`http://127.0.0.1:${metricsPort}/metrics`, apiKey, metric),
    }
    members.push(member)
    await process.logged(ready)
    return member
  }

  async function during<T>(kind: FaultKind, target: string, work: () => Promise<T>): Promise<T> {
    const fault = { kind, target, beganAtMs: nowMs(), endedAtMs: Number.POSITIVE_INFINITY }
    history.faults.push(fault)
    try {
      return await work()
    } finally {
      fault.endedAtMs = nowMs()
    }
  }

  async function drained(deadlineMs = DRAIN_DEADLINE_MS): Promise<void> {
    let quietLooks = 0
    await until(async () => {
      const answers = await Promise.all(
        history.endpoints.map(({ name }) => client.request('GET', `/endpoints/${name}`)),
      )
      const isQuiet = answers.every(
        (answer) =>
          answer !== null &&
          (answer.status === 404 ||
            (answer.status === 200 &&
              answer.body.counts.queued + answer.body.counts.running === 0)),
      )
      quietLooks = isQuiet ? quietLooks + 1 : 0
      // The wait gives the workers the store, because counting a backlog takes time of the store.
      if (!isQuiet) await sleep(COUNT_EVERY_MS)
      // MongoDB counts the two states one after the other, so a job can change between them
      // unnoticed.
      return quietLooks === 2
    }, deadlineMs)
  }

  const fixture: Fixture = {
    ...{
      engine,
      random: createSeededRandom(seed),
      settings,
      store,
      client,
      receiver,
      during,
      drained,
    },
    ...{ windows, figures, complaints, close },
    api: () => members.findLast(({ name }) => name === 'api') as Member,
    startApi: (more = {}) =>
      start('api', 'api', 'api.listening', {
        ...{ STORE_URL: store.apiUrl, PORT: `${port}`, ...more },
      }),
    async startWorker(more = {}) {
      const name = `worker-${members.filter((one) => one.name !== 'api').length + 1}`
      const own = { WORKER_ID: name, WORKER_PORT: `${await freePort()}` }
      return start(name, 'worker', 'worker.started', {
        ...{ STORE_URL: store.workerUrl, ...own, ...more },
      })
    },
    async register(name, more = {}) {
      const { maxAttempts, retryDelayMs, jitter } = facts
      const delay = `${retryDelayMs}ms`
      const answer = await client.request('PUT', `/endpoints/${name}`, {
        url: `${receiver.url}/${name}`,
        retry: { maxAttempts, backoff: { type: 'fixed', delay, jitter } },
        circuitBreaker: null,
        headers: { authorization: headerValue },
        ...more,
      })
      if (answer?.status !== 201) {
        throw new Error(`${name} was not registered: ${JSON.stringify(answer)}`)
      }
      receiver.trust(name, answer.body.secret)
      secrets.push(answer.body.secret)
      // Only this response may contain the secret of the endpoint, so it is not kept.
      client.answers.length = 0
      if (!history.endpoints.some((one) => one.name === name)) {
        history.endpoints.push({ ...facts, name })
      }
    },
    kill: (member) =>
      during('kill', member.name, async () => {
        await member.process.stop('SIGKILL')
      }),
    terminate: (member) => during('terminate', member.name, () => member.process.stop()),
    hit(window, times = 1) {
      windows.set(window, (windows.get(window) ?? 0) + times)
    },
    measure(promise, what, value) {
      const name = `${promise} ${what}`
      figures.set(name, Math.max(figures.get(name) ?? 0, value))
    },
    complain(message) {
      complaints.push(message)
    },
    async finish() {
      history.records = await readRecords(client)
      history.groups = await readGroups(client)
      const metrics = await client.request('GET', '/metrics')
      await Promise.all(members.map(({ process }) => process.stop()))
      history.texts = [
        ...members.map(({ name, process }) => ({
          from: `log of ${name}`,
          text: process.log.map((line) => JSON.stringify(line)).join('\n') + process.stderr(),
        })),
        { from: 'answers', text: client.answers.join('\n') },
        { from: 'metrics', text: String(metrics?.body) },
        { from: 'store', text: await store.rawText() },
      ]
      await close()
      return history
    },
  }

  async function close(): Promise<void> {
    await Promise.all(members.map(({ process }) => process.stop('SIGKILL')))
    await client.close()
    await receiver.close()
    await store.remove()
  }

  try {
    await fixture.startApi()
    await fixture.register(facts.name)
    return fixture
  } catch (error) {
    await close()
    throw error
  }
}

export function doesUpkeep({ process: { log } }: Member): boolean {
  const last = log.findLast(({ msg }) => msg === 'upkeep.begun' || msg === 'upkeep.ended')
  return last?.msg === 'upkeep.begun'
}

/**
 * The number of requests that the worker has in progress. While it waits for them, it keeps the
 * outcomes of the others in memory.
 */
export async function requestsUnderWay(worker: Member): Promise<number> {
  const inHand = await worker.metric('posthorn_unstored_outcomes')
  return (await worker.metric('posthorn_attempts_in_flight')) - inHand
}

async function readMetric(url: string, key: string, metric: string): Promise<number> {
  const answer = await fetch(url, { headers: { authorization: `Bearer ${key}` } })
  const lines = (await answer.text()).split('\n')
  return lines
    .filter((line) => line.startsWith(`${metric} `) || line.startsWith(`${metric}{`))
    .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0)
}
