// A job on the wire, as a caller gives and reads it. Shapes only; instants are RFC 3339 texts and
// durations texts like `500ms`, `15s`, `1h30m`, `7d`.

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

/** Who is told of a finish, by a job of its own. */
export interface OnFinish {
  endpoint: string
  states?: FinalState[]
}

/** What a job may be given wherever it is written: enqueued, in a batch, in a schedule. */
export interface JobTemplate {
  /** 0 to 9, higher first, within its endpoint; 5 if not given. */
  priority?: number | undefined
  timeout?: string | undefined
  retry?: Retry | undefined
  expiresIn?: string | null | undefined
  orderingKey?: string | null | undefined
  tags?: string[] | undefined
  metadata?: Record<string, string> | undefined
  headers?: Record<string, string> | undefined
  onFinish?: string | OnFinish | null | undefined
}

interface NewJobOptions extends JobTemplate {
  /** Name of the endpoint that the job is for. */
  endpoint: string
  /** When it is due: now unless runAt or delay say otherwise; not both. */
  runAt?: string | Date | undefined
  delay?: string | undefined
  dedupe?: { key: string; mode: 'keep' | 'replace' | 'reject' } | null | undefined
  /** Ids of jobs; in a batch also `#0` for an earlier item. */
  dependsOn?: string[] | undefined
  /** 1–255 visible ASCII characters. One is made for each call that gives none. */
  idempotencyKey?: string | undefined
}

/**
 * A job to be enqueued. `rawPayload` is JSON text, or its UTF-8 bytes, that reaches the endpoint
 * byte for byte: for numbers and spellings that JSON.parse would change.
 */
export type NewJob<Payload = unknown> = NewJobOptions &
  ({ payload: Payload; rawPayload?: undefined } | { payload?: undefined; rawPayload: RawJson })

export type RawJson = string | Uint8Array

/** What may be changed of a queued job; the payload only before its first attempt. */
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
  /** Of a queued job: the earliest time of its next attempt. */
  runAt: string
  /**
   * Since or from when a worker may take it: runAt, or the later end of its wait for other jobs.
   * null: it waits for other jobs, or is not queued.
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
  failure: { reason: FailureReason; message: string } | null
  payloadBytes: number
  timeout: string | null
  retry: Retry | null
  /** Values are masked. */
  headers: Record<string, string>
  tags: string[]
  metadata: Record<string, string>
  idempotencyKey: string | null
  dedupeKey: string | null
  orderingKey: string | null
  scheduleName: string | null
  dependsOn: string[]
  onFinish: { endpoint: string; states: FinalState[] } | null
  version: number
}

export interface Job<Payload = unknown, Result = unknown> extends JobSummary {
  payload: Payload
  /** What the answer that completed it held; null too when it was longer than is kept. */
  result: Result | null
  resultTruncated: boolean
  /** The last 20, oldest first. */
  attempts: Attempt[]
}

export type FinalJob<Payload = unknown, Result = unknown> = Job<Payload, Result> & {
  state: FinalState
  finishedAt: string
}

export type EnqueuedJob<Payload = unknown, Result = unknown> = Job<Payload, Result> & {
  /**
   * Whether the job was there already, by its idempotency key or its dedupe key; also when an
   * earlier try of this call had stored it, and its answer was lost.
   */
  deduplicated: boolean
}

/** A job that was queued again by its id, or that is a copy. */
export type RetriedJob<Payload = unknown, Result = unknown> = Job<Payload, Result> & {
  /** Dependencies that are dead, cancelled or gone: the job runs without them. */
  dependenciesWaived: string[]
}

/** A job pulled by a worker, with the right to report on it until its lease ends. */
export type ClaimedJob<Payload = unknown> = Job<Payload> & {
  token: string
  leaseExpiresAt: string
  /** The trace context of the request that enqueued the job (W3C); null: it had none. */
  traceparent: string | null
  tracestate: string | null
  /** The value of the header `posthorn-hops` for jobs that the worker enqueues: it ends loops. */
  hops: number
}

/** What became of one job of a batch; `idempotencyKey` repeats it safely. */
export type BatchItem = { idempotencyKey: string } & (
  | { status: 200 | 201; id: string; deduplicated: boolean; error?: undefined }
  | { status: number; id?: undefined; error: ItemProblem }
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
  createdAfter?: string | Date | undefined
  createdBefore?: string | Date | undefined
  /** Jobs a page, 1–100. */
  limit?: number | undefined
}

/** Of cancelMany and retryMany; an empty one is refused. */
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
  /** More match than the limit: a retry takes the oldest, a cancel the newest. */
  more?: boolean
  /** Of a retry: jobs left as they are, for a job they depend on stays dead, cancelled or gone. */
  dependencyFailed?: number
}

/** A page may be short, or empty, while there is a next one. */
export interface Page<Item> {
  items: Item[]
  nextCursor: string | null
}

export type ExplainReason =
  | 'not_due'
  | 'endpoint_paused'
  | 'endpoint_disabled'
  | 'endpoint_resting'
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
  /** Of the job that was read. */
  version: number
  reason: ExplainReason
  detail: string
  expectedAt: string | null
}
