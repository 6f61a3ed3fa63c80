// Every metric of ours: its name, type, labels, what it says, and which process tells it.
// docs/observability.md is compared with this table; src/metrics.ts makes the metrics from it.

export interface MetricRow {
  type: 'counter' | 'gauge' | 'histogram'
  process: 'api' | 'worker' | 'both'
  labels: readonly string[]
  help: string
  /** Of a histogram: upper bounds, in the unit of its name. */
  buckets?: readonly number[]
}

/** From what an idle SQLite needs for one fsync to where callers have given up. */
const SHORT_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5]
/** Up to the longest timeout of an endpoint, and the longest ?wait. */
const LONG_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900]
const SIZES = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000]

export const METRICS = {
  posthorn_jobs: {
    type: 'gauge',
    process: 'api',
    labels: ['endpoint', 'state'],
    help: 'Jobs that are queued (due ones included), running or dead; dead ones also of endpoints that were deleted. Exact up to 10000, which also stands for more; at most 5 s old.',
  },
  posthorn_due_jobs: {
    type: 'gauge',
    process: 'api',
    labels: ['endpoint'],
    help: 'Queued jobs that are due, also those whose endpoint is paused or disabled, rests, or has reached a limit. A job that waits for a dependency or for its turn is not due. Exact up to 10000, which also stands for more; at most 5 s old.',
  },
  posthorn_oldest_due_age_seconds: {
    type: 'gauge',
    process: 'api',
    labels: ['endpoint'],
    help: 'How long the job that has been due longest has waited; 0 when none is due. A job that waited for a dependency or for its turn is due since it was let go.',
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
    help: '1 when there are more than 10000 endpoints: those beyond, by name, are in none of these figures; else 0.',
  },
  posthorn_live_workers: {
    type: 'gauge',
    process: 'api',
    labels: [],
    help: 'Workers that have reported within the last 5 s.',
  },
  posthorn_store_up: {
    type: 'gauge',
    process: 'api',
    labels: [],
    help: '1 when the store took writes the last time it was asked for these figures, else 0.',
  },
  posthorn_enqueued_jobs_total: {
    type: 'counter',
    process: 'api',
    labels: ['result'],
    help: 'Jobs that requests asked to be enqueued (alone, in a batch, as a copy, by running a schedule), by result: inserted, existing (a repeat), or why not.',
  },
  posthorn_enqueue_duration_seconds: {
    type: 'histogram',
    process: 'api',
    labels: [],
    help: 'From a checked request to enqueue until its job was durable.',
    buckets: SHORT_SECONDS,
  },
  posthorn_http_requests_total: {
    type: 'counter',
    process: 'api',
    labels: ['method', 'route', 'status'],
    help: 'Requests answered by the API, also those that were refused before they came to a route; route is the pattern, like /jobs/:id, or none; method is other where it is unknown or none of HTTP’s common ones.',
  },
  posthorn_http_request_duration_seconds: {
    type: 'histogram',
    process: 'api',
    labels: ['method', 'route'],
    help: 'How long the API took to answer; ?wait is part of it.',
    buckets: LONG_SECONDS,
  },
  posthorn_batch_size: {
    type: 'histogram',
    process: 'both',
    labels: ['kind'],
    help: 'Jobs in one write of the store, by kind: enqueue (api), claim and settle (worker).',
    buckets: SIZES,
  },
  posthorn_store_commands_total: {
    type: 'counter',
    process: 'both',
    labels: [],
    help: 'Transactions (SQLite) or commands (MongoDB) this process has sent to the store.',
  },
  posthorn_start_delay_seconds: {
    type: 'histogram',
    process: 'both',
    labels: [],
    help: 'From the instant a job was due until its attempt began: was sent (worker), or was pulled (api). What it waited for before, a dependency or its turn, is not part of it.',
    buckets: LONG_SECONDS,
  },
  posthorn_attempts_total: {
    type: 'counter',
    process: 'both',
    labels: ['endpoint', 'outcome'],
    help: 'Attempts that ended, by outcome. One process counts each: the worker that sent it, the API that received its report or cancelled it, or the process whose sweep ended its expired lease or overdue completion.',
  },
  posthorn_attempt_duration_seconds: {
    type: 'histogram',
    process: 'both',
    labels: ['endpoint'],
    help: 'How long the same attempts took: of one that a worker saw the end of, from connecting to the end of the response; else from its claim.',
    buckets: LONG_SECONDS,
  },
  posthorn_accepted_attempts_total: {
    type: 'counter',
    process: 'worker',
    labels: ['endpoint'],
    help: 'Attempts that an async endpoint accepted with 202. They go on, and are counted in posthorn_attempts_total when they end.',
  },
  posthorn_jobs_dead_total: {
    type: 'counter',
    process: 'both',
    labels: ['endpoint', 'reason'],
    help: 'Jobs that became dead, by the reason that GET /jobs/:id shows. A retry or a purge takes nothing away.',
  },
  posthorn_attempts_in_flight: {
    type: 'gauge',
    process: 'worker',
    labels: [],
    help: 'Attempts under way, or whose outcome is not stored yet.',
  },
  posthorn_unstored_outcomes: {
    type: 'gauge',
    process: 'worker',
    labels: [],
    help: 'Attempts that ended and whose outcome is not stored yet. The rest of posthorn_attempts_in_flight is under way.',
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
    help: 'Attempts whose result was not applied, or that were broken off, since they no longer held their job: it was cancelled or its endpoint deleted (cancelled), or the lease was lost (lease_lost). A second report of the same attempt is not counted.',
  },
  posthorn_swept_jobs_total: {
    type: 'counter',
    process: 'both',
    labels: ['finding'],
    help: 'Jobs the sweeper of this process has dealt with: reclaimed, expired, purged and so on. An API sweeps while no worker lives.',
  },
  posthorn_outbox_documents_total: {
    type: 'counter',
    process: 'both',
    labels: ['result'],
    help: 'Documents of the outbox that are gone from it, by result: moved (its job is stored) or set_aside.',
  },
} as const satisfies Record<string, MetricRow>

export type MetricName = keyof typeof METRICS

/** So many endpoints have a label of their own; all further ones share OTHER_LABEL. */
export const MAX_ENDPOINT_LABELS = 100
export const OTHER_LABEL = 'other'
