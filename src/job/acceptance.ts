// Decides whether a job may be enqueued, and which values it takes from its endpoint and
// dependencies.
import type { AddRefusal } from './groups.ts'
import {
  isFinal,
  type Job,
  type JobState,
  type MinimalJob,
  type NewJob,
  type OnFinish,
} from './job.ts'
import { isGroupId } from './job-id.ts'
import { dependenciesOf, goesOnWithout } from './needs.ts'
import { isNotice } from './notice.ts'

/** The fields of the endpoint that decide. An endpoint that is being deleted counts as missing. */
export interface AcceptingEndpoint {
  disabledReason: string | null
  maxAttempts: number
  onFinish: OnFinish | null
}

const FIRST_VERSION = 1

/** Applies even if a job already has a key of the request. */
export type EndpointRefusal = { kind: 'unknown_endpoint' } | { kind: 'endpoint_disabled' }

/** Applies unless a job already has a key of the request: then the response is that job. */
export type RequestRefusal =
  /** `endpoint`: the endpoint that onFinish names. */
  | { kind: 'unknown_notice_endpoint'; endpoint: string }
  | { kind: 'unknown_dependency'; jobId: string }
  /** A dependency is a group that takes further jobs. */
  | { kind: 'group_open'; groupId: string }
  | AddRefusal

export interface Acceptance {
  kind: 'accepted'
  maxAttempts: number
  onFinish: OnFinish | null
  /** The dependencies that are not met. */
  waitingFor: string[]
  /** A dependency without which it does not start is already dead or cancelled. */
  isDoomed: boolean
  /** The job is blocked: it waits for dependencies or for its ordering slot. */
  isBlocked: boolean
}

/** A disabled endpoint refuses jobs, but still accepts notices. */
export function isDisabledFor(
  job: Pick<NewJob, 'originKey'>,
  { disabledReason }: AcceptingEndpoint,
): boolean {
  return disabledReason !== null && !isNotice(job)
}

/** Whether the request names other records, so that it can be refused because one is missing. */
export function namesOthers(job: NewJob): boolean {
  return namedOnFinish(job) !== null || job.dependsOn.length > 0 || job.needs.length > 0
}

/**
 * The onFinish in the request itself; null: it has none, asks for that of the endpoint, or repeats
 * that of an earlier request (a copy of a job, a tick of a schedule).
 */
export function namedOnFinish({
  onFinish,
  hasEarlierOnFinish,
}: Pick<NewJob, 'onFinish' | 'hasEarlierOnFinish'>): OnFinish | null {
  return onFinish === 'inherited' || hasEarlierOnFinish === true ? null : onFinish
}

/**
 * Decides about a job whose endpoint accepts it. If the request names an onFinish, the endpoint of
 * that onFinish must exist. The default onFinish of the job's endpoint, and that of an earlier
 * request, may name an endpoint that does not exist: the client did not choose it now, so the
 * notice is dropped instead.
 *
 * @param accepts whether there is an endpoint of this name, disabled or not
 * @param stateOf of a job or a group; null: it is not stored
 * @param groupRefusal null: its group takes it, or it has none
 */
export function decideAcceptance(
  job: NewJob,
  endpoint: AcceptingEndpoint,
  accepts: (endpoint: string) => boolean,
  stateOf: (id: string) => JobState | null,
  groupRefusal: AddRefusal | null,
): Acceptance | RequestRefusal {
  const named = namedOnFinish(job)
  if (named !== null && !accepts(named.endpoint)) {
    return { kind: 'unknown_notice_endpoint', endpoint: named.endpoint }
  }
  const waitingFor: string[] = []
  let isDoomed = false
  for (const jobId of dependenciesOf(job)) {
    const state = stateOf(jobId)
    if (state === null) return { kind: 'unknown_dependency', jobId }
    // Of a group, this state means that it takes further jobs.
    if (state === 'queued' && isGroupId(jobId)) return { kind: 'group_open', groupId: jobId }
    const hasFailed = isFinal(state) && state !== 'succeeded'
    if (state === 'succeeded' || (hasFailed && goesOnWithout(job.needs, jobId))) continue
    waitingFor.push(jobId)
    if (hasFailed) isDoomed = true
  }
  if (groupRefusal !== null) return groupRefusal
  return {
    kind: 'accepted',
    maxAttempts: job.maxAttempts ?? endpoint.maxAttempts,
    onFinish: job.onFinish === 'inherited' ? endpoint.onFinish : job.onFinish,
    waitingFor,
    isDoomed,
    // With needs, it is blocked until its inputs are made, which is at once if all have succeeded.
    isBlocked: waitingFor.length > 0 || job.orderingKey !== null || job.needs.length > 0,
  }
}

/** The same as newlyQueued, as far as a minimal response needs it. */
export function newlyQueuedMinimal({ id, group }: Pick<NewJob, 'id' | 'group'>): MinimalJob {
  return { id, state: 'queued', version: FIRST_VERSION, group }
}

/** The job that an accepted request becomes. */
export function newlyQueued(
  job: NewJob,
  { maxAttempts, onFinish, waitingFor, isBlocked }: Omit<Acceptance, 'kind' | 'isDoomed'>,
): Job {
  // Copied field by field: a spread of so many fields costs more than the insert of a plain job.
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
    fairnessKey: job.fairnessKey,
    cost: job.cost,
    group: job.group,
    dependsOn: job.dependsOn,
    needs: job.needs,
    inputsBytes: job.inputs?.byteLength ?? null,
    scheduleName: job.scheduleName,
    isBlocked,
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
    version: FIRST_VERSION,
    result: null,
    resultTruncated: false,
    attempts: [],
  }
}
