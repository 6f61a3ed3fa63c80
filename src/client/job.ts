// Types of jobs in requests and responses. Shapes only. Instants are RFC 3339 strings, durations
// are strings like `500ms`, `15s`, `1h30m` and `7d`.

export type JobState = 'queued' | 'running' | FinalState
export type FinalState = 'succeeded' | 'dead' | 'cancelled'

export function isFinal(state: JobState): state is FinalState {
  return state !== 'queued' && state !== 'running'
}

export type Outcome =
  | 'succeeded'
  | 'accepted'
  | 'http_error'
  | 'rejected'
  | 'throttled'
  | 'connect_error'
  | 'dns_error'
  | 'tls_error'
  | 'timeout'
  | 'blocked'
  | 'protocol_error'
  | 'lost'
  | 'interrupted'
  | 'cancelled'
  | 'failed'

export type FailureReason =
  | 'attempts_exhausted'
  | 'rejected'
  | 'max_age'
  | 'expired'
  | 'lease_lost'
  | 'endpoint_gone'
  | 'dependency_failed'
  | 'input_missing'
  | 'inputs_too_large'
  | 'failed_by_handler'

export type Backoff =
  | {
      type: 'exponential' | 'linear' | 'fixed'
      delay?: string
      factor?: number
      maxDelay?: string
      jitter?: number
    }
  | { type: 'schedule'; delays: string[]; jitter?: number }

export interface Retry {
  maxAttempts?: number
  backoff?: Backoff
  maxAge?: string | null
}

/** The endpoint that receives a notice when the job becomes final in one of these states. */
export interface OnFinish {
  endpoint: string
  states?: FinalState[]
}

/** The options of a job that are the same for enqueue, batch and schedule. */
export interface JobTemplate {
  /** 0 to 9 within its endpoint, higher first. Default: 5. */
  priority?: number | undefined
  timeout?: string | undefined
  retry?: Retry | undefined
  expiresIn?: string | null | undefined
  orderingKey?: string | null | undefined
  /** Groups the jobs of one customer. */
  fairnessKey?: string | null | undefined
  /** 1 to 1,000: how much work the job is. Default: 1. */
  cost?: number | undefined
  tags?: string[] | undefined
  metadata?: Record<string, string> | undefined
  headers?: Record<string, string> | undefined
  onFinish?: string | OnFinish | null | undefined
}

/** The result of another job, or a part of it. */
export interface NeedOptions {
  job: string
  /** JSON Pointer into the result. Default: the whole result. */
  pointer?: string | undefined
  /**
   * If that job is dead, cancelled or deleted: this one becomes dead (`fail`, the default), or runs
   * with null as the input.
   */
  ifFailed?: 'fail' | 'continue' | undefined
}

interface NewJobOptions extends JobTemplate {
  /** Name of the endpoint that receives the job. */
  endpoint: string
  /** When the job is due. Default: now. Give either runAt or delay, not both. */
  runAt?: string | Date | undefined
  delay?: string | undefined
  dedupe?: { key: string; mode: 'keep' | 'replace' | 'reject' } | null | undefined
  /** The id of the group that the job joins. */
  group?: string | null | undefined
  /**
   * Ids of jobs and of closed groups. In a batch also positions of earlier items, like `#0`, and
   * `#group`.
   */
  dependsOn?: string[] | undefined
  /**
   * The results of other jobs that it gets as inputs, by name: `{ irn: 'job_…/result/irn' }`. In a
   * batch also positions of earlier items, like `#0/result/irn`. The endpoint then receives
   * `{"payload":…,"inputs":{…}}`.
   */
  needs?: Record<string, string | NeedOptions> | undefined
  /** 1–255 visible ASCII characters. Default: a new key for each call. */
  idempotencyKey?: string | undefined
}

/**
 * A job to enqueue. `rawPayload` is JSON text, or its UTF-8 bytes. The endpoint receives it byte
 * for byte. Use it for numbers and spellings that JSON.parse would change.
 */
export type NewJob<Payload = unknown> = NewJobOptions &
  ({ payload: Payload; rawPayload?: undefined } | { payload?: undefined; rawPayload: RawJson })

export type RawJson = string | Uint8Array

/** A change of a queued job. The payload can change only before the first attempt. */
export type JobChange<Payload = unknown> = Pick<
  NewJobOptions,
  'runAt' | 'delay' | 'priority' | 'tags' | 'metadata' | 'expiresIn'
> & { payload?: Payload; rawPayload?: RawJson | undefined }

export interface Attempt {
  number: number
  startedAt: string
  finishedAt: string
  durationMs: number
  outcome: Outcome
  statusCode: number | null
  errorCode: string | null
  message: string | null
  responseBody: string | null
  workerId: string
}

/** A job as a list shows it. */
export interface JobSummary {
  id: string
  endpoint: string
  state: JobState
  phase: 'sending' | 'awaiting_completion' | null
  priority: number
  /** For a queued job, the earliest time of its next attempt. */
  runAt: string
  /**
   * From when a worker may claim the job: runAt, or the end of its wait for other jobs if that is
   * later. null: the job waits for other jobs, or is not queued.
   */
  dueAt: string | null
  createdAt: string
  startedAt: string | null
  finishedAt: string | null
  expiresAt: string | null
  attemptCount: number
  maxAttempts: number
  fence: number
  lease: { workerId: string; expiresAt: string } | null
  progress: { value: number | null; message: string | null; at: string } | null
  /** `jobId`: the job because of which it is dead. */
  failure: { reason: FailureReason; message: string; jobId?: string } | null
  payloadBytes: number
  timeout: string | null
  retry: Retry | null
  /** Values are masked. null: no key of the API decrypts them. */
  headers: Record<string, string> | null
  tags: string[]
  metadata: Record<string, string>
  idempotencyKey: string | null
  dedupeKey: string | null
  orderingKey: string | null
  fairnessKey: string | null
  cost: number
  scheduleName: string | null
  /** The id of its group. It stays after the group was deleted. */
  group: string | null
  dependsOn: string[]
  needs: Record<string, Required<NeedOptions>>
  onFinish: { endpoint: string; states: FinalState[] } | null
  version: number
}

