// Processes asked to stop, under load: nothing is lost and nothing doubled, for all is handed over.

import { until } from '../../support/until.ts'
import type { Ground, Member } from '../ground.ts'
import { type JobRecord, nowMs } from '../history.ts'
import { readRecords } from '../records.ts'
import { BOTH, type Form, type Round, SLOW_STORE } from '../round.ts'
import { startSteadyLoad } from '../steady-load.ts'
import type { Accepted, WorkRequest } from '../work-client.ts'

/** Of workers and APIs together. */
const SHORT_RESTARTS = 4
const LONG_RESTARTS = 100
const LONG_ATTEMPT_JOBS = 10
const ENQUEUES_AT_ONCE = 20
const SHORT_GRACE_MS = 500
/** The default of SHUTDOWN_GRACE, far longer than any attempt of the load. */
const GRACE_MS = 25_000
/** After the grace the rest is broken off and given back: writes, on a store that may be slow. */
const GIVE_BACK_MS = 2_000
/** D8: how long after the signal a worker may still claim. */
const LAST_CLAIM_MS = 250
const NOISE_MS = 500
/** A worker with such an attempt lives on long enough to be seen claiming. */
const LASTING_MS = LAST_CLAIM_MS + 2 * NOISE_MS

const UNDER_LOAD = 'SIGTERM to a worker with attempts in flight'
const ONLY_WORKER = 'SIGTERM to the only worker, with jobs due'
const API_UNDER_LOAD = 'SIGTERM to the API with enqueues under way'
const GIVEN_BACK = 'attempts longer than the grace given back'

/** A worker that was asked to stop, and when. */
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
  async play(ground, form) {
    const stops: Stop[] = []
    const worker = await longAttempts(ground)
    await rollingRestarts(ground, worker, form, stops)
    await ground.drained()
    expectNoDoubles(ground)
    expectNoLateClaims(ground, stops, await readRecords(ground.client))
  },
}

async function rollingRestarts(
  ground: Ground,
  first: Member,
  { isLong }: Form,
  stops: Stop[],
): Promise<void> {
  let worker = first
  const load = startSteadyLoad(ground, () => quickWork(ground))
  await lastingAttempt(ground)
  // The only one, and there for a while yet: whatever it claims now it may not claim any more.
  await stopUnderLoad(ground, worker, stops)
  ground.hit(ONLY_WORKER)
  worker = await ground.startWorker()
  for (let i = 0; i < (isLong ? LONG_RESTARTS : SHORT_RESTARTS); i++) {
    if (i % 2 === 0) {
      const next = await ground.startWorker()
      await stopUnderLoad(ground, worker, stops)
      worker = next
    } else {
      await restartApi(ground)
    }
  }
  await load.stop()
}

/** Resolves when it is under way. */
async function lastingAttempt(ground: Ground): Promise<void> {
  const { id } = await ground.client.enqueue({ answerAfterMs: LASTING_MS })
  await until(() => ground.receiver.deliveries.some(({ jobId }) => jobId === id))
}

function quickWork({ dice }: Ground): WorkRequest {
  return {
    answerAfterMs: Math.round(dice.between(20, 300)),
    failures: dice.chance(0.1) ? 1 : 0,
  }
}

async function stopUnderLoad(ground: Ground, worker: Member, stops: Stop[]): Promise<void> {
  const inHand = await inFlight(worker)
  const tookMs = await stop(ground, worker, stops)
  ground.hit(UNDER_LOAD, inHand > 0 ? 1 : 0)
  ground.measure('D8', 'exit of a worker after SIGTERM, ms', tookMs)
  if (tookMs > GRACE_MS) ground.complain(`${worker.name} took ${tookMs} ms to stop`)
}

/** Its clients repeat what was cut short, and find their jobs there once. */
async function restartApi(ground: Ground): Promise<void> {
  const { client } = ground
  const enqueued = Promise.all(
    Array.from({ length: ENQUEUES_AT_ONCE }, () => client.enqueue(quickWork(ground))),
  )
  const signalledAtMs = nowMs()
  const tookMs = await stop(ground, ground.api(), [])
  await ground.startApi()
  await enqueued
  const isMet = client.calls.some(
    ({ sentAtMs, endedAtMs }) => sentAtMs <= signalledAtMs && endedAtMs >= signalledAtMs,
  )
  ground.hit(API_UNDER_LOAD, isMet ? 1 : 0)
  ground.measure('D8', 'exit of the API after SIGTERM, ms', tookMs)
  if (tookMs > GRACE_MS) ground.complain(`the API took ${tookMs} ms to stop`)
}

