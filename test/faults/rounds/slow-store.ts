// A store that is slower than the work. It gets a storm of kills and load, and then no more load.
// The backlog must drain at a fixed share of what the store alone can settle, and no job may be
// delivered again unless a kill explains it.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Fixture, Member } from '../fixture.ts'
import { type Engine, nowMs } from '../history.ts'
import { BOTH, type Form, type Round } from '../round.ts'
import { settleAlone } from '../settle-alone.ts'
import { startSteadyLoad } from '../steady-load.ts'
import { type StoreProbes, startStoreProbes } from '../store-probes.ts'
import { expectAnswers } from './store-outages.ts'

const WORKERS = 3
const KILL_EVERY_MS = [1_000, 4_000] as const
/** The limit of D15. */
const LEAST_DRAIN_SHARE = 0.4
/** Enough jobs to deliver for some seconds on a store that nothing slows down. */
const CALM_JOBS: Record<Engine, number> = { sqlite: 1_500, mongo: 1_000 }
/**
 * The backlog is counted rarely, because counting takes time that the store needs for the drain.
 */
const LOOK_EVERY_MS = 1_000
const UNMEASURED_SHARE = 0.1
const DRAINED_DEADLINE_MS = 120_000

interface Extent {
  backlog: number
  baselineMs: number
  stormMs: number
  /** How long the drain is measured if the store is so slow that the backlog takes longer. */
  drainMs: number
}
const LONG: Extent = { backlog: 2_000, baselineMs: 8_000, stormMs: 30_000, drainMs: 100_000 }
const SHORT: Record<Engine, Extent> = {
  sqlite: { backlog: 2_000, baselineMs: 1_000, stormMs: 4_000, drainMs: 10_000 },
  // The outcomes of three workers with full slots do not fit into one deadline.
  mongo: { backlog: 600, baselineMs: 2_000, stormMs: 4_000, drainMs: 14_000 },
}

const KILLED = 'a worker killed while the store was slow'
const STORM_LOAD = 'jobs accepted in the storm'

interface Setting {
  name: string
  title: string
  /** Added for each document (MongoDB), or how long the lock is held at a time (SQLite). */
  slowMs: Record<Engine, number>
  leaseMs: number
  engines: readonly Engine[]
  shortOn: readonly Engine[]
}

/** The leases of every setting but the first: the shortest leases in use, and the usual ones. */
const LEASES_MS = { short: 2_000, long: 30_000 }
const MONGO_SLOW_MS = [0, 5, 20, 100]
const LOCK_HELD_MS = 50

const SETTINGS: Setting[] = [
  {
    name: 'slow-store',
    title: 'each document takes 20 ms longer to write, or the lock is held half of the time',
    ...{ slowMs: { mongo: 20, sqlite: LOCK_HELD_MS }, engines: BOTH, shortOn: ['sqlite'] },
    // As in other rounds, leases that two shared cores and a stand-in can renew in time.
    leaseMs: 5_000,
  },
  ...Object.entries(LEASES_MS).flatMap(([leases, leaseMs]) =>
    MONGO_SLOW_MS.map((ms): Setting => {
      const title = ms === 0 ? 'the stand-in as it is' : `each document takes ${ms} ms longer`
      return {
        name: `slow-store-${ms}-ms-${leases}-leases`,
        title: `${title}, leases of ${leaseMs / 1_000} s`,
        // The lock of SQLite has only one setting, which belongs to the first of these settings.
        ...{ slowMs: { mongo: ms, sqlite: LOCK_HELD_MS }, leaseMs, shortOn: [] },
        engines: ms === 20 ? BOTH : ['mongo'],
      }
    }),
  ),
]

export const slowStores: readonly Round[] = SETTINGS.map(
  ({ name, title, slowMs, leaseMs, engines, shortOn }) => ({
    ...{ name, title: `a storm on a slow store: ${title}`, engines, shortOn },
    settings: { leaseMs, sweepMs: 250, pollMs: 100 },
    isAlone: true,
    windows: [KILLED, STORM_LOAD],
    play: (fixture, form) => play(fixture, form, slowMs[fixture.engine]),
  }),
)

