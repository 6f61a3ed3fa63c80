// The promise of health and metrics: within ten seconds, probes and Prometheus see what clients
// see, on the API and on the worker, under load. Neither reports a problem that does not exist.
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  renameSync,
  rmSync,
  statfsSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest'
import { UNAVAILABLE, type UnavailableKind } from '../../src/store/store-errors.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { type Engine, RUN_LONG } from '../support/engines.ts'
import { databaseUrl } from '../support/mongo.ts'
import { type MongoProxy, startMongoProxy } from '../support/mongo-proxy.ts'
import type { Process } from '../support/process.ts'
import { dropDatabase } from '../support/raw-store.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'

const SENDERS = 2
const PAUSE_MS = 100
/** Ten seconds are promised. A busy machine may add some. */
const SHOWN_WITHIN_MS = 25_000
/** How many looks in a row must show the same. */
const LOOKS = 2
const PROBE_DEADLINE_MS = 4_000
const TEST_DEADLINE_MS = 120_000

/** null: there is no response, or the response has no such figure. */
interface Signals {
  enqueue: number | null
  apiReady: number | null
  workerReady: number | null
  apiLive: number | null
  workerLive: number | null
  storeUp: number | null
  liveWorkers: number | null
}

const WELL: Signals = {
  ...{ enqueue: 201, apiReady: 200, workerReady: 200, apiLive: 200, workerLive: 200 },
  ...{ storeUp: 1, liveWorkers: 1 },
}
/**
 * The processes are live, because a restart would not help. The metrics show no content of the
 * store.
 */
const AWAY: Signals = {
  ...{ enqueue: 503, apiReady: 503, workerReady: 503, apiLive: 200, workerLive: 200 },
  ...{ storeUp: 0, liveWorkers: null },
}
const FROZEN: Signals = { ...WELL, workerReady: null, workerLive: null, liveWorkers: 0 }

let posthorn: Deployment
let receiver: Receiver
let api: Process
let worker: Process
let workerUrl: string
let load: ReturnType<typeof keepEnqueueing>
let payload = 'x'

async function start(engine: Engine, storeUrl: string): Promise<void> {
  posthorn = deploy(engine, { STORE_URL: storeUrl })
  receiver = await startReceiver()
  api = await posthorn.startApi()
  worker = await posthorn.startWorker({ WORKER_PORT: '0' })
  workerUrl = (await worker.logged('worker_port.listening')).url as string
  expect((await posthorn.endpoint('work', receiver.url)).status).toBe(201)
  load = keepEnqueueing()
}

async function stop(): Promise<void> {
  await load.stop()
  await posthorn.close()
  await receiver.close()
}

const post = () => posthorn.request('POST', '/jobs', { endpoint: 'work', payload })

function keepEnqueueing() {
  const statuses: number[] = []
  let isStopping = false
  const senders = Array.from({ length: SENDERS }, async () => {
    while (!isStopping) {
      statuses.push((await post()).status)
      await sleep(PAUSE_MS)
    }
  })
  return {
    /** The statuses of all responses since the last call. */
    statuses: () => [...new Set(statuses.splice(0))],
    async stop() {
      isStopping = true
      await Promise.all(senders)
    },
  }
}

interface Reply {
  status: number | null
  text: string
}

async function ask(url: string): Promise<Reply> {
  try {
    const answer = await fetch(url, { signal: AbortSignal.timeout(PROBE_DEADLINE_MS) })
    return { status: answer.status, text: await answer.text() }
  } catch {
    return { status: null, text: '' }
  }
}

/** Requests everything that probes and Prometheus request, at the same time. */
async function look(): Promise<Signals> {
  const url = posthorn.url()
  const [enqueued, apiReady, workerReady, apiLive, workerLive, metrics] = await Promise.all([
    post(),
    ask(`${url}/health/ready`),
    ask(`${workerUrl}/health/ready`),
    ask(`${url}/health/live`),
    ask(`${workerUrl}/health/live`),
    ask(`${url}/metrics`),
  ])
  const figure = (name: string) => {
    const [, value] = new RegExp(`^${name}\\{process="api"\\} (.*)$`, 'm').exec(metrics.text) ?? []
    return value === undefined ? null : Number(value)
  }
  return {
    ...{ enqueue: enqueued.status, apiReady: apiReady.status, workerReady: workerReady.status },
    ...{ apiLive: apiLive.status, workerLive: workerLive.status },
    storeUp: figure('posthorn_store_up'),
    liveWorkers: figure('posthorn_live_workers'),
  }
}

/**
 * Expects that these signals come in time, and that from then on every response to every client
 * agrees with them.
 */
