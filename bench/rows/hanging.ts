// Row j: how late jobs of other endpoints are while one endpoint with many due jobs hangs, compared
// with the same without it: p99 from the instant a job is due until it reaches the receiver.
import { setTimeout as sleep } from 'node:timers/promises'
import { compare, type Sample, type Side } from '../compare.ts'
import { PAYLOAD } from '../load.ts'
import { type Posthorn, startPosthorn } from '../posthorn.ts'
import type { Bench, DeliveryCheck, Result, Row, StoreEngine } from '../row.ts'
import { type Sink, startSink } from '../sink-child.ts'
import { openStore } from '../stores.ts'

const HANGING_JOBS = 10_000
const HANGING = 'hanging'
const OTHERS = 20
/** Jobs of each sample; with fewer the p99 would be the slowest one. */
const MEASURED_JOBS = 400
const LEAST_MEASURED_JOBS = 100
/** A load of 50 jobs a second, due at instants that are independent of any polling. */
const MEAN_PAUSE_MS = 20
/** About as long as a sample: hanging attempts keep their slots for most of it, and some end. */
const HANGING_TIMEOUT = '10s'
/** After this time the hanging endpoint uses all the slots that it gets. */
const UNTIL_HELD_MS = 2_000

export const hangingRow: Row = {
  name: 'j',
  title: 'how late the jobs of others are while one endpoint hangs',
  async play(bench) {
    const results: Result[] = []
    for (const engine of bench.stores) {
      const sink = await startSink()
      try {
        results.push(await playOn(bench, engine, sink))
      } finally {
        sink.stop()
      }
    }
    return results
  },
}

async function playOn(bench: Bench, engine: StoreEngine, sink: Sink): Promise<Result> {
  const delivery: DeliveryCheck = { accepted: 0, delivered: 0, doubles: 0 }
  const hangingJobs = Math.ceil(HANGING_JOBS * bench.scale)
  const start = async (withHanging: boolean) => {
    const { url, name } = await openStore(bench, engine)
    const env = { SHUTDOWN_GRACE: '0s' }
    const posthorn = await startPosthorn({ storeUrl: url, folder: bench.folder, env })
    for (let i = 0; i < OTHERS; i++) await posthorn.register(`other-${i}`, { url: sink.url })
    if (withHanging) await addHanging(posthorn, sink, hangingJobs)
    return { posthorn, name }
  }
  const hanging = await start(true)
  const calm = await start(false)
  await sleep(UNTIL_HELD_MS)
  const sideOf = (name: string, posthorn: Posthorn): Side => ({
    ...{ name, durability: 'every commit' },
    measure: () => measureLateness(bench, posthorn, sink, delivery),
  })
  try {
    const result = await compare(
      bench,
      {
        ...{ row: 'j', what: `p99 lateness on ${hanging.name}, one endpoint hanging`, unit: 'ms' },
        ...{ of: 'difference', better: 'less', mustReach: 500, aim: 50 },
      },
      sideOf(`with ${hangingJobs} due jobs of an endpoint that hangs`, hanging.posthorn),
      sideOf('without it', calm.posthorn),
    )
    return { ...result, delivery, notes: [await heldSlots(hanging.posthorn)] }
  } finally {
    await hanging.posthorn.stop()
    await calm.posthorn.stop()
  }
}

/** The endpoint has no circuit breaker, which would make it rest. */
async function addHanging(posthorn: Posthorn, sink: Sink, jobs: number): Promise<void> {
  const settings = { url: `${sink.url}hang`, timeout: HANGING_TIMEOUT, circuitBreaker: null }
  await posthorn.register(HANGING, settings)
  await posthorn.enqueue(jobs, HANGING)
}

async function heldSlots(posthorn: Posthorn): Promise<string> {
  const { counts } = (await posthorn.ask('GET', `/endpoints/${HANGING}`)) as {
    counts: { running: number; queued: number; more?: boolean }
  }
  const { running, queued, more } = counts
  return (
    `at the end the hanging endpoint held ${running} of 100 slots, with ` +
    `${queued}${more ? ' or more' : ''} jobs queued; its attempts time out after ${HANGING_TIMEOUT}`
  )
}

/**
 * One job after another, each due when it is posted: the clock of the store is that of this
 * machine.
 */
async function measureLateness(
  bench: Bench,
  posthorn: Posthorn,
  sink: Sink,
  delivery: DeliveryCheck,
): Promise<Sample> {
  const count = Math.max(LEAST_MEASURED_JOBS, Math.ceil(MEASURED_JOBS * bench.scale))
  const arrived = sink.expectTimes(count)
  const dueAtMs = new Map<string, number>()
  for (let i = 0; i < count; i++) {
    const { id, runAt } = (await posthorn.ask(
      'POST',
      '/jobs',
      `{"endpoint":"other-${i % OTHERS}","payload":${PAYLOAD}}`,
    )) as { id: string; runAt: string }
    dueAtMs.set(id, Date.parse(runAt) - epochOfMonotonicMs())
    await sleep(2 * MEAN_PAUSE_MS * Math.random())
  }
  const { arrivals, distinct, doubles } = await arrived
  delivery.accepted += count
  delivery.delivered += distinct
  delivery.doubles += doubles
  const lateMs = [...dueAtMs]
    .map(([id, dueMs]) => (arrivals.get(id) ?? Number.POSITIVE_INFINITY) - dueMs)
    .toSorted((x, y) => x - y)
  return { value: lateMs[Math.ceil(0.99 * lateMs.length) - 1] as number }
}

/** The offset from the wall clock of the store to the clock of the sink. */
const epochOfMonotonicMs = () => Date.now() - Number(process.hrtime.bigint()) / 1e6
