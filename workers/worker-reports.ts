// Reports to the store every few seconds that this worker is live. Where no report arrives, the API
// can say that no worker is live.
import type { Logger } from 'pino'
import { PollLoop } from '../src/loop.ts'
import type { Store } from '../src/store/store.ts'
import type { WorkerReport } from '../src/store/worker-liveness.ts'

/** A worker that misses two reports no longer counts as live (src/store/worker-liveness.ts). */
const INTERVAL_MS = 2_000
/** Reports take at most this share of the time, so that a slow store has time to settle jobs. */
const REPORT_SHARE = 1 / 10
/** Even on a slow store the next report is stored within this time, so the worker stays live. */
const MAX_INTERVAL_MS = 4_000

/** Writes reports from start() to stop(). */
export class WorkerReports {
  readonly #store: Pick<Store, 'reportWorker' | 'removeWorker'>
  readonly #report: () => WorkerReport
  readonly #log: Logger
  readonly #loop = new PollLoop({ turn: () => this.#reportOnce() })

  constructor(
    store: Pick<Store, 'reportWorker' | 'removeWorker'>,
    report: () => WorkerReport,
    log: Logger,
  ) {
    this.#store = store
    this.#report = report
    this.#log = log
  }

  start(): void {
    this.#loop.start()
  }

  /** Removes the worker from the list of workers. */
  async stop(): Promise<void> {
    await this.#loop.stop()
    await this.#try(() => this.#store.removeWorker(this.#report().id))
  }

  /** The rest before the next report, in ms. */
  async #reportOnce(): Promise<number> {
    const startedAtMs = performance.now()
    await this.#try(() => this.#store.reportWorker(this.#report()))
    const tookMs = performance.now() - startedAtMs
    const slowMs = Math.min(tookMs / REPORT_SHARE, MAX_INTERVAL_MS - tookMs)
    return Math.max(INTERVAL_MS, slowMs) - tookMs
  }

  async #try(write: () => Promise<void>): Promise<void> {
    try {
      await write()
    } catch (error) {
      this.#log.warn({ err: error }, 'worker_report.failed')
    }
  }
}
