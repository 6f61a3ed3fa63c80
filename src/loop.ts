// Work that repeats until it is stopped: turns with a rest after each, and exponential back-off
// after a turn that failed. All polling loops use it.
import { setTimeout as sleep } from 'node:timers/promises'

export interface BackOff {
  firstMs: number
  maxMs: number
}

export interface LoopParts {
  /** One piece of work; resolves with the rest before the next one, in ms. */
  turn: () => Promise<number>
  /** Called after a turn that throws. The next one comes after a back-off; wake() cannot end it. */
  onFailure?: { backOff: BackOff; report: (error: unknown) => void }
  /** The rest before the first turn, in ms; default: 0. */
  firstRestMs?: number
}

/** Runs turns, one after the other, from start() to stop(). */
export class PollLoop {
  readonly #parts: LoopParts
  #isStopping = false
  /** wake() was called during a turn: the data that the turn has read may be out of date. */
  #skipsRest = false
  #wake: (() => void) | null = null
  #endRest: (() => void) | null = null
  #running: Promise<void> = Promise.resolve()

  constructor(parts: LoopParts) {
    this.#parts = parts
  }

  get isStopping(): boolean {
    return this.#isStopping
  }

  start(): void {
    this.#running = this.#run()
  }

  /** Ends the rest, or skips the next one if a turn is in progress. */
  wake(): void {
    this.#skipsRest = true
    this.#wake?.()
  }

  /** Ends a rest or a back-off at once. Resolves when no turn is in progress. */
  async stop(): Promise<void> {
    this.#isStopping = true
    this.#endRest?.()
    await this.#running
  }

  async #run(): Promise<void> {
    const { turn, onFailure, firstRestMs = 0 } = this.#parts
    let failures = 0
    let restMs = firstRestMs
    while (!this.#isStopping) {
      if (restMs > 0 && !this.#skipsRest) {
        await this.#rest(restMs, true)
        if (this.#isStopping) return
      }
      this.#skipsRest = false
      try {
        restMs = await turn()
        failures = 0
      } catch (error) {
        if (onFailure === undefined) throw error
        onFailure.report(error)
        if (!this.#isStopping) await this.#rest(backOffMs(failures++, onFailure.backOff), false)
        restMs = 0
      }
    }
  }

  #rest(ms: number, mayBeWoken: boolean): Promise<void> {
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer)
        this.#wake = null
        this.#endRest = null
        resolve()
      }
      const timer = setTimeout(end, ms)
      this.#endRest = end
      if (mayBeWoken) this.#wake = end
    })
  }
}

/** At most this long, and this many poll intervals. */
const HINTED_POLL = { factor: 20, mostMs: 5_000 }

/**
 * The poll interval of an idle loop while the store gives a hint at all work: its looks only make
 * up for a lost hint.
 */
export function hintedPollMs(pollIntervalMs: number): number {
  const { factor, mostMs } = HINTED_POLL
  return Math.max(pollIntervalMs, Math.min(mostMs, pollIntervalMs * factor))
}

/** Waits before a retry. */
export async function waitBackOff(failures: number, backOff: BackOff): Promise<void> {
  await sleep(backOffMs(failures, backOff))
}

/**
 * Exponential back-off with jitter: half of each delay is random, so that processes that failed
 * together do not retry together.
 *
 * @param failures how many failures in a row came before this one
 */
function backOffMs(failures: number, { firstMs, maxMs }: BackOff): number {
  const fullMs = Math.min(firstMs * 2 ** failures, maxMs)
  return fullMs * (0.5 + Math.random() / 2)
}
