// Decides what follows an attempt: success, a retry, or death of the job. Pure: clock and
// randomness are arguments.
import { type ClaimedJob, type Failure, firstDueAt, type Outcome } from './job.ts'

export type Backoff =
  | {
      type: 'exponential' | 'linear' | 'fixed'
      delayMs: number
      factor: number
      maxDelayMs: number
      jitter: number
    }
  | { type: 'schedule'; delaysMs: number[]; jitter: number }

export interface RetryPolicy {
  maxAttempts: number
  backoff: Backoff
  /** No attempt may be due later than this after the first due time; null: no limit. */
  maxAgeMs: number | null
}

/**
 * The retry policy that a job sets itself. Each field overrides the endpoint's, `backoff` as a
 * whole.
 */
export type RetryOverride = Partial<RetryPolicy>

export const DEFAULT_BACKOFF = {
  type: 'exponential',
  delayMs: 5_000,
  factor: 3,
  maxDelayMs: 12 * 3_600_000,
  jitter: 0.2,
} as const satisfies Backoff

export const DEFAULT_RETRY: RetryPolicy = {
  maxAttempts: 10,
  backoff: DEFAULT_BACKOFF,
  maxAgeMs: null,
}

/** How many throttled and interrupted attempts are free. Each further one uses an attempt. */
export const MAX_FREE_ATTEMPTS = 100

/** The longest Retry-After that is honored. */
export const MAX_RETRY_AFTER_MS = 24 * 3_600_000

const FIRST_THROTTLE_MS = 1_000
const MAX_THROTTLE_MS = 60_000

/** The end of an attempt, as far as the policy needs it. */
export interface AttemptEnd {
  outcome: Outcome
  /** The value of Retry-After in milliseconds from now; null: it was absent or not usable. */
  retryAfterMs: number | null
  /** One sentence for the failure, if the job becomes dead. */
  message: string
  /** Only with `failed`: the handler reported that a retry would not help. */
  isFinal?: boolean
}

export type Decision =
  | { event: 'succeed' }
  | { event: 'await' }
  | { event: 'reschedule' | 'postpone'; runAt: number }
  | { event: 'bury'; failure: Failure }

/** The fields of the job that decide, in addition to the policy. */
export type Budget = Pick<
  ClaimedJob,
  'attemptsLeft' | 'maxAttempts' | 'freeAttempts' | 'firstRunAt' | 'promotedAt' | 'expiresAt'
>

/**
 * Decides what follows an attempt that has ended.
 *
 * @param now epoch milliseconds by the store's clock
 * @param random a number in [0, 1)
 */
export function decide(
  job: Budget,
  policy: RetryPolicy,
  end: AttemptEnd,
  now: number,
  random: number,
): Decision {
  if (end.outcome === 'succeeded') return { event: 'succeed' }
  if (end.outcome === 'accepted') return { event: 'await' }
  if (end.isFinal) return bury('failed_by_handler', end.message)
  if (end.outcome === 'rejected' || end.outcome === 'blocked') {
    return bury('rejected', end.message)
  }
  const free = isFree(end.outcome) && job.freeAttempts < MAX_FREE_ATTEMPTS
  if (!free && job.attemptsLeft === 0) {
    return bury(
      'attempts_exhausted',
      `${job.maxAttempts} of ${job.maxAttempts} attempts failed; the last: ${end.message}`,
    )
  }
  const runAt = now + (free ? freeDelayMs(job, end) : costingDelayMs(job, policy, end, random))
  if (job.expiresAt !== null && runAt > job.expiresAt) {
    return bury(
      'expired',
      `the next attempt would be due after the job expires; the last: ${end.message}`,
    )
  }
  if (policy.maxAgeMs !== null && runAt > firstDueAt(job) + policy.maxAgeMs) {
    return bury('max_age', `the next attempt would be due after maxAge; the last: ${end.message}`)
  }
  return { event: free ? 'postpone' : 'reschedule', runAt }
}

/** The endpoint's policy, overridden by the job's own fields. */
export function effectivePolicy(endpoint: RetryPolicy, job: RetryOverride | null): RetryPolicy {
  return job === null ? endpoint : { ...endpoint, ...job }
}

/**
 * The delay before the next attempt by the policy alone, with jitter.
 *
 * @param n how many attempts were used, from 1
 */
export function backoffMs(backoff: Backoff, n: number, random: number): number {
  const spread = 1 - backoff.jitter + 2 * backoff.jitter * random
  return Math.round(plainDelayMs(backoff, n) * spread)
}

function plainDelayMs(backoff: Backoff, n: number): number {
  switch (backoff.type) {
    case 'exponential':
      return Math.min(backoff.delayMs * backoff.factor ** (n - 1), backoff.maxDelayMs)
    case 'linear':
      return Math.min(backoff.delayMs * n, backoff.maxDelayMs)
    case 'fixed':
      return Math.min(backoff.delayMs, backoff.maxDelayMs)
    case 'schedule':
      return backoff.delaysMs[Math.min(n, backoff.delaysMs.length) - 1] ?? 0
    default:
      throw new Error(`unknown backoff ${(backoff satisfies never as Backoff).type}`)
  }
}

function isFree(outcome: Outcome): boolean {
  return outcome === 'throttled' || outcome === 'interrupted'
}

function freeDelayMs(job: Budget, end: AttemptEnd): number {
  if (end.outcome === 'interrupted') return end.retryAfterMs ?? 0
  const ownMs = Math.min(FIRST_THROTTLE_MS * 2 ** job.freeAttempts, MAX_THROTTLE_MS)
  return Math.max(ownMs, namedMs(end))
}

function costingDelayMs(job: Budget, policy: RetryPolicy, end: AttemptEnd, random: number): number {
  const computedMs = backoffMs(policy.backoff, job.maxAttempts - job.attemptsLeft, random)
  return Math.max(computedMs, namedMs(end))
}

/** Retry-After can only make the delay longer. */
function namedMs({ retryAfterMs }: AttemptEnd): number {
  return Math.min(retryAfterMs ?? 0, MAX_RETRY_AFTER_MS)
}

function bury(reason: Failure['reason'], message: string): Decision {
  return { event: 'bury', failure: { reason, message } }
}
