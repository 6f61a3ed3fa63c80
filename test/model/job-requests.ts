// The requests of clients about the jobs of the model, and the expected results.
import type { JobChange } from '../../src/job/edit.ts'
import type { NewJob } from '../../src/job/job.ts'
import type {
  CommandResult,
  EditResult,
  EnqueueResult,
  RetryResult,
} from '../../src/store/store.ts'
import {
  dedupeHolder,
  endpointIn,
  finish,
  holdLaterOne,
  isUnfinished,
  jobIn,
  lookAtHeld,
  type ModelJob,
  passTurn,
  pushAttempt,
  type World,
} from './job-model.ts'

/** The job that the result names: a new one, an existing one, or the conflicting one. */
export interface Enqueued {
  kind: EnqueueResult['kind']
  jobId: string | null
}

export function enqueue(world: World, job: NewJob): Enqueued {
  if (endpointIn(world, job.endpoint).isDisabled) return { kind: 'endpoint_disabled', jobId: null }
  const known = keyOwner(world, job)
  if (known !== null) return known
  const missing = job.dependsOn.find((id) => !world.jobs.has(id))
  if (missing !== undefined) return { kind: 'unknown_dependency', jobId: missing }
  const waitingFor = job.dependsOn.filter((id) => jobIn(world, id).state !== 'succeeded')
  const holder = dedupeHolder(world, job.endpoint, job.dedupe?.key ?? null)
  const isEnded = holder !== undefined && takeOver(job, holder)
  if (holder !== undefined && !isEnded) {
    if (job.dedupe?.mode === 'reject') return { kind: 'dedupe_conflict', jobId: holder.id }
    takeKey(world, job, holder.id)
    return { kind: 'existing', jobId: holder.id }
  }
  const made = modelOf(job, waitingFor)
  world.jobs.set(job.id, made)
  takeKey(world, job, job.id)
  // If a dependency has already failed, the job is left to the sweeper.
  if (made.isBlocked && waitingFor.length === 0) lookAtHeld(world, made)
  if (holder !== undefined && holder.state !== 'running') finish(world, holder, 'cancelled')
  return { kind: 'inserted', jobId: job.id }
}

function keyOwner(world: World, { endpoint, idempotency }: NewJob): Enqueued | null {
  if (idempotency === null) return null
  const owner = world.keys.get(`${endpoint} ${idempotency.key}`)
  if (owner === undefined) return null
  const isSame = owner.requestHash === idempotency.requestHash
  return { kind: isSame ? 'existing' : 'key_reused', jobId: owner.jobId }
}

function takeKey(world: World, { endpoint, idempotency }: NewJob, jobId: string): void {
  if (idempotency === null) return
  world.keys.set(`${endpoint} ${idempotency.key}`, { jobId, requestHash: idempotency.requestHash })
}

/** Whether the holder of the dedupe key loses it, so that another job is created. */
function takeOver(job: NewJob, holder: ModelJob): boolean {
  if (job.dedupe?.mode !== 'replace') return false
  if (holder.state === 'running') {
    holder.isSuperseded = true
    holder.version++
    return true
  }
  if (holder.attemptCount > 0) {
    // The holder no longer counts as an earlier job of the ordering key of the new job.
    holder.state = 'cancelled'
    return true
  }
  holder.payload = Buffer.from(job.payload).toString()
  holder.runAt = job.runAt
  holder.firstRunAt = job.runAt
  holder.priority = job.priority
  holder.expiresAt = job.expiresAt
  holder.version++
  return false
}

function modelOf(job: NewJob, waitingFor: string[]): ModelJob {
  const maxAttempts = job.maxAttempts ?? 1
  return {
    id: job.id,
    endpoint: job.endpoint,
    state: 'queued',
    phase: null,
    payload: Buffer.from(job.payload).toString(),
    priority: job.priority,
    runAt: job.runAt,
    firstRunAt: job.runAt,
    expiresAt: job.expiresAt,
    attemptCount: 0,
    attemptsLeft: maxAttempts,
    maxAttempts,
    freeAttempts: 0,
    fence: 0,
    lease: null,
    progress: null,
    isBlocked: job.orderingKey !== null || job.dependsOn.length > 0,
    hasTurn: false,
    orderingKey: job.orderingKey,
    isSinceNow: false,
    dependsOn: job.dependsOn,
    waitingFor,
    waived: new Set(),
    dedupeKey: job.dedupe?.key ?? null,
    isSuperseded: false,
    attempts: [],
    failure: null,
    hadExpired: false,
    result: null,
    version: 1,
  }
}

export function cancel(world: World, id: string): CommandResult {
  const job = jobIn(world, id)
  if (!isUnfinished(job)) return { kind: 'refused', state: job.state }
  if (job.lease !== null) pushAttempt(job, job.lease, 'cancel', 'cancelled')
  finish(world, job, 'cancelled')
  return { kind: 'applied' }
}

/**
 * @param now the earliest value of its new runAt
 * @param waives true for a retry by id, false for a retry by filter
 */
export function retry(world: World, id: string, now: number, waives: boolean): RetryResult {
  const job = jobIn(world, id)
  if (job.state !== 'dead' && job.state !== 'cancelled') {
    return { kind: 'refused', state: job.state }
  }
  const unmet = job.waitingFor.filter((other) => jobIn(world, other).state !== 'succeeded')
  const waitingFor = unmet.filter((other) => isUnfinished(jobIn(world, other)))
  const waived = unmet.filter((other) => !waitingFor.includes(other))
  if (waived.length > 0 && !waives) return { kind: 'dependency_failed', jobIds: waived }
  const holder = dedupeHolder(world, job.endpoint, job.dedupeKey)
  if (holder !== undefined) return { kind: 'dedupe_conflict', jobId: holder.id }
  for (const other of waived) job.waived.add(other)
  Object.assign(job, {
    state: 'queued',
    isBlocked: job.orderingKey !== null || waitingFor.length > 0,
    waitingFor,
    attemptsLeft: job.maxAttempts,
    freeAttempts: 0,
    runAt: now,
    firstRunAt: now,
    isSuperseded: false,
    failure: null,
    result: null,
    progress: null,
    expiresAt: null,
    isSinceNow: true,
    version: job.version + 1,
  })
  if (job.orderingKey !== null) {
    holdLaterOne(world, job, job.orderingKey)
    passTurn(world, job.endpoint, job.orderingKey)
  }
  return waived.length === 0 ? { kind: 'applied' } : { kind: 'applied', waived }
}

export function edit(
  world: World,
  id: string,
  change: JobChange,
  ifVersion: number | null,
): EditResult['kind'] {
  const job = jobIn(world, id)
  if (ifVersion !== null && ifVersion !== job.version) return 'stale'
  if (job.state !== 'queued') return 'refused'
  if (change.payload !== undefined && job.attemptCount > 0) return 'already_sent'
  const { runAt = job.runAt, expiresInMs } = change
  const firstRunAt = job.attemptCount === 0 ? runAt : job.firstRunAt
  const moved = job.expiresAt === null ? null : job.expiresAt + firstRunAt - job.firstRunAt
  job.expiresAt =
    expiresInMs === undefined ? moved : expiresInMs === null ? null : firstRunAt + expiresInMs
  job.runAt = runAt
  job.firstRunAt = firstRunAt
  job.priority = change.priority ?? job.priority
  if (change.payload !== undefined) job.payload = Buffer.from(change.payload).toString()
  job.version++
  return 'applied'
}
