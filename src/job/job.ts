// What a job is: its states, its record, and the words for what became of each attempt. No I/O.
import { randomBytes } from 'node:crypto'
import type { RetryOverride } from './retry-policy.ts'

export const JOB_STATES = ['queued', 'running', 'succeeded', 'dead', 'cancelled'] as const
export type JobState = (typeof JOB_STATES)[number]

export function isFinal(state: JobState): boolean {
  return state !== 'queued' && state !== 'running'
}

/** What became of one attempt (docs/LIFECYCLE.md says what each leads to). */
export const OUTCOMES = [
  'succeeded',
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
] as const
export type FailureReason = (typeof FAILURE_REASONS)[number]

export interface Failure {
  reason: FailureReason
  message: string
}

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
  phase: 'sending' | null
  priority: number
  /** When it is or was due; of a queued job, when its next attempt is due. */
  runAt: number
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
  lease: { workerId: string; expiresAt: number } | null
  failure: Failure | null
  payloadBytes: number
  /** What the job itself gave; null: its endpoint's, as it stands at each attempt. */
  timeoutMs: number | null
  retry: RetryOverride | null
  headers: Record<string, string>
  tags: string[]
  metadata: Record<string, string>
  idempotencyKey: string | null
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
}

/** A job that a worker holds, with what it needs to deliver it. */
export interface ClaimedJob extends Lease {
  endpoint: string
  payload: Uint8Array
  /** Number of this attempt, from 1. */
  attemptNumber: number
  attemptsLeft: number
  maxAttempts: number
  freeAttempts: number
  runAt: number
  /** From here maxAge counts: the first due time, anew after a retry by hand. */
  firstRunAt: number
  expiresAt: number | null
  timeoutMs: number | null
  retry: RetryOverride | null
  headers: Record<string, string>
  /** When it was claimed, by the store's clock. */
  claimedAt: number
}

/** The job that a stored NewJob has become. */
export function newlyQueued(job: NewJob, maxAttempts: number): Job {
  const { idempotency, ...rest } = job
  return {
    ...rest,
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
    idempotencyKey: idempotency?.key ?? null,
    version: 1,
    result: null,
    resultTruncated: false,
    attempts: [],
  }
}

const ID_PREFIX = 'job_'
const BASE32 = '0123456789abcdefghjkmnpqrstvwxyz'
/** 48 bits of time in 10 characters, then 80 random bits in 16: a ULID, lower case. */
const ID_SHAPE = /^job_[0-9a-hjkmnp-tv-z]{26}$/

export function isJobId(text: string): boolean {
  return ID_SHAPE.test(text)
}

// Random bytes are drawn in bulk: one call to the system per job would cost more than the rest.
let pool = Buffer.alloc(0)
let poolAt = 0

function randomCharacters(count: number): string {
  if (poolAt + count > pool.length) {
    pool = randomBytes(4096)
    poolAt = 0
  }
  let text = ''
  for (let i = 0; i < count; i++) text += BASE32[(pool[poolAt + i] as number) & 31]
  poolAt += count
  return text
}

function timeCharacters(instant: number): string {
  let text = ''
  let rest = instant
  for (let i = 0; i < 10; i++) {
    text = BASE32[rest % 32] + text
    rest = Math.floor(rest / 32)
  }
  return text
}

/**
 * A new id, sorted by `createdAt` (ULID, github.com/ulid/spec): newest-first lists need no other
 * key.
 */
export function newJobId(createdAt: number): string {
  return ID_PREFIX + timeCharacters(createdAt) + randomCharacters(16)
}

/** The smallest id that a job created at this instant can have: bounds of a list by time. */
export function firstIdAt(instant: number): string {
  return `${ID_PREFIX}${timeCharacters(Math.max(0, instant))}${'0'.repeat(16)}`
}
