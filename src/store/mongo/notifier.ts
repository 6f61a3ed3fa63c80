// Notifies listeners that something may be due: of inserts, by a change stream where the server has
// one, and of what this process itself enqueues. Nothing relies on it: the listeners poll as well.
import type { ChangeStream, Collection } from 'mongodb'

/** Any collection: only its inserts matter. */
type Watched = Pick<Collection, 'watch'>

/** An idle stream asks again after this, well before the socket's own deadline. */
const AWAIT_MS = 1_000
const FIRST_RESTART_MS = 500
const MAX_RESTART_MS = 30_000
/** "The $changeStream stage is only supported on replica sets": trying again is useless. */
const NOT_SUPPORTED = 40_573

export class Notifier {
  readonly #watched: Watched
  readonly #listeners = new Set<() => void>()
  #stream: ChangeStream | null = null
  #watching = false
  #isNotifying = false
  #closed = false
  #wake: (() => void) | null = null

  constructor(watched: Watched) {
    this.#watched = watched
  }

  /** The stream is opened for the first listener: a process that only enqueues needs none. */
  onWork(listener: () => void): () => void {
    // A new function each time, so that a listener that is given twice is called twice.
    const entry = () => listener()
    this.#listeners.add(entry)
    if (!this.#watching && !this.#closed) {
      this.#watching = true
      void this.#watch()
    }
    return () => {
      this.#listeners.delete(entry)
    }
  }

  /** Calls all listeners, once for all calls in one turn of the event loop. */
  notify(): void {
    if (this.#isNotifying || this.#listeners.size === 0) return
    this.#isNotifying = true
    setImmediate(() => {
      this.#isNotifying = false
      for (const listener of this.#listeners) listener()
    })
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#listeners.clear()
    this.#wake?.()
    await this.#stream?.close().catch(() => {})
  }

  async #watch(): Promise<void> {
    let waitMs = FIRST_RESTART_MS
    while (!this.#closed) {
      try {
        // Neither the document nor its fields are sent.
        this.#stream = this.#watched.watch(
          [{ $match: { operationType: 'insert' } }, { $project: { _id: 1 } }],
          { maxAwaitTimeMS: AWAIT_MS },
        )
        for await (const _ of this.#stream) {
          waitMs = FIRST_RESTART_MS
          this.notify()
        }
      } catch (error) {
        if ((error as { code?: unknown }).code === NOT_SUPPORTED) return
      }
      await this.#stream?.close().catch(() => {})
      if (this.#closed) return
      // Inserts since the stream broke were missed.
      this.notify()
      await this.#pause(waitMs)
      waitMs = Math.min(waitMs * 2, MAX_RESTART_MS)
    }
  }

  #pause(durationMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, durationMs)
      timer.unref()
      this.#wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }
}
