// Processes are stopped under load: nothing is lost or delivered twice, because everything is
// handed over.

import { until } from '../../support/until.ts'
import type { Fixture, Member } from '../fixture.ts'
import { type JobRecord, nowMs } from '../history.ts'
import { readRecords } from '../records.ts'
import { BOTH, type Form, type Round, SLOW_STORE } from '../round.ts'
import { startSteadyLoad } from '../steady-load.ts'
import type { Accepted, WorkRequest } from '../work-client.ts'

/** The number of restarts, of workers and APIs together. */
const SHORT_RESTARTS = 4
const LONG_RESTARTS = 100
const LONG_ATTEMPT_JOBS = 10
const ENQUEUES_AT_ONCE = 20
const SHORT_GRACE_MS = 500
/** The default of SHUTDOWN_GRACE, far longer than any attempt of the load. */
const GRACE_MS = 25_000
/**
 * After the grace, the worker aborts its attempts and releases its jobs. These are writes on a
 * store that may be slow.
 */
const GIVE_BACK_MS = 2_000
/** D8: how long after the signal a worker may still claim jobs. */
const LAST_CLAIM_MS = 250
const NOISE_MS = 500
/** A worker with such an attempt lives long enough that later claims would be seen. */
const LASTING_MS = LAST_CLAIM_MS + 2 * NOISE_MS

const UNDER_LOAD = 'SIGTERM to a worker with attempts in flight'
const ONLY_WORKER = 'SIGTERM to the only worker, with jobs due'
const API_UNDER_LOAD = 'SIGTERM to the API with enqueues under way'
const GIVEN_BACK = 'attempts longer than the grace given back'

/** A worker that was stopped, and when. */
interface Stop {
  name: string
  signalledAtMs: number
}

export const restarts: Round = {
  name: 'restarts',
  title: 'rolling restarts; SIGTERM under load',
  engines: BOTH,
  shortOn: ['sqlite'],
  settings: { leaseMs: 2_000, sweepMs: 250, pollMs: 100, env: { WORKER_CONCURRENCY: '32' } },
  settingsOf: { mongo: SLOW_STORE },
  windows: [UNDER_LOAD, ONLY_WORKER, API_UNDER_LOAD, GIVEN_BACK],
  async play(fixture, form) {
    const stops: Stop[] = []
    const worker = await longAttempts(fixture)
    await rollingRestarts(fixture, worker, form, stops)
    await fixture.drained()
    expectNoDoubles(fixture)
    expectNoLateClaims(fixture, stops, await readRecords(fixture.client))
  },
}

async function rollingRestarts(
  fixture: Fixture,
  first: Member,
  { isLong }: Form,
  stops: Stop[],
): Promise<void> {
  let worker = first
  const load = startSteadyLoad(fixture, () => quickWork(fixture))
  await lastingAttempt(fixture)
  // This is the only worker, and it lives for some time yet. So any later claim would be its own,
  // and wrong.
  await stopUnderLoad(fixture, worker, stops)
  fixture.hit(ONLY_WORKER)
  worker = await fixture.startWorker()
  for (let i = 0; i < (isLong ? LONG_RESTARTS : SHORT_RESTARTS); i++) {
    if (i % 2 === 0) {
      const next = await fixture.startWorker()
      await stopUnderLoad(fixture, worker, stops)
      worker = next
    } else {
      await restartApi(fixture)
    }
  }
  await load.stop()
}

/** Starts an attempt that lasts. Resolves when it is in progress. */
async function lastingAttempt(fixture: Fixture): Promise<void> {
  const { id } = await fixture.client.enqueue({ answerAfterMs: LASTING_MS })
  await until(() => fixture.receiver.deliveries.some(({ jobId }) => jobId === id))
}

function quickWork({ random }: Fixture): WorkRequest {
  return {
    answerAfterMs: Math.round(random.between(20, 300)),
    failures: random.chance(0.1) ? 1 : 0,
  }
}

async function stopUnderLoad(fixture: Fixture, worker: Member, stops: Stop[]): Promise<void> {
  const inHand = await inFlight(worker)
  const tookMs = await stop(fixture, worker, stops)
  fixture.hit(UNDER_LOAD, inHand > 0 ? 1 : 0)
  fixture.measure('D8', 'exit of a worker after SIGTERM, ms', tookMs)
  if (tookMs > GRACE_MS) fixture.complain(`${worker.name} took ${tookMs} ms to stop`)
}

/**
 * Restarts the API. Its clients repeat interrupted requests, and find that each job exists once.
 */
async function restartApi(fixture: Fixture): Promise<void> {
  const { client } = fixture
  const enqueued = Promise.all(
    Array.from({ length: ENQUEUES_AT_ONCE }, () => client.enqueue(quickWork(fixture))),
  )
  const signalledAtMs = nowMs()
  const tookMs = await stop(fixture, fixture.api(), [])
  await fixture.startApi()
  await enqueued
  const isMet = client.calls.some(
    ({ sentAtMs, endedAtMs }) => sentAtMs <= signalledAtMs && endedAtMs >= signalledAtMs,
  )
  fixture.hit(API_UNDER_LOAD, isMet ? 1 : 0)
  fixture.measure('D8', 'exit of the API after SIGTERM, ms', tookMs)
  if (tookMs > GRACE_MS) fixture.complain(`the API took ${tookMs} ms to stop`)
}

