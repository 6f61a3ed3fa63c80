// How jobs are stored in MongoDB: flat documents with plain names, because people look into their
// database, and the updates of a job's events that several verbs share. Nothing that a caller sends
// becomes a BSON object, because not every JSON key is valid in one.
import { randomBytes } from 'node:crypto'
import type { Acceptance } from '../../job/acceptance.ts'
import { attemptEndedByStore, type StoreEnd } from '../../job/attempt.ts'
import {
  type Attempt,
  DEFAULT_COST,
  type Failure,
  type FailureReason,
  isFinal,
  type Job,
  type JobState,
  type JobSummary,
  MAX_ATTEMPTS_KEPT,
  type NewJob,
  type OnFinish,
  type Phase,
  type Progress,
  type TraceContext,
} from '../../job/job.ts'
import type { EventName } from '../../job/lifecycle.ts'
import type { Need } from '../../job/needs.ts'
import { type FinalState, hasKey } from '../../job/retention.ts'
import type { RetryOverride } from '../../job/retry-policy.ts'
import { ALARM, NO_TURN } from '../../job/turns.ts'
import type { SecretBox } from '../secret-box.ts'
import { StoreUnusable } from '../store-errors.ts'

/**
 * `blocked`: queued, but not claimable. `waiting`: queued, until its fairness key gives it a turn.
 * As states of their own they are outside the claim indexes.
 */
export type StoredState = JobState | 'blocked' | 'waiting'

export const QUEUED_STATES = ['queued', 'waiting', 'blocked'] as const satisfies StoredState[]

export interface JobDocument {
  _id: string
  endpoint: string
  state: StoredState
  phase: Phase | null
  priority: number
  runAt: Date
  firstRunAt: Date
  createdAt: Date
  /** Absent until its first attempt, so that $min can set it once. */
  startedAt?: Date
  /** Absent until it is final, because the index of purges contains every job that has it. */
  finishedAt?: Date
  /** Whether a repeated request must find it by a key: then its retention is longer. */
  hasKey: boolean
  expiresAt: Date | null
  attemptCount: number
  attemptsLeft: number
  maxAttempts: number
  freeAttempts: number
  fence: number
  leaseId: string | null
  leaseWorkerId: string | null
  leaseExpiresAt: Date | null
  claimedAt: Date | null
  /** Only for a pulled job: the length of its lease, by which a heartbeat extends it. */
  pulledLeaseMs: number | null
  /**
   * Set by a heartbeat before the response: until when the lease lasts once the job awaits
   * completion.
   */
  extendedTo?: Date | null
  /** Random for each write that adds no attempt, such as a release: identifies that write. */
  writeId: string | null
  progress: (Omit<Progress, 'at'> & { at: Date }) | null
  failureReason: FailureReason | null
  failureMessage: string | null
  /** The job because of which it is dead. */
  failureJobId?: string
  /** null: it is the body `payloadId`. */
  payload: Uint8Array | null
  payloadId?: string
  /** Of the payload and the inputs together, because an index of claims has this field. */
  payloadBytes: number
  /**
   * The inputs of a job that needs results, unless they are the body `inputsId`. After a retry,
   * those of before until new ones are made.
   */
  inputs?: Uint8Array
  inputsId?: string
  inputsBytes?: number
  timeoutMs: number | null
  retry: RetryOverride | null
  /** Encrypted JSON; null: the job has no headers. */
  headers: string | null
  /** Absent without tags, because the index of tags contains every job that has this field. */
  tags?: string[]
  /** JSON. */
  metadata: string
  // The fields from here to `onFinish` are absent if they were not given, because the indexes
  // contain only jobs that have them.
  /** The key of the request that created the job. */
  idempotencyKey?: string
  /** Requests with its dedupe key add theirs. That of the request that created it comes first. */
  keys?: { key: string; hash: string }[]
  dedupeKey?: string
  /** The dedupe key of the job, as long as no other job may have it. */
  dedupeHolder?: string
  superseded?: true
  /** The payload is no longer that of the request that created the job. */
  payloadChanged?: true
  orderingKey?: string
  fairnessKey?: string
  /** Absent: DEFAULT_COST. */
  cost?: number
  /**
   * The tag of a queued job with a fairness key (turns.ts). In all its other states ALARM, and a
   * job without a key has NO_TURN: so a write that queues a job again need not know.
   */
  turn: number
  /** Jobs of its key are outside, and one gets a turn when this job is claimed. */
  admitsNext?: true
  /** Of a job that is PARKED: when a claim looks whether its key has room. */
  parkedUntil?: Date
  /** It runs within the limits of its key, or has ended and a claim has not seen that yet. */
  held?: true
  /** The ordering key of the job, while it has the slot of that key. */
  orderingSlot?: string
  dependsOn?: string[]
  needs?: Need[]
  /** Its inputs are not made yet. */
  awaitsInputs?: true
  /** Raised when a waiting job needs its result: a write that deletes it proves the value it read. */
  neededCount?: number
  /** A waiting job may need its result: until then no sweep looks at it. */
  keptUntil?: Date
  /** The dependencies that have not succeeded yet. */
  waitingFor?: string[]
  /**
   * When it was last unblocked or released, or its endpoint got a URL: from then on it is due, if
   * its runAt is past.
   */
  freedAt?: Date
  /** When it was last unblocked: it is due since this or its runAt, whichever is later. */
  promotedAt?: Date
  /** From when the sweep may check this blocked job. Absent once the sweep has checked it. */
  recheckAt?: Date
  hasDependents?: true
  originKey?: string
  /** The hash of the outbox document that the job was made from. */
  originHash?: string
  scheduleName?: string
  group?: string
  /** The add that stored it (group-members.ts). */
  groupAdd?: string
  /** The final state as which its group has counted it. */
  counted?: FinalState
  onFinish?: OnFinish
  trace?: TraceContext
  hops: number
  /** The finish of the job will have effects. In a final job: they are not complete yet. */
  effectsPending?: true
  /** How often it has become final. */
  finishes: number
  /** null: none, or it is the body `resultId`. */
  result: string | null
  resultId?: string
  resultTruncated: boolean
  attempts: AttemptDocument[]
  version: number
}

