// Runs the same load twice, without and with fairness keys. One of 50 customers enqueues many jobs
// at once. Meanwhile each of the others enqueues a job every four seconds. Draws how long they
// wait.
import { mkdirSync, writeFileSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
// In a project of your own: install the package (docs/client.md), import from 'posthorn/client'.
import { VerificationError, verify } from '../../src/client/client.ts'
import { respond } from '../kit/deliveries.ts'
import { posthorn, secret, serve } from '../kit/program.ts'
import { chartOf, shareOf, type Wait } from './chart.ts'

const FLOOD_JOBS = Number(process.env.FLOOD_JOBS ?? 4_000)
/** How long the other customers enqueue. */
const SECONDS = Number(process.env.SECONDS ?? 12)
/** How long the handler takes for a job. */
const WORK_MS = Number(process.env.WORK_MS ?? 50)
const CHART = process.env.CHART ?? join(import.meta.dirname, 'data', 'waits.svg')
/** How many jobs the handler does at a time. */
const CONCURRENCY = 10
const FLOODING = 'customer-0'
const QUIET = Array.from({ length: 49 }, (_, i) => `customer-${i + 1}`)
const QUIET_EVERY_MS = 4_000
const BATCH = 1_000
/** A run that was interrupted may have left jobs behind. */
const RUN = Date.now()

interface Work {
  run: number
  customer: string
  /** Of the job, within its load. */
  number: number
  enqueuedAtMs: number
}

/** One of the two loads. */
interface Load {
  endpoint: string
  hasKeys: boolean
  /** When the flood was stored. */
  beganAtMs: number
  /** The numbers of the jobs that have not arrived. A repeated delivery changes nothing. */
  missing: Set<number>
  waits: Wait[]
  /** When the last job of the flood arrived. */
  floodSeconds: number
  finished: PromiseWithResolvers<void>
}

const loads = [
  newLoad('fair-customers-without-keys', false),
  newLoad('fair-customers-with-keys', true),
] as const

function newLoad(endpoint: string, hasKeys: boolean): Load {
  const finished = Promise.withResolvers<void>()
  const numbers = Array.from({ length: FLOOD_JOBS + quietJobs().length }, (_, number) => number)
  return {
    ...{ endpoint, hasKeys, finished, missing: new Set(numbers) },
    ...{ beganAtMs: 0, waits: [], floodSeconds: 0 },
  }
}

/** The jobs of the other customers, evenly distributed over the time. */
function quietJobs(): { customer: string; atMs: number }[] {
  const count = Math.floor((SECONDS * 1_000 * QUIET.length) / QUIET_EVERY_MS)
  return Array.from({ length: count }, (_, i) => ({
    customer: QUIET[i % QUIET.length] as string,
    atMs: (i * QUIET_EVERY_MS) / QUIET.length,
  }))
}

async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const nowMs = Date.now()
  try {
    const { endpoint, payload } = await verify<Work>(request, secret)
    const load = loads.find((one) => one.endpoint === endpoint)
    if (load !== undefined && payload.run === RUN) arrive(load, payload, nowMs)
    await sleep(WORK_MS)
    respond(response, 200, {})
  } catch (error) {
    if (!(error instanceof VerificationError)) throw error
    respond(response, 401, { error: error.code })
  }
}

function arrive(load: Load, { customer, number, enqueuedAtMs }: Work, nowMs: number): void {
  if (!load.missing.delete(number)) return
  const seconds = (ms: number) => ms / 1_000
  if (customer === FLOODING) load.floodSeconds = seconds(nowMs - load.beganAtMs)
  else {
    const enqueuedAt = seconds(enqueuedAtMs - load.beganAtMs)
    load.waits.push({ enqueuedAt, waited: seconds(nowMs - enqueuedAtMs) })
  }
  if (load.missing.size === 0) load.finished.resolve()
}

async function play(load: Load): Promise<void> {
  const jobOf = (customer: string, number: number) => ({
    endpoint: load.endpoint,
    payload: { run: RUN, customer, number, enqueuedAtMs: Date.now() } satisfies Work,
    fairnessKey: load.hasKeys ? customer : null,
  })
  for (let from = 0; from < FLOOD_JOBS; from += BATCH) {
    const length = Math.min(BATCH, FLOOD_JOBS - from)
    await posthorn.enqueueBatch(Array.from({ length }, (_, i) => jobOf(FLOODING, from + i)))
  }
  load.beganAtMs = Date.now()
  const stored = quietJobs().map(async ({ customer, atMs }, i) => {
    await sleep(Math.max(0, load.beganAtMs + atMs - Date.now()))
    await posthorn.enqueue(jobOf(customer, FLOOD_JOBS + i))
  })
  await Promise.all([...stored, load.finished.promise])
}

function printResult({ hasKeys, waits, floodSeconds }: Load): void {
  const [half, most, all] = [0.5, 0.95, 1].map((share) => `${shareOf(waits, share).toFixed(2)} s`)
  console.log(
    `${hasKeys ? 'with' : 'without'} fairness keys: of ${waits.length} jobs half waited at most ` +
      `${half}, 95 % ${most}, all ${all}; the flood took ${floodSeconds.toFixed(1)} s`,
  )
}

await serve(handle, async (url) => {
  for (const { endpoint } of loads) {
    await posthorn.endpoints.put(endpoint, { url, secret, concurrency: CONCURRENCY })
  }
})
for (const load of loads) {
  await play(load)
  printResult(load)
}
const [without, withKeys] = loads
const chart = chartOf({
  title: `One customer enqueues ${FLOOD_JOBS.toLocaleString('en')} jobs. How long do the others wait?`,
  subtitle:
    `Each dot is a job of one of the ${QUIET.length} other customers. ` +
    `The handler does ${CONCURRENCY} jobs at a time, ${WORK_MS} ms each.`,
  groups: [
    { name: 'Without fairnessKey', kind: 'without', waits: without.waits },
    { name: 'With fairnessKey', kind: 'with', waits: withKeys.waits },
  ],
})
mkdirSync(dirname(CHART), { recursive: true })
writeFileSync(CHART, chart)
console.log(CHART)
process.exit()
