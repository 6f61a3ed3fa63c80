// Row keys: what fairness keys cost a claim and an enqueue. Stores side by side in this process,
// used in turns through the port.
import { statSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import { MongoClient } from 'mongodb'
import type { Store } from '../../src/store/store.ts'
import { compare, type Sample, type Side, type Terms } from '../compare.ts'
import type { Bench, Result, Row, StoreEngine } from '../row.ts'
import { addEndpoints, claimAndSettle, enqueueWith, openForLoad } from '../store-load.ts'
import { openStore } from '../stores.ts'

const KEYS = { sqlite: 100_000, mongo: 2_000 }
/** So that a claim finds further jobs of a key that it has just served. */
const JOBS_PER_KEY = 4
const CLAIM_SIZE = 100
/** Independent of the scale: a claim must find as many jobs as it asks for. */
const LEAST_KEYS = 2 * CLAIM_SIZE
const CLAIMS_PER_SAMPLE = { sqlite: 100, mongo: 10 }
const LEAST_CLAIMS = 10
/** A figure that is counted is the same each time. The first pair is dropped. */
const PAIRS_OF_COUNTS = 2
/** sqlite.org/fileformat.html, "WAL File Format". */
const LOG_HEADER_BYTES = 32
const PAGE_BYTES = 4_096
const FRAME_BYTES = 24 + PAGE_BYTES

/** Of the keys that all have a backlog. */
const FEW_KEYS = 5
/** A prime: its multiples reach every key, in no order. */
const STEP = 48_271

type KeyOf = (index: number) => string | null

interface Loaded {
  name: string
  store: Store
  storeName: string
  endpoints: string[]
  /** The keys of the next jobs. */
  keyOf: KeyOf
  enqueued: number
  counter: Counter
}

/** Counts what claims read or write, where the store tells it. */
interface Counter {
  unit: string
  begin(): Promise<void>
  /** Since begin. */
  count(): Promise<number>
  close(): Promise<void>
}

export const keysRow: Row = {
  name: 'keys',
  title: 'cost of claims and enqueues with many fairness keys, with one and with none',
  async play(bench) {
    const results: Result[] = []
    for (const engine of bench.stores) results.push(...(await playOn(bench, engine)))
    return results
  },
}

async function playOn(bench: Bench, engine: StoreEngine): Promise<Result[]> {
  const keyCount = Math.max(LEAST_KEYS, Math.ceil(KEYS[engine] * bench.scale))
  const jobs = keyCount * JOBS_PER_KEY
  const one = await load(bench, engine, `1 key`, jobs, () => 'key')
  const none = await load(bench, engine, 'no key, and never one', jobs, () => null)
  const results: Result[] = []
  const cases: { name: string; keyOf: KeyOf; mostCpu: number }[] = [
    { name: `${keyCount} keys, mixed`, keyOf: (i) => `key ${i % keyCount}`, mostCpu: 1.3 },
    {
      name: `${keyCount} keys, each in a block`,
      keyOf: (i) => `key ${Math.floor(i / JOBS_PER_KEY) % keyCount}`,
      mostCpu: 2.2,
    },
  ]
  for (const { name, keyOf, mostCpu } of cases) {
    const many = await load(bench, engine, name, jobs, keyOf)
    results.push(...(await compareClaims(bench, engine, many, one, mostCpu, 1.3)))
    await close(many)
  }
  const enqueued: { name: string; keyOf: KeyOf; mostCpu: number | null }[] = [
    { name: `${keyCount} keys`, keyOf: (i) => `key ${i % keyCount}`, mostCpu: 1.2 },
    { name: `${FEW_KEYS} keys`, keyOf: (i) => `key ${i % FEW_KEYS}`, mostCpu: 1.2 },
    { name: 'a new key each', keyOf: (i) => `key ${i}`, mostCpu: 1.2 },
    {
      name: `${keyCount} keys in no order`,
      keyOf: (i) => `key ${(i * STEP) % keyCount}`,
      mostCpu: null,
    },
  ]
  for (const { name, keyOf, mostCpu } of enqueued) {
    const keyed = await load(bench, engine, name, jobs, keyOf)
    results.push(await compareEnqueues(bench, engine, keyed, none, mostCpu))
    await close(keyed)
  }
  const once = await load(bench, engine, 'no key, at an endpoint that had one', jobs, () => null)
  await serveOneKey(once)
  results.push(...(await compareClaims(bench, engine, once, none, 1.05, 1.05)))
  for (const loaded of [once, none, one]) await close(loaded)
  return results
}

async function load(
  bench: Bench,
  engine: StoreEngine,
  name: string,
  jobs: number,
  keyOf: KeyOf,
): Promise<Loaded> {
  bench.say(`  filling a store: ${jobs} jobs, ${name}`)
  const { url, name: storeName } = await openStore(bench, engine)
  const store = await openForLoad(url)
  const endpoints = await addEndpoints(store, 1)
  const counter = engine === 'sqlite' ? countPages(url) : await countEntries(url)
  const loaded = { name, store, storeName, endpoints, keyOf, enqueued: 0, counter }
  await enqueueMore(loaded, jobs)
  return loaded
}

async function close({ store, counter }: Loaded): Promise<void> {
  await counter.close()
  await store.close()
}

async function enqueueMore(loaded: Loaded, count: number): Promise<void> {
  const { store, endpoints, keyOf, enqueued } = loaded
  loaded.enqueued += count
  await enqueueWith(store, endpoints, count, (i) => ({ fairnessKey: keyOf(enqueued + i) }))
}

async function serveOneKey({ store, endpoints }: Loaded): Promise<void> {
  await enqueueWith(store, endpoints, 1, () => ({ fairnessKey: 'key', priority: 9 }))
  await enqueueWith(store, endpoints, 1, () => ({ fairnessKey: 'key' }))
  await claimAndSettle(store, endpoints, CLAIM_SIZE, CLAIM_SIZE)
}

/** Replaces the claimed jobs, which is not measured, so that as many are queued as before. */
async function compareClaims(
  bench: Bench,
  engine: StoreEngine,
  many: Loaded,
  few: Loaded,
  mostCpu: number,
  mostCount: number,
): Promise<Result[]> {
  const claims = Math.max(LEAST_CLAIMS, Math.ceil(CLAIMS_PER_SAMPLE[engine] * bench.scale))
  const what = `claim and settle on ${many.storeName}, ${many.name}`
  const sideOf = (loaded: Loaded, measure: (loaded: Loaded) => Promise<number>): Side => ({
    ...{ name: loaded.name, durability: 'every commit' },
    async measure(): Promise<Sample> {
      let sum = 0
      for (let i = 0; i < claims; i++) {
        sum += await measure(loaded)
        await enqueueMore(loaded, CLAIM_SIZE)
      }
      return { value: sum / (claims * CLAIM_SIZE) }
    },
  })
  const termsOf = (unit: string, mustReach: number | null): Terms => ({
    ...{ row: 'keys', what, unit, better: 'less', mustReach, aim: null },
  })
  const compareBy = (one: Bench, terms: Terms, measure: (loaded: Loaded) => Promise<number>) =>
    compare(one, terms, sideOf(many, measure), sideOf(few, measure))
  const counted = { ...bench, pairs: PAIRS_OF_COUNTS }
  const results = [
    await compareBy(counted, termsOf(`${many.counter.unit} a job`, mostCount), countOfClaim),
  ]
  if (engine === 'sqlite') {
    results.push(await compareBy(bench, termsOf('µs of CPU a job', mostCpu), cpuOfClaim))
  } else {
    results.push(await compareBy(counted, termsOf('commands a job', null), commandsOfClaim))
  }
  return results
}

async function claimWhole({ store, endpoints }: Loaded): Promise<void> {
  const count = await claimAndSettle(store, endpoints, CLAIM_SIZE, CLAIM_SIZE)
  if (count < CLAIM_SIZE) throw new Error(`a claim brought ${count} of ${CLAIM_SIZE} jobs`)
}

async function cpuOfClaim(loaded: Loaded): Promise<number> {
  const before = process.cpuUsage()
  await claimWhole(loaded)
  const { user, system } = process.cpuUsage(before)
  return user + system
}

async function countOfClaim(loaded: Loaded): Promise<number> {
  await loaded.counter.begin()
  await claimWhole(loaded)
  return loaded.counter.count()
}

async function commandsOfClaim(loaded: Loaded): Promise<number> {
  const { store } = loaded
  const before = store.commandCount
  await claimWhole(loaded)
  return store.commandCount - before
}

/** Into stores that have as many jobs. They are claimed again, which is not measured. */
async function compareEnqueues(
  bench: Bench,
  engine: StoreEngine,
  keyed: Loaded,
  none: Loaded,
  mostCpu: number | null,
): Promise<Result> {
  const batches = Math.max(LEAST_CLAIMS, Math.ceil(CLAIMS_PER_SAMPLE[engine] * bench.scale))
  const sideOf = (loaded: Loaded): Side => ({
    ...{ name: loaded.name, durability: 'every commit' },
    async measure(): Promise<Sample> {
      let cpuUs = 0
      let commands = 0
      for (let i = 0; i < batches; i++) {
        const commandsBefore = loaded.store.commandCount
        const before = process.cpuUsage()
        await enqueueMore(loaded, CLAIM_SIZE)
        const { user, system } = process.cpuUsage(before)
        cpuUs += user + system
        commands += loaded.store.commandCount - commandsBefore
        await claimWhole(loaded)
      }
      return { value: engine === 'sqlite' ? cpuUs / (batches * CLAIM_SIZE) : commands / batches }
    },
  })
  const what = `enqueue on ${keyed.storeName}, ${keyed.name}`
  const shared = { row: 'keys', what, aim: null } as const
  const terms: Terms =
    engine === 'sqlite'
      ? { ...shared, unit: 'µs of CPU a job', better: 'less', mustReach: mostCpu }
      : { ...shared, unit: 'commands a batch', better: 'less', mustReach: 2, of: 'difference' }
  return compare(bench, terms, sideOf(keyed), sideOf(none))
}

/** Pages that SQLite writes to its log. It does not tell how many it reads. */
function countPages(url: string): Counter {
  const path = url.slice('sqlite:'.length)
  const db = new DatabaseSync(path, { timeout: 5_000 })
  return {
    unit: 'pages written',
    async begin() {
      db.exec('pragma wal_checkpoint(truncate)')
    },
    async count() {
      return Math.max(0, statSync(`${path}-wal`).size - LOG_HEADER_BYTES) / FRAME_BYTES
    },
    close: async () => db.close(),
  }
}

/** Index entries that the server has examined for all its clients: no other must be busy. */
async function countEntries(url: string): Promise<Counter> {
  const client = await MongoClient.connect(url)
  let before = 0
  const examined = async () => {
    const { metrics } = await client.db('admin').command({ serverStatus: 1 })
    const scanned: unknown = metrics?.queryExecutor?.scanned
    if (scanned === undefined) throw new Error('this server does not count index entries')
    return Number(scanned)
  }
  return {
    unit: 'index entries examined',
    async begin() {
      before = await examined()
    },
    count: async () => (await examined()) - before,
    close: () => client.close(),
  }
}
