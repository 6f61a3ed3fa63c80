// What a job is: its states, its record, and the words for what became of each attempt. No I/O.
import type { RetryOverride } from './retry-policy.ts'

/** How far ahead a client may ask for a job to be due. */
export const MAX_AHEAD_MS = 366 * 86_400_000

export const JOB_STATES = ['queued', 'running', 'succeeded', 'dead', 'cancelled'] as const
export type JobState = (typeof JOB_STATES)[number]

export function isFinal(state: JobState): boolean {
  return state !== 'queued' && state !== 'running'
}

/** What became of one attempt (docs/outcomes.md says what each leads to). */
export const OUTCOMES = [
  'succeeded',
  'accepted',
  'http_error',
  'rejected',
  'throttled',
  'connect_error',
  'dns_error',
  'tls_error',
  'timeout',
  'blocked',
  'protocol_error',
  'lost',
  'interrupted',
  'cancelled',
  'failed',
] as const
export type Outcome = (typeof OUTCOMES)[number]

/** Why a job is dead. */
export const FAILURE_REASONS = [
  'attempts_exhausted',
  'rejected',
  'max_age',
  'expired',
  'lease_lost',
  'endpoint_gone',
  'dependency_failed',
  'failed_by_handler',
] as const
export type FailureReason = (typeof FAILURE_REASONS)[number]

export interface Failure {
  reason: FailureReason
  message: string
}

/** Who is told, by a job of its own, each time a job becomes final. */
export interface OnFinish {
  endpoint: string
  /** Of the final states, those that are told. */
  states: JobState[]
}

/** What a handler last said of its work. */
export interface Progress {
  /** 0 to 100. */
  value: number | null
  message: string | null
  at: number
}

/** The W3C trace context of the request that enqueued a job (w3.org/TR/trace-context). */
export interface TraceContext {
  traceparent: string
  tracestate: string | null
}

/** In a delivery: how many deliveries, this one counted, led to it. */
export const HOPS_HEADER = 'posthorn-hops'
/** A request that more deliveries led to enqueues nothing. */
export const MAX_HOPS = 10

/** `sending`: with its endpoint, or pulled; `awaiting_completion`: answered by 202. */
export type Phase = 'sending' | 'awaiting_completion'

/** How many attempts a job remembers: the last ones. */
export const MAX_ATTEMPTS_KEPT = 20

/** One HTTP try of a job. Instants are epoch milliseconds by the store's clock. */
export interface Attempt {
  number: number
  startedAt: number
  finishedAt: number
  /** By the worker's monotonic clock, where a worker saw the end; else finishedAt - startedAt. */
  durationMs: number
  outcome: Outcome
  statusCode: number | null
  errorCode: string | null
  message: string | null
  responseBody: string | null
  workerId: string
}

/** The right to work on a job: every write of a holder names all three. */
export interface Lease {
  jobId: string
  /** Grows with every claim of the job, never falls, survives release and retry. */
  fence: number
  /** Random, so that a claim rolled back by a failover can not be mistaken for its successor. */
  leaseId: string
}

/** A job as a list shows it. Instants are epoch milliseconds by the store's clock. */
export interface JobSummary {
  id: string
  endpoint: string
  state: JobState
  phase: Phase | null
  priority: number
  /** When it is or was to be tried; of a queued job, when its next attempt is. */
  runAt: number
  /** Its first runAt, anew after a retry by hand: from here expiresIn counts. */
  firstRunAt: number
  /** When it last ceased to wait for other jobs; null: it never waited, or still does. */
  promotedAt: number | null
  createdAt: number
  /** Start of its first attempt. */
  startedAt: number | null
  finishedAt: number | null
  expiresAt: number | null
  /** Attempts that were sent, free ones included. */
  attemptCount: number
  /** What is left of the budget; counted down at claim. */
  attemptsLeft: number
  maxAttempts: number
  /** Attempts that cost nothing (throttled, interrupted) since enqueue or retry. */
  freeAttempts: number
  fence: number
  /** `claimedAt`: when the attempt under way began. */
  lease: { workerId: string; expiresAt: number; claimedAt: number } | null
  progress: Progress | null
  failure: Failure | null
  payloadBytes: number
  /** What the job itself gave; null: its endpoint's, as it stands at each attempt. */
  timeoutMs: number | null
  retry: RetryOverride | null
  /** null: sealed with a key that is no longer configured. */
  headers: Record<string, string> | null
  tags: string[]
  metadata: Record<string, string>
  /** The key of the request that made it; later ones are known, not shown. */
  idempotencyKey: string | null
  dedupeKey: string | null
  orderingKey: string | null
  scheduleName: string | null
  dependsOn: string[]
  /** Of those the ones that have not succeeded yet, as far as the store knows. */
  waitingFor: string[]
  /** Queued, but kept from being claimed: dependencies are not met, or it is not its turn. */
  isHeld: boolean
  onFinish: OnFinish | null
  /** Raised by every event but renew. */
  version: number
}

