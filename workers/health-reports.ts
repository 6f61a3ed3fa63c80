// Collects what attempts show about the health of their endpoints and writes it to the store: for
// the circuit breaker, for throttling, and for endpoints that are gone (410). While all endpoints
// are healthy it writes nothing.
import type { Logger } from 'pino'
import { createBatchSize } from '../src/batch-size.ts'
import type { Endpoint } from '../src/endpoint/endpoint.ts'
import type { HealthReport } from '../src/endpoint/health.ts'
import type { Outcome } from '../src/job/job.ts'
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
/** Limit of endpoints with a pending report. Further reports are dropped: a breaker trips later. */
const MAX_WAITING = 10_000

export interface HealthReports {
  /**
   * Resolves when the report is stored or dropped. The attempt is settled only then: otherwise
   * another attempt could take its place before the endpoint rests.
   *
   * @param claimedAt of the attempt; like `now`, by the store's clock
   */
  add(endpoint: Endpoint, end: AttemptEnd, claimedAt: number, now: number): Promise<void>
  /** Resolves when all reports are stored or dropped. */
  drained(): Promise<void>
}

/** Limit of endpoints in one write. */
const MAX_REPORT_BATCH = 500

/** @param onReported called with each endpoint whose state may have changed */
export function createHealthReports(
  store: Pick<Store, 'reportHealth'>,
  onReported: (endpoint: string) => void,
  log: Logger,
): HealthReports {
  const size = createBatchSize(MAX_REPORT_BATCH)
  let waiting = new Map<string, HealthReport>()
  let stored = Promise.withResolvers<void>()
  /** Endpoints with a failure reported by this worker: their next success must be reported, too. */
  const failing = new Set<string>()
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
          await size.run(some.length, () => store.reportHealth(some))
        } catch (error) {
          // The report is not retried: a lost count only makes the breaker trip later.
          log.warn({ err: error, endpoints: some.length }, 'health.lost')
        }
      }
      for (const { endpoint } of reports) onReported(endpoint)
      resolve()
    }
    writing = null
  }

  return {
    async add(endpoint, end, claimedAt, now) {
      const { name } = endpoint
      const known = waiting.get(name)
      if (known === undefined && waiting.size >= MAX_WAITING) return
      const isNews =
        failing.has(name) || endpoint.failureCount > 0 || endpoint.restingUntil !== null
      const report = reportAfter(known ?? emptyReport(name), endpoint, end, claimedAt, now)
      if (report === null || (isCalm(report) && !isNews)) return
      if (isCalm(report)) failing.delete(name)
      else if (failing.size < MAX_WAITING) failing.add(name)
      waiting.set(name, report)
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
  const { outcome, retryAfterMs } = end
  if (outcome === 'succeeded' || outcome === 'accepted') {
    return { ...report, succeeded: [...report.succeeded, claimedAt], failures: 0 }
  }
  if (COUNTED.has(outcome)) return { ...report, failures: report.failures + 1 }
  if (outcome === 'throttled') {
    const until = retryAfterMs === null ? null : now + retryAfterMs
    const earlier = report.throttle?.until ?? null
    const latest =
      until === null || earlier === null ? (until ?? earlier) : Math.max(until, earlier)
    return { ...report, throttle: { until: latest } }
  }
  return end.isGone ? { ...report, goneAtVersion: endpoint.version } : null
}

function isCalm({ failures, throttle, goneAtVersion }: HealthReport): boolean {
  return failures === 0 && throttle === null && goneAtVersion === null
}

function emptyReport(endpoint: string): HealthReport {
  return { endpoint, succeeded: [], failures: 0, throttle: null, goneAtVersion: null }
}
