// Hints that something may be due: a change stream of inserts, where the server has them, and what
// this process itself enqueues. Nothing relies on them: listeners poll as well.
import type { ChangeStream, Collection } from 'mongodb'

/** Only its inserts are looked at, whatever is inserted. */
type Watched = Pick<Collection, 'watch'>

/** An idle stream asks again after this, well before the socket's own deadline. */
const AWAIT_MS = 1_000
const FIRST_RESTART_MS = 500
const MAX_RESTART_MS = 30_000
/** "The $changeStream stage is only supported on replica sets": it will not come. */
const NOT_SUPPORTED = 40_573

export class Hints {
  readonly #watched: Watched
  readonly #listeners = new Set<() => void>()
  #stream: ChangeStream | null = null
  #watching = false
  #announced = false
  #closed = false
  #wake: (() => void) | null = null

  constructor(watched: Watched) {
    this.#watched = watched
  }

  /** The stream is opened for the first listener: a process that only enqueues needs none. */
  onWork(listener: () => void): () => void {
    // Its own function each time: one listener given twice is told twice.
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

  /** Tells all listeners, once for all that happens in the same turn of the loop. */
  announce(): void {
    if (this.#announced || this.#listeners.size === 0) return
    this.#announced = true
    setImmediate(() => {
      this.#announced = false
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
        // Only that there was one: neither its document nor its fields travel.
        this.#stream = this.#watched.watch(
          [{ $match: { operationType: 'insert' } }, { $project: { _id: 1 } }],
          { maxAwaitTimeMS: AWAIT_MS },
        )
        for await (const _ of this.#stream) {
          waitMs = FIRST_RESTART_MS
          this.announce()
        }
      } catch (error) {
        if ((error as { code?: unknown }).code === NOT_SUPPORTED) return
      }
      await this.#stream?.close().catch(() => {})
      if (this.#closed) return
      // What was enqueued meanwhile was not seen.
      this.announce()
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
