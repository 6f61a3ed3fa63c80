// Keys with one job each beside the flood of another, and keys with a limit, while workers and the
// API are killed. The checker counts what the flood starts before each of them (I14), and how many
// jobs of a key run at a time (I15).
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../../support/until.ts'
import type { Fixture, Member } from '../fixture.ts'
import { type Delivery, nowMs } from '../history.ts'
import { BOTH, type Round } from '../round.ts'
import type { Accepted } from '../work-client.ts'

const WORKERS = 2
const SLOTS_OF_WORKER = 8
/** While the handler is at work, the flood does not end before the keys came. */
const ANSWER_AFTER_MS = 40
/** Processes take longer to start on MongoDB. */
const KILL_EVERY_MS = { sqlite: [700, 1_500], mongo: [2_000, 3_500] } as const
/** So that the flood outlasts the round. */
const FLOOD = { sqlite: 1_000, mongo: 400 }
const LONG_REPEATS = 10
const BUSY = 130
/** More than what has a turn. */
const LATE = 100
const KEYS = 6
/** Deliveries between two of these keys. */
const APART = 10
const LONGEST_APART_MS = 2_000
/** Fewer than have turns. */
const CANCELLED = 60
const BUSY_PRIORITY = 9
const LIMIT = { prefix: 'limited', concurrency: 3 }
const LIMITED_KEYS = 2
const LIMITED = 50
/** On MongoDB a round of the sweep can be what lets a job begin: one begins every 10 s. */
const DEADLINE_MS = 40_000
const BUSY_WITHIN_MS = 3_000
const NEVER_BEGAN = 'jobs that wait for a turn never began'

const WORKER_KILLED = 'a worker killed with attempts in hand'
const API_KILLED = 'the API killed beside a flood'
const BESIDE_FLOOD = 'keys with one job beside a flood'
const BESIDE_BUSY = 'keys with one job while another priority is busy'
const BESIDE_LATE = 'keys with one job when another came late with many'
const AFTER_CANCEL = 'keys of which all jobs but one were cancelled'
const AT_LIMIT = 'a job that started before those of a key at its limit'

export const fairKeys: Round = {
  name: 'fair-keys',
  title: 'kill −9 of workers and API while keys wait beside a flood',
  engines: BOTH,
  settings: {
    ...{ leaseMs: 2_000, sweepMs: 250, pollMs: 100, slots: WORKERS * SLOTS_OF_WORKER },
    keyLimit: LIMIT,
    env: { WORKER_CONCURRENCY: `${SLOTS_OF_WORKER}` },
  },
  windows: [
    WORKER_KILLED,
    API_KILLED,
    BESIDE_FLOOD,
    BESIDE_BUSY,
    BESIDE_LATE,
    AFTER_CANCEL,
    AT_LIMIT,
  ],
  async play(fixture, { isLong }) {
    const workers: Member[] = []
    for (let i = 0; i < WORKERS; i++) workers.push(await fixture.startWorker())
    let isOver = false
    const breaking = killAtRandom(fixture, workers, () => isOver)
    try {
      for (let i = 0; i < (isLong ? LONG_REPEATS : 1); i++) await playFlood(fixture, `${i}`)
    } finally {
      isOver = true
      await breaking
    }
    await fixture.drained(DEADLINE_MS).catch(() => fixture.complain(NEVER_BEGAN))
  },
}

async function killAtRandom(
  fixture: Fixture,
  workers: Member[],
  isOver: () => boolean,
): Promise<void> {
  // Each kind of process is killed at least once, whatever the random numbers are.
  for (let kills = 0; !isOver() || kills < 2; kills++) {
    const [least, most] = KILL_EVERY_MS[fixture.engine]
    await sleep(fixture.random.between(least, most))
    if (kills % 2 === 1) {
      await fixture.kill(fixture.api())
      await fixture.startApi()
      fixture.hit(API_KILLED)
    } else {
      const victim = fixture.random.pick(workers)
      const isBusy = await hasAttempts(victim)
      await fixture.kill(victim)
      workers[workers.indexOf(victim)] = await fixture.startWorker()
      fixture.hit(WORKER_KILLED, isBusy ? 1 : 0)
    }
  }
}

