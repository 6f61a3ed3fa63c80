// Three endpoints share a number of running jobs, three others a rate, while workers and the API
// are killed and frozen. One endpoint of each has a backlog, two have 10 jobs now and then. The
// checker counts what runs (I16), and what starts before each of those jobs (I17).
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../../support/until.ts'
import type { Fixture, Member } from '../fixture.ts'
import type { SharedLimitFacts } from '../history.ts'
import { BOTH, type Form, type Round } from '../round.ts'

const WORKERS = 3
/** More than the limit in two of three workers. */
const SLOTS_OF_WORKER = 8
/** Processes take longer to start on MongoDB. */
const FAULT_EVERY_MS = { sqlite: [500, 1_000], mongo: [1_000, 1_800] } as const
const LEASE_MS = 2_000
const FROZEN_MS = 1.2 * LEASE_MS
/** Longer than a claim may hold a limit on MongoDB. */
const LONG_FROZEN_MS = 7_000
/** So that the backlog outlasts the small batches. */
const BACKLOG = { sqlite: 300, mongo: 200 }
const LONG_BACKLOG = { sqlite: 8_000, mongo: 1_500 }
/** Slower than claims on a busy MongoDB: else they, and not the tokens, would be the limit. */
const RATE_BACKLOG = { sqlite: 110, mongo: 110 }
const LONG_RATE_BACKLOG = { sqlite: 1_000, mongo: 1_000 }
/** On MongoDB a claim takes longer: shorter jobs would end before the next ones start. */
const ANSWER_AFTER_MS = { sqlite: [60, 200], mongo: [200, 600] } as const
const BATCHES = 2
const LONG_BATCHES = 30
const BATCH = 10
/** Half as many again as the ten turns of three endpoints. */
const STARTS = 45
const DEADLINE_MS = 40_000
const DRAINED_WITHIN_MS = 240_000
/** On MongoDB, a killed claim can hold a limit for 5 s. */
const BUSY_WITHIN_MS = 8_000
const IN_LINE_WITHIN_MS = 3_000
const NEVER_BEGAN = 'jobs at a shared limit never began'
const FEW = { starts: STARTS }

const SEATS: SharedLimitFacts = {
  name: 'seats',
  endpoints: ['seats-busy', 'seats-few-1', 'seats-few-2'],
  few: { ...FEW, endpoints: ['seats-few-1', 'seats-few-2'] },
  ...{ concurrency: 10, rateLimit: null },
}
const QUOTA: SharedLimitFacts = {
  name: 'quota',
  endpoints: ['quota-busy', 'quota-few-1', 'quota-few-2'],
  few: { ...FEW, endpoints: ['quota-few-1', 'quota-few-2'] },
  ...{ concurrency: null, rateLimit: { count: 20, perMs: 1_000 } },
}
/** More than the bucket holds: beside jobs that cost 1, it is full only if these wait. */
const LARGEST_COST = 25

const WORKER_KILLED = 'a worker killed with attempts in hand'
const WORKER_FROZEN = 'a worker frozen with attempts in hand'
const API_KILLED = 'the API killed beside a backlog'
const IS_FULL = 'as many jobs ran as the limit allows'
const BESIDE_SEATS = 'ten jobs began beside a backlog at a limit of running jobs'
const BESIDE_QUOTA = 'ten jobs began beside a backlog at a rate limit'
const COSTLY = 'one of them cost more than the bucket holds'

export const sharedLimits: Round = {
  name: 'shared-limits',
  title: 'kill −9 and SIGSTOP of workers, kill −9 of the API, while endpoints share limits',
  engines: BOTH,
  settings: {
    ...{ leaseMs: LEASE_MS, sweepMs: 250, pollMs: 100, sharedLimits: [SEATS, QUOTA] },
    env: { WORKER_CONCURRENCY: `${SLOTS_OF_WORKER}` },
  },
  windows: [
    ...[WORKER_KILLED, WORKER_FROZEN, API_KILLED],
    ...[IS_FULL, BESIDE_SEATS, BESIDE_QUOTA, COSTLY],
  ],
  async play(fixture, form) {
    for (const limit of [SEATS, QUOTA]) await create(fixture, limit)
    const workers: Member[] = []
    for (let i = 0; i < WORKERS; i++) workers.push(await fixture.startWorker())
    let isOver = false
    const breaking = breakAtRandom(fixture, workers, form, () => isOver)
    try {
      await Promise.all([SEATS, QUOTA].map((limit) => playBacklog(fixture, limit, form)))
    } finally {
      isOver = true
      await breaking
    }
    await fixture.drained(DRAINED_WITHIN_MS).catch(() => fixture.complain(NEVER_BEGAN))
  },
}

