// A worker is frozen with writes to make, and continues when another worker has its jobs. Its
// writes are a sweep of leases that others have by now, and outcomes of attempts that are over.
import { until } from '../../support/until.ts'
import { doesUpkeep, type Fixture, type Member, requestsUnderWay } from '../fixture.ts'
import { nowMs } from '../history.ts'
import { BOTH, type Round } from '../round.ts'
import type { Accepted } from '../work-client.ts'
import type { Reply } from '../work-receiver.ts'

const LONG_REPEATS = 8
const JOBS = 8
const CANCELLED = 4
const LEASE_MS = 1_500
const SWEEP_MS = 100
/**
 * The file is locked this long before a lease expires. So the sweeper that finds the lease must
 * wait before it can write.
 */
const LOCK_AHEAD_MS = 200
/**
 * The lease of the upkeep is as short. After a freeze the other worker takes over before the store
 * gives up the sweep of the frozen worker.
 */
const SHORT_UPKEEP_LEASE = { LEASE_DURATION: '1s' }
/** At this time after the expiry the sweeper has found the lease. */
const FOUND_AFTER_MS = SWEEP_MS + 100
/** The store itself gives up a sweep that has waited longer. On a busy machine that happens. */
const MOST_TRIES = 5
/**
 * After this many transactions or commands, a worker that continued has made all writes that it had
 * to make.
 */
const COMMANDS_TO_CATCH_UP = 10
/**
 * A worker notices a lost lease at its next renewal. Three processes share two cores with this one.
 */
const BROKEN_OFF_WITHIN_MS = LEASE_MS / 3 + 2_500

const STALE_SWEEP = 'a stale sweep came while the next attempt was under way'
const STALE_RESULTS = 'a stale result came while the next attempt was under way'
const BROKEN_OFF = 'cancelled while the request was out'

export const staleWrites: Round = {
  name: 'stale-writes',
  title: 'worker frozen with a sweep or results in hand, thawed amid the next attempt',
  engines: BOTH,
  shortOn: ['sqlite'],
  settings: { leaseMs: LEASE_MS, sweepMs: SWEEP_MS, pollMs: 50 },
  windows: [STALE_RESULTS, BROKEN_OFF],
  // On MongoDB nothing stops a sweeper between its read and its write.
  windowsOf: { sqlite: [STALE_SWEEP] },
  async play(fixture, { isLong }) {
    const repeats = isLong ? LONG_REPEATS : 1
    const hits = () => (fixture.windows.get(STALE_SWEEP) ?? 0) / JOBS
    if (fixture.engine === 'sqlite') {
      for (let i = 0; i < repeats * MOST_TRIES && hits() < repeats; i++) await staleSweep(fixture)
    }
    for (let i = 0; i < repeats; i++) await staleResults(fixture)
  },
}

/** The first delivery of each job gets one response, all later ones the other response. */
function holdAnswers(fixture: Fixture) {
  const first = Promise.withResolvers<Reply>()
  const next = Promise.withResolvers<Reply>()
  const delivered = new Set<string>()
  // This counts arrivals, not fences or attempts: a wrong number must not change the outcome.
  fixture.receiver.answerWith(({ jobId }) => {
    if (delivered.has(jobId)) return next.promise
    delivered.add(jobId)
    return first.promise
  })
  return { first, next, delivered }
}

/**
 * A worker dies. The worker that does the upkeep finds the expired leases, and is frozen before it
 * writes. Another worker takes over the upkeep meanwhile.
 */
async function staleSweep(fixture: Fixture): Promise<void> {
  const { delivered, next } = holdAnswers(fixture)
  const sweepers = [
    await fixture.startWorker(SHORT_UPKEEP_LEASE),
    await fixture.startWorker(SHORT_UPKEEP_LEASE),
  ]
  const victim = await fixture.startWorker()
  // The stopped workers leave all jobs to the victim.
  for (const { process } of sweepers) process.kill('SIGSTOP')
  const jobs = await fixture.client.enqueueMany(JOBS, () => ({}))
  await until(() => delivered.size === JOBS)
  for (const { process } of sweepers) process.kill('SIGCONT')
  await until(() => [victim, ...sweepers].some(doesUpkeep))
  await fixture.kill(victim)
  const expiresAtMs = await expiryOf(fixture, jobs)
  await until(() => Date.now() > expiresAtMs - LOCK_AHEAD_MS)
  const isInTime = Date.now() < expiresAtMs
  const frozen = sweepers.find(doesUpkeep)
  if (frozen !== undefined) {
    await freezeBeforeWrite(fixture, frozen, { jobs, expiresAtMs })
    const isGivenUp = frozen.process.log.some(({ msg }) => msg === 'sweep.failed')
    fixture.hit(STALE_SWEEP, isInTime && !isGivenUp ? JOBS : 0)
  }
  next.resolve(200)
  await fixture.drained()
  expectTwoDeliveries(fixture, jobs)
  for (const sweeper of sweepers) await fixture.terminate(sweeper)
}