async function expectSignals(expected: Signals): Promise<void> {
  const seen: string[] = []
  try {
    await until(async () => {
      const found = JSON.stringify(await look())
      if (seen.at(-1) !== found) seen.push(found)
      return found === JSON.stringify(expected)
    }, SHOWN_WITHIN_MS)
  } catch (error) {
    const wanted = JSON.stringify(expected)
    throw new Error(`expected ${wanted}, and saw\n${seen.join('\n')}`, { cause: error })
  }
  load.statuses()
  const looks: Signals[] = []
  for (let i = 0; i < LOOKS; i++) looks.push(await look())
  expect(looks).toEqual(Array(LOOKS).fill(expected))
  expect(load.statuses().filter((status) => status !== expected.enqueue)).toEqual([])
}

interface Trouble {
  name: string
  /** The case runs only in npm run test:long. */
  isLong?: boolean
  begin(): unknown
  /** Ends the fault; absent: it cannot be ended. */
  end?(): unknown
  shows: Signals
  /** The kind of problem that readiness shows while the store is away. */
  kind?: UnavailableKind
}

async function play(
  { begin, end, shows, kind, isLong = false }: Trouble,
  { skip }: { skip: (condition: boolean, note: string) => void },
): Promise<void> {
  skip(isLong && !RUN_LONG, 'npm run test:long')
  await expectSignals(WELL)
  try {
    await begin()
    await expectSignals(shows)
    if (kind !== undefined) await expectNamed(kind)
  } finally {
    await end?.()
  }
  if (end !== undefined) await expectSignals(WELL)
}

async function expectNamed(kind: UnavailableKind): Promise<void> {
  const store = UNAVAILABLE[kind]
  const { body } = await post()
  expect(body).toMatchObject({ status: 503, code: 'store_unavailable' })
  expect(body.detail).toMatch(new RegExp(`^the store ${store}; `))
  for (const url of [posthorn.url(), workerUrl]) {
    const { text } = await ask(`${url}/health/ready`)
    expect(JSON.parse(text).checks.store).toBe(store)
  }
}

const FREEZE: Trouble = {
  name: 'its worker is frozen',
  isLong: true,
  async begin() {
    // A worker that is stopped in the middle of a write would hold the lock of a file, which is
    // another fault.
    await until(async () => {
      worker.kill('SIGSTOP')
      const { status } = await post()
      if (status !== 201) worker.kill('SIGCONT')
      return status === 201
    })
  },
  end: () => worker.kill('SIGCONT'),
  shows: FROZEN,
}

