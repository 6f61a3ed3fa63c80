// Jobs, endpoints and attempts for the contract suite, with defaults for all fields that a test
// does not set.
import { type Endpoint, type EndpointSettings, newSecret } from '../../src/endpoint/endpoint.ts'
import type { HealthReport } from '../../src/endpoint/health.ts'
import type { Attempt, ClaimedJob, Job, JobState, Lease, NewJob } from '../../src/job/job.ts'
import { newJobId } from '../../src/job/job-id.ts'
import { DEFAULT_RETRY } from '../../src/job/retry-policy.ts'
import type { Holder, Settlement, Store } from '../../src/store/store.ts'
import type { SweepCounts } from '../../src/store/sweep.ts'
import { until } from '../support/until.ts'

/** No lease of this length ends within a test run. */
export const LONG_LEASE_MS = 3_600_000
/** More than the difference between the clocks of two stores on one machine. */
const CLOCK_MARGIN_MS = 50

let endpointCount = 0

/** A name that no other test of this file uses. */
export function freshName(): string {
  endpointCount++
  return `endpoint-${endpointCount}`
}

/** The defaults of an endpoint: no limits, no circuit breaker. */
export function settingsOf(fields: Partial<EndpointSettings> = {}): EndpointSettings {
  return {
    name: fields.name ?? freshName(),
    url: 'https://receiver.example/hook',
    description: '',
    headers: {},
    timeoutMs: 15_000,
    retry: DEFAULT_RETRY,
    concurrency: null,
    rateLimit: null,
    perKey: null,
    limits: [],
    completion: 'sync',
    completionTimeoutMs: 900_000,
    onFinish: null,
    circuitBreaker: null,
    statuses: {},
    ...fields,
  }
}

export async function addEndpoint(
  store: Store,
  settings: Partial<EndpointSettings> = {},
): Promise<string> {
  const complete = settingsOf(settings)
  const { kind } = await store.putEndpoint(complete, { given: null, fresh: newSecret() }, null)
  if (kind !== 'created') throw new Error(`endpoint ${complete.name}: ${kind}`)
  return complete.name
}

export async function endpointOf(store: Store, name: string): Promise<Endpoint> {
  const [endpoint] = await store.endpointsNamed([name])
  if (endpoint === undefined) throw new Error(`${name} is gone`)
  return endpoint
}

/** Reports to the store what attempts have shown of the endpoint. */
export function report(
  store: Store,
  endpoint: string,
  fields: Partial<HealthReport>,
): Promise<void> {
  const none = { succeeded: [], failures: 0, throttle: null, goneAtVersion: null }
  return store.reportHealth([{ ...none, ...fields, endpoint }])
}

export function newJob(store: Store, endpoint: string, fields: Partial<NewJob> = {}): NewJob {
  const createdAt = fields.createdAt ?? store.clock.now()
  return {
    id: newJobId(createdAt),
    endpoint,
    payload: Buffer.from('{"n":1}'),
    createdAt,
    runAt: createdAt,
    priority: 5,
    maxAttempts: null,
    timeoutMs: null,
    retry: null,
    expiresAt: null,
    tags: [],
    metadata: {},
    headers: {},
    idempotency: null,
    dedupe: null,
    orderingKey: null,
    fairnessKey: null,
    cost: 1,
    group: null,
    dependsOn: [],
    needs: [],
    onFinish: 'inherited',
    scheduleName: null,
    originKey: null,
    trace: null,
    hops: 0,
    ...fields,
  }
}

export async function enqueueOne(
  store: Store,
  endpoint: string,
  fields: Partial<NewJob> = {},
): Promise<Job> {
  const [result] = await store.enqueue([newJob(store, endpoint, fields)])
  if (result?.kind !== 'inserted') throw new Error(`enqueue: ${result?.kind}`)
  return result.job
}

/** Enqueues this many jobs, in order. */
export async function enqueueMany(
  store: Store,
  endpoint: string,
  count: number,
  fields: Partial<NewJob> = {},
): Promise<string[]> {
  const jobs = Array.from({ length: count }, () => newJob(store, endpoint, fields))
  const results = await store.enqueue(jobs)
  if (results.some(({ kind }) => kind !== 'inserted')) throw new Error('not all were inserted')
  return jobs.map(({ id }) => id)
}

/** A worker that delivers to endpoints with a URL, unless a test says otherwise. */
export function holderOf(fields: Partial<Holder> = {}): Holder {
  return { workerId: 'worker-1', leaseMs: LONG_LEASE_MS, pulls: false, ...fields }
}