async function create(fixture: Fixture, limit: SharedLimitFacts): Promise<void> {
  const { name, endpoints, concurrency, rateLimit } = limit
  const rate = rateLimit && { count: rateLimit.count, per: `${rateLimit.perMs}ms` }
  const path = `/limits/${name}`
  const answer = await fixture.client.request('PUT', path, { concurrency, rateLimit: rate })
  if (answer?.status !== 201) throw new Error(`${path} was answered by ${answer?.status}`)
  for (const endpoint of endpoints) await fixture.register(endpoint, { limits: [name] })
}

async function breakAtRandom(
  fixture: Fixture,
  workers: Member[],
  { isLong }: Form,
  isOver: () => boolean,
): Promise<void> {
  const pickBusy = async (window: string) => {
    const victim = fixture.random.pick(workers)
    fixture.hit(window, (await hasAttempts(victim)) ? 1 : 0)
    return victim
  }
  // That of the API comes first: after the others, a claim can hold an endpoint for 5 s.
  const faults = [
    async () => {
      await fixture.kill(fixture.api())
      await fixture.startApi()
      fixture.hit(API_KILLED)
    },
    async () => {
      const victim = await pickBusy(WORKER_KILLED)
      await fixture.kill(victim)
      workers[workers.indexOf(victim)] = await fixture.startWorker()
    },
    async () => {
      const victim = await pickBusy(WORKER_FROZEN)
      await fixture.during('freeze', victim.name, async () => {
        victim.process.kill('SIGSTOP')
        await sleep(isLong && fixture.random.chance(0.5) ? LONG_FROZEN_MS : FROZEN_MS)
        victim.process.kill('SIGCONT')
      })
    },
  ]
  // Each fault happens at least once, whatever the random numbers are.
  for (let i = 0; !isOver() || i < faults.length; i++) {
    const [least, most] = FAULT_EVERY_MS[fixture.engine]
    await sleep(fixture.random.between(least, most))
    await faults[i % faults.length]?.()
  }
}

async function hasAttempts(worker: Member): Promise<boolean> {
  const isBusy = async () => (await worker.metric('posthorn_attempts_in_flight')) > 0
  return until(() => isBusy().catch(() => false), BUSY_WITHIN_MS).then(
    () => true,
    () => false,
  )
}

async function playBacklog(
  fixture: Fixture,
  limit: SharedLimitFacts,
  { isLong }: Form,
): Promise<void> {
  const [busy = ''] = limit.endpoints
  const isRate = limit.rateLimit !== null
  const sizes = isRate ? [RATE_BACKLOG, LONG_RATE_BACKLOG] : [BACKLOG, LONG_BACKLOG]
  const count = sizes[isLong ? 1 : 0]?.[fixture.engine] ?? 0
  await enqueue(fixture, busy, count, () => 1)
  // It comes first in the line if a look finds it there in time, and must not stay there.
  await until(async () => {
    const answer = await fixture.client.request('GET', `/limits/${limit.name}`)
    return answer?.body.waiting?.[0] === busy
  }, IN_LINE_WITHIN_MS).catch(() => {})
  let isOver = false
  const looking = isRate ? null : lookIfFull(fixture, limit, () => isOver)
  for (let i = 0; i < (isLong ? LONG_BATCHES : BATCHES); i++) {
    const endpoint = fixture.random.pick(limit.few.endpoints)
    const costOf = (place: number) => (isRate && place === BATCH - 1 ? LARGEST_COST : 1)
    const jobs = await enqueue(fixture, endpoint, BATCH, costOf)
    const left = new Set(jobs.map(({ id }) => id))
    const { deliveries } = fixture.receiver
    const areBegun = () => {
      for (const { jobId } of deliveries) left.delete(jobId)
      return left.size === 0
    }
    await until(areBegun, DEADLINE_MS).catch(() => fixture.complain(NEVER_BEGAN))
    const begun = deliveries.filter((delivery) => delivery.endpoint === busy).length
    fixture.hit(isRate ? BESIDE_QUOTA : BESIDE_SEATS, begun < count ? 1 : 0)
    if (isRate) fixture.hit(COSTLY)
  }
  isOver = true
  await looking
}

function enqueue(
  { random, client, engine }: Fixture,
  endpoint: string,
  count: number,
  costOf: (place: number) => number,
) {
  const [least, most] = ANSWER_AFTER_MS[engine]
  return client.enqueueMany(count, (place) => ({
    endpoint,
    answerAfterMs: Math.round(random.between(least, most)),
    failures: random.chance(0.05) ? 1 : 0,
    fields: { cost: costOf(place) },
  }))
}

async function lookIfFull(
  { client, hit }: Fixture,
  { name, concurrency }: SharedLimitFacts,
  isOver: () => boolean,
): Promise<void> {
  let isFull = false
  await until(async () => {
    const answer = await client.request('GET', `/limits/${name}`)
    isFull = answer?.body.running === concurrency
    return isFull || isOver()
  }, 2 * DEADLINE_MS)
  hit(IS_FULL, isFull ? 1 : 0)
}