/** A payload or a result that is stored apart from its job (bodies.ts). */
export interface BodyDocument {
  /** The id of its job, when it was made, and a random text. */
  _id: string
  /** The endpoint of the job, so that both can be distributed by it. */
  endpoint: string
  bytes: Uint8Array
}

/**
 * A larger payload or result is stored apart, because each change of state makes the server write
 * the whole document of a job again (docs/decisions/0025-large-payloads-are-stored-apart.md).
 */
const MAX_INLINE_BYTES = 8_192

/** A job with its payload and result, including those that are stored apart. */
export type Whole<T> = T & { payload: Uint8Array }

/** These fields have most of the bytes of a document. A list shows none of them. */
export const WITHOUT_BULK = { payload: 0, inputs: 0, result: 0, attempts: 0, keys: 0 } as const

/** An attempt, and the fields that identify its write. Job.attempts does not have the latter. */
export interface AttemptDocument extends Omit<Attempt, 'startedAt' | 'finishedAt'> {
  startedAt: Date
  finishedAt: Date
  fence: number
  leaseId: string
  event: EventName
  /** Random for each write: distinguishes a write from its repetition. */
  writeId: string
}

/** A claim reads all fields except these. */
export const CLAIM_PROJECTION = {
  attempts: 0,
  result: 0,
  metadata: 0,
  tags: 0,
  keys: 0,
  dependsOn: 0,
  needs: 0,
  waitingFor: 0,
} as const

export type ClaimedDocument = Omit<JobDocument, keyof typeof CLAIM_PROJECTION> & StoredLease

/** The origins of jobs that were made from outbox documents begin with this. */
export const ORIGIN_PREFIX = 'outbox:'

const WITHOUT_LEASE = {
  phase: null,
  leaseId: null,
  leaseWorkerId: null,
  leaseExpiresAt: null,
  claimedAt: null,
  pulledLeaseMs: null,
  extendedTo: null,
} as const

/** The lease of a running job. In every other state these fields are null. */
interface StoredLease {
  leaseId: string
  leaseWorkerId: string
  leaseExpiresAt: Date
  claimedAt: Date
}

/** The fields that a write reads to take a running job from its holder. */
export const RUNNING_FIELDS = {
  endpoint: 1,
  fence: 1,
  leaseId: 1,
  leaseWorkerId: 1,
  leaseExpiresAt: 1,
  claimedAt: 1,
  attemptCount: 1,
} as const
export type RunningJob = Pick<JobDocument, '_id' | 'endpoint' | 'fence' | 'attemptCount'> &
  StoredLease

