// Every metric of Posthorn: name, type, labels, meaning, and the process that exports it.
// npm run docs prints this table in docs/observability.md; metrics.ts creates the metrics from it.

export interface MetricRow {
  type: 'counter' | 'gauge' | 'histogram'
  process: 'api' | 'worker' | 'both'
  labels: readonly string[]
  help: string
  /** The upper bounds of a histogram, in the unit that its name ends with. */
  buckets?: readonly number[]
}

/**
 * These bounds range from one fsync of an idle SQLite to a time after which callers have given up.
 */
const SHORT_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5]
/** These bounds range up to the longest timeout of an endpoint and the longest ?wait. */
const LONG_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900]
const SIZES = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000]

export const METRICS = {
  posthorn_jobs: {
    type: 'gauge',
    process: 'api',
    labels: ['endpoint', 'state'],
    help: 'Jobs by state: queued (including due), running, dead (including those of deleted endpoints). Exact up to 10000, which also means more; at most 5 s old.',
  },
  posthorn_due_jobs: {
    type: 'gauge',
    process: 'api',
    labels: ['endpoint'],
    help: 'Queued jobs that are due, including those whose endpoint is paused, disabled, resting or at a limit. A job that is blocked by a dependency or its ordering key is not due. Exact up to 10000, which also means more; at most 5 s old.',
  },
  posthorn_keys_due: {
    type: 'gauge',
    process: 'api',
    labels: ['endpoint'],
    help: 'Fairness keys that have due jobs. Only of endpoints that have had some since this process started. Exact up to 10000, which also means more; at most 5 s old.',
  },
  posthorn_oldest_due_age_seconds: {
    type: 'gauge',
    process: 'api',
    labels: ['endpoint'],
    help: 'How long the oldest due job has been due; 0 if none is due. A job that was blocked by a dependency or its ordering key is due since it was unblocked.',
  },
  posthorn_endpoints: {
    type: 'gauge',
    process: 'api',
    labels: ['state'],
    help: 'Endpoints by state.',
  },
  posthorn_endpoints_cut: {
    type: 'gauge',
    process: 'api',
    labels: [],
    help: '1 if there are more than 10000 endpoints; those beyond, in order of name, are missing from these metrics. Else 0.',
  },
  posthorn_live_workers: {
    type: 'gauge',
    process: 'api',
    labels: [],
    help: 'Workers that have reported within the last 5 s and have the encryption key.',
  },
  posthorn_store_up: {
    type: 'gauge',
    process: 'api',
    labels: [],
    help: '1 if the store accepted writes when these metrics were last read from it, else 0.',
  },
  posthorn_enqueued_jobs_total: {
    type: 'counter',
    process: 'api',
    labels: ['result'],
    help: 'Jobs that requests tried to enqueue (single, in a batch, as a copy, by running a schedule), by result: inserted, existing (a repeat), or the reason of a refusal.',
  },
  posthorn_enqueue_duration_seconds: {
    type: 'histogram',
    process: 'api',
    labels: [],
    help: 'Time from a validated enqueue request until its job was durable.',
    buckets: SHORT_SECONDS,
  },
  posthorn_http_requests_total: {
    type: 'counter',
    process: 'api',
    labels: ['method', 'route', 'status'],
    help: 'Responses of the API, including those refused before routing. route is the pattern, like /jobs/:id, or none; method is other if it is unknown or uncommon.',
  },
  posthorn_http_request_duration_seconds: {
    type: 'histogram',
    process: 'api',
    labels: ['method', 'route'],
    help: 'Time until the API responded, including ?wait.',
    buckets: LONG_SECONDS,
  },
  posthorn_batch_size: {
    type: 'histogram',
    process: 'both',
    labels: ['kind'],
    help: 'Jobs in one write to the store, by kind: enqueue (api), claim and settle (worker).',
    buckets: SIZES,
  },
  posthorn_store_commands_total: {
    type: 'counter',
    process: 'both',
    labels: [],
    help: 'Transactions (SQLite) or commands (MongoDB) that this process sent to the store.',
  },
  posthorn_start_delay_seconds: {
    type: 'histogram',
    process: 'both',
    labels: [],
    help: 'Time from when a job was due until its attempt began: it was sent (worker) or pulled (api). Time blocked by a dependency or the ordering key is not included.',
    buckets: LONG_SECONDS,
  },
  posthorn_attempts_total: {
    type: 'counter',
    process: 'both',
    labels: ['endpoint', 'outcome'],
    help: 'Attempts that ended, by outcome. One process counts each: the worker that sent it, the API that received its report or cancelled it, or the process whose sweep ended it.',
  },
  posthorn_attempt_duration_seconds: {
    type: 'histogram',
    process: 'both',
    labels: ['endpoint'],
    help: 'Duration of the same attempts: from connecting to the end of the response if a worker saw it, else from the claim.',
    buckets: LONG_SECONDS,
  },
  posthorn_accepted_attempts_total: {
    type: 'counter',
    process: 'worker',
    labels: ['endpoint'],
    help: 'Attempts that an async endpoint accepted with 202. They continue, and are counted in posthorn_attempts_total when they end.',
  },
  posthorn_jobs_dead_total: {
    type: 'counter',
    process: 'both',
    labels: ['endpoint', 'reason'],
    help: 'Jobs that became dead, by failure.reason. A later retry or purge does not lower it.',
  },
  posthorn_attempts_in_flight: {
    type: 'gauge',
    process: 'worker',
    labels: [],
    help: 'Attempts in progress, or ended with an outcome that is not stored yet.',
  },
  posthorn_unstored_outcomes: {
    type: 'gauge',
    process: 'worker',
    labels: [],
    help: 'Attempts that ended and whose outcome is not stored yet; a part of posthorn_attempts_in_flight.',
  },
  posthorn_worker_concurrency: {
    type: 'gauge',
    process: 'worker',
    labels: [],
    help: 'WORKER_CONCURRENCY of this worker.',
  },
  posthorn_stale_results_total: {
    type: 'counter',
    process: 'both',
    labels: ['reason'],
    help: 'Attempts whose result was not applied, or that were aborted, because they no longer held the lease: the job was cancelled or its endpoint deleted (cancelled), or the lease expired (lease_lost). A second report of the same attempt is not counted.',
  },
  posthorn_swept_jobs_total: {
    type: 'counter',
    process: 'both',
    labels: ['finding'],
    help: 'Jobs that the sweeper of this process changed, by finding: reclaimed, expired, purged and so on. One worker sweeps for all; an API does while no worker is live.',
  },
  posthorn_outbox_documents_total: {
    type: 'counter',
    process: 'both',
    labels: ['result'],
    help: 'Documents that left the outbox, by result: moved (the job is stored) or set_aside (rejected).',
  },
} as const satisfies Record<string, MetricRow>

export type MetricName = keyof typeof METRICS

/** Limit of endpoints with a label of their own. All others share OTHER_LABEL. */
export const MAX_ENDPOINT_LABELS = 100
export const OTHER_LABEL = 'other'
