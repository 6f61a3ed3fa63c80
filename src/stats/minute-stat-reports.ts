// Adds the minute statistics of this process to those in the store, every few seconds. Rows that
// the store did not accept stay here and are sent again. Each report has a number, by which the
// store adds a row only once.
import { randomBytes } from 'node:crypto'
import type { Logger } from 'pino'
import { createBatchSize } from '../batch-size.ts'
import { PollLoop } from '../loop.ts'
import { MAX_MINUTE_STATS_ADDED, type MinuteStats } from '../store/minute-stats.ts'
import type { Store } from '../store/store.ts'
import { StoreUnavailable } from '../store/store-errors.ts'
import type { MinuteStatsBuffer } from './minute-stats-buffer.ts'

/** A process that is killed loses the statistics of at most this time. */
const INTERVAL_MS = 5_000
/** Reports take at most this share of the time, so that a slow store has time to settle jobs. */
const REPORT_SHARE = 1 / 20
/** Even on a slow store, the statistics that a killed process loses are limited. */
const MAX_REST_MS = 20_000

/** Writes reports from start() to stop(). */
export class MinuteStatReports {
  readonly #store: Pick<Store, 'addMinuteStats'>
  readonly #minuteStats: MinuteStatsBuffer
  readonly #log: Logger
  readonly #intervalMs: number
  readonly #size = createBatchSize(MAX_MINUTE_STATS_ADDED)
  readonly #writer = randomBytes(9).toString('base64url')
  #number = 0
  /** Rows of the current report that the store has not accepted yet. */
  #unwritten: MinuteStats[] = []
  readonly #loop: PollLoop

  constructor(
    store: Pick<Store, 'addMinuteStats'>,
    minuteStats: MinuteStatsBuffer,
    log: Logger,
    intervalMs = INTERVAL_MS,
  ) {
    this.#store = store
    this.#minuteStats = minuteStats
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
    // After a failure the rest is the normal one: the store may be back at any time.
    const tookMs = isWritten ? performance.now() - startedAtMs : 0
    return Math.max(this.#intervalMs, Math.min(MAX_REST_MS, tookMs / REPORT_SHARE))
  }

  /** Writes a last report. Rows that the store does not accept then are lost. */
  async stop(): Promise<void> {
    await this.#loop.stop()
    await this.#report()
    const rows = this.#unwritten.length + this.#minuteStats.take().length
    if (rows > 0) this.#log.warn({ rows }, 'figures.lost')
  }

  /** Resolves with whether the store has accepted all rows. */
  async #report(): Promise<boolean> {
    const attempts = this.#minuteStats.takeLeftOut()
    if (attempts > 0) this.#log.warn({ attempts }, 'figures.left_out')
    // An unfinished report comes first. New attempts are added to the statistics meanwhile.
    if (!(await this.#writeRest())) return false
    this.#unwritten = this.#minuteStats.take()
    this.#number++
    return this.#writeRest()
  }

  /** Resolves with whether the store has accepted all rows. */
  async #writeRest(): Promise<boolean> {
    const report = { writer: this.#writer, number: this.#number }
    while (this.#unwritten.length > 0) {
      const some = this.#unwritten.slice(0, this.#size.limit)
      try {
        await this.#size.run(some.length, () => this.#store.addMinuteStats(some, report))
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
