// How jobs and endpoints lie in MongoDB: flat documents with plain names, for people look into
// their database. Nothing of a caller's becomes a BSON object: such keys would break it.
import type { Endpoint } from '../../endpoint/endpoint.ts'
import type {
  Attempt,
  ClaimedJob,
  FailureReason,
  Job,
  JobState,
  JobSummary,
  NewJob,
} from '../../job/job.ts'
import type { EventName } from '../../job/lifecycle.ts'
import type { RetryOverride, RetryPolicy } from '../../job/retry-policy.ts'
import type { SecretBox } from '../secret-box.ts'
import { type ApiMode, MIN_KEY_LIFE_MS } from '../store.ts'

export interface JobDocument {
  _id: string
  endpoint: string
  state: JobState
  phase: 'sending' | null
  priority: number
  runAt: Date
  firstRunAt: Date
  createdAt: Date
  /** Absent until its first attempt, so that $min can set it once. */
  startedAt?: Date
  /** Absent until it is final: the TTL index looks at those that have it. */
  finishedAt?: Date
  /** Kept until then, once it is final. At first the end of its key's least life. */
  purgeAt: Date
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
  /** Of the write that last gave it back unsent: tells that write from any other. */
  releaseId: string | null
  failureReason: FailureReason | null
  failureMessage: string | null
  payload: Uint8Array
  payloadBytes: number
  timeoutMs: number | null
  retry: RetryOverride | null
  /** JSON, sealed as the endpoint's are; null: none. */
  headers: string | null
  /** Absent when there are none: the index of tags holds only jobs that have some. */
  tags?: string[]
  /** JSON. */
  metadata: string
  /** Absent when none was given: the unique index holds only jobs that have one. */
  idempotencyKey?: string
  requestHash?: string
  result: string | null
  resultTruncated: boolean
  attempts: AttemptDocument[]
  version: number
}

/** An attempt, and what tells who wrote it: Job.attempts does not show the second part. */
export interface AttemptDocument extends Omit<Attempt, 'startedAt' | 'finishedAt'> {
  startedAt: Date
  finishedAt: Date
  fence: number
  leaseId: string
  event: EventName
  /** Random for each write: tells a write from its repetition. */
  writeId: string
}

export interface EndpointDocument {
  /** Its name. */
  _id: string
  url: string
  description: string
  /** JSON, sealed. */
  headers: string
  timeoutMs: number
  retry: RetryPolicy
  deleting: boolean
  deletingSince: Date | null
  /** Sealed, newest first. */
  secrets: string[]
  createdAt: Date
  updatedAt: Date
  version: number
}

export type MetaDocument = { _id: 'api_mode' } & ApiMode

/** What a list shows needs neither of these, and they are the bulk of a document. */
export const WITHOUT_BULK = { payload: 0, result: 0, attempts: 0 } as const

export function newJobDocument(job: NewJob, maxAttempts: number, box: SecretBox): JobDocument {
  const runAt = new Date(job.runAt)
  return {
    _id: job.id,
    endpoint: job.endpoint,
    state: 'queued',
    phase: null,
    priority: job.priority,
    runAt,
    firstRunAt: runAt,
    createdAt: new Date(job.createdAt),
    purgeAt: new Date(job.createdAt + MIN_KEY_LIFE_MS),
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
    releaseId: null,
    failureReason: null,
    failureMessage: null,
    payload: job.payload,
    payloadBytes: job.payload.byteLength,
    timeoutMs: job.timeoutMs,
    retry: job.retry,
    headers: sealHeaders(job.headers, job.id, box),
    ...(job.tags.length > 0 ? { tags: job.tags } : {}),
    metadata: JSON.stringify(job.metadata),
    ...(job.idempotency === null
      ? {}
      : { idempotencyKey: job.idempotency.key, requestHash: job.idempotency.requestHash }),
    result: null,
    resultTruncated: false,
    attempts: [],
    version: 1,
  }
}

