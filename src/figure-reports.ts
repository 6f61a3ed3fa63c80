// Hands what the figure book has added up to the store, every few seconds.
import type { Logger } from 'pino'
import { createBatchSize } from './batch-size.ts'
import type { FigureBook } from './figure-book.ts'
import type { Store } from './store/store.ts'

const INTERVAL_MS = 5_000
/** Rows in one write at most: one for each minute and endpoint. */
const MAX_ROWS = 1_000

/** Reports from start() to stop(). */
export class FigureReports {
  readonly #store: Pick<Store, 'addFigures'>
  readonly #figures: FigureBook
  readonly #log: Logger
  readonly #size = createBatchSize(MAX_ROWS)
  #timer: NodeJS.Timeout | null = null
  #reporting: Promise<void> = Promise.resolve()

  constructor(store: Pick<Store, 'addFigures'>, figures: FigureBook, log: Logger) {
    this.#store = store
    this.#figures = figures
    this.#log = log
  }

  start(): void {
    this.#timer = setInterval(() => {
      this.#reporting = this.#reporting.then(() => this.#report())
    }, INTERVAL_MS)
    this.#timer.unref()
  }

  /** With a last report. */
  async stop(): Promise<void> {
    if (this.#timer !== null) clearInterval(this.#timer)
    await this.#reporting
    await this.#report()
  }

  async #report(): Promise<void> {
    const figures = this.#figures.take()
    for (let at = 0; at < figures.length; ) {
      const some = figures.slice(at, at + this.#size.limit)
      at += some.length
      try {
        await this.#size.run(some.length, () => this.#store.addFigures(some))
      } catch (error) {
        // They may have been added: adding them again could count twice, so they are given up.
        this.#log.warn({ err: error, rows: some.length }, 'figures.lost')
      }
    }
  }
}