/** Stops a member and returns how long that took. Its exit code must be 0. */
async function stop(fixture: Fixture, member: Member, stops: Stop[]): Promise<number> {
  const signalledAtMs = nowMs()
  stops.push({ name: member.name, signalledAtMs })
  const code = await fixture.terminate(member)
  const { signalCode } = member.process.child
  if (code !== 0) fixture.complain(`${member.name} was asked to stop: exit ${code ?? signalCode}`)
  return Math.round(nowMs() - signalledAtMs)
}

/**
 * Enqueues jobs with a single attempt: if the interrupted attempt counted, the job would be dead.
 * Resolves with the worker that took over.
 */
async function longAttempts(fixture: Fixture): Promise<Member> {
  const endpoint = 'long'
  const backoff = { type: 'fixed', delay: '200ms', jitter: 0.2 }
  await fixture.register(endpoint, { retry: { maxAttempts: 1, backoff } })
  const worker = await fixture.startWorker({ SHUTDOWN_GRACE: `${SHORT_GRACE_MS}ms` })
  fixture.receiver.answerWith((delivery) =>
    delivery.endpoint === endpoint && delivery.attempt === 1 ? 'hang' : undefined,
  )
  const jobs = await fixture.client.enqueueMany(LONG_ATTEMPT_JOBS, () => ({ endpoint }))
  await until(() => deliveriesTo(fixture, endpoint).length === LONG_ATTEMPT_JOBS)
  const next = await fixture.startWorker()
  const tookMs = await stop(fixture, worker, [])
  const stoppedAtMs = nowMs()
  fixture.measure('D8', `exit of a worker with a grace of ${SHORT_GRACE_MS} ms, ms`, tookMs)
  if (tookMs > SHORT_GRACE_MS + GIVE_BACK_MS) {
    fixture.complain(`with a grace of ${SHORT_GRACE_MS} ms it took ${tookMs} ms to stop`)
  }
  await fixture.drained()
  for (const job of jobs) await expectHandedOver(fixture, job)
  const last = Math.max(...deliveriesTo(fixture, endpoint).map(({ beganAtMs }) => beganAtMs))
  const sentAgainMs = Math.max(0, Math.round(last - stoppedAtMs))
  fixture.measure('D8', 'from that exit until all was sent again, ms', sentAgainMs)
  return next
}

async function expectHandedOver(fixture: Fixture, { id }: Accepted): Promise<void> {
  const job = (await fixture.client.look(id))?.body
  const outcomes = job?.attempts.map((one: { outcome: string }) => one.outcome).join(', ')
  fixture.hit(GIVEN_BACK, outcomes === 'interrupted, succeeded' ? 1 : 0)
  if (outcomes !== 'interrupted, succeeded') {
    fixture.complain(`${id}, longer than the grace, is ${job?.state} after: ${outcomes}`)
  }
}

/**
 * Checks that no job was delivered twice. The checker accepts a second delivery that a fault
 * explains, but a requested stop must not cause one.
 */
function expectNoDoubles(fixture: Fixture): void {
  const done = new Set<string>()
  let doubled = 0
  for (const { jobId, status } of fixture.receiver.deliveries) {
    if (status !== 200) continue
    if (done.has(jobId)) {
      fixture.complain(`${jobId} was delivered twice`)
      doubled += 1
    }
    done.add(jobId)
  }
  fixture.measure('D8', 'jobs delivered twice', doubled)
}

function expectNoLateClaims(fixture: Fixture, stops: Stop[], records: JobRecord[]): void {
  const epochOffsetMs = Date.now() - nowMs()
  const lastClaims = new Map<string, number>()
  for (const { workerId, startedAt } of records.flatMap(({ attempts }) => attempts)) {
    lastClaims.set(workerId, Math.max(lastClaims.get(workerId) ?? 0, startedAt - epochOffsetMs))
  }
  for (const { name, signalledAtMs } of stops) {
    const lateMs = Math.round((lastClaims.get(name) ?? signalledAtMs) - signalledAtMs)
    fixture.measure('D8', 'last claim after SIGTERM, ms', Math.max(0, lateMs))
    if (lateMs <= LAST_CLAIM_MS + NOISE_MS) continue
    fixture.complain(`${name} still claimed ${lateMs} ms after it was asked to stop`)
  }
}

const inFlight = (worker: Member) => worker.metric('posthorn_attempts_in_flight')

const deliveriesTo = (fixture: Fixture, name: string) =>
  fixture.receiver.deliveries.filter(({ endpoint }) => endpoint === name)
