// node bench/payload-line.ts: what a payload costs MongoDB in the document of its job, and apart
// from it, by size. Sends the commands of a job's life in batches: insert, find candidates, claim,
// read, settle, delete. Against a mongod (MONGODB_URL), it also prints what WiredTiger wrote.
import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { type Collection, type Db, MongoClient } from 'mongodb'
import { databaseUrl, startMongo } from '../test/support/mongo.ts'

const SIZES_KIB = [1, 2, 4, 8, 16, 32, 64, 100]
const BATCH = 100
/** Small sizes need more jobs, or their difference is noise. */
const BYTES_PER_SAMPLE = 24 * 1_024 * 1_024
const MOST_BATCHES = 20
const SAMPLES = 5
const BY_ID = { hint: { _id: 1 } } as const
/** The other fields of a job, with an attempt: they are written again whatever the payload is. */
const OTHER_FIELDS = { metadata: '{}', text: 'x'.repeat(900) }
const TICKS_PER_SECOND = 100

interface Job {
  _id: string
  endpoint: string
  state: string
  runAt: number
  payload: Uint8Array | null
  leaseId?: string
  attempts: object[]
}

interface Body {
  _id: string
  bytes: Uint8Array
}

interface Stores {
  db: Db
  jobs: Collection<Job>
  bodies: Collection<Body>
}

type Place = 'in the job' | 'apart'

interface Used {
  cpuMs: number
  /** null: not a mongod. */
  cacheBytes: number | null
}

async function liveThrough({ jobs, bodies }: Stores, place: Place, size: number): Promise<void> {
  const ids = Array.from({ length: BATCH }, () => randomBytes(12).toString('hex'))
  const payloads = ids.map(() => randomBytes(size))
  const named = { _id: { $in: ids } }
  if (place === 'apart') {
    await bodies.insertMany(ids.map((_id, i) => ({ _id, bytes: payloads[i] as Buffer })))
  }
  await jobs.insertMany(
    ids.map((_id, i) => ({
      ...{ _id, endpoint: 'work', state: 'queued', runAt: i, attempts: [], ...OTHER_FIELDS },
      payload: place === 'apart' ? null : (payloads[i] as Buffer),
    })),
  )
  await jobs
    .find({ endpoint: 'work', state: 'queued' }, { projection: { endpoint: 1 }, limit: BATCH })
    .toArray()
  const leaseId = ids[0] as string
  await jobs.updateMany(named, { $set: { state: 'running', leaseId } }, BY_ID)
  await jobs.find(named, { projection: { attempts: 0 }, batchSize: BATCH + 1, ...BY_ID }).toArray()
  if (place === 'apart') await bodies.find(named, { batchSize: BATCH + 1, ...BY_ID }).toArray()
  const attempt = { number: 1, outcome: 'succeeded', workerId: 'worker-1' }
  await jobs.bulkWrite(
    ids.map((_id) => ({
      updateOne: {
        filter: { _id, leaseId },
        update: { $set: { state: 'succeeded' }, $push: { attempts: attempt } },
        ...BY_ID,
      },
    })),
    { ordered: false },
  )
  await jobs.deleteMany(named)
  if (place === 'apart') await bodies.deleteMany(named)
}

async function usedBy({ db }: Stores): Promise<Used> {
  const status = await db.admin().command({ serverStatus: 1 })
  const { user_time_us: user, system_time_us: system } = status.extra_info ?? {}
  const cacheBytes = status.wiredTiger?.cache?.['bytes written from cache'] ?? null
  const serverMs = user === undefined ? childrenMs() : (user + system) / 1_000
  const { user: ownUser, system: ownSystem } = process.cpuUsage()
  return { cpuMs: serverMs + (ownUser + ownSystem) / 1_000, cacheBytes }
}

/** The CPU of the processes that this one started: the stand-in is one. */
function childrenMs(): number {
  let ticks = 0
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
      if (Number(fields[1]) === process.pid) ticks += Number(fields[11]) + Number(fields[12])
    } catch {
      // It has ended since the folder was listed.
    }
  }
  return (ticks / TICKS_PER_SECOND) * 1_000
}

/** CPU of server and client for one job, in microseconds. */
async function measure(stores: Stores, place: Place, size: number) {
  const batches = Math.min(MOST_BATCHES, Math.ceil(BYTES_PER_SAMPLE / (size * BATCH)))
  const before = await usedBy(stores)
  for (let i = 0; i < batches; i++) await liveThrough(stores, place, size)
  const after = await usedBy(stores)
  const jobs = batches * BATCH
  const written =
    before.cacheBytes === null || after.cacheBytes === null
      ? null
      : (after.cacheBytes - before.cacheBytes) / jobs
  return { cpuUs: ((after.cpuMs - before.cpuMs) * 1_000) / jobs, written }
}

const median = (values: number[]) =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0

async function main(): Promise<void> {
  const server = await startMongo()
  const url = databaseUrl(server.url, `bench-${randomBytes(4).toString('hex')}`)
  const client = new MongoClient(url, { writeConcern: { w: 'majority' }, promoteBuffers: true })
  const db = client.db()
  const stores = { db, jobs: db.collection<Job>('jobs'), bodies: db.collection<Body>('bodies') }
  try {
    await stores.jobs.createIndex({ endpoint: 1, state: 1, runAt: 1 })
    await liveThrough(stores, 'apart', 1_024)
    console.log(`${server.engine}; CPU of server and client in µs a job, median of ${SAMPLES}`)
    console.log('KiB\tin the job\tapart\tWiredTiger wrote, in the job\tapart')
    for (const kib of SIZES_KIB) {
      const samples: Record<Place, Awaited<ReturnType<typeof measure>>[]> = {
        'in the job': [],
        apart: [],
      }
      for (let i = 0; i < SAMPLES; i++) {
        for (const place of ['in the job', 'apart'] as const) {
          samples[place].push(await measure(stores, place, kib * 1_024))
        }
      }
      const cells = (['in the job', 'apart'] as const).map((place) =>
        Math.round(median(samples[place].map(({ cpuUs }) => cpuUs))),
      )
      const written = (['in the job', 'apart'] as const).map((place) => {
        const bytes = samples[place].flatMap((one) => one.written ?? [])
        return bytes.length === 0 ? '–' : Math.round(median(bytes))
      })
      console.log([kib, ...cells, ...written].join('\t'))
    }
  } finally {
    await db.dropDatabase()
    await client.close()
    await server.stop()
  }
}

if (import.meta.main) await main()