/** The hint for writes that name their jobs by id, because the planner can choose a worse index. */
export const BY_ID = { hint: { _id: 1 } } as const

/**
 * The filter of these jobs, or of their bodies. It names their endpoints, because a sharded cluster
 * finds both by the endpoint: a command with ids alone goes to every shard, and some are refused.
 */
export function atEndpoints(jobs: Pick<JobDocument, '_id' | 'endpoint'>[]) {
  return {
    _id: { $in: jobs.map(({ _id }) => _id) },
    endpoint: { $in: [...new Set(jobs.map(({ endpoint }) => endpoint))] },
  }
}

/** @param now when its body is made @param groupAdd the add to its group, if it has one */
export function newJobDocument(
  job: NewJob,
  acceptance: Acceptance,
  box: SecretBox,
  now: number,
  groupAdd?: string,
): JobDocument {
  const runAt = new Date(job.runAt)
  const { maxAttempts, onFinish, waitingFor, isBlocked } = acceptance
  const own = { _id: job.id, endpoint: job.endpoint }
  const inputsBody = job.inputs === undefined ? null : newBody(own, job.inputs, now)
  const hasKeys = job.orderingKey !== null || job.group !== null
  const effectsPending = onFinish !== null || hasKeys || isFromOutbox(job.originKey)
  return {
    _id: job.id,
    endpoint: job.endpoint,
    state: isBlocked ? 'blocked' : 'queued',
    phase: null,
    priority: job.priority,
    turn: job.fairnessKey === null ? NO_TURN : ALARM,
    runAt,
    firstRunAt: runAt,
    createdAt: new Date(job.createdAt),
    expiresAt: dateOrNull(job.expiresAt),
    attemptCount: 0,
    attemptsLeft: maxAttempts,
    maxAttempts,
    freeAttempts: 0,
    fence: 0,
    leaseId: null,
    leaseWorkerId: null,
    leaseExpiresAt: null,
    claimedAt: null,
    pulledLeaseMs: null,
    writeId: null,
    progress: null,
    failureReason: null,
    failureMessage: null,
    ...payloadFields(job.payload, newBody(own, job.payload, now)),
    payloadBytes: job.payload.byteLength + (job.inputs?.byteLength ?? 0),
    ...(job.inputs === undefined ? {} : inputsFields(job.inputs, inputsBody)),
    timeoutMs: job.timeoutMs,
    retry: job.retry,
    headers: sealHeaders(job.headers, job.id, box),
    metadata: JSON.stringify(job.metadata),
    hasKey: hasKey(job),
    ...keyFields(job),
    ...(job.tags.length > 0 ? { tags: job.tags } : {}),
    ...(job.dependsOn.length > 0 ? { dependsOn: job.dependsOn } : {}),
    ...(job.needs.length > 0 ? { needs: job.needs, awaitsInputs: true as const } : {}),
    ...(job.dependsOn.length + job.needs.length > 0 ? { waitingFor } : {}),
    ...(isBlocked ? { recheckAt: new Date(0) } : {}),
    ...(job.scheduleName === null ? {} : { scheduleName: job.scheduleName }),
    ...(job.group === null ? {} : { group: job.group, groupAdd: groupAdd ?? '' }),
    ...(onFinish === null ? {} : { onFinish }),
    ...(job.trace === null ? {} : { trace: job.trace }),
    ...(effectsPending ? { effectsPending } : {}),
    hops: job.hops,
    finishes: 0,
    result: null,
    resultTruncated: false,
    attempts: [],
    version: 1,
  }
}

/** Returns the body for these bytes; null: they are small and stay in the job. */
export function newBody(
  { _id, endpoint }: Pick<JobDocument, '_id' | 'endpoint'>,
  bytes: Uint8Array,
  now: number,
): BodyDocument | null {
  if (bytes.byteLength <= MAX_INLINE_BYTES) return null
  return { _id: `${_id}.${now}.${randomId()}`, endpoint, bytes }
}

export function bodyIdParts(bodyId: string): { jobId: string; bornAt: number } {
  const [jobId = '', bornAt] = bodyId.split('.')
  return { jobId, bornAt: Number(bornAt) }
}

export function payloadFields(payload: Uint8Array, body: BodyDocument | null) {
  return body === null ? { payload } : { payload: null, payloadId: body._id }
}

