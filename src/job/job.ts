// The job: its states, its record, and the outcomes of its attempts. No I/O.
import type { Need } from './needs.ts'
import type { RetryOverride } from './retry-policy.ts'

/** How far ahead a client may ask for a job to be due. */
export const MAX_AHEAD_MS = 366 * 86_400_000
export const DEFAULT_COST = 1
export const MAX_COST = 1_000

export const JOB_STATES = ['queued', 'running', 'succeeded', 'dead', 'cancelled'] as const
export type JobState = (typeof JOB_STATES)[number]

export function isFinal(state: JobState): boolean {
  return state !== 'queued' && state !== 'running'
}

/** How an attempt ended. docs/outcomes.md describes what each outcome leads to. */
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
  'input_missing',
  'inputs_too_large',
  'failed_by_handler',
] as const
export type FailureReason = (typeof FAILURE_REASONS)[number]

export interface Failure {
  reason: FailureReason
  message: string
  /** The job because of which this one is dead; absent: it is dead for its own reasons. */
  jobId?: string
}

/** The endpoint that receives a notice each time a job becomes final. */
export interface OnFinish {
  endpoint: string
  /** The final states that send a notice. */
  states: JobState[]
}

/** The progress that a handler last reported. */
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

/** Header of a delivery: how many deliveries, including this one, led to it. */
export const HOPS_HEADER = 'posthorn-hops'
/** A request with a higher count enqueues nothing. */
export const MAX_HOPS = 10

/** `sending`: being delivered, or pulled; `awaiting_completion`: the response was 202. */
export type Phase = 'sending' | 'awaiting_completion'

/** How many attempts a job keeps: the most recent ones. */
export const MAX_ATTEMPTS_KEPT = 20

/** One HTTP try of a job. Instants are epoch milliseconds by the store's clock. */
export interface Attempt {
  number: number
  startedAt: number
  finishedAt: number
  /** By the worker's monotonic clock if a worker saw the end, else finishedAt - startedAt. */
  durationMs: number
  outcome: Outcome
  statusCode: number | null
  errorCode: string | null
  message: string | null
  responseBody: string | null
  workerId: string
}

/** The right to work on a job. Every write of the holder names all its fields. */
export interface Lease {
  jobId: string
  /** The endpoint of the job. A store that distributes jobs by endpoint finds the job with it. */
  endpoint: string
  /** Grows with every claim of the job and never decreases, not even by a release or a retry. */
  fence: number
  /** Random, so that a claim that a failover rolled back cannot be mistaken for its successor. */
  leaseId: string
}

/** A job as a list shows it. Instants are epoch milliseconds by the store's clock. */
export interface JobSummary {
  id: string
  endpoint: string
  state: JobState
  phase: Phase | null
  priority: number
  /** When the last attempt was due; for a queued job, when the next attempt is due. */
  runAt: number
  /** The first runAt; a retry by hand sets it again. expiresIn counts from here. */
  firstRunAt: number
  /** When the last wait for other jobs ended; null: the job never waited, or still waits. */
  promotedAt: number | null
  createdAt: number
  /** When the first attempt started. */
  startedAt: number | null
  finishedAt: number | null
  expiresAt: number | null
  /** Attempts that were sent, including free ones. */
  attemptCount: number
  /** Remaining attempts; a claim subtracts one. */
  attemptsLeft: number
  maxAttempts: number
  /** Attempts since the enqueue or the retry that used no attempt (throttled, interrupted). */
  freeAttempts: number
  fence: number
  /** `claimedAt`: when the current attempt began. */
  lease: { workerId: string; expiresAt: number; claimedAt: number } | null
  progress: Progress | null
  failure: Failure | null
  payloadBytes: number
  /** Set by the job itself; null: the endpoint's value at the time of each attempt applies. */
  timeoutMs: number | null
  retry: RetryOverride | null
  /** null: no configured key decrypts them. */
  headers: Record<string, string> | null
  tags: string[]
  metadata: Record<string, string>
  /**
   * The key of the request that created the job. Later keys find the job too, but are not shown.
   */
  idempotencyKey: string | null
  dedupeKey: string | null
  orderingKey: string | null
  /** Groups the jobs of one customer of the endpoint; compared byte for byte. */
  fairnessKey: string | null
  /** From DEFAULT_COST to MAX_COST. */
  cost: number
  scheduleName: string | null
  /** The id of its group. It stays after the group was deleted. */
  group: string | null
  dependsOn: string[]
  needs: Need[]
  /** null: it has no inputs, or they are not made yet. */
  inputsBytes: number | null
  /** The dependencies that have not succeeded yet, as far as the store knows. */
  waitingFor: string[]
  /** Blocked: queued, but waiting for dependencies or for its ordering slot. */
  isBlocked: boolean
  onFinish: OnFinish | null
  /** Raised by every event except renew. */
  version: number
}