async function freezeBeforeWrite(
  fixture: Fixture,
  frozen: Member,
  { jobs, expiresAtMs }: { jobs: Accepted[]; expiresAtMs: number },
): Promise<void> {
  await fixture.during('freeze', frozen.name, async () => {
    await fixture.during('store_locked', 'store', async () => {
      const restore = await fixture.store.cutOffAll()
      await until(() => Date.now() > expiresAtMs + FOUND_AFTER_MS)
      frozen.process.kill('SIGSTOP')
      await restore()
    })
    await until(() => jobs.every((job) => deliveriesOf(fixture, job).length > 1))
    frozen.process.kill('SIGCONT')
    await catchUp(frozen)
  })
}

/**
 * When the leases of these jobs expire, in epoch milliseconds. All jobs of one claim are renewed
 * together.
 */
async function expiryOf(fixture: Fixture, jobs: Accepted[]): Promise<number> {
  const answers = await Promise.all(jobs.map(({ id }) => fixture.client.look(id)))
  return Math.max(...answers.map((answer) => Date.parse(answer?.body.lease.expiresAt)))
}

async function staleResults(fixture: Fixture): Promise<void> {
  const { first, next, delivered } = holdAnswers(fixture)
  const frozen = await fixture.startWorker()
  const jobs = await fixture.client.enqueueMany(JOBS, () => ({}))
  await until(() => delivered.size === JOBS)
  const cut = fixture.engine === 'sqlite' ? 'store_locked' : 'store_cut'
  const other = await fixture.during('freeze', frozen.name, async () => {
    await fixture.during(cut, 'store', async () => {
      const restore = await fixture.store.cutOffWorkers()
      first.resolve(200)
      await until(() => jobs.every((job) => deliveriesOf(fixture, job)[0]?.answeredAtMs))
      // A metric of the worker shows when it has the outcomes.
      await until(async () => (await requestsUnderWay(frozen)) === 0)
      frozen.process.kill('SIGSTOP')
      await restore()
    })
    const started = await fixture.startWorker()
    await until(() => jobs.every((job) => deliveriesOf(fixture, job).length > 1))
    frozen.process.kill('SIGCONT')
    return started
  })
  await expectRefused(fixture, frozen, jobs)
  await expectBrokenOff(fixture, jobs.slice(0, CANCELLED))
  next.resolve(200)
  await fixture.drained()
  expectTwoDeliveries(fixture, jobs)
  await fixture.terminate(frozen)
  await fixture.terminate(other)
}

async function catchUp(worker: Member): Promise<void> {
  const commandCount = () => worker.metric('posthorn_store_commands_total')
  const before = await commandCount()
  await until(async () => (await commandCount()) >= before + COMMANDS_TO_CATCH_UP)
}

async function expectRefused(fixture: Fixture, frozen: Member, jobs: Accepted[]): Promise<void> {
  const refusedCount = () => frozen.metric('posthorn_stale_results_total')
  await catchUp(frozen)
  await until(async () => (await refusedCount()) === JOBS || (await someEnded(fixture, jobs)))
  const refused = await refusedCount()
  fixture.hit(STALE_RESULTS, JOBS)
  fixture.measure('D5', `stale results refused, of ${JOBS} amid the next attempt`, refused)
  if (refused !== JOBS) {
    fixture.complain(`${refused} of ${JOBS} stale results were counted as refused`)
  }
}

async function someEnded(fixture: Fixture, jobs: Accepted[]): Promise<boolean> {
  const found = await Promise.all(jobs.map(({ id }) => fixture.client.look(id)))
  return found.some((answer) => answer?.body.state !== 'running')
}

async function expectBrokenOff(fixture: Fixture, jobs: Accepted[]): Promise<void> {
  for (const job of jobs) {
    const answer = await fixture.client.command('cancel', job)
    if (answer?.status !== 200) fixture.complain(`cancel of ${job.id}: ${answer?.status}, not 200`)
  }
  const limitMs = nowMs() + BROKEN_OFF_WITHIN_MS
  const stillOut = () => jobs.filter((job) => deliveriesOf(fixture, job)[1]?.brokenOffAtMs === null)
  await until(() => nowMs() > limitMs || stillOut().length === 0)
  fixture.hit(BROKEN_OFF, jobs.length)
  const { length } = stillOut()
  if (length > 0) {
    fixture.complain(`${length} requests were still out ${BROKEN_OFF_WITHIN_MS} ms after a cancel`)
  }
}

function expectTwoDeliveries(fixture: Fixture, jobs: Accepted[]): void {
  for (const job of jobs) {
    const { length } = deliveriesOf(fixture, job)
    if (length !== 2) fixture.complain(`${job.id} was delivered ${length} times and not 2`)
  }
}

const deliveriesOf = (fixture: Fixture, { id }: Accepted) =>
  fixture.receiver.deliveries.filter(({ jobId }) => jobId === id)
