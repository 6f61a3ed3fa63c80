// A store and the model of what is in it, side by side: where a sequence of commands is played, and
// where after each of them the two are compared.
import { expect } from 'vitest'
import { type Endpoint, newSecret } from '../../src/endpoint/endpoint.ts'
import { isFinal, type Job, type Lease } from '../../src/job/job.ts'
import type { OverdueJob, Store } from '../../src/store/store.ts'
import { settingsOf } from '../contract/fixtures.ts'
import type { ModelJob, World } from './job-model.ts'

export interface Fixture {
  store: Store
  world: World
  names: string[]
  /** All leases that were ever handed out, ended ones too: their holders know no better. */
  hands: (Lease & { number: number; claimedAt: number })[]
  /** What was overdue when somebody looked, and may be so no longer. */
  overdue: OverdueJob[]
  /** Due instants, each later than the one before, all long past: the order of claims is known. */
  nextDueAt: number
  count: number
}

/** Which one a command is about: counted from the newest, among those that fit or among all. */
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
    expect(factsOf(job)).toEqual(expectedFacts(expected))
  }
}

/** The store's clock alone knows when it was; the model learns it. */
function takeInstants(expected: ModelJob, { runAt, firstRunAt }: Job, now: number): void {
  expect(runAt).toBeGreaterThanOrEqual(expected.runAt)
  expect(runAt).toBeLessThanOrEqual(now)
  if (expected.firstRunAt === expected.runAt) expected.firstRunAt = firstRunAt
  expected.runAt = runAt
  expected.isSinceNow = false
}

/**
 * An expired job may have died because it expired or because its dependency died, and it may or may
 * not have got its ordering slot before.
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

/** What is always true, whatever the model says. */
function expectInvariants(job: Job): void {
  expect(job.lease !== null).toBe(job.state === 'running')
  expect(job.phase !== null).toBe(job.state === 'running')
  expect(job.finishedAt !== null).toBe(isFinal(job.state))
  expect(job.failure !== null).toBe(job.state === 'dead')
  expect(job.startedAt !== null || job.attemptCount === 0).toBe(true)
  if (job.state === 'queued') expect(job.attemptsLeft).toBeGreaterThan(0)
  if (job.isBlocked) expect(job.state).toBe('queued')
}
