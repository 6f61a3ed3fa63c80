// npm run bench:quick: two ratios and a count, on SQLite, in a few minutes.
//
// POST /jobs, durable, against a Fastify that stores nothing (64 connections); signed deliveries by
// one worker against a loop that signs and sends with no queue (50 connections); store commands per
// job. Pairs are interleaved (ABBA), the first is dropped: medians of their ratios with min–max.
import { mkdtempSync, rmSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { ENDPOINT } from './load.ts'
import { type Child, cpuUsOf, nextMessage, startChild, stopChild } from './processes.ts'

const PAIRS = 6
const POSTS = 40_000
const BACKLOG = 20_000
const CLI = '../cli/posthorn.ts'

interface Sample {
  perSecond: number
  cpuUs: number
}

const directory = mkdtempSync(join(tmpdir(), 'posthorn-bench-'))
const env = {
  STORE_URL: `sqlite:${directory}/posthorn.db`,
  PORT: '0',
  LOG_LEVEL: 'info',
  API_KEYS: '',
  WORKER_CONCURRENCY: '100',
}
const sink = startChild('sink.ts', [])
const sinkPort: number = (await nextMessage(sink)).port

const api = startChild(CLI, ['api'], { env, logPath: join(directory, 'api.log') })
const apiUrl: string = (await nextMessage(api)).url
await fetch(`${apiUrl}/endpoints/${ENDPOINT}`, {
  method: 'PUT',
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify({ url: `http://127.0.0.1:${sinkPort}/` }),
})
const noop = startChild('noop.ts', [])
const noopUrl: string = (await nextMessage(noop)).url

let postedCount = 0
const posting = await pairs(
  () => enqueue(POSTS),
  () => post(noop, noopUrl, POSTS),
)
print('POST /jobs, durable (synchronous=FULL)', 'Fastify no-op', posting)
noop.process.disconnect()

// What was posted so far is the warm-up of the worker, and is checked like everything else.
let deliveredCount = 0
let doubles = 0
let workerCommands = 0
await deliver(postedCount)
const delivering = await pairs(async () => {
  await enqueue(BACKLOG)
  return deliver(BACKLOG)
}, bareLoop)
print('signed deliveries by one worker', 'sign and send, no queue', delivering)

const { storeCommands: apiCommands = 0 } = await stopChild(api)
const jobs = deliveredCount
console.log(
  `store commands per job: ${((apiCommands + workerCommands) / jobs).toFixed(3)} ` +
    `(API ${(apiCommands / jobs).toFixed(3)}, worker ${(workerCommands / jobs).toFixed(3)})`,
)
console.log(`jobs accepted ${postedCount}, delivered ${deliveredCount}, delivered twice ${doubles}`)
console.log(
  `${new Date().toISOString().slice(0, 10)}, ${cpus().length} × ${cpus()[0]?.model}, Node ${process.version}`,
)
sink.process.kill()
rmSync(directory, { recursive: true })
if (deliveredCount !== postedCount || doubles > 0) process.exitCode = 1

/** ABBA: a pair's order changes each time, so a machine that slows down favours nobody. */
async function pairs(a: () => Promise<Sample>, b: () => Promise<Sample>) {
  const samples: { a: Sample; b: Sample }[] = []
  for (let i = 0; i < PAIRS; i++) {
    if (i % 2 === 0) {
      const first = await a()
      samples.push({ a: first, b: await b() })
    } else {
      const first = await b()
      samples.push({ a: await a(), b: first })
    }
  }
  return samples.slice(1)
}

async function post(child: Child, url: string, amount: number): Promise<Sample> {
  const cpuBeforeUs = cpuUsOf(child)
  const poster = startChild('poster.ts', [url, String(amount)])
  const { seconds, refused } = await nextMessage(poster)
  if (refused > 0) throw new Error(`${refused} of ${amount} were refused`)
  return { perSecond: amount / seconds, cpuUs: (cpuUsOf(child) - cpuBeforeUs) / amount }
}

/** Jobs through the API: their count is checked at the end. */
async function enqueue(count: number): Promise<Sample> {
  postedCount += count
  return post(api, apiUrl, count)
}

/** A worker that starts with this backlog, until the sink has seen each job. */
async function deliver(count: number): Promise<Sample> {
  sink.process.send({ expect: count })
  const arrived = nextMessage(sink)
  const logPath = join(directory, `worker-${deliveredCount}.log`)
  const worker = startChild(CLI, ['worker'], { env, logPath })
  const { seconds, distinct, doubles: doubled } = await arrived
  const cpuUs = cpuUsOf(worker) / count
  deliveredCount += distinct
  doubles += doubled
  workerCommands += (await stopChild(worker)).storeCommands ?? 0
  return { perSecond: count / seconds, cpuUs }
}

async function bareLoop(): Promise<Sample> {
  sink.process.send({ expect: BACKLOG })
  const arrived = nextMessage(sink)
  const loop = startChild('bare-loop.ts', [String(sinkPort), String(BACKLOG)])
  const { cpuUs } = await nextMessage(loop)
  const { seconds } = await arrived
  return { perSecond: BACKLOG / seconds, cpuUs }
}

function print(what: string, against: string, samples: { a: Sample; b: Sample }[]): void {
  const ratio = spread(samples.map(({ a, b }) => a.perSecond / b.perSecond))
  const show = (pick: (sample: { a: Sample; b: Sample }) => number) =>
    Math.round(spread(samples.map(pick)).median)
  console.log(
    `${what} ÷ ${against}: ${ratio.median.toFixed(2)} (${ratio.min.toFixed(2)}–${ratio.max.toFixed(2)}); ` +
      `${show(({ a }) => a.perSecond)}/s at ${show(({ a }) => a.cpuUs)} µs CPU against ` +
      `${show(({ b }) => b.perSecond)}/s at ${show(({ b }) => b.cpuUs)} µs`,
  )
}

function spread(values: number[]): { min: number; median: number; max: number } {
  const sorted = values.toSorted((x, y) => x - y)
  return {
    min: sorted[0] as number,
    median: sorted[Math.floor(sorted.length / 2)] as number,
    max: sorted.at(-1) as number,
  }
}