export async function claimFrom(
  store: Store,
  endpoint: string,
  limit: number,
  leaseMs = LONG_LEASE_MS,
): Promise<ClaimedJob[]> {
  const { jobs } = await store.claim([{ endpoint, limit }], limit, holderOf({ leaseMs }))
  return jobs
}

export async function claimOne(
  store: Store,
  endpoint: string,
  leaseMs = LONG_LEASE_MS,
): Promise<ClaimedJob> {
  const [claimed] = await claimFrom(store, endpoint, 1, leaseMs)
  if (claimed === undefined) throw new Error(`nothing to claim at ${endpoint}`)
  return claimed
}

/** Enqueues a job at an endpoint of its own and claims it. */
export async function enqueueAndClaim(
  store: Store,
  fields: Partial<NewJob> = {},
  leaseMs = LONG_LEASE_MS,
): Promise<ClaimedJob> {
  const endpoint = await addEndpoint(store)
  await enqueueOne(store, endpoint, fields)
  return claimOne(store, endpoint, leaseMs)
}

export async function jobOf(store: Store, id: string): Promise<Job> {
  const job = await store.getJob(id)
  if (job === null) throw new Error(`${id} is gone`)
  return job
}

export function attemptOf(
  store: Store,
  claimed: ClaimedJob,
  fields: Partial<Attempt> = {},
): Attempt {
  return {
    number: claimed.attemptNumber,
    startedAt: claimed.claimedAt,
    finishedAt: store.clock.now(),
    durationMs: 12,
    outcome: 'http_error',
    statusCode: 500,
    errorCode: null,
    message: 'HTTP 500',
    responseBody: 'oops',
    workerId: 'worker-1',
    ...fields,
  }
}

type SettlementOf<E> = Extract<Settlement, { event: E }>

export function success(store: Store, claimed: ClaimedJob): SettlementOf<'succeed'> {
  const attempt = attemptOf(store, claimed, { outcome: 'succeeded', statusCode: 200 })
  return {
    ...leaseOf(claimed),
    attempt,
    event: 'succeed',
    result: '{"ok":1}',
    resultTruncated: false,
  }
}

export function laterAgain(
  store: Store,
  claimed: ClaimedJob,
  runAt = claimed.claimedAt,
): SettlementOf<'reschedule' | 'postpone'> {
  return { ...leaseOf(claimed), attempt: attemptOf(store, claimed), event: 'reschedule', runAt }
}

export function postponement(
  store: Store,
  claimed: ClaimedJob,
): SettlementOf<'reschedule' | 'postpone'> {
  const attempt = attemptOf(store, claimed, { outcome: 'interrupted' })
  return { ...leaseOf(claimed), attempt, event: 'postpone', runAt: claimed.claimedAt }
}

export function burial(store: Store, claimed: ClaimedJob): SettlementOf<'bury'> {
  const failure = { reason: 'rejected', message: 'HTTP 422' } as const
  return { ...leaseOf(claimed), attempt: attemptOf(store, claimed), event: 'bury', failure }
}

/** The settlement for a 202: the handler reports later. */
export function acceptance(claimed: ClaimedJob, leaseExpiresAt: number): SettlementOf<'await'> {
  return { ...leaseOf(claimed), event: 'await', leaseExpiresAt }
}

export function leaseOf({ jobId, endpoint, fence, leaseId }: Lease): Lease {
  return { jobId, endpoint, fence, leaseId }
}

/** Brings a claimed job into a state. */
export async function bringTo(
  store: Store,
  claimed: ClaimedJob,
  state: JobState,
): Promise<unknown> {
  switch (state) {
    case 'queued':
      return store.release([leaseOf(claimed)])
    case 'running':
      return null
    case 'succeeded':
      return store.settle([success(store, claimed)])
    case 'dead':
      return store.settle([burial(store, claimed)])
    case 'cancelled':
      return store.cancel([claimed.jobId])
    default:
      throw new Error(`unknown state ${state satisfies never}`)
  }
}

/**
 * Waits until an instant has passed by the store's clock, and by the clock of any other process.
 */
export function passed(store: Store, instant: number): Promise<void> {
  return until(() => store.clock.now() > instant + CLOCK_MARGIN_MS)
}

export function sweep(store: Store): Promise<SweepCounts> {
  return store.sweep({ limit: 1_000, reclaim: true })
}

/** Sweeps until a sweep finds nothing more. */
export function sweepClean(store: Store): Promise<void> {
  return until(async () => {
    // Overdue jobs are not ended by a sweep.
    const { overdue, ...counts } = await sweep(store)
    return Object.values(counts).every((count) => count === 0)
  })
}
