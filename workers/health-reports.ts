// Collects what attempts show about the health of their endpoints and writes it to the store: for
// the circuit breaker, for throttling, and for endpoints that are gone (410). The same for fairness
// keys that a response throttled alone. While all endpoints are healthy it writes nothing.
import type { Logger } from 'pino'
import { createBatchSize } from '../src/batch-size.ts'
import type { Endpoint } from '../src/endpoint/endpoint.ts'
import type { HealthReport } from '../src/endpoint/health.ts'
import type { KeyHealthReport } from '../src/endpoint/key-rest.ts'
import type { ClaimedJob, Outcome } from '../src/job/job.ts'
import type { Store } from '../src/store/store.ts'
import type { AttemptEnd } from '../src/webhook/send.ts'

/** Outcomes that count as a failure of the endpoint. */
const COUNTED: ReadonlySet<Outcome> = new Set([
  'http_error',
  'connect_error',
  'dns_error',
  'tls_error',
  'timeout',
  'protocol_error',
])
/** Limit of endpoints, and of keys, with a pending report. Further reports are dropped: a breaker trips later. */
const MAX_WAITING = 10_000

export interface HealthReports {
  /**
   * Resolves when the report is stored or dropped. The attempt is settled only then: otherwise
   * another attempt could take its place before the endpoint rests.
   *
   * @param now by the store's clock
   */
  add(endpoint: Endpoint, job: SentJob, end: AttemptEnd, now: number): Promise<void>
  /** Resolves when all reports are stored or dropped. */
  drained(): Promise<void>
}

type SentJob = Pick<ClaimedJob, 'claimedAt' | 'fairnessKey' | 'keyRecovers'>

/** Limit of endpoints, or keys, in one write. */
const MAX_REPORT_BATCH = 500

/** @param onReported called with each endpoint whose state may have changed */
export function createHealthReports(
  store: Pick<Store, 'reportHealth' | 'reportKeyHealth'>,
  onReported: (endpoint: string) => void,
  log: Logger,
): HealthReports {
  const ofEndpoints = createReportQueue<HealthReport>(async (reports) => {
    await store.reportHealth(reports).finally(() => {
      for (const { endpoint } of reports) onReported(endpoint)
    })
  }, log)
  const ofKeys = createReportQueue<KeyHealthReport>(
    (reports) => store.reportKeyHealth(reports),
    log,
  )
  /** Endpoints with a failure reported by this worker: their next success must be reported, too. */
  const failing = new Set<string>()

  async function addToEndpoint(
    endpoint: Endpoint,
    { claimedAt }: SentJob,
    end: AttemptEnd,
    now: number,
  ): Promise<void> {
    const { name } = endpoint
    if (ofEndpoints.isFull(name)) return
    const isNews = failing.has(name) || endpoint.failureCount > 0 || endpoint.restingUntil !== null
    const before = ofEndpoints.waiting(name) ?? emptyReport(name)
    const report = reportAfter(before, endpoint, end, claimedAt, now)
    if (report === null || (isCalm(report) && !isNews)) return
    if (isCalm(report)) failing.delete(name)
    else if (failing.size < MAX_WAITING) failing.add(name)
    await ofEndpoints.put(name, report)
  }

  async function addToKey(
    endpoint: string,
    key: string,
    { claimedAt }: SentJob,
    end: AttemptEnd,
    now: number,
  ): Promise<void> {
    const id = `${endpoint}\n${key}`
    if (ofKeys.isFull(id)) return
    const before = ofKeys.waiting(id) ?? { endpoint, key, succeeded: [], throttle: null }
    if (end.throttlesKey) {
      await ofKeys.put(id, { ...before, throttle: throttleAfter(before, end, now) })
    } else if (isSuccess(end)) {
      await ofKeys.put(id, { ...before, succeeded: [...before.succeeded, claimedAt] })
    }
  }

  return {
    async add(endpoint, job, end, now) {
      const { fairnessKey: key, keyRecovers } = job
      const keyReport =
        key !== null && (end.throttlesKey || keyRecovers)
          ? addToKey(endpoint.name, key, job, end, now)
          : null
      // A key that is throttled alone says nothing about its endpoint.
      if (key === null || !end.throttlesKey) await addToEndpoint(endpoint, job, end, now)
      await keyReport
    },
    async drained() {
      await Promise.all([ofEndpoints.drained(), ofKeys.drained()])
    },
  }
}

/** Reports that wait to be written, one for each endpoint or key. */
interface ReportQueue<T> {
  waiting(id: string): T | undefined
  isFull(id: string): boolean
  /** Replaces the one that waits. Resolves when it is stored or dropped. */
  put(id: string, report: T): Promise<void>
  drained(): Promise<void>
}

function createReportQueue<T>(write: (reports: T[]) => Promise<void>, log: Logger): ReportQueue<T> {
  const size = createBatchSize(MAX_REPORT_BATCH)
  let waiting = new Map<string, T>()
  let stored = Promise.withResolvers<void>()
  let writing: Promise<void> | null = null

  async function writeAll(): Promise<void> {
    // Waits for the end of this turn of the event loop: reports of the same turn share a write.
    await new Promise((resolve) => setImmediate(resolve))
    while (waiting.size > 0) {
      const reports = [...waiting.values()]
      const { resolve } = stored
      waiting = new Map()
      stored = Promise.withResolvers()
      for (let at = 0; at < reports.length; ) {
        const some = reports.slice(at, at + size.limit)
        at += some.length
        try {
          await size.run(some.length, () => write(some))
        } catch (error) {
          // The report is not retried: a lost count only makes the breaker trip later.
          log.warn({ err: error, reports: some.length }, 'health.lost')
        }
      }
      resolve()
    }
    writing = null
  }

  return {
    waiting: (id) => waiting.get(id),
    isFull: (id) => waiting.size >= MAX_WAITING && !waiting.has(id),
    async put(id, report) {
      waiting.set(id, report)
      writing ??= writeAll()
      await stored.promise
    },
    async drained() {
      await writing
    },
  }
}

/** The report with one more attempt in it; null: the attempt shows nothing about the endpoint. */
function reportAfter(
  report: HealthReport,
  endpoint: Endpoint,
  end: AttemptEnd,
  claimedAt: number,
  now: number,
): HealthReport | null {
  const { outcome } = end
  if (isSuccess(end)) {
    return { ...report, succeeded: [...report.succeeded, claimedAt], failures: 0 }
  }
  if (COUNTED.has(outcome)) return { ...report, failures: report.failures + 1 }
  if (outcome === 'throttled') return { ...report, throttle: throttleAfter(report, end, now) }
  return end.isGone ? { ...report, goneAtVersion: endpoint.version } : null
}

function isSuccess({ outcome }: AttemptEnd): boolean {
  return outcome === 'succeeded' || outcome === 'accepted'
}

/** The latest instant that a response named. */
function throttleAfter(
  { throttle }: Pick<HealthReport, 'throttle'>,
  { retryAfterMs }: AttemptEnd,
  now: number,
): HealthReport['throttle'] {
  const until = retryAfterMs === null ? null : now + retryAfterMs
  const earlier = throttle?.until ?? null
  return {
    until: until === null || earlier === null ? (until ?? earlier) : Math.max(until, earlier),
  }
}

function isCalm({ failures, throttle, goneAtVersion }: HealthReport): boolean {
  return failures === 0 && throttle === null && goneAtVersion === null
}

function emptyReport(endpoint: string): HealthReport {
  return { endpoint, succeeded: [], failures: 0, throttle: null, goneAtVersion: null }
}
