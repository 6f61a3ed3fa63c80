// Tells the store every few seconds that this worker lives: "no live worker" is an answer.
import type { Logger } from 'pino'
import type { WorkerReport } from '../src/store/records.ts'
import type { Store } from '../src/store/store.ts'

/** Two that are missed, and who looks takes the worker for dead (src/store/records.ts). */
const INTERVAL_MS = 2_000

/** Reports from start() to stop(). */
export class WorkerReports {
  readonly #store: Pick<Store, 'reportWorker' | 'removeWorker'>
  readonly #report: () => WorkerReport
  readonly #log: Logger
  #timer: NodeJS.Timeout | null = null
  #writing: Promise<void> | null = null

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
    this.#tell()
    this.#timer = setInterval(() => this.#tell(), INTERVAL_MS)
  }

  /** The worker is gone from the list then. */
  async stop(): Promise<void> {
    if (this.#timer !== null) clearInterval(this.#timer)
    await this.#writing
    await this.#try(() => this.#store.removeWorker(this.#report().id))
  }

  /** One at a time: a store that is slow to answer is not told the same again meanwhile. */
  #tell(): void {
    this.#writing ??= this.#try(() => this.#store.reportWorker(this.#report())).finally(() => {
      this.#writing = null
    })
  }

  async #try(write: () => Promise<void>): Promise<void> {
    try {
      await write()
    } catch (error) {
      this.#log.warn({ err: error }, 'worker_report.failed')
    }
  }
}