/** Mounts a disk of its own, which can be full or read-only. This needs root and a loop device. */
function mountDisk(folder: string): boolean {
  const image = join(folder, 'image')
  const options = ['-o', 'loop,errors=remount-ro', image, join(folder, 'disk')]
  try {
    execFileSync('truncate', ['-s', '64M', image])
    execFileSync('mkfs.ext4', ['-q', image], { stdio: 'ignore' })
    execFileSync('mount', options, { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

describe('on a SQLite file', () => {
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-health-'))
  const disk = join(folder, 'disk')
  const path = join(disk, 'data/posthorn.db')
  const filler = join(disk, 'filler')
  let writer: DatabaseSync | null = null
  let isMounted = false

  beforeAll(async () => {
    mkdirSync(disk)
    isMounted = mountDisk(folder)
    await start('sqlite', `sqlite:${path}`)
  })
  afterAll(async () => {
    await stop()
    if (isMounted) execFileSync('umount', ['-l', disk])
    rmSync(folder, { recursive: true, force: true })
  })

  /** Limits the size of files: writes of this process beyond it fail. */
  const limitFiles = (one: Process, bytes: string) =>
    execFileSync('prlimit', [`--fsize=${bytes}:`, '--pid', String(one.child.pid)])

  const troubles: Trouble[] = [
    {
      name: 'another program holds its lock',
      isLong: true,
      begin() {
        writer = new DatabaseSync(path, { timeout: 15_000 })
        writer.exec('begin immediate')
      },
      end: () => writer?.close(),
      shows: AWAY,
      kind: 'locked',
    },
    FREEZE,
    {
      name: 'its folder is moved away',
      begin: () => renameSync(join(disk, 'data'), join(disk, 'aside')),
      end: () => renameSync(join(disk, 'aside'), join(disk, 'data')),
      shows: AWAY,
      kind: 'removed',
    },
    {
      name: 'its disk reports errors to the API alone',
      begin: () => limitFiles(api, '4096'),
      end: () => limitFiles(api, 'unlimited'),
      shows: { ...AWAY, workerReady: 200 },
    },
    {
      name: 'its disk reports errors to the worker alone',
      isLong: true,
      begin: () => limitFiles(worker, '4096'),
      end: () => limitFiles(worker, 'unlimited'),
      shows: { ...WELL, workerReady: 503, liveWorkers: 0 },
    },
  ]
  const troublesOfDisk: Trouble[] = [
    {
      name: 'its disk is full',
      begin() {
        const { bavail, bsize } = statfsSync(disk)
        writeFileSync(filler, Buffer.alloc(bavail * bsize))
        payload = 'x'.repeat(50_000)
      },
      end() {
        rmSync(filler)
        payload = 'x'
      },
      shows: AWAY,
      kind: 'full',
    },
    {
      // Linux does the same after an error of the disk, while open files are being written.
      name: 'its disk becomes read-only',
      begin() {
        const device = execFileSync('findmnt', ['-no', 'SOURCE', disk], { encoding: 'utf8' })
        writeFileSync(`/sys/fs/ext4/${basename(device.trim())}/trigger_fs_error`, '1')
      },
      shows: AWAY,
      kind: 'read_only',
    },
  ]
  it.for(troubles)('$name', { timeout: TEST_DEADLINE_MS }, play)
  it.for(troublesOfDisk)('$name', { timeout: TEST_DEADLINE_MS }, async (trouble, context) => {
    context.skip(!isMounted, 'to mount a disk takes root')
    await play(trouble, context)
  })
})

describe('on a damaged SQLite file', () => {
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-health-'))
  const path = join(folder, 'posthorn.db')
  beforeAll(() => start('sqlite', `sqlite:${path}`))
  afterAll(async () => {
    await stop()
    rmSync(folder, { recursive: true, force: true })
  })

  /** Damages the first page of the jobs. The page that a health check writes stays undamaged. */
  async function damageJobs(): Promise<void> {
    const db = new DatabaseSync(path, { timeout: 15_000 })
    const named = "select rootpage from sqlite_schema where name = 'jobs'"
    const { rootpage } = db.prepare(named).get() as { rootpage: number }
    const { page_size: size } = db.prepare('pragma page_size').get() as { page_size: number }
    // After this checkpoint no page is read from the log instead.
    const checkpoint = db.prepare('pragma wal_checkpoint(truncate)')
    await until(() => checkpoint.get()?.busy === 0)
    db.close()
    const file = openSync(path, 'r+')
    writeSync(file, randomBytes(size), 0, size, (rootpage - 1) * size)
    closeSync(file)
  }

  it('is not ready before the first enqueue', { timeout: TEST_DEADLINE_MS }, async () => {
    await expectSignals(WELL)
    await load.stop()
    // A later write would replace the damaged page, so all writes must be over.
    for (const state of ['queued', 'running']) {
      const query = `/jobs?endpoint=work&state=${state}&limit=1`
      await until(async () => (await posthorn.request('GET', query)).body.items.length === 0)
    }
    await damageJobs()
    for (const url of [posthorn.url(), workerUrl]) {
      await until(async () => (await ask(`${url}/health/ready`)).status === 503)
    }
    const { text } = await ask(`${posthorn.url()}/metrics`)
    expect(text).toMatch(/^posthorn_store_up\{process="api"\} 0$/m)
    await expectSignals(AWAY)
    await expectNamed('damaged')
  })
})

describe('on MongoDB', () => {
  let direct: string
  let proxy: MongoProxy
  beforeAll(async () => {
    direct = databaseUrl(inject('mongoUrl'), `test-${randomBytes(6).toString('hex')}`)
    proxy = await startMongoProxy(direct)
    await start('mongo', proxy.url)
  })
  afterAll(async () => {
    await stop()
    await proxy.stop()
    await dropDatabase(direct)
  })

  const end = () => proxy.restore()
  const refuse = (code: number, codeName: string) => () =>
    proxy.refuseWrites({ code, codeName, errmsg: codeName })
  const troubles: Trouble[] = [
    {
      name: 'it answers nothing',
      isLong: true,
      begin: () => proxy.stall(),
      ...{ end, shows: AWAY, kind: 'no_answer' },
    },
    {
      name: 'it is no primary any more',
      isLong: true,
      begin: refuse(10_107, 'NotWritablePrimary'),
      ...{ end, shows: AWAY, kind: 'no_answer' },
    },
    {
      name: 'its disk is full',
      begin: refuse(14_031, 'OutOfDiskSpace'),
      ...{ end, shows: AWAY, kind: 'full' },
    },
    {
      name: 'its database is dropped',
      begin: () => dropDatabase(direct),
      ...{ shows: AWAY, kind: 'removed' },
    },
  ]
  it.for(troubles)('$name', { timeout: TEST_DEADLINE_MS }, play)
})