export function summaryOf(document: Omit<JobDocument, keyof typeof WITHOUT_BULK>, box: SecretBox) {
  const { leaseWorkerId, leaseExpiresAt, failureReason, failureMessage } = document
  return {
    id: document._id,
    endpoint: document.endpoint,
    state: document.state,
    phase: document.phase,
    priority: document.priority,
    runAt: document.runAt.getTime(),
    createdAt: document.createdAt.getTime(),
    startedAt: document.startedAt?.getTime() ?? null,
    finishedAt: document.finishedAt?.getTime() ?? null,
    expiresAt: document.expiresAt?.getTime() ?? null,
    attemptCount: document.attemptCount,
    attemptsLeft: document.attemptsLeft,
    maxAttempts: document.maxAttempts,
    freeAttempts: document.freeAttempts,
    fence: document.fence,
    lease:
      leaseWorkerId === null || leaseExpiresAt === null
        ? null
        : { workerId: leaseWorkerId, expiresAt: leaseExpiresAt.getTime() },
    failure:
      failureReason === null ? null : { reason: failureReason, message: failureMessage ?? '' },
    payloadBytes: document.payloadBytes,
    timeoutMs: document.timeoutMs,
    retry: document.retry,
    headers: openHeaders(document.headers, document._id, box),
    tags: document.tags ?? [],
    metadata: JSON.parse(document.metadata) as Record<string, string>,
    idempotencyKey: document.idempotencyKey ?? null,
    version: document.version,
  } satisfies JobSummary
}

export function jobOf(document: JobDocument, box: SecretBox): Job {
  return {
    ...summaryOf(document, box),
    result: document.result,
    resultTruncated: document.resultTruncated,
    attempts: document.attempts.map(attemptOf),
    payload: ownBytes(document.payload),
  }
}

/** What a claim reads of the jobs that it took. */
export type TakenDocument = Omit<JobDocument, 'attempts' | 'result' | 'metadata' | 'tags'>
export const AS_TAKEN = { attempts: 0, result: 0, metadata: 0, tags: 0 } as const

export function claimedJobOf(document: TakenDocument, leaseId: string, box: SecretBox): ClaimedJob {
  return {
    jobId: document._id,
    fence: document.fence,
    leaseId,
    endpoint: document.endpoint,
    payload: ownBytes(document.payload),
    attemptNumber: document.attemptCount,
    attemptsLeft: document.attemptsLeft,
    maxAttempts: document.maxAttempts,
    freeAttempts: document.freeAttempts,
    runAt: document.runAt.getTime(),
    firstRunAt: document.firstRunAt.getTime(),
    expiresAt: document.expiresAt?.getTime() ?? null,
    timeoutMs: document.timeoutMs,
    retry: document.retry,
    headers: openHeaders(document.headers, document._id, box),
    claimedAt: document.claimedAt?.getTime() ?? document.runAt.getTime(),
  }
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

function attemptOf(document: AttemptDocument): Attempt {
  const { fence, leaseId, event, writeId, ...attempt } = document
  return {
    ...attempt,
    startedAt: document.startedAt.getTime(),
    finishedAt: document.finishedAt.getTime(),
  }
}

export function endpointOf(document: EndpointDocument, box: SecretBox): Endpoint {
  const name = document._id
  return {
    name,
    url: document.url,
    description: document.description,
    headers: JSON.parse(box.open(document.headers, name)) as Record<string, string>,
    timeoutMs: document.timeoutMs,
    retry: document.retry,
    deleting: document.deleting,
    secrets: document.secrets.map((sealed) => box.open(sealed, name)),
    createdAt: document.createdAt.getTime(),
    updatedAt: document.updatedAt.getTime(),
    version: document.version,
  }
}

/** The driver's bytes are a window on its whole reply, which they would keep alive. */
export function ownBytes(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes)
}

function sealHeaders(headers: Record<string, string>, jobId: string, box: SecretBox) {
  return Object.keys(headers).length === 0 ? null : box.seal(JSON.stringify(headers), jobId)
}

function openHeaders(sealed: string | null, jobId: string, box: SecretBox): Record<string, string> {
  return sealed === null ? {} : JSON.parse(box.open(sealed, jobId))
}

function dateOrNull(instant: number | null): Date | null {
  return instant === null ? null : new Date(instant)
}