export function inputsFields(inputs: Uint8Array, body: BodyDocument | null) {
  const inputsBytes = inputs.byteLength
  return body === null ? { inputs, inputsBytes } : { inputsId: body._id, inputsBytes }
}

export function isFromOutbox(originKey: string | null | undefined): originKey is string {
  return originKey?.startsWith(ORIGIN_PREFIX) ?? false
}

export function stateOf(stored: StoredState): JobState {
  return stored === 'blocked' || stored === 'waiting' ? 'queued' : stored
}

export function isFinalState(stored: StoredState): boolean {
  return isFinal(stateOf(stored))
}

export function isRunning<T extends Pick<JobDocument, 'state' | keyof StoredLease>>(
  job: T,
): job is T & StoredLease {
  return job.state === 'running'
}

export function summaryOf(
  document: Omit<JobDocument, keyof typeof WITHOUT_BULK>,
  box: SecretBox,
): JobSummary {
  return {
    id: document._id,
    endpoint: document.endpoint,
    state: stateOf(document.state),
    phase: document.phase,
    priority: document.priority,
    runAt: document.runAt.getTime(),
    firstRunAt: document.firstRunAt.getTime(),
    promotedAt: document.promotedAt?.getTime() ?? null,
    createdAt: document.createdAt.getTime(),
    startedAt: document.startedAt?.getTime() ?? null,
    finishedAt: document.finishedAt?.getTime() ?? null,
    expiresAt: document.expiresAt?.getTime() ?? null,
    attemptCount: document.attemptCount,
    attemptsLeft: document.attemptsLeft,
    maxAttempts: document.maxAttempts,
    freeAttempts: document.freeAttempts,
    fence: document.fence,
    lease: shownLease(document),
    progress: document.progress
      ? { ...document.progress, at: document.progress.at.getTime() }
      : null,
    failure: failureOf(document),
    payloadBytes: document.payloadBytes - (document.inputsBytes ?? 0),
    timeoutMs: document.timeoutMs,
    retry: document.retry,
    headers: openHeaders(document.headers, document._id, box),
    tags: document.tags ?? [],
    metadata: JSON.parse(document.metadata) as Record<string, string>,
    idempotencyKey: document.idempotencyKey ?? null,
    dedupeKey: document.dedupeKey ?? null,
    orderingKey: document.orderingKey ?? null,
    fairnessKey: document.fairnessKey ?? null,
    cost: document.cost ?? DEFAULT_COST,
    scheduleName: document.scheduleName ?? null,
    group: document.group ?? null,
    dependsOn: document.dependsOn ?? [],
    needs: document.needs ?? [],
    inputsBytes: document.awaitsInputs ? null : (document.inputsBytes ?? null),
    waitingFor: document.waitingFor ?? [],
    isBlocked: document.state === 'blocked',
    onFinish: document.onFinish ?? null,
    version: document.version,
  }
}

export function jobOf(document: Whole<JobDocument>, box: SecretBox): Job {
  return {
    ...summaryOf(document, box),
    result: document.result,
    resultTruncated: document.resultTruncated,
    attempts: document.attempts.map(attemptOf),
    payload: ownBytes(document.payload),
  }
}

export function attemptOf(document: AttemptDocument): Attempt {
  const { fence, leaseId, event, writeId, ...attempt } = document
  return {
    ...attempt,
    startedAt: document.startedAt.getTime(),
    finishedAt: document.finishedAt.getTime(),
  }
}

type FailureField = 'failureReason' | 'failureMessage' | 'failureJobId'

export function failureOf(document: Pick<JobDocument, FailureField>): Failure | null {
  const { failureReason: reason, failureMessage: message, failureJobId: jobId } = document
  if (reason === null || message === null) return null
  return { reason, message, ...(jobId === undefined ? {} : { jobId }) }
}

/**
 * Returns a copy: the driver's bytes are a view of its whole reply, which they would keep in
 * memory.
 */
export function ownBytes(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes)
}

export function sealHeaders(headers: Record<string, string>, jobId: string, box: SecretBox) {
  return Object.keys(headers).length === 0 ? null : box.seal(JSON.stringify(headers), jobId)
}

export function dateOrNull(instant: number | null): Date | null {
  return instant === null ? null : new Date(instant)
}

