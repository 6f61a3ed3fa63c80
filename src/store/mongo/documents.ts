// How jobs and endpoints lie in MongoDB: flat documents with plain names, for people look into
// their database. Nothing of a caller's becomes a BSON object: such keys would break it.
import {
  type FailureReason,
  isFinal,
  type Job,
  type JobState,
  type JobSummary,
  type OnFinish,
  type Phase,
  type Progress,
  type TraceContext,
} from '../../job/job.ts'
import type { RetryOverride } from '../../job/retry-policy.ts'
import type { SecretBox } from '../secret-box.ts'
import { StoreUnusable } from '../store.ts'
import { type AttemptDocument, attemptOf } from './attempt-documents.ts'

/** `held` is a queued job that is kept from being claimed: so it stands outside those indexes. */
export type StoredState = JobState | 'held'
export const QUEUED_STATES = ['queued', 'held'] as const satisfies StoredState[]

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
  /** Absent until it is final: the index of purges holds those that have it. */
  finishedAt?: Date
  /** Whether a repeat must find it by a key: it is then kept for longer. */
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
  /** Of one that was pulled: how long its lease is to be; a heartbeat extends by that. */
  pulledLeaseMs?: number | null
  /** Of the write that last gave it back unsent, or let it wait: tells that write from any other. */
  releaseId: string | null
  progress?: (Omit<Progress, 'at'> & { at: Date }) | null
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
  // From here to `onFinish`, what was not given is absent: the indexes hold only jobs that have it.
  /** Of the request that made it. */
  idempotencyKey?: string
  requestHash?: string
  /** All its idempotency keys. The version before wrote none. */
  keys?: { key: string; hash: string }[]
  dedupeKey?: string
  /** Its dedupe key, as long as no other job may have that one. */
  dedupeHolder?: string
  superseded?: true
  /** Its payload is no longer the one that it was made with. */
  payloadChanged?: true
  orderingKey?: string
  /** Its ordering key, while it is its turn. */
  turn?: string
  dependsOn?: string[]
  /** Of those, the ones that have not succeeded yet. */
  waitingFor?: string[]
  /** When it was last let go or given back: from then on it counts as due, if its runAt is past. */
  freedAt?: Date
  /** When it was last let go: with its runAt this tells since when it is due. */
  promotedAt?: Date
  /** Of a held one: when it was last looked at. */
  checkedAt?: Date
  hasDependents?: true
  originKey?: string
  /** Of the document of an outbox that it was made from. */
  originHash?: string
  scheduleName?: string
  onFinish?: OnFinish
  trace?: TraceContext
  /** Absent: 0. */
  hops?: number
  /** Its finish leads to more: once it is final, this mark says that it has not been done yet. */
  owes?: true
  /** How often it has become final. */
  finishes?: number
  result: string | null
  resultTruncated: boolean
  attempts: AttemptDocument[]
  version: number
}

/** What a list shows needs none of these, and they are the bulk of a document. */
export const WITHOUT_BULK = { payload: 0, result: 0, attempts: 0, keys: 0 } as const

export function stateOf(stored: StoredState): JobState {
  return stored === 'held' ? 'queued' : stored
}

export function isFinalState(stored: StoredState): boolean {
  return isFinal(stateOf(stored))
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
    payloadBytes: document.payloadBytes,
    timeoutMs: document.timeoutMs,
    retry: document.retry,
    headers: openHeaders(document.headers, document._id, box),
    tags: document.tags ?? [],
    metadata: JSON.parse(document.metadata) as Record<string, string>,
    idempotencyKey: document.idempotencyKey ?? null,
    dedupeKey: document.dedupeKey ?? null,
    orderingKey: document.orderingKey ?? null,
    scheduleName: document.scheduleName ?? null,
    dependsOn: document.dependsOn ?? [],
    waitingFor: document.waitingFor ?? [],
    isHeld: document.state === 'held',
    onFinish: document.onFinish ?? null,
    version: document.version,
  }
}

function shownLease(
  document: Pick<JobDocument, 'leaseWorkerId' | 'leaseExpiresAt' | 'claimedAt' | 'runAt'>,
): JobSummary['lease'] {
  const { leaseWorkerId, leaseExpiresAt, claimedAt, runAt } = document
  if (leaseWorkerId === null || leaseExpiresAt === null) return null
  return {
    workerId: leaseWorkerId,
    expiresAt: leaseExpiresAt.getTime(),
    claimedAt: (claimedAt ?? runAt).getTime(),
  }
}

export function failureOf(document: Pick<JobDocument, 'failureReason' | 'failureMessage'>) {
  const { failureReason, failureMessage } = document
  return failureReason === null ? null : { reason: failureReason, message: failureMessage ?? '' }
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

/** The driver's bytes are a window on its whole reply, which they would keep alive. */
export function ownBytes(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes)
}

export function sealHeaders(headers: Record<string, string>, jobId: string, box: SecretBox) {
  return Object.keys(headers).length === 0 ? null : box.seal(JSON.stringify(headers), jobId)
}

/** null: sealed with a key that is no longer configured. The job can still be seen and ended. */
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

export function dateOrNull(instant: number | null): Date | null {
  return instant === null ? null : new Date(instant)
}
