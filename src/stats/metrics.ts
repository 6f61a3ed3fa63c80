// The Prometheus metrics of an API and of a worker. The only importer of prom-client.
//
// A client can register any number of endpoints, so the values of the label `endpoint` are limited:
// the first MAX_ENDPOINT_LABELS keep their names. All other label values come from lists in code.
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { FailureReason, Outcome } from '../job/job.ts'
import {
  MAX_ENDPOINT_LABELS,
  METRICS,
  type MetricName,
  type MetricRow,
  OTHER_LABEL,
} from './metric-table.ts'

/** The counts of the store at one instant. All instants are by the store's clock. */
export interface QueueSnapshot {
  asOf: number
  /** Ordered by name. */
  endpoints: EndpointStats[]
  /** Further endpoints, in order of name, are missing. */
  more: boolean
  /** Dead jobs of deleted endpoints. */
  deleted: DeletedEndpointStats[]
  liveWorkers: number
}

export interface DeletedEndpointStats {
  name: string
  dead: number
  /** The count stopped at its limit; the true number is larger. */
  more: boolean
}

export interface EndpointStats {
  name: string
  state: string
  queued: number
  due: number
  running: number
  dead: number
  /** Fairness keys that have due jobs. */
  keysDue: number
  oldestDueAt: number | null
  /** A count stopped at its limit; the true number is larger. */
  more: boolean
}

interface MetricsText {
  contentType: string
  text: string
}

/** The metrics of the upkeep, which a worker or an API may do. */
interface UpkeepMetrics {
  /** Called with the findings of one sweep, by kind. */
  onSwept(counts: object): void
  /** Called with the documents that left the outbox. */
  onOutbox(counts: { moved: number; setAside: number }): void
}

/** The metrics of ended attempts and jobs. An API and a worker both end some. */
export interface EndMetrics {
  onAttempt(endpoint: string, outcome: Outcome, durationMs: number): void
  onDead(endpoint: string, reason: FailureReason): void
  /** A result was not applied. */
  onStale(reason: StaleReason): void
}

/** Why a result was not applied. */
export type StaleReason = 'cancelled' | 'lease_lost'

export interface ApiMetrics extends UpkeepMetrics, EndMetrics {
  /** @param result the kind of the store's result */
  onEnqueued(result: string, durationMs: number): void
  onBatch(size: number): void
  /** A pulled job was started. @param lateMs as in WorkerMetrics */
  onStarted(lateMs: number): void
  /** @param route the pattern that matched; undefined: none */
  onRequest(method: string, route: string | undefined, status: number, durationMs: number): void
  /** A response to a request that reached no route; @param method undefined: unknown */
  onRefused(status: number, method?: string): void
  /** @param snapshot null: the store did not respond */
  text(snapshot: QueueSnapshot | null): Promise<MetricsText>
}

export interface WorkerMetrics extends UpkeepMetrics, EndMetrics {
  onBatch(kind: 'claim' | 'settle', size: number): void
  /** @param lateMs from when the job was due until its attempt began */
  onStarted(lateMs: number): void
  onAccepted(endpoint: string): void
  text(): Promise<MetricsText>
}

/** @param commandCount how many commands this process has sent to its store */
export function createApiMetrics(commandCount: () => number): ApiMetrics {
  const metrics = createMetrics('api')
  const enqueued = metrics.counter('posthorn_enqueued_jobs_total')
  const enqueueDuration = metrics.histogram('posthorn_enqueue_duration_seconds')
  const batchSize = metrics.histogram('posthorn_batch_size')
  const requests = metrics.counter('posthorn_http_requests_total')
  const requestDuration = metrics.histogram('posthorn_http_request_duration_seconds')
  const showSnapshot = createSnapshotGauges(metrics)
  const startDelay = metrics.histogram('posthorn_start_delay_seconds')
  metrics.readCounter('posthorn_store_commands_total', commandCount)
  return {
    ...upkeepMetrics(metrics),
    ...endMetrics(metrics, createBoundedLabel(MAX_ENDPOINT_LABELS)),
    onStarted: (lateMs) => startDelay.observe(Math.max(0, lateMs) / 1_000),
    onEnqueued(result, durationMs) {
      enqueued.inc({ result })
      enqueueDuration.observe(durationMs / 1_000)
    },
    onBatch(size) {
      batchSize.observe({ kind: 'enqueue' }, size)
    },
    onRequest(method, pattern, status, durationMs) {
      const [known, route] = [methodLabel(method), pattern ?? 'none']
      requests.inc({ method: known, route, status })
      requestDuration.observe({ method: known, route }, durationMs / 1_000)
    },
    onRefused: (status, method = '') =>
      requests.inc({ method: methodLabel(method), route: 'none', status }),
    async text(snapshot) {
      showSnapshot(snapshot)
      return metrics.text()
    },
  }
}

