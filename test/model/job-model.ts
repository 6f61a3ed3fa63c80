// Jobs as docs/LIFECYCLE.md describes them, in memory: no store, no races, no clock. job-endings.ts
// and job-requests.ts have the actions of holders, clients and the sweeper.
import {
  type Attempt,
  type Failure,
  type FailureReason,
  type Job,
  type JobState,
  MAX_ATTEMPTS_KEPT,
} from '../../src/job/job.ts'

export interface ModelLease {
  fence: number
  leaseId: string
  hasExpired: boolean
}

export interface ModelJob {
  id: string
  endpoint: string
  state: JobState
  phase: Job['phase']
  payload: string
  priority: number
  runAt: number
  firstRunAt: number
  /**
   * Its runAt is the time of the last event by the store's clock: this value or later. The exact
   * value is known once the job is read.
   */
  isSinceNow: boolean
  expiresAt: number | null
  attemptCount: number
  attemptsLeft: number
  maxAttempts: number
  freeAttempts: number
  fence: number
  lease: ModelLease | null
  progress: number | null
  isBlocked: boolean
  /** The job has the ordering slot of its key. */
  hasTurn: boolean
  orderingKey: string | null
  dependsOn: string[]
  waitingFor: string[]
  /** The dependencies that a retry by id waived. */
  waived: Set<string>
  dedupeKey: string | null
  isSuperseded: boolean
  attempts: ModelAttempt[]
  failure: FailureReason | null
  /**
   * A sweep ended the job because it had expired. The order in which that sweep ended other jobs is
   * unknown.
   */
  hadExpired: boolean
  result: string | null
  version: number
}

interface ModelAttempt {
  fence: number
  leaseId: string
  /** The requested event. It is reschedule even if the store applied withdraw. */
  event: string
  outcome: Attempt['outcome']
}

export interface ModelEndpoint {
  isPaused: boolean
  isDisabled: boolean
  concurrency: number | null
  version: number
}

export interface World {
  endpoints: Map<string, ModelEndpoint>
  /** In the order in which they were enqueued. */
  jobs: Map<string, ModelJob>
  /** The job that each key created, by endpoint and key. */
  keys: Map<string, { jobId: string; requestHash: string }>
}

export function isUnfinished({ state }: ModelJob): boolean {
  return state === 'queued' || state === 'running'
}

export function jobIn(world: World, id: string): ModelJob {
  const job = world.jobs.get(id)
  if (job === undefined) throw new Error(`the model has no job ${id}`)
  return job
}

export function endpointIn(world: World, name: string): ModelEndpoint {
  const endpoint = world.endpoints.get(name)
  if (endpoint === undefined) throw new Error(`the model has no endpoint ${name}`)
  return endpoint
}

/** The other job that has this dedupe key, if there is one. */
export function dedupeHolder(
  world: World,
  endpoint: string,
  dedupeKey: string | null,
): ModelJob | undefined {
  if (dedupeKey === null) return undefined
  return [...world.jobs.values()].find(
    (job) =>
      job.endpoint === endpoint &&
      job.dedupeKey === dedupeKey &&
      isUnfinished(job) &&
      !job.isSuperseded,
  )
}

export function pushAttempt(
  job: ModelJob,
  lease: Pick<ModelLease, 'fence' | 'leaseId'>,
  event: string,
  outcome: Attempt['outcome'],
): void {
  job.attempts.push({ fence: lease.fence, leaseId: lease.leaseId, event, outcome })
  job.attempts = job.attempts.slice(-MAX_ATTEMPTS_KEPT)
}

export function toQueued(job: ModelJob, runAt: number): void {
  job.state = 'queued'
  job.runAt = runAt
  dropLease(job)
  job.version++
}

/** Makes a job final, then decides about its dependents and passes its ordering slot on. */
export function finish(
  world: World,
  job: ModelJob,
  state: 'succeeded' | 'dead' | 'cancelled',
  reason: Failure['reason'] | null = null,
): void {
  job.state = state
  job.failure = reason
  job.hadExpired = false
  job.isBlocked = false
  job.hasTurn = false
  dropLease(job)
  job.version++
  for (const other of world.jobs.values()) {
    if (other.isBlocked && other.waitingFor.includes(job.id)) lookAtHeld(world, other)
  }
  if (job.orderingKey !== null) passTurn(world, job.endpoint, job.orderingKey)
}

function dropLease(job: ModelJob): void {
  job.lease = null
  job.phase = null
}

/**
 * Decides about a blocked job: it dies if a dependency has failed, and is promoted if it waits for
 * nothing else.
 */
export function lookAtHeld(world: World, job: ModelJob): void {
  const states = job.waitingFor.map((id) => world.jobs.get(id)?.state)
  const isLost = states.some(
    (state) => state === undefined || state === 'dead' || state === 'cancelled',
  )
  if (isLost) {
    finish(world, job, 'dead', 'dependency_failed')
    return
  }
  job.waitingFor = job.waitingFor.filter((id) => jobIn(world, id).state !== 'succeeded')
  if (job.waitingFor.length > 0) return
  const others = job.orderingKey === null ? [] : ofKey(world, job.endpoint, job.orderingKey)
  const holder = others.find(({ hasTurn }) => hasTurn)
  if (job.orderingKey !== null && (others[0] !== job || holder?.state === 'running')) return
  if (holder !== undefined)
    Object.assign(holder, { isBlocked: true, hasTurn: false, version: holder.version + 1 })
  job.isBlocked = false
  job.hasTurn = job.orderingKey !== null
  job.version++
}

/**
 * After a job was queued again: a later job of its key that has the ordering slot and is not
 * running loses the slot.
 */
export function holdLaterOne(world: World, job: ModelJob, orderingKey: string): void {
  const later = ofKey(world, job.endpoint, orderingKey)
  const holder = later.slice(later.indexOf(job) + 1).find(({ hasTurn }) => hasTurn)
  if (holder?.state !== 'queued') return
  Object.assign(holder, { isBlocked: true, hasTurn: false, version: holder.version + 1 })
}

/**
 * Passes the slot to the earliest job of the key that is not final, if that job waits for nothing
 * else.
 */
export function passTurn(world: World, endpoint: string, orderingKey: string): void {
  const [head] = ofKey(world, endpoint, orderingKey)
  if (head?.isBlocked) lookAtHeld(world, head)
}

function ofKey(world: World, endpoint: string, orderingKey: string): ModelJob[] {
  return [...world.jobs.values()].filter(
    (job) => job.endpoint === endpoint && job.orderingKey === orderingKey && isUnfinished(job),
  )
}

/** The jobs of this endpoint that a claim may return now, and how many of them it may return. */
export function claimable(
  world: World,
  endpoint: string,
  now: number,
): { jobs: ModelJob[]; room: number } {
  const { isPaused, isDisabled, concurrency } = endpointIn(world, endpoint)
  const own = [...world.jobs.values()].filter((job) => job.endpoint === endpoint)
  const running = own.filter(({ state }) => state === 'running').length
  const jobs = own.filter(
    ({ state, isBlocked, runAt, expiresAt }) =>
      state === 'queued' && !isBlocked && runAt <= now && (expiresAt === null || expiresAt > now),
  )
  const room = concurrency === null ? jobs.length : Math.max(0, concurrency - running)
  return { jobs, room: isPaused || isDisabled ? 0 : room }
}
