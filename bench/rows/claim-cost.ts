// Row d: the cost of a claim with much in the store, compared with little: two stores side by side
// in this process, used in turns through the port.
import { DatabaseSync } from 'node:sqlite'
import { CLAIM, CLAIMABLE, NEXT_PRIORITY } from '../../src/store/sqlite/claim.ts'
import { SETTLE } from '../../src/store/sqlite/settle.ts'
import type { Store } from '../../src/store/store.ts'
import { compare, type Sample, type Side } from '../compare.ts'
import type { Bench, Result, Row, StoreEngine } from '../row.ts'
import { addEndpoints, claimAndSettle, enqueueFor, keepFinal, openForLoad } from '../store-load.ts'
import { openStore } from '../stores.ts'

const MILLION = 1_000_000
/** The number of jobs on a stand-in engine, where only commands are counted. */
const MANY_ON_MONGO = 10_000
const FEW = 1_000
const CLAIM_SIZE = 100
/** Independent of the scale: a claim must find as many jobs as it asks for. */
const LEAST_QUEUED = 2 * CLAIM_SIZE
const CLAIMS_PER_SAMPLE = { sqlite: 100, mongo: 10 }
const LEAST_CLAIMS = 10
const DAY_MS = 86_400_000

interface Loaded {
  store: Store
  url: string
  storeName: string
  /** The endpoints with due jobs. */
  endpoints: string[]
}

interface Case {
  what: string
  /** Fills an empty store; resolves with the endpoints that have due jobs. */
  fill(store: Store, url: string): Promise<string[]>
}

export const claimCostRow: Row = {
  name: 'd',
  title: 'cost of a claim with much queued, kept or in the future, and with many endpoints',
  async play(bench) {
    const results: Result[] = []
    for (const engine of bench.stores) {
      const little = await load(bench, engine, (store) => queued(store, fewOf(bench), 1))
      for (const { what, fill } of casesOf(bench, engine)) {
        bench.say(`  filling a store: ${what}`)
        const much = await load(bench, engine, fill)
        results.push(await compareClaims(bench, engine, what, much, little))
        await much.store.close()
      }
      if (engine === 'sqlite') results.at(-1)?.notes.push(plansNote(little))
      await little.store.close()
    }
    return results
  },
}

const fewOf = ({ scale }: Bench) => Math.max(LEAST_QUEUED, Math.ceil(FEW * scale))

function casesOf(bench: Bench, engine: StoreEngine): Case[] {
  const few = fewOf(bench)
  const most = engine === 'sqlite' ? MILLION : MANY_ON_MONGO
  const many = Math.max(few, Math.ceil(most * bench.scale))
  const manyQueued: Case = { what: `${many} queued`, fill: (store) => queued(store, many, 1) }
  if (engine === 'mongo') return [manyQueued]
  return [
    manyQueued,
    {
      what: `${few} queued, ${many} final kept`,
      async fill(store, url) {
        await keepFinal(store, url, many)
        return queued(store, few, 1)
      },
    },
    {
      what: `${few} queued, ${many} in the future`,
      async fill(store) {
        const endpoints = await queued(store, few, 1)
        await enqueueFor(store, endpoints, many, { runAt: store.clock.now() + DAY_MS })
        return endpoints
      },
    },
    {
      what: `${10 * few} queued at ${few} endpoints`,
      fill: (store) => queued(store, 10 * few, few),
    },
    {
      what: `${20 * few} queued at ${10 * few} endpoints`,
      fill: (store) => queued(store, 20 * few, 10 * few),
    },
  ]
}

async function load(bench: Bench, engine: StoreEngine, fill: Case['fill']): Promise<Loaded> {
  const { url, name } = await openStore(bench, engine)
  const store = await openForLoad(url)
  return { store, url, storeName: name, endpoints: await fill(store, url) }
}

async function queued(store: Store, jobs: number, endpointCount: number): Promise<string[]> {
  const endpoints = await addEndpoints(store, endpointCount)
  await enqueueFor(store, endpoints, jobs)
  return endpoints
}

async function compareClaims(
  bench: Bench,
  engine: StoreEngine,
  what: string,
  much: Loaded,
  little: Loaded,
): Promise<Result> {
  const claims = Math.max(LEAST_CLAIMS, Math.ceil(CLAIMS_PER_SAMPLE[engine] * bench.scale))
  const sideOf = (name: string, loaded: Loaded): Side => ({
    ...{ name, durability: 'every commit' },
    measure: () => claimInSteadyState(loaded, engine, claims),
  })
  const unit = engine === 'sqlite' ? 'µs of CPU a job' : 'commands a job'
  const result = await compare(
    bench,
    {
      ...{ row: 'd', what: `claim and settle on ${much.storeName}, ${what}`, unit },
      ...{ better: 'less', mustReach: 1.3, aim: 1.1 },
    },
    sideOf(what, much),
    sideOf(`${fewOf(bench)} queued`, little),
  )
  return { ...result, notes: [await lookNote(much)] }
}

/** Replaces the claimed jobs, which is not measured, so that as many are queued as before. */
async function claimInSteadyState(
  loaded: Loaded,
  engine: StoreEngine,
  claims: number,
): Promise<Sample> {
  const { store, endpoints } = loaded
  const endpointCount = Math.min(endpoints.length, CLAIM_SIZE)
  let claimed = 0
  let cpuUs = 0
  let commands = 0
  for (let i = 0; i < claims; i++) {
    const shares = endpoints.splice(0, endpointCount)
    endpoints.push(...shares)
    const commandsBefore = store.commandCount
    const before = process.cpuUsage()
    const count = await claimAndSettle(store, shares, CLAIM_SIZE / endpointCount, CLAIM_SIZE)
    const { user, system } = process.cpuUsage(before)
    if (count < CLAIM_SIZE) throw new Error(`a claim brought ${count} of ${CLAIM_SIZE} jobs`)
    commands += store.commandCount - commandsBefore
    cpuUs += user + system
    claimed += count
    await enqueueFor(store, shares, count)
  }
  return { value: (engine === 'sqlite' ? cpuUs : commands) / claimed }
}

/** The time of a worker's look for endpoints with work, over all endpoints. */
async function lookNote({ store }: Loaded): Promise<string> {
  const startedAtMs = performance.now()
  const { endpoints } = await store.due(null)
  const lookMs = performance.now() - startedAtMs
  return `a full look for endpoints with work: ${endpoints.length} in ${lookMs.toFixed(2)} ms`
}

/** The query plans of its statements: they must not depend on what is stored. */
function plansNote({ url }: Loaded): string {
  const db = new DatabaseSync(url.slice('sqlite:'.length), { readOnly: true })
  const plans = Object.entries({
    ...{ 'next priority': NEXT_PRIORITY, claimable: CLAIMABLE, claim: CLAIM },
    settle: SETTLE.succeed,
  }).map(([name, sql]) => {
    const steps = db.prepare(`explain query plan ${sql}`).all()
    return `${name}: ${steps.map(({ detail }) => detail).join(', ')}`
  })
  db.close()
  return plans.join('; ')
}