const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])

/** Limits the label: a client may send any word as a method. */
function methodLabel(method: string): string {
  return METHODS.has(method) ? method : OTHER_LABEL
}

export function createWorkerMetrics(worker: {
  concurrency: number
  /** Attempts in flight, or ended with an outcome that is not stored yet. */
  unsettledCount: () => number
  /** Attempts that ended with an outcome that is not stored yet. */
  unstoredCount: () => number
  /** How many commands this process has sent to its store. */
  commandCount: () => number
}): WorkerMetrics {
  const metrics = createMetrics('worker')
  const batchSize = metrics.histogram('posthorn_batch_size')
  const startDelay = metrics.histogram('posthorn_start_delay_seconds')
  const accepted = metrics.counter('posthorn_accepted_attempts_total')
  const labelOf = createBoundedLabel(MAX_ENDPOINT_LABELS)
  metrics.gauge('posthorn_worker_concurrency').set(worker.concurrency)
  metrics.readGauge('posthorn_attempts_in_flight', worker.unsettledCount)
  metrics.readGauge('posthorn_unstored_outcomes', worker.unstoredCount)
  metrics.readCounter('posthorn_store_commands_total', worker.commandCount)
  return {
    ...upkeepMetrics(metrics),
    ...endMetrics(metrics, labelOf),
    onBatch: (kind, size) => batchSize.observe({ kind }, size),
    onStarted: (lateMs) => startDelay.observe(Math.max(0, lateMs) / 1_000),
    onAccepted: (endpoint) => accepted.inc({ endpoint: labelOf(endpoint) }),
    text: () => metrics.text(),
  }
}

function endMetrics(metrics: Metrics, labelOf: (name: string) => string): EndMetrics {
  const attempts = metrics.counter('posthorn_attempts_total')
  const durations = metrics.histogram('posthorn_attempt_duration_seconds')
  const dead = metrics.counter('posthorn_jobs_dead_total')
  const stale = metrics.counter('posthorn_stale_results_total')
  return {
    onAttempt(name, outcome, durationMs) {
      const endpoint = labelOf(name)
      attempts.inc({ endpoint, outcome })
      durations.observe({ endpoint }, durationMs / 1_000)
    },
    onDead: (name, reason) => dead.inc({ endpoint: labelOf(name), reason }),
    onStale: (reason) => stale.inc({ reason }),
  }
}

function upkeepMetrics(metrics: Metrics): UpkeepMetrics {
  const swept = metrics.counter('posthorn_swept_jobs_total')
  const outboxed = metrics.counter('posthorn_outbox_documents_total')
  return {
    onSwept(counts) {
      for (const [finding, count] of Object.entries(counts)) swept.inc({ finding }, Number(count))
    },
    onOutbox({ moved, setAside }) {
      outboxed.inc({ result: 'moved' }, moved)
      outboxed.inc({ result: 'set_aside' }, setAside)
    },
  }
}

/** Returns a function that keeps the first `max` names and replaces all later ones by `other`. */
function createBoundedLabel(max: number): (name: string) => string {
  const known = new Set<string>()
  return (name) => {
    if (known.has(name)) return name
    if (known.size >= max) return OTHER_LABEL
    known.add(name)
    return name
  }
}

type Metrics = ReturnType<typeof createMetrics>

