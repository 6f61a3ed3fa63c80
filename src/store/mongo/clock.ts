// The store's clock: the server's time, estimated from `hello`, and carried on by the monotonic
// clock of this process. The wall clock of this machine is never read.
import type { MongoClient } from 'mongodb'
import { createSetBackWatch } from '../set-back-watch.ts'
import type { StoreClock } from '../store.ts'
import { run, startDeadline } from './connection.ts'

/** The sample with the shortest round trip is the most exact. */
const MAX_SAMPLES = 3
/** Half a round trip of an estimate that needs no further sample. */
const GOOD_HALF_TRIP_MS = 5
/** Two quartz clocks drift apart by 50 µs a second: half a millisecond between two samples. */
const REFRESH_MS = 10_000
/** hello returns whole milliseconds. */
const RESOLUTION_MS = 1

export interface MongoClock extends StoreClock {
  stop(): void
}

interface Estimate {
  /** Server's epoch milliseconds minus performance.now(). */
  offsetMs: number
  /** The largest possible error of the offset. */
  errorMs: number
}

/** Throws StoreUnavailable if the server does not respond. */
export async function startClock(client: MongoClient): Promise<MongoClock> {
  let estimate = await sample(client, null)
  const setBack = createSetBackWatch(() => estimate.offsetMs)
  let refreshing = false
  const refresh = async () => {
    if (refreshing) return
    refreshing = true
    try {
      const fresh = await sample(client, estimate)
      const changeMs = Math.abs(fresh.offsetMs - estimate.offsetMs)
      // A less exact estimate shows only a change that is larger than the error of both. A more
      // exact one replaces that of a start on a busy machine, which can be hundreds of ms off.
      const isMoreExact = fresh.errorMs < estimate.errorMs
      if (isMoreExact || changeMs > fresh.errorMs + estimate.errorMs) estimate = fresh
      setBack.note(estimate.offsetMs)
    } catch {
      // The store is away: the monotonic clock continues until the next refresh.
    } finally {
      refreshing = false
    }
  }
  const timer = setInterval(refresh, REFRESH_MS)
  timer.unref()
  // Another primary has another clock.
  client.on('topologyDescriptionChanged', refresh)
  return {
    now: () => Math.floor(performance.now() + estimate.offsetMs),
    watchSetBack: setBack.watch,
    stop() {
      clearInterval(timer)
      client.off('topologyDescriptionChanged', refresh)
    },
  }
}

/** @param known the estimate until now. One sample is enough if it is exact, or if both agree. */
async function sample(client: MongoClient, known: Estimate | null): Promise<Estimate> {
  const deadline = startDeadline()
  let best: Estimate = { offsetMs: 0, errorMs: Number.POSITIVE_INFINITY }
  for (let i = 0; i < MAX_SAMPLES && !isEnough(best, known); i++) {
    const sentAt = performance.now()
    const hello = await run(deadline, () => client.db('admin').command({ hello: 1 }))
    const halfTripMs = (performance.now() - sentAt) / 2
    if (halfTripMs + RESOLUTION_MS >= best.errorMs) continue
    const serverTime = (hello.localTime as Date).getTime()
    best = {
      offsetMs: serverTime - sentAt - halfTripMs,
      errorMs: halfTripMs + RESOLUTION_MS,
    }
  }
  return best
}

function isEnough(found: Estimate, known: Estimate | null): boolean {
  if (known === null) return false
  if (isExact(found)) return true
  const agrees = Math.abs(found.offsetMs - known.offsetMs) <= found.errorMs + known.errorMs
  return isExact(known) && agrees
}

function isExact({ errorMs }: Estimate): boolean {
  return errorMs <= GOOD_HALF_TRIP_MS + RESOLUTION_MS
}
