// Adds the minute statistics of this process to those in the store, every few seconds. Rows that
// the store did not take stay here and are sent again: by the number of its report, a row is added
// once.
import { randomBytes } from 'node:crypto'
import type { Logger } from 'pino'
import { createBatchSize } from '../batch-size.ts'
import { PollLoop } from '../loop.ts'
import { MAX_FIGURES_ADDED, type MinuteFigures } from '../store/records.ts'
import { type Store, StoreUnavailable } from '../store/store.ts'
import type { MinuteStats } from './minute-stats.ts'

/** What a process ended within this time is lost from the figures when it is killed. */
const INTERVAL_MS = 5_000
/** At most this share of the time goes to reports: a slow store has jobs to settle. */
const REPORT_SHARE = 1 / 20
/** However slow the store: what a kill may cost is bounded. */
const MAX_REST_MS = 20_000

/** Reports from start() to stop(). */
export class MinuteStatReports {
  readonly #store: Pick<Store, 'addFigures'>
  readonly #figures: MinuteStats
  readonly #log: Logger
  readonly #intervalMs: number
  readonly #size = createBatchSize(MAX_FIGURES_ADDED)
  readonly #writer = randomBytes(9).toString('base64url')
  #number = 0
  /** Of the report that is under way: what the store has not taken yet. */
  #unwritten: MinuteFigures[] = []
  readonly #loop: PollLoop

  constructor(
    store: Pick<Store, 'addFigures'>,
    figures: MinuteStats,
    log: Logger,
    intervalMs = INTERVAL_MS,
  ) {
    this.#store = store
    this.#figures = figures
    this.#log = log
    this.#intervalMs = intervalMs
    this.#loop = new PollLoop({ turn: () => this.#reportAndRest(), firstRestMs: intervalMs })
  }

  start(): void {
    this.#loop.start()
  }

  /** The rest before the next report, in ms. */
  async #reportAndRest(): Promise<number> {
    const startedAtMs = performance.now()
    const isWritten = await this.#report()
    // A store that did not answer may be back at any time.
    const tookMs = isWritten ? performance.now() - startedAtMs : 0
    return Math.max(this.#intervalMs, Math.min(MAX_REST_MS, tookMs / REPORT_SHARE))
  }

  /** With a last report; what the store does not take then is lost. */
  async stop(): Promise<void> {
    await this.#loop.stop()
    await this.#report()
    const rows = this.#unwritten.length + this.#figures.take().length
    if (rows > 0) this.#log.warn({ rows }, 'figures.lost')
  }

  /** Whether nothing is left. */
  async #report(): Promise<boolean> {
    const attempts = this.#figures.takeLeftOut()
    if (attempts > 0) this.#log.warn({ attempts }, 'figures.left_out')
    // A report that is not written yet comes first: the book goes on adding up meanwhile.
    if (!(await this.#writeRest())) return false
    this.#unwritten = this.#figures.take()
    this.#number++
    return this.#writeRest()
  }

  /** Whether nothing is left. */
  async #writeRest(): Promise<boolean> {
    const report = { writer: this.#writer, number: this.#number }
    while (this.#unwritten.length > 0) {
      const some = this.#unwritten.slice(0, this.#size.limit)
      try {
        await this.#size.run(some.length, () => this.#store.addFigures(some, report))
      } catch (error) {
        if (!(error instanceof StoreUnavailable)) throw error
        this.#log.warn({ err: error, rows: this.#unwritten.length }, 'figures.failed')
        return false
      }
      this.#unwritten = this.#unwritten.slice(some.length)
    }
    return true
  }
}