export interface Job<Payload = unknown, Result = unknown> extends JobSummary {
  payload: Payload
  /**
   * The JSON of the response or report that completed the job; also null if it was too long to
   * keep.
   */
  result: Result | null
  resultTruncated: boolean
  /** The last 20 attempts, oldest first. */
  attempts: Attempt[]
}

export type FinalJob<Payload = unknown, Result = unknown> = Job<Payload, Result> & {
  state: FinalState
  finishedAt: string
}

export type EnqueuedJob<Payload = unknown, Result = unknown> = Job<Payload, Result> & {
  /**
   * Whether the job already existed, by its idempotency key or its dedupe key. Also true if an
   * earlier try of this call stored the job and its response was lost.
   */
  deduplicated: boolean
}

/** The result of an enqueue with `return: 'minimal'`. */
export type MinimalJob = Pick<EnqueuedJob, 'id' | 'state' | 'deduplicated'>

/** A job that was retried by its id, or a copy. */
export type RetriedJob<Payload = unknown, Result = unknown> = Job<Payload, Result> & {
  /** Dependencies that are dead, cancelled or gone: the job runs without them. */
  dependenciesWaived: string[]
  /** With `withDependents`: how many jobs were queued again because of this one. */
  dependentsRetried?: number
  /** With `withDependents`: ids of at most 100 jobs that stay dead because of another job. */
  left?: string[]
  /** With `withDependents`: there are more; repeat the call. */
  more?: boolean
}

export interface RetryOptions {
  /** Retries also the jobs that are dead because of this one, and those behind them. */
  withDependents?: boolean | undefined
}

/** A job that a worker has claimed. The token authorizes reports until the lease expires. */
export type ClaimedJob<Payload = unknown> = Job<Payload> & {
  token: string
  leaseExpiresAt: string
  /** The W3C trace context of the request that enqueued the job; null: the request had none. */
  traceparent: string | null
  tracestate: string | null
  /**
   * The value of the header `posthorn-hops` for jobs that the worker enqueues. The count ends
   * endless loops.
   */
  hops: number
  /** The results that it needs; only of a job with `needs`. */
  inputs?: Record<string, unknown>
  /** Names of inputs that are null because the result was too long. Absent: none. */
  truncatedInputs?: string[]
  /** Names of inputs that are null because the needed job failed. Absent: none. */
  failedInputs?: string[]
}

/** The result for one job of a batch. A retry with the same `idempotencyKey` is safe. */
export type BatchItem = { idempotencyKey: string } & (
  | {
      status: 200 | 201
      id: string
      /** Only with `return: 'minimal'`. */
      state?: JobState
      /** Only with `group`: the group of the job, which was found or joined. */
      group?: string | null
      deduplicated: boolean
      error?: undefined
    }
  | { status: number; id?: undefined; state?: undefined; group?: undefined; error: ItemProblem }
)

export interface ItemProblem {
  code: string
  detail: string
  errors?: { path: string; message: string }[]
}

export interface JobQuery {
  endpoint?: string | undefined
  state?: JobState | JobState[] | undefined
  tag?: string | undefined
  dedupeKey?: string | undefined
  group?: string | undefined
  /** Only with `endpoint`. */
  fairnessKey?: string | undefined
  createdAfter?: string | Date | undefined
  createdBefore?: string | Date | undefined
  /** Jobs per page, 1–100. */
  limit?: number | undefined
}

/** The filter of cancelMany and retryMany. An empty filter is refused. */
export interface JobFilter {
  endpoint?: string | undefined
  state?: JobState | undefined
  tag?: string | undefined
  createdAfter?: string | Date | undefined
  createdBefore?: string | Date | undefined
  failureReason?: FailureReason | undefined
}

export interface BulkResult {
  matched: number
  affected: number
  /** More jobs match than the limit: a retry takes the oldest, a cancel the newest. */
  more?: boolean
  /** For a retry: jobs that were not retried because a dependency stays dead, cancelled or gone. */
  dependencyFailed?: number
}

/** A page of a list. It can be short or empty although there is a next page. */
export interface Page<Item> {
  items: Item[]
  nextCursor: string | null
}

export type ExplainReason =
  | 'not_due'
  | 'endpoint_paused'
  | 'endpoint_disabled'
  | 'endpoint_resting'
  | 'key_paused'
  | 'key_resting'
  | 'key_concurrency_full'
  | 'key_rate_limited'
  | 'limit_full'
  | 'concurrency_full'
  | 'rate_limited'
  | 'behind_ordering_key'
  | 'waiting_for_dependencies'
  | 'no_live_worker'
  | 'next_in_line'
  | 'running'
  | 'final'

export interface Explanation {
  state: JobState
  /** The version of the job that was read. */
  version: number
  reason: ExplainReason
  detail: string
  expectedAt: string | null
  /** With next_in_line, if fairness keys take turns. A count of 10000 also means more. */
  turn?: {
    fairnessKey: string | null
    /** Due jobs of the key with the same priority that come before it. */
    jobsBefore: number
    /** Keys that take turns at this priority, jobs without a key as one of them. */
    keys: number
  }
}