async function play(fixture: Fixture, form: Form, slowMs: number): Promise<void> {
  const { engine, store } = fixture
  const extent = form.isLong ? LONG : SHORT[engine]
  const workers: Member[] = []
  const alone = await settleAlone(store, slowMs, extent.baselineMs)
  fixture.measure('D15', 'the store alone settles, jobs/s', alone)
  const calm = await deliverCalmly(fixture, CALM_JOBS[engine])
  fixture.measure('D15', 'workers deliver while nothing slows the store, jobs/s', calm)
  // All these processes share the processors: a quick store alone settles more outcomes than the
  // workers can ever deliver. So the drain is compared with the slower of the two rates.
  const reference = Math.min(alone, calm)
  await fixture.client.enqueueMany(extent.backlog, () => ({}))
  // The round registers this endpoint while the store is quick: a request may get a 503 later.
  const probes = await startStoreProbes(fixture, (await fixture.client.enqueue()).id)
  await fixture.during('slow_writes', 'store', async () => {
    const restore = await store.slowWrites(slowMs)
    try {
      while (workers.length < WORKERS) workers.push(await fixture.startWorker())
      await storm(fixture, workers, probes, extent)
      const missing = extent.backlog - (await leftOf(fixture))
      if (missing > 0) await enqueuePaused(fixture, missing)
      await drain(fixture, extent, reference)
    } finally {
      await restore()
    }
  })
  await fixture.drained(DRAINED_DEADLINE_MS)
}

/**
 * How many jobs a second the same number of workers delivers while nothing slows the store down.
 */
async function deliverCalmly(fixture: Fixture, count: number): Promise<number> {
  const workers: Member[] = []
  while (workers.length < WORKERS) workers.push(await fixture.startWorker())
  await enqueuePaused(fixture, count)
  const beganAtMs = nowMs()
  await fixture.drained()
  const perSecond = Math.round(count / ((nowMs() - beganAtMs) / 1_000))
  // The workers of the storm have adapted to the pace of the slow store, so they are replaced.
  for (const worker of workers) await fixture.terminate(worker)
  return perSecond
}

async function enqueuePaused({ client }: Fixture, count: number): Promise<void> {
  await persist(() => client.request('POST', '/endpoints/work/pause'))
  await client.enqueueMany(count, () => ({}))
  await persist(() => client.request('POST', '/endpoints/work/resume'))
}

async function persist(ask: () => ReturnType<Fixture['client']['request']>): Promise<void> {
  while ((await ask())?.status !== 200) await sleep(LOOK_EVERY_MS)
}

/** Kills workers, and enqueues more jobs than the store can take. */
async function storm(
  fixture: Fixture,
  workers: Member[],
  probes: StoreProbes,
  { stormMs }: Extent,
): Promise<void> {
  const load = startSteadyLoad(fixture, () => ({}))
  const endsAtMs = nowMs() + stormMs
  while (nowMs() < endsAtMs) {
    await sleep(fixture.random.between(...KILL_EVERY_MS))
    const victim = fixture.random.pick(workers)
    await fixture.kill(victim)
    fixture.hit(KILLED)
    workers[workers.indexOf(victim)] = await fixture.startWorker()
  }
  await load.stop()
  await probes.stop()
  fixture.hit(STORM_LOAD, load.accepted.length)
  expectAnswers(fixture, probes.longestMs, 'D15')
}

/**
 * From now on the only fault is the slow store. The last tenth of the jobs is not measured: jobs of
 * killed workers wait for the end of their leases, not for the store.
 */
async function drain(fixture: Fixture, { drainMs }: Extent, reference: number): Promise<void> {
  const before = await leftOf(fixture)
  const beganAtMs = nowMs()
  let left = before
  while (left > before * UNMEASURED_SHARE && nowMs() < beganAtMs + drainMs) {
    await sleep(LOOK_EVERY_MS)
    left = await leftOf(fixture)
  }
  const perSecond = (before - left) / ((nowMs() - beganAtMs) / 1_000)
  const share = perSecond / reference
  fixture.measure('D15', 'left after the storm, jobs', before)
  fixture.measure('D15', 'drained in quiet, jobs', before - left)
  fixture.measure('D15', 'drained in quiet, jobs/s', Math.round(perSecond))
  fixture.measure(
    'D15',
    'drained at this share of the slower of the two',
    Math.round(share * 100) / 100,
  )
  if (share < LEAST_DRAIN_SHARE) {
    fixture.complain(
      `the backlog drained at ${share.toFixed(2)} of what the store or the workers can do`,
    )
  }
}

/** How many jobs are not final. */
async function leftOf({ client }: Fixture): Promise<number> {
  for (;;) {
    const answer = await client.request('GET', '/endpoints/work')
    if (answer?.status === 200) return answer.body.counts.queued + answer.body.counts.running
    await sleep(LOOK_EVERY_MS)
  }
}
