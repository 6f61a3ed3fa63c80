// A mixed load that stays only a little ahead of the workers: quick, slow and failing jobs.
import { until } from '../support/until.ts'
import type { Fixture } from './fixture.ts'
import type { Accepted, WorkRequest } from './work-client.ts'

export interface Load {
  /** At most this many jobs. */
  jobs: number
  /** Called between batches, with the jobs accepted so far. */
  isOver(acceptedCount: number): boolean
  /** The work of each job; default: a random mix. */
  workOf?(index: number): WorkRequest
}

const BATCH = 100
/** A limit, so that a fault always meets work in progress, and a slow store is not flooded. */
const MOST_OPEN = 400
const OPEN_DEADLINE_MS = 120_000
/** One of this many jobs is read while it runs. */
const LOOK_AT_ONE_IN = 50

/** Enqueues until the load is over; returns the accepted jobs. */
export async function keepLoaded(fixture: Fixture, load: Load): Promise<Accepted[]> {
  const { client } = fixture
  const workOf = load.workOf ?? (() => mixedWork(fixture))
  const accepted: Accepted[] = []
  const answered = countAnswered(fixture)
  const looks: Promise<unknown>[] = []
  while (accepted.length < load.jobs && !load.isOver(accepted.length)) {
    const size = Math.min(BATCH, load.jobs - accepted.length)
    const from = accepted.length
    // Single enqueues and batches, so that both routes are used.
    const some = fixture.random.chance(0.2)
      ? await Promise.all(Array.from({ length: size }, (_, i) => client.enqueue(workOf(from + i))))
      : await client.enqueueMany(size, (i) => workOf(from + i))
    accepted.push(...some)
    for (const { id } of some)
      if (fixture.random.chance(1 / LOOK_AT_ONE_IN)) looks.push(client.look(id))
    await until(() => accepted.length - answered() <= MOST_OPEN, OPEN_DEADLINE_MS)
  }
  await Promise.all(looks)
  return accepted
}

export function mixedWork({ random }: Fixture): WorkRequest {
  return {
    failures: random.chance(0.1) ? 1 : 0,
    ...(random.chance(0.2) ? { answerAfterMs: Math.round(random.between(10, 300)) } : {}),
    ...(random.chance(0.05) ? { delayMs: Math.round(random.between(50, 1_500)) } : {}),
  }
}

/** How many jobs have got a 2xx, computed at each call. */
function countAnswered(fixture: Fixture): () => number {
  const ids = new Set<string>()
  let seen = 0
  const waiting: (typeof fixture.receiver.deliveries)[number][] = []
  return () => {
    const { deliveries } = fixture.receiver
    for (; seen < deliveries.length; seen++) {
      const delivery = deliveries[seen]
      if (delivery) waiting.push(delivery)
    }
    for (let i = waiting.length - 1; i >= 0; i--) {
      const delivery = waiting[i]
      if (!delivery || (delivery.status === null && delivery.brokenOffAtMs === null)) continue
      if (delivery.status === 200) ids.add(delivery.jobId)
      waiting.splice(i, 1)
    }
    return ids.size
  }
}