/** The gauges of the store: set from each snapshot, removed without one. */
function createSnapshotGauges(metrics: Metrics): (snapshot: QueueSnapshot | null) => void {
  const jobs = metrics.gauge('posthorn_jobs')
  const due = metrics.gauge('posthorn_due_jobs')
  const keysDue = metrics.gauge('posthorn_keys_due')
  /** The endpoints that have had due keys: only these are shown. */
  let keyed = new Set<string>()
  const oldestDueAge = metrics.gauge('posthorn_oldest_due_age_seconds')
  const endpoints = metrics.gauge('posthorn_endpoints')
  const liveWorkers = metrics.gauge('posthorn_live_workers')
  const isCut = metrics.gauge('posthorn_endpoints_cut')
  const storeUp = metrics.gauge('posthorn_store_up')
  return (snapshot) => {
    for (const gauge of [jobs, due, keysDue, oldestDueAge, endpoints, liveWorkers]) {
      gauge.reset()
    }
    // Without a snapshot the number is unknown: a zero would be wrong and would raise an alert.
    liveWorkers.remove()
    isCut.remove()
    storeUp.set(snapshot === null ? 0 : 1)
    if (snapshot === null) return
    liveWorkers.set(snapshot.liveWorkers)
    isCut.set(snapshot.more ? 1 : 0)
    const haveKeys = snapshot.endpoints.filter((one) => one.keysDue > 0 || keyed.has(one.name))
    keyed = new Set(haveKeys.map(({ name }) => name))
    const oldestDueAtByLabel = new Map<string, number | null>()
    for (const [i, stats] of snapshot.endpoints.entries()) {
      const endpoint = i < MAX_ENDPOINT_LABELS ? stats.name : OTHER_LABEL
      jobs.inc({ endpoint, state: 'queued' }, stats.queued)
      jobs.inc({ endpoint, state: 'running' }, stats.running)
      jobs.inc({ endpoint, state: 'dead' }, stats.dead)
      due.inc({ endpoint }, stats.due)
      if (keyed.has(stats.name)) keysDue.inc({ endpoint }, stats.keysDue)
      endpoints.inc({ state: stats.state })
      const known = oldestDueAtByLabel.get(endpoint) ?? null
      oldestDueAtByLabel.set(endpoint, earlier(known, stats.oldestDueAt))
    }
    // Deleted endpoints come last: existing endpoints get the first labels.
    for (const [i, { name, dead }] of snapshot.deleted.entries()) {
      const isNamed = snapshot.endpoints.length + i < MAX_ENDPOINT_LABELS
      jobs.inc({ endpoint: isNamed ? name : OTHER_LABEL, state: 'dead' }, dead)
    }
    for (const [endpoint, dueAt] of oldestDueAtByLabel) {
      const ageMs = dueAt === null ? 0 : Math.max(0, snapshot.asOf - dueAt)
      oldestDueAge.set({ endpoint }, ageMs / 1_000)
    }
  }
}

function earlier(a: number | null, b: number | null): number | null {
  if (a === null || b === null) return a ?? b
  return Math.min(a, b)
}

/**
 * By default prom-client samples the event loop every 10 ms. That wakes an idle process a hundred
 * times a second, which was most of its CPU time. No option turns the sampling off.
 */
const LAG_SAMPLE_INTERVAL_MS = 1_000
/**
 * Metrics whose values include the time between two samples, so they are wrong at this interval.
 * nodejs_eventloop_lag_seconds does not include it.
 */
const WRONG_LAG_METRICS = ['min', 'max', 'mean', 'stddev', 'p50', 'p90', 'p99'].map(
  (figure) => `nodejs_eventloop_lag_${figure}_seconds`,
)

/** Creates metrics from the rows of the table, in a registry of their own: nothing is global. */
function createMetrics(process: 'api' | 'worker') {
  const registry = new Registry()
  registry.setDefaultLabels({ process })
  collectDefaultMetrics({
    register: registry,
    eventLoopMonitoringPrecision: LAG_SAMPLE_INTERVAL_MS,
  })
  for (const name of WRONG_LAG_METRICS) registry.removeSingleMetric(name)

  const rowOf = (name: MetricName) => {
    const { help, labels, buckets }: MetricRow = METRICS[name]
    const labelNames = [...labels]
    return { name, help, labelNames, registers: [registry], buckets: [...(buckets ?? [])] }
  }
  const counter = (name: MetricName) => new Counter<string>(rowOf(name))
  const gauge = (name: MetricName) => new Gauge<string>(rowOf(name))
  return {
    counter,
    gauge,
    histogram: (name: MetricName) => new Histogram<string>(rowOf(name)),
    readGauge(name: MetricName, read: () => number) {
      new Gauge({
        ...rowOf(name),
        collect() {
          this.set(read())
        },
      })
    },
    /** A counter whose value is kept elsewhere and only grows. */
    readCounter(name: MetricName, read: () => number) {
      let shown = 0
      new Counter({
        ...rowOf(name),
        collect() {
          const count = read()
          this.inc(Math.max(0, count - shown))
          shown = Math.max(shown, count)
        },
      })
    },
    text: async (): Promise<MetricsText> => ({
      contentType: registry.contentType,
      text: await registry.metrics(),
    }),
  }
}
