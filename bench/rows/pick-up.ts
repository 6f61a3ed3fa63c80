// Row c: the time of a job from its POST to the sink while nothing else happens. Row c2: the
// slowest hundredth of jobs at half load.
import { ENDPOINT } from '../load.ts'
import { startPosthorn } from '../posthorn.ts'
import type { Bench, Result, Row } from '../row.ts'
import { startPostgres, startRedis } from '../servers.ts'
import { startSink } from '../sink-child.ts'
import { openStore } from '../stores.ts'
import { deliverBacklog } from './backlog.ts'
import {
  compareTrips,
  startPeerSystem,
  startPosthornSystem,
  startTrips,
  type TripTerms,
} from './round-trip-sides.ts'

const IDLE_JOBS = 200
/** A job every 50 ms; the one before has ended long ago. */
const IDLE_PER_SECOND = 20

export const pickUpRow: Row = {
  name: 'c',
  title: 'idle pick-up, POST to sink, p50, against BullMQ behind Fastify',
  async play(bench) {
    const redis = await startRedis(bench.folder)
    const trips = await startTrips()
    const results: Result[] = []
    const terms = {
      ...{ row: 'c', what: 'POST to sink, p50', unit: 'ms' },
      ...{ better: 'less', mustReach: 1.4, aim: 1.2 },
      order: {
        seconds: (IDLE_JOBS * bench.scale) / IDLE_PER_SECOND,
        pace: { perSecond: IDLE_PER_SECOND },
      },
      reading: ({ p50LagMs }) => p50LagMs,
    } as const satisfies TripTerms
    try {
      for (const engine of bench.stores) {
        const posthorn = await startPosthornSystem(bench, engine, trips)
        const bullmq = await startPeerSystem('bullmq', redis, trips)
        results.push(await compareTrips(bench, trips, terms, [posthorn, bullmq]))
      }
    } finally {
      trips.stop()
      await redis.stop()
    }
    return results
  },
}

const HALF_LOAD_SECONDS = 10
/** Jobs that measure the rate of Posthorn, twice: the first time warms up. */
const PROBE_BACKLOG = 10_000
/** Few enough that none waits for a second: later deliveries do not count. */
const PROBE_OUTSTANDING = 200
const PROBE_SECONDS = 5

export const halfLoadRow: Row = {
  name: 'c2',
  title: 'POST to sink at half load, p99, against Graphile Worker behind Fastify',
  async play(bench) {
    const ours = (await posthornRate(bench)) / 2
    const theirs = (await graphileRate(bench)) / 2
    const result = await playAt(bench, ours, 'half of what Posthorn delivers of a backlog')
    if (theirs >= ours) return [result]
    // At a load that the peer cannot sustain, its p99 says nothing about its pick-up.
    const sustained = Math.round(2 * theirs)
    const note = `Graphile Worker sustains ${sustained} jobs/s from POST on: see the next line too`
    return [
      { ...result, notes: [...result.notes, note] },
      await playAt(bench, theirs, 'half of what Graphile Worker sustains from POST on'),
    ]
  },
}

async function playAt(bench: Bench, perSecond: number, why: string): Promise<Result> {
  const postgres = await startPostgres()
  const trips = await startTrips()
  const terms = {
    ...{ row: 'c2', what: `POST to sink, p99 at ${Math.round(perSecond)} jobs/s, ${why}` },
    ...{ unit: 'ms', better: 'less', mustReach: 1, aim: 0.3 },
    order: { seconds: HALF_LOAD_SECONDS * bench.scale, pace: { perSecond } },
    reading: ({ p99LagMs }) => p99LagMs,
  } as const satisfies TripTerms
  try {
    const posthorn = await startPosthornSystem(bench, 'sqlite', trips)
    const graphile = await startPeerSystem('graphile-worker', postgres, trips)
    return await compareTrips(bench, trips, terms, [posthorn, graphile])
  } finally {
    trips.stop()
    await postgres.stop()
  }
}

/** The rate of a backlog in jobs a second, as row b measures it. */
async function posthornRate(bench: Bench): Promise<number> {
  const count = Math.ceil(PROBE_BACKLOG * bench.scale)
  const sink = await startSink()
  const store = await openStore(bench, 'sqlite')
  const posthorn = await startPosthorn({ storeUrl: store.url, folder: bench.folder })
  await posthorn.register(ENDPOINT, { url: sink.url })
  const delivery = { accepted: 0, delivered: 0, doubles: 0 }
  await deliverBacklog(posthorn, sink, count, delivery)
  const { value } = await deliverBacklog(posthorn, sink, count, delivery)
  await posthorn.stop()
  await store.close()
  sink.stop()
  return value
}

async function graphileRate(bench: Bench): Promise<number> {
  const postgres = await startPostgres()
  const trips = await startTrips()
  try {
    const { apiUrl, stop } = await startPeerSystem('graphile-worker', postgres, trips)
    const pace = { outstanding: PROBE_OUTSTANDING }
    const order = { apiUrl, seconds: PROBE_SECONDS * bench.scale, pace }
    await trips.play(order)
    const { inTime, seconds } = await trips.play(order)
    await stop()
    return inTime / seconds
  } finally {
    trips.stop()
    await postgres.stop()
  }
}
