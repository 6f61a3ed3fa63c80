// A store and a model of its content, side by side. A sequence of commands is run on both, and the
// two are compared after each command.
import { isDeepStrictEqual } from 'node:util'
import { expect } from 'vitest'
import { type Endpoint, newSecret } from '../../src/endpoint/endpoint.ts'
import { isFinal, type Job, type Lease } from '../../src/job/job.ts'
import type { Store } from '../../src/store/store.ts'
import type { OverdueJob } from '../../src/store/sweep.ts'
import { settingsOf } from '../contract/fixtures.ts'
import type { ModelJob, World } from './job-model.ts'

export interface Fixture {
  store: Store
  world: World
  names: string[]
  /**
   * All leases of all claims. Leases that have ended are used as well, as by a holder that does not
   * know it.
   */
  hands: (Lease & { number: number; claimedAt: number })[]
  /** The jobs that were overdue at some look. They may not be overdue any more. */
  overdue: OverdueJob[]
  /**
   * The due instant of the next job: later than all before, but long past, so that the order of
   * claims is known.
   */
  nextDueAt: number
  count: number
}

/**
 * The job or lease that a command is about, counted from the newest: of those that fit, or of all.
 */
export interface Pick {
  back: number
  fits: boolean
}

const PAST_MS = 3_600_000

export async function openFixture(store: Store): Promise<Fixture> {
  const world: World = { endpoints: new Map(), jobs: new Map(), keys: new Map() }
  const names: string[] = []
  for (const concurrency of [null, 1]) {
    const settings = settingsOf({ concurrency })
    const made = await store.putEndpoint(settings, { given: null, fresh: newSecret() }, null)
    const { version } =
      'endpoint' in made ? made.endpoint : ({ version: 0 } satisfies Partial<Endpoint>)
    world.endpoints.set(settings.name, { isPaused: false, isDisabled: false, concurrency, version })
    names.push(settings.name)
  }
  const nextDueAt = store.clock.now() - PAST_MS
  return { store, world, names, hands: [], overdue: [], nextDueAt, count: 0 }
}

/** Ends the jobs that a sequence left, so that the sweeps of the next one do not find them. */
export async function clearAway({ store, world }: Fixture): Promise<void> {
  await store.cancel([...world.jobs.keys()])
}

/** Checks that every job of the sequence is the same in the store and in the model. */
export async function compare({ store, world }: Fixture): Promise<void> {
  const jobs = [...world.jobs.values()]
  const found = await Promise.all(jobs.map(({ id }) => store.getJob(id)))
  for (const [index, expected] of jobs.entries()) {
    const job = found[index]
    if (!job) throw new Error(`the store has lost ${expected.id}`)
    expectInvariants(job)
    if (expected.isSinceNow) takeInstants(expected, job, store.clock.now())
    if (expected.hadExpired) takeOrder(expected, job)
    const [facts, wanted] = [factsOf(job), expectedFacts(expected)]
    // toEqual says what differs. It takes a hundred times as long, and almost all jobs are equal.
    if (!isDeepStrictEqual(facts, wanted)) expect(facts).toEqual(wanted)
  }
}

/** Copies the instants from the store to the model: only the store's clock knows them. */
function takeInstants(expected: ModelJob, { runAt, firstRunAt }: Job, now: number): void {
  expect(runAt).toBeGreaterThanOrEqual(expected.runAt)
  expect(runAt).toBeLessThanOrEqual(now)
  if (expected.firstRunAt === expected.runAt) expected.firstRunAt = firstRunAt
  expected.runAt = runAt
  expected.isSinceNow = false
}

/**
 * Copies the failure and the version of an expired job. It may have died because it expired or
 * because its dependency died, and it may or may not have got its ordering slot before.
 */
function takeOrder(expected: ModelJob, { failure, version }: Job): void {
  if (expected.failure === 'dependency_failed' && failure?.reason === 'expired') {
    expected.failure = 'expired'
  }
  expect(Math.abs(version - expected.version)).toBeLessThanOrEqual(1)
  expected.version = version
  expected.hadExpired = false
}

function factsOf(job: Job) {
  const { id, state, phase, priority, runAt, firstRunAt, expiresAt, version, dedupeKey } = job
  const { attemptCount, attemptsLeft, freeAttempts, fence, isBlocked, result } = job
  return {
    ...{ id, state, phase, priority, runAt, firstRunAt, expiresAt, version, dedupeKey },
    ...{ attemptCount, attemptsLeft, freeAttempts, fence, isBlocked, result },
    progress: job.progress?.value ?? null,
    failure: job.failure?.reason ?? null,
    waitingFor: job.isBlocked ? job.waitingFor.toSorted() : [],
    outcomes: job.attempts.map(({ outcome }) => outcome),
    payload: Buffer.from(job.payload).toString(),
  }
}

function expectedFacts(job: ModelJob): ReturnType<typeof factsOf> {
  const { id, state, phase, priority, runAt, firstRunAt, expiresAt, version, dedupeKey } = job
  const { attemptCount, attemptsLeft, freeAttempts, fence, isBlocked, result } = job
  return {
    ...{ id, state, phase, priority, runAt, firstRunAt, expiresAt, version, dedupeKey },
    ...{ attemptCount, attemptsLeft, freeAttempts, fence, isBlocked, result },
    progress: job.progress,
    failure: job.failure,
    waitingFor: job.isBlocked ? job.waitingFor.toSorted() : [],
    outcomes: job.attempts.map(({ outcome }) => outcome),
    payload: job.payload,
  }
}

/** What is always true of a job, whatever the model expects. */
const INVARIANTS: Record<string, (job: Job) => boolean> = {
  'a running job alone has a lease': ({ lease, state }) =>
    (lease !== null) === (state === 'running'),
  'a running job alone has a phase': ({ phase, state }) =>
    (phase !== null) === (state === 'running'),
  'a final job alone has ended': ({ finishedAt, state }) =>
    (finishedAt !== null) === isFinal(state),
  'a dead job alone has a failure': ({ failure, state }) =>
    (failure !== null) === (state === 'dead'),
  'an attempt has a start': ({ startedAt, attemptCount }) =>
    startedAt !== null || attemptCount === 0,
  'a queued job has attempts left': ({ state, attemptsLeft }) =>
    state !== 'queued' || attemptsLeft > 0,
  'a blocked job is queued': ({ isBlocked, state }) => !isBlocked || state === 'queued',
}

function expectInvariants(job: Job): void {
  for (const [says, holds] of Object.entries(INVARIANTS)) {
    if (!holds(job)) throw new Error(`${says}: ${JSON.stringify(job)}`)
  }
}