/** Random enough to distinguish two writes of one job, and a lease from any other. */
export function randomId(): string {
  return randomBytes(12).toString('base64url')
}

/** The update back to queued, without a lease. The job keeps its ordering slot. */
export function toQueued(runAt: Date | null, counts: { attemptsLeft?: 1; freeAttempts?: 1 } = {}) {
  return {
    $set: { state: 'queued' as const, ...WITHOUT_LEASE, ...(runAt === null ? {} : { runAt }) },
    $inc: { version: 1, ...counts },
  }
}

/**
 * The update to a final state, with these `fields`. The dedupe key and the ordering slot become
 * free.
 */
export function toFinal<T extends object>(state: FinalState, finishedAt: Date, fields: T) {
  return {
    $set: { state, finishedAt, ...WITHOUT_LEASE, ...fields },
    $unset: { dedupeHolder: '' as const, orderingSlot: '' as const },
    $inc: { version: 1, finishes: 1 },
  }
}

export function failureFields(failure: Failure) {
  const { reason: failureReason, message: failureMessage, jobId } = failure
  return { failureReason, failureMessage, ...(jobId === undefined ? {} : { failureJobId: jobId }) }
}

export function pushAttempt(attempt: AttemptDocument) {
  return { $push: { attempts: { $each: [attempt], $slice: -MAX_ATTEMPTS_KEPT } } }
}

export function attemptDocument(
  attempt: Attempt,
  writer: Pick<AttemptDocument, 'fence' | 'leaseId' | 'event' | 'writeId'>,
): AttemptDocument {
  return {
    number: attempt.number,
    startedAt: new Date(attempt.startedAt),
    finishedAt: new Date(attempt.finishedAt),
    durationMs: attempt.durationMs,
    outcome: attempt.outcome,
    statusCode: attempt.statusCode,
    errorCode: attempt.errorCode,
    message: attempt.message,
    responseBody: attempt.responseBody,
    workerId: attempt.workerId,
    fence: writer.fence,
    leaseId: writer.leaseId,
    event: writer.event,
    writeId: writer.writeId,
  }
}

export function endedAttempt(
  job: RunningJob,
  now: Date,
  end: StoreEnd,
  writer: Pick<AttemptDocument, 'event' | 'writeId'>,
): AttemptDocument {
  const running = {
    number: job.attemptCount,
    startedAt: job.claimedAt.getTime(),
    workerId: job.leaseWorkerId,
  }
  const attempt = attemptEndedByStore(running, end, now.getTime())
  return attemptDocument(attempt, { ...writer, fence: job.fence, leaseId: job.leaseId })
}

/** The lease as guards need it. */
export function leaseOf({ fence, leaseId, leaseExpiresAt }: RunningJob) {
  return { fence, leaseId, leaseExpiresAt }
}

function shownLease(document: Pick<JobDocument, 'state' | keyof StoredLease>): JobSummary['lease'] {
  if (!isRunning(document)) return null
  const { leaseWorkerId, leaseExpiresAt, claimedAt } = document
  return {
    workerId: leaseWorkerId,
    expiresAt: leaseExpiresAt.getTime(),
    claimedAt: claimedAt.getTime(),
  }
}

/**
 * Returns null if the key that encrypted them is not configured. The job can still be read and
 * ended.
 */
export function openHeaders(
  sealed: string | null,
  jobId: string,
  box: SecretBox,
): Record<string, string> | null {
  if (sealed === null) return {}
  try {
    return JSON.parse(box.open(sealed, jobId))
  } catch (error) {
    if (error instanceof StoreUnusable) return null
    throw error
  }
}

function keyFields(job: NewJob): Partial<JobDocument> {
  const { idempotency, dedupe, orderingKey, fairnessKey, cost, originKey, originHash } = job
  return {
    ...(idempotency === null
      ? {}
      : {
          idempotencyKey: idempotency.key,
          keys: [{ key: idempotency.key, hash: idempotency.requestHash }],
        }),
    ...(dedupe === null ? {} : { dedupeKey: dedupe.key, dedupeHolder: dedupe.key }),
    ...(orderingKey === null ? {} : { orderingKey }),
    ...(fairnessKey === null ? {} : { fairnessKey }),
    ...(cost === DEFAULT_COST ? {} : { cost }),
    ...(originKey === null ? {} : { originKey }),
    ...(originHash === undefined ? {} : { originHash }),
  }
}
