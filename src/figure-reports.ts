// Hands what the figure book has added up to the store, every few seconds.
import type { Logger } from 'pino'
import type { FigureBook } from './figure-book.ts'
import type { Store } from './store/store.ts'

const INTERVAL_MS = 5_000

/** Reports from start() to stop(). */
export class FigureReports {
  readonly #store: Pick<Store, 'addFigures'>
  readonly #figures: FigureBook
  readonly #log: Logger
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
    if (figures.length === 0) return
    try {
      await this.#store.addFigures(figures)
    } catch (error) {
      // They may have been added: adding them again could count twice, so they are given up.
      this.#log.warn({ err: error, rows: figures.length }, 'figures.lost')
    }
  }
}
