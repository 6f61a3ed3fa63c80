// The commands of workers, handlers and the sweeper in a random sequence. Each runs on the store
// and in the model, and must have the same result. Leases that ended long ago are used on purpose.
import { expect } from 'vitest'
import type { Attempt, Lease } from '../../src/job/job.ts'
import type { Settlement } from '../../src/store/store.ts'
import { holderOf, LONG_LEASE_MS, leaseOf, sweepClean } from '../contract/fixtures.ts'
import { until } from '../support/until.ts'
import type { Fixture, Pick } from './fixture.ts'
import * as endings from './job-endings.ts'
import { claimable, jobIn, type ModelJob } from './job-model.ts'

/** A lease of this length has expired once the test has waited for it. */
const SHORT_LEASE_MS = 1
/** More than the correction of a store's clock between two looks at it. */
const CLOCK_MARGIN_MS = 10
const HOUR_MS = 3_600_000

const OUTCOMES = {
  succeed: ['succeeded'],
  reschedule: ['http_error', 'failed'],
  postpone: ['interrupted'],
  bury: ['rejected', 'failed'],
} as const satisfies Record<string, readonly Attempt['outcome'][]>

export type Reported = keyof typeof OUTCOMES

export async function claim(
  fixture: Fixture,
  endpointPick: number,
  limit: number,
  isShort: boolean,
): Promise<void> {
  const { store, world, names, hands } = fixture
  const endpoint = names[endpointPick % names.length] as string
  const all = [...world.jobs.values()]
  const latestRunAt = Math.max(0, ...all.map(({ runAt }) => runAt).filter((at) => at < Date.now()))
  await until(() => store.clock.now() > latestRunAt)
  const { jobs, room } = claimable(world, endpoint, store.clock.now())

  const leaseMs = isShort ? SHORT_LEASE_MS : LONG_LEASE_MS
  const answer = await store.claim([{ endpoint, limit }], limit, holderOf({ leaseMs }))

  expect(answer.jobs.length).toBe(Math.min(limit, room, jobs.length))
  const taken = answer.jobs.map(({ jobId }) => jobIn(world, jobId))
  for (const job of taken) expect(jobs).toContain(job)
  const left = jobs.filter((job) => !taken.includes(job))
  for (const job of left) for (const other of taken) expect(comesBefore(job, other)).toBe(false)
  for (const claimed of answer.jobs) {
    const job = jobIn(world, claimed.jobId)
    const unmet = job.dependsOn.filter((id) => jobIn(world, id).state !== 'succeeded')
    expect(unmet.filter((id) => !job.waived.has(id))).toEqual([])
    endings.startAttempt(job, claimed, isShort)
    expect(claimed).toMatchObject({
      fence: job.fence,
      attemptNumber: job.attemptCount,
      attemptsLeft: job.attemptsLeft,
      freeAttempts: job.freeAttempts,
    })
    const { attemptNumber: number, claimedAt } = claimed
    hands.push({ ...leaseOf(claimed), number, claimedAt })
  }
  const endsAt = Math.max(0, ...answer.jobs.map(({ claimedAt }) => claimedAt)) + SHORT_LEASE_MS
  if (isShort) await until(() => store.clock.now() > endsAt + CLOCK_MARGIN_MS)
}

function comesBefore(one: ModelJob, other: ModelJob): boolean {
  return one.priority === other.priority ? one.runAt < other.runAt : one.priority > other.priority
}

export async function settle(
  fixture: Fixture,
  leasePick: Pick,
  event: Reported,
  outcomePick: number,
  isDue: boolean,
): Promise<void> {
  const { store, world } = fixture
  const lease = held(fixture, leasePick)
  const outcomes = OUTCOMES[event]
  const outcome = outcomes[outcomePick % outcomes.length] as Attempt['outcome']
  const attempt = attemptOf(fixture, lease, outcome)
  const runAt = isDue ? fixture.nextDueAt++ : store.clock.now() + HOUR_MS
  const result = `{"n":${fixture.count++}}`
  const settlements: Record<Reported, Settlement> = {
    succeed: { ...leaseOf(lease), attempt, event: 'succeed', result, resultTruncated: false },
    reschedule: { ...leaseOf(lease), attempt, event: 'reschedule', runAt },
    postpone: { ...leaseOf(lease), attempt, event: 'postpone', runAt },
    bury: {
      ...{ ...leaseOf(lease), attempt, event: 'bury' },
      failure: { reason: 'rejected', message: 'HTTP 422' },
    },
  }
  const answer = await store.settle([settlements[event]])
  expect(answer).toEqual([endings.settle(world, lease, { event, outcome, runAt, result })])
}