export interface JobWithAttempts extends JobSummary {
  /** The last MAX_ATTEMPTS_KEPT, oldest first. */
  attempts: Attempt[]
}

export interface Job extends JobWithAttempts {
  /** JSON text, byte for byte as the endpoint returned it. */
  result: string | null
  resultTruncated: boolean
  payload: Uint8Array
}

/** The part of a job that a minimal response contains or needs. */
export type MinimalJob = Pick<Job, 'id' | 'state' | 'version' | 'group'>
/** Whether the result of the job at this index of a batch may be a MinimalJob. */
export type IsMinimal = (index: number) => boolean

/** A job to store. The caller takes the id and the instants from the store's clock. */
export interface NewJob {
  id: string
  endpoint: string
  /** JSON text as received, never re-serialised. */
  payload: Uint8Array
  createdAt: number
  runAt: number
  priority: number
  /** null: the endpoint's value, read in the write that stores the job. */
  maxAttempts: number | null
  timeoutMs: number | null
  retry: RetryOverride | null
  expiresAt: number | null
  tags: string[]
  metadata: Record<string, string>
  headers: Record<string, string>
  /** The key is scoped to the endpoint; the hash distinguishes a repeat from another request. */
  idempotency: { key: string; requestHash: string } | null
  /** Checked after the idempotency key, among the queued and running jobs of the endpoint. */
  dedupe: { key: string; mode: DedupeMode } | null
  orderingKey: string | null
  fairnessKey: string | null
  cost: number
  /** The id of the group that it joins; null: none. */
  group: string | null
  /** Ids of stored jobs and closed groups, without duplicates. */
  dependsOn: string[]
  /** Of stored jobs, which are not in dependsOn. */
  needs: Need[]
  /** Of a copy: the inputs of the job that was copied. */
  inputs?: Uint8Array
  /** `inherited`: the endpoint's value, read in the write that stores the job; null: none. */
  onFinish: OnFinish | 'inherited' | null
  /** true: an earlier request named this onFinish, and its endpoint may be gone since then. */
  hasEarlierOnFinish?: true
  scheduleName: string | null
  /**
   * What Posthorn created the job for: a tick of a schedule, a finish (its notice), an outbox
   * document. Unique within the endpoint: for a known key the store returns the job that has it.
   * null: a client created the job.
   */
  originKey: string | null
  /**
   * Hash of the source of the job, if the source can change under the same originKey: a document of
   * an outbox. A different hash means a different job, and is refused.
   */
  originHash?: string
  trace: TraceContext | null
  /** How many deliveries led to the request that created the job. */
  hops: number
}

/** What happens if a queued or running job already has the dedupe key of a request. */
export type DedupeMode = 'keep' | 'replace' | 'reject'

/** A job under a worker's lease, with every field that its delivery needs. */
export interface ClaimedJob extends Lease {
  payload: Uint8Array
  /** As makeInputs made them; null: the job needs none. */
  inputs: Uint8Array | null
  /** Number of this attempt, from 1. */
  attemptNumber: number
  attemptsLeft: number
  maxAttempts: number
  freeAttempts: number
  /** This field and the next two have the meaning of JobSummary; dueAt and firstDueAt read them. */
  runAt: number
  firstRunAt: number
  promotedAt: number | null
  expiresAt: number | null
  timeoutMs: number | null
  retry: RetryOverride | null
  /** null: no configured key decrypts them, and the job cannot be sent. */
  headers: Record<string, string> | null
  scheduleName: string | null
  trace: TraceContext | null
  hops: number
  fairnessKey: string | null
  /** Its fairness key has not recovered from a rest: the success of the attempt is reported. */
  keyRecovers: boolean
  /** When the job was claimed, by the store's clock. */
  claimedAt: number
}

/**
 * When the job is or was due: its runAt, or the end of its wait for other jobs if that is later.
 */
export function dueAt({ runAt, promotedAt }: Pick<Job, 'runAt' | 'promotedAt'>): number {
  return Math.max(runAt, promotedAt ?? 0)
}

/**
 * The first due time, from which maxAge counts. A retry by hand sets it again. A wait for an
 * earlier job of the same ordering key that was retried sets it again, too, so that no wait for
 * other jobs uses up maxAge.
 */
export function firstDueAt(job: Pick<Job, 'firstRunAt' | 'promotedAt'>): number {
  return dueAt({ runAt: job.firstRunAt, promotedAt: job.promotedAt })
}