/** Waits until it has some: between two parts of the round it has none. */
async function hasAttempts(worker: Member): Promise<boolean> {
  const isBusy = async () => (await worker.metric('posthorn_attempts_in_flight')) > 0
  return until(() => isBusy().catch(() => false), BUSY_WITHIN_MS).then(
    () => true,
    () => false,
  )
}

async function playFlood(fixture: Fixture, name: string): Promise<void> {
  const enqueue = (key: string, count: number, fields: object = {}) =>
    fixture.client.enqueueMany(count, () => ({
      answerAfterMs: ANSWER_AFTER_MS,
      fields: { fairnessKey: `${key} of ${name}`, ...fields },
    }))
  const { deliveries } = fixture.receiver
  const begun = async (jobs: Accepted[]) => {
    const ids = new Set(jobs.map(({ id }) => id))
    const isBegun = () => {
      for (const { jobId } of deliveries) ids.delete(jobId)
      return ids.size === 0
    }
    await until(isBegun, DEADLINE_MS).catch(() => fixture.complain(NEVER_BEGAN))
  }
  const enqueueSmall = async (window: string) => {
    const small: Accepted[] = []
    for (let i = 0; i < KEYS; i++) {
      const { length } = deliveries
      small.push(...(await enqueue(`${window} ${i}`, 1)))
      const latestMs = nowMs() + LONGEST_APART_MS
      await until(() => deliveries.length > length + APART || nowMs() > latestMs)
    }
    await begun(small)
    fixture.hit(window, KEYS)
  }

  const limitedKeys = Array.from({ length: LIMITED_KEYS }, (_, i) => `${LIMIT.prefix} ${i}`)
  // Long before their jobs: on MongoDB a limit does not hold at once.
  for (const key of limitedKeys) {
    const path = `/endpoints/work/keys/${encodeURIComponent(`${key} of ${name}`)}`
    await insist(fixture, path, ['PUT', { concurrency: LIMIT.concurrency }])
  }
  await enqueue('flood', FLOOD[fixture.engine])
  await enqueueSmall(BESIDE_FLOOD)
  const busy = await enqueue('busy', BUSY, { priority: BUSY_PRIORITY })
  // Half of these keys come before the last of them.
  await begun(busy.slice(0, (-KEYS * APART) / 2))
  await enqueueSmall(BESIDE_BUSY)
  await enqueue('late', LATE)
  await enqueueSmall(BESIDE_LATE)

  await insist(fixture, '/endpoints/work/pause')
  const left = await Promise.all(
    Array.from({ length: KEYS / 2 }, async (_, i) => {
      const jobs = await enqueue(`cancelled ${i}`, CANCELLED)
      // On MongoDB, cancels of one key at the same moment can each leave a turn unused.
      for (const job of jobs.slice(0, -1)) await cancelSurely(fixture, job)
      return jobs.slice(-1)
    }),
  )
  await insist(fixture, '/endpoints/work/resume')
  await begun(left.flat())
  fixture.hit(AFTER_CANCEL, left.length)

  // Of a higher priority than the flood, so that all slots are for them. Beside a flood that takes
  // turns with them, no more of each run than its limit allows, even if it has none.
  const limited: Accepted[] = []
  for (const key of limitedKeys) {
    limited.push(...(await enqueue(key, LIMITED, { priority: BUSY_PRIORITY })))
  }
  const { length } = deliveries
  await begun(limited)
  fixture.hit(AT_LIMIT, overtakenBy(limited, deliveries, length))
}

/** How many jobs of a lower priority began, from this delivery on, before the last of these did. */
function overtakenBy(jobs: Accepted[], deliveries: Delivery[], from: number): number {
  const ids = new Set(jobs.map(({ id }) => id))
  const lastOf = Math.max(...jobs.map(({ id }) => deliveries.findIndex(isOf(id))))
  return deliveries.slice(from, lastOf).filter(({ jobId }) => !ids.has(jobId)).length
}

const isOf =
  (id: string) =>
  ({ jobId }: Delivery) =>
    jobId === id

async function insist(
  { client }: Fixture,
  path: string,
  [method, body]: ['POST'] | ['PUT', object] = ['POST'],
): Promise<void> {
  await until(async () =>
    [200, 201].includes((await client.request(method, path, body))?.status ?? 0),
  )
}

async function cancelSurely({ client }: Fixture, job: Accepted): Promise<void> {
  // The API may have been killed between the cancel and its response.
  await until(async () => [200, 409].includes((await client.command('cancel', job))?.status ?? 0))
}