export async function accept(fixture: Fixture, leasePick: Pick, isPast: boolean): Promise<void> {
  const { store, world } = fixture
  const lease = held(fixture, leasePick)
  const leaseExpiresAt = store.clock.now() + (isPast ? -HOUR_MS : HOUR_MS)
  const answer = await store.settle([{ ...leaseOf(lease), event: 'await', leaseExpiresAt }])
  expect(answer).toEqual([endings.settle(world, lease, { event: 'await', isPast })])
}

export async function renew(fixture: Fixture, leasePick: Pick): Promise<void> {
  const lease = held(fixture, leasePick)
  const answer = await fixture.store.renew([leaseOf(lease)], LONG_LEASE_MS)
  expect(answer).toEqual([endings.renew(fixture.world, lease)])
}

export async function heartbeat(fixture: Fixture, leasePick: Pick, value: number): Promise<void> {
  const lease = held(fixture, leasePick)
  const progress = { value, message: null }
  const beat = { progress, extendMs: null, completionTimeoutMs: HOUR_MS }
  const answer = await fixture.store.heartbeat(leaseOf(lease), beat)
  expect(answer.kind).toBe(endings.heartbeat(fixture.world, lease, value))
}

export async function release(fixture: Fixture, leasePick: Pick): Promise<void> {
  const lease = held(fixture, leasePick)
  const answer = await fixture.store.release([leaseOf(lease)])
  expect(answer).toEqual([endings.release(fixture.world, lease)])
}

export async function sweep({ store, world }: Fixture): Promise<void> {
  const now = store.clock.now()
  await sweepClean(store)
  endings.sweepClean(world, now)
}

/**
 * Looks for overdue jobs. endOverdue may try to end them later, when they are no longer overdue.
 */
export async function lookForOverdue(fixture: Fixture): Promise<void> {
  const { store, world } = fixture
  const found = await store.overdue(1_000)
  const expected = [...world.jobs.values()].filter(
    ({ phase, lease }) => phase === 'awaiting_completion' && lease?.hasExpired,
  )
  expect(found.map(({ jobId }) => jobId).toSorted()).toEqual(
    expected.map(({ id }) => id).toSorted(),
  )
  fixture.overdue.push(...found)
}

export async function endOverdue(
  fixture: Fixture,
  back: number,
  event: 'time_out' | 'bury_timed_out',
): Promise<void> {
  const { store, world, overdue } = fixture
  const seen = overdue.at(-1 - (back % overdue.length)) as Fixture['overdue'][number]
  const { endpoint, leaseExpiresAt, attemptNumber: number, claimedAt } = seen
  const attempt = attemptOf(fixture, { ...leaseOf(seen), number, claimedAt }, 'timeout')
  const runAt = fixture.nextDueAt++
  const failure = { reason: 'attempts_exhausted', message: 'no completion' } as const
  const end = { ...leaseOf(seen), endpoint, leaseExpiresAt, attempt }
  const answer = await store.endOverdue([
    event === 'time_out' ? { ...end, event, runAt } : { ...end, event, failure },
  ])
  expect(answer).toEqual([endings.endOverdue(world, seen, { event, runAt })])
}

/** Returns a lease that holds its job, or any lease that a claim has returned. */
function held({ hands, world }: Fixture, pick: Pick): Fixture['hands'][number] {
  const holding = pick.fits
    ? hands.filter(({ jobId, leaseId }) => jobIn(world, jobId).lease?.leaseId === leaseId)
    : []
  const leases = holding.length > 0 ? holding : hands
  return leases.at(-1 - (pick.back % leases.length)) as Fixture['hands'][number]
}

function attemptOf(
  { store }: Fixture,
  { number, claimedAt }: Lease & { number: number; claimedAt: number },
  outcome: Attempt['outcome'],
): Attempt {
  return {
    ...{ number, startedAt: claimedAt, finishedAt: store.clock.now(), durationMs: 1, outcome },
    ...{ statusCode: null, errorCode: null, message: null, responseBody: null, workerId: 'w' },
  }
}