/** How long it took; its exit code must be 0. */
async function stop(ground: Ground, member: Member, stops: Stop[]): Promise<number> {
  const signalledAtMs = nowMs()
  stops.push({ name: member.name, signalledAtMs })
  const code = await ground.terminate(member)
  const { signalCode } = member.process.child
  if (code !== 0) ground.complain(`${member.name} was asked to stop: exit ${code ?? signalCode}`)
  return Math.round(nowMs() - signalledAtMs)
}

/**
 * With one attempt in all: had the interrupted one cost anything, the job would be dead. Resolves
 * with the worker that took over.
 */
async function longAttempts(ground: Ground): Promise<Member> {
  const endpoint = 'long'
  const backoff = { type: 'fixed', delay: '200ms', jitter: 0.2 }
  await ground.register(endpoint, { retry: { maxAttempts: 1, backoff } })
  const worker = await ground.startWorker({ SHUTDOWN_GRACE: `${SHORT_GRACE_MS}ms` })
  ground.receiver.answerWith((delivery) =>
    delivery.endpoint === endpoint && delivery.attempt === 1 ? 'hang' : undefined,
  )
  const jobs = await ground.client.enqueueMany(LONG_ATTEMPT_JOBS, () => ({ endpoint }))
  await until(() => deliveriesTo(ground, endpoint).length === LONG_ATTEMPT_JOBS)
  const next = await ground.startWorker()
  const tookMs = await stop(ground, worker, [])
  const stoppedAtMs = nowMs()
  ground.measure('D8', `exit of a worker with a grace of ${SHORT_GRACE_MS} ms, ms`, tookMs)
  if (tookMs > SHORT_GRACE_MS + GIVE_BACK_MS) {
    ground.complain(`with a grace of ${SHORT_GRACE_MS} ms it took ${tookMs} ms to stop`)
  }
  await ground.drained()
  for (const job of jobs) await expectHandedOver(ground, job)
  const last = Math.max(...deliveriesTo(ground, endpoint).map(({ beganAtMs }) => beganAtMs))
  const sentAgainMs = Math.max(0, Math.round(last - stoppedAtMs))
  ground.measure('D8', 'from that exit until all was sent again, ms', sentAgainMs)
  return next
}

async function expectHandedOver(ground: Ground, { id }: Accepted): Promise<void> {
  const job = (await ground.client.look(id))?.body
  const outcomes = job?.attempts.map((one: { outcome: string }) => one.outcome).join(', ')
  ground.hit(GIVEN_BACK, outcomes === 'interrupted, succeeded' ? 1 : 0)
  if (outcomes !== 'interrupted, succeeded') {
    ground.complain(`${id}, longer than the grace, is ${job?.state} after: ${outcomes}`)
  }
}

/** A fault explains a second delivery to the checker; a stop on request must not lead to one. */
function expectNoDoubles(ground: Ground): void {
  const done = new Set<string>()
  let doubled = 0
  for (const { jobId, status } of ground.receiver.deliveries) {
    if (status !== 200) continue
    if (done.has(jobId)) {
      ground.complain(`${jobId} was delivered twice`)
      doubled += 1
    }
    done.add(jobId)
  }
  ground.measure('D8', 'jobs delivered twice', doubled)
}

function expectNoLateClaims(ground: Ground, stops: Stop[], records: JobRecord[]): void {
  const epochOffsetMs = Date.now() - nowMs()
  const lastClaims = new Map<string, number>()
  for (const { workerId, startedAt } of records.flatMap(({ attempts }) => attempts)) {
    lastClaims.set(workerId, Math.max(lastClaims.get(workerId) ?? 0, startedAt - epochOffsetMs))
  }
  for (const { name, signalledAtMs } of stops) {
    const lateMs = Math.round((lastClaims.get(name) ?? signalledAtMs) - signalledAtMs)
    ground.measure('D8', 'last claim after SIGTERM, ms', Math.max(0, lateMs))
    if (lateMs <= LAST_CLAIM_MS + NOISE_MS) continue
    ground.complain(`${name} still claimed ${lateMs} ms after it was asked to stop`)
  }
}

const inFlight = (worker: Member) => worker.metric('posthorn_attempts_in_flight')

const deliveriesTo = (ground: Ground, name: string) =>
  ground.receiver.deliveries.filter(({ endpoint }) => endpoint === name)
