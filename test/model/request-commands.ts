// The commands of clients in a random sequence. Each runs on the store and in the model, and must
// have the same result.
import { expect } from 'vitest'
import { retryOrder } from '../../src/job/dependencies.ts'
import type { JobChange } from '../../src/job/edit.ts'
import type { DedupeMode, Job } from '../../src/job/job.ts'
import type { Store } from '../../src/store/store.ts'
import { newJob, report } from '../contract/fixtures.ts'
import type { Fixture, Pick } from './fixture.ts'
import { endpointIn, isUnfinished, jobIn, type ModelJob } from './job-model.ts'
import * as requests from './job-requests.ts'

const HOUR_MS = 3_600_000

/** A job to enqueue. There are few keys, so that jobs share them. */
export interface EnqueuePlan {
  endpoint: number
  isDue: boolean
  /** `over`: it expires before it can start. */
  expiry: 'none' | 'far' | 'over'
  maxAttempts: number
  priority: number
  key: number | null
  request: number
  dedupe: { key: number; mode: DedupeMode } | null
  orderingKey: number | null
  dependsOn: number[]
}

export async function enqueue(fixture: Fixture, plan: EnqueuePlan): Promise<void> {
  const { store, world } = fixture
  const runAt = plan.isDue ? fixture.nextDueAt++ : store.clock.now() + HOUR_MS
  const lives = { none: null, far: runAt + 9 * HOUR_MS, over: runAt + 1_000 }
  const ids = [...world.jobs.keys()]
  const dependsOn = plan.dependsOn.map((pick) => ids.at(-1 - (pick % ids.length)))
  const job = newJob(store, nameOf(fixture, plan.endpoint), {
    payload: Buffer.from(`{"n":${fixture.count++}}`),
    runAt,
    expiresAt: lives[plan.expiry],
    maxAttempts: plan.maxAttempts,
    priority: plan.priority,
    idempotency:
      plan.key === null ? null : { key: `k${plan.key}`, requestHash: `h${plan.request}` },
    dedupe: plan.dedupe === null ? null : { ...plan.dedupe, key: `d${plan.dedupe.key}` },
    orderingKey: plan.orderingKey === null ? null : `o${plan.orderingKey}`,
    // A job with a dedupe key has no dependencies: whether it may depend on the job that it
    // replaces is not decided.
    dependsOn: plan.dedupe === null ? [...new Set(dependsOn.filter((id) => id !== undefined))] : [],
  })

  const [answer] = await store.enqueue([job])

  const expected = requests.enqueue(world, job)
  expect(answer?.kind).toBe(expected.kind)
  if (answer !== undefined && 'job' in answer) expect(answer.job.id).toBe(expected.jobId)
  if (answer?.kind === 'inserted' && hadNothingToWaitFor(answer.job)) {
    // One store raises the version for this state during the write, the other never has this state.
    jobIn(world, job.id).version = answer.job.version
  }
  if (answer !== undefined && 'jobId' in answer) expect(answer.jobId).toBe(expected.jobId)
}

function hadNothingToWaitFor({ dependsOn, orderingKey, isBlocked, version }: Job): boolean {
  return dependsOn.length > 0 && orderingKey === null && !isBlocked && version <= 2
}

export async function cancel(fixture: Fixture, pick: Pick): Promise<void> {
  const id = jobId(fixture, pick, isUnfinished)
  const answer = await fixture.store.cancel([id])
  expect(answer).toEqual([requests.cancel(fixture.world, id)])
}

export async function retry(fixture: Fixture, pick: Pick): Promise<void> {
  const id = jobId(fixture, pick, ({ state }) => state === 'dead' || state === 'cancelled')
  const now = fixture.store.clock.now()
  const answer = await fixture.store.retry([id])
  expect(answer).toEqual([requests.retry(fixture.world, id, now, true)])
}

/** Retries some of the jobs that can be retried, as a bulk command does. */
export async function retryMany({ store, world }: Fixture, every: number): Promise<void> {
  const dead = [...world.jobs.values()].filter(
    ({ state }, i) => (state === 'dead' || state === 'cancelled') && i % every === 0,
  )
  const ids = retryOrder(dead)
  const now = store.clock.now()
  const answer = await store.retry(ids, { waives: false })
  expect(answer).toEqual(ids.map((id) => requests.retry(world, id, now, false)))
}

export interface EditPlan {
  runAt: 'due' | 'far' | 'stays'
  expiresInMs: number | null | undefined
  priority: number | undefined
  withPayload: boolean
  version: 'any' | 'right' | 'stale'
}

export async function edit(fixture: Fixture, pick: Pick, plan: EditPlan): Promise<void> {
  const { store, world } = fixture
  const id = jobId(fixture, pick, ({ state }) => state === 'queued')
  const change: JobChange = { priority: plan.priority, expiresInMs: plan.expiresInMs }
  if (plan.runAt !== 'stays') {
    change.runAt = plan.runAt === 'due' ? fixture.nextDueAt++ : store.clock.now() + HOUR_MS
  }
  if (plan.withPayload) change.payload = Buffer.from(`{"n":${fixture.count++}}`)
  const version = world.jobs.get(id)?.version ?? 0
  const ifVersion = { any: null, right: version, stale: version - 1 }[plan.version]
  const answer = await store.edit(id, change, ifVersion)
  expect(answer.kind).toBe(requests.edit(world, id, change, ifVersion))
}

export async function switchEndpoint(
  fixture: Fixture,
  pick: number,
  to: 'paused' | 'active' | 'disabled',
): Promise<void> {
  const { store, world } = fixture
  const name = nameOf(fixture, pick)
  const endpoint = endpointIn(world, name)
  switch (to) {
    case 'paused':
      endpoint.isPaused = true
      endpoint.version = versionOf(await store.pauseEndpoint(name))
      break
    case 'active':
      Object.assign(endpoint, { isPaused: false, isDisabled: false })
      endpoint.version = versionOf(await store.resumeEndpoint(name))
      break
    case 'disabled':
      if (!endpoint.isDisabled) {
        endpoint.isDisabled = true
        await report(store, name, { goneAtVersion: endpoint.version })
      }
      break
    default:
      throw new Error(`unknown switch ${to satisfies never}`)
  }
}

/**
 * Mostly returns a job to which the command applies, but sometimes another one, so that refusals
 * occur.
 */
function jobId({ world }: Fixture, pick: Pick, fits: (job: ModelJob) => boolean): string {
  const all = [...world.jobs.values()]
  const fitting = pick.fits ? all.filter(fits) : []
  const jobs = fitting.length > 0 ? fitting : all
  return (jobs.at(-1 - (pick.back % jobs.length)) as ModelJob).id
}

function nameOf({ names }: Fixture, pick: number): string {
  return names[pick % names.length] as string
}

function versionOf(endpoint: Awaited<ReturnType<Store['pauseEndpoint']>>): number {
  return endpoint !== null && 'version' in endpoint ? endpoint.version : 0
}