export interface Job extends JobSummary {
  /** JSON text, exactly as the endpoint answered it. */
  result: string | null
  resultTruncated: boolean
  /** The last MAX_ATTEMPTS_KEPT, oldest first. */
  attempts: Attempt[]
  payload: Uint8Array
}

/** A job to be stored. The caller takes id and instants from the store's clock. */
export interface NewJob {
  id: string
  endpoint: string
  /** JSON text as it came, never re-serialised. */
  payload: Uint8Array
  createdAt: number
  runAt: number
  priority: number
  /** null: the endpoint's, read in the write that stores the job. */
  maxAttempts: number | null
  timeoutMs: number | null
  retry: RetryOverride | null
  expiresAt: number | null
  tags: string[]
  metadata: Record<string, string>
  headers: Record<string, string>
  /** The key belongs to the endpoint; the hash tells a repeat from another request. */
  idempotency: { key: string; requestHash: string } | null
  /** Looked at after the idempotency key, among the endpoint's queued and running jobs. */
  dedupe: { key: string; mode: DedupeMode } | null
  orderingKey: string | null
  /** Ids of stored jobs, each once. */
  dependsOn: string[]
  /** `inherited`: the endpoint's, read in the write that stores the job; null: none. */
  onFinish: OnFinish | 'inherited' | null
  scheduleName: string | null
  /**
   * What the job was made for, once: a tick of a schedule, a notice of a finish. Unique within the
   * endpoint; one that is known is answered with the job that has it. null: made by a client.
   */
  originKey: string | null
  /**
   * Of what the job was made from, where that could change under the same originKey: a document of
   * an outbox. Another hash is another job, and is refused.
   */
  originHash?: string
  trace: TraceContext | null
  /** How many deliveries led to the request that made it. */
  hops: number
}

/** What becomes of a request whose dedupe key a queued or running job has. */
export type DedupeMode = 'keep' | 'replace' | 'reject'

/** A job that a worker holds, with what it needs to deliver it. */
export interface ClaimedJob extends Lease {
  endpoint: string
  payload: Uint8Array
  /** Number of this attempt, from 1. */
  attemptNumber: number
  attemptsLeft: number
  maxAttempts: number
  freeAttempts: number
  /** This and the next two as of a JobSummary: dueAt and firstDueAt tell what follows. */
  runAt: number
  firstRunAt: number
  promotedAt: number | null
  expiresAt: number | null
  timeoutMs: number | null
  retry: RetryOverride | null
  /** null: sealed with a key that is no longer configured; it can not be sent. */
  headers: Record<string, string> | null
  scheduleName: string | null
  trace: TraceContext | null
  hops: number
  /** When it was claimed, by the store's clock. */
  claimedAt: number
}

/** When it is or was due: its runAt, or the later end of what it waited for. */
export function dueAt({ runAt, promotedAt }: Pick<Job, 'runAt' | 'promotedAt'>): number {
  return Math.max(runAt, promotedAt ?? 0)
}

/**
 * From here maxAge counts: the first due time, anew after a retry by hand, and after a wait for an
 * earlier job of the same ordering key that was retried: no wait for other jobs uses up maxAge.
 */
export function firstDueAt(job: Pick<Job, 'firstRunAt' | 'promotedAt'>): number {
  return dueAt({ runAt: job.firstRunAt, promotedAt: job.promotedAt })
}
