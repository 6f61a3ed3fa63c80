// May this job be enqueued, and what does it take over from its endpoint and its dependencies?
import { isFinal, type Job, type JobState, type NewJob, type OnFinish } from './job.ts'
import { isNotice } from './notice.ts'

/** What decides at the endpoint of a job. One that is being deleted counts as gone. */
export interface AcceptingEndpoint {
  disabledReason: string | null
  maxAttempts: number
  onFinish: OnFinish | null
}

/** Whatever the keys of the request say. */
export type EndpointRefusal = { kind: 'unknown_endpoint' } | { kind: 'endpoint_disabled' }

/** Unless a key of the request is known: then it is answered with the job that has it. */
export type RequestRefusal =
  /** `endpoint`: of its onFinish. */
  | { kind: 'unknown_notice_endpoint'; endpoint: string }
  | { kind: 'unknown_dependency'; jobId: string }

export interface Acceptance {
  kind: 'accepted'
  maxAttempts: number
  onFinish: OnFinish | null
  /** Of its dependencies those that have not succeeded. */
  waitingFor: string[]
  /** It waits for a job that is dead or cancelled already. */
  isDoomed: boolean
  /** It waits for others, or for the turn of its ordering key. */
  isHeld: boolean
}

/** A disabled endpoint still collects the notices that are sent to it. */
export function isDisabledFor(
  job: Pick<NewJob, 'originKey'>,
  { disabledReason }: AcceptingEndpoint,
): boolean {
  return disabledReason !== null && !isNotice(job)
}

/** Whether a request can be refused for what it names itself. */
export function namesOthers(job: NewJob): boolean {
  return namedOnFinish(job) !== null || job.dependsOn.length > 0
}

/** What the request itself says. */
export function namedOnFinish({ onFinish }: Pick<NewJob, 'onFinish'>): OnFinish | null {
  return onFinish === 'inherited' ? null : onFinish
}

/**
 * Of a job whose endpoint accepts it. An onFinish that the request names must lead somewhere. The
 * endpoint's own may not: whoever enqueues did not choose it, and its notice is dropped.
 *
 * @param accepts whether there is an endpoint of this name, disabled or not
 * @param stateOf null: the job is not stored
 */
export function decideAcceptance(
  job: NewJob,
  endpoint: AcceptingEndpoint,
  accepts: (endpoint: string) => boolean,
  stateOf: (jobId: string) => JobState | null,
): Acceptance | RequestRefusal {
  const named = namedOnFinish(job)
  if (named !== null && !accepts(named.endpoint)) {
    return { kind: 'unknown_notice_endpoint', endpoint: named.endpoint }
  }
  const waitingFor: string[] = []
  let isDoomed = false
  for (const jobId of job.dependsOn) {
    const state = stateOf(jobId)
    if (state === null) return { kind: 'unknown_dependency', jobId }
    if (state === 'succeeded') continue
    waitingFor.push(jobId)
    if (isFinal(state)) isDoomed = true
  }
  return {
    kind: 'accepted',
    maxAttempts: job.maxAttempts ?? endpoint.maxAttempts,
    onFinish: job.onFinish === 'inherited' ? endpoint.onFinish : named,
    waitingFor,
    isDoomed,
    isHeld: waitingFor.length > 0 || job.orderingKey !== null,
  }
}

/** The job that an accepted request becomes. */
export function newlyQueued(
  job: NewJob,
  { maxAttempts, onFinish, waitingFor, isHeld }: Omit<Acceptance, 'kind' | 'isDoomed'>,
): Job {
  // Field by field: a spread of so many costs more than the insert of a plain job.
  return {
    id: job.id,
    endpoint: job.endpoint,
    payload: job.payload,
    createdAt: job.createdAt,
    runAt: job.runAt,
    firstRunAt: job.runAt,
    promotedAt: null,
    priority: job.priority,
    timeoutMs: job.timeoutMs,
    retry: job.retry,
    expiresAt: job.expiresAt,
    tags: job.tags,
    metadata: job.metadata,
    headers: job.headers,
    orderingKey: job.orderingKey,
    dependsOn: job.dependsOn,
    scheduleName: job.scheduleName,
    isHeld,
    waitingFor,
    onFinish,
    dedupeKey: job.dedupe?.key ?? null,
    progress: null,
    state: 'queued',
    phase: null,
    startedAt: null,
    finishedAt: null,
    attemptCount: 0,
    attemptsLeft: maxAttempts,
    maxAttempts,
    freeAttempts: 0,
    fence: 0,
    lease: null,
    failure: null,
    payloadBytes: job.payload.byteLength,
    idempotencyKey: job.idempotency?.key ?? null,
    version: 1,
    result: null,
    resultTruncated: false,
    attempts: [],
  }
}
