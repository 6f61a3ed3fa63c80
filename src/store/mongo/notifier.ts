// Notifies listeners that something may be due: by a change stream, where the server has one and
// CHANGE_STREAM is on, and after the writes of this process itself. Nothing relies on it: the
// listeners poll as well, but less often while the stream is read.
import type { ChangeStream, Collection, Document } from 'mongodb'

type Watched = Pick<Collection, 'watch'>

/** An idle stream asks again after this, well before the socket's own deadline of 6 s. */
const AWAIT_MS = 4_000
/** The server responds this much later on a busy machine. A stream without a response is lost. */
const LATE_RESPONSE_MS = 1_000
const FIRST_RESTART_MS = 500
const MAX_RESTART_MS = 30_000
/** "The $changeStream stage is only supported on replica sets": trying again is useless. */
const NOT_SUPPORTED = 40_573

const INSERTS: Document = { operationType: 'insert' }
/** Every write after which a job may be due, or due earlier than before. */
export const QUEUED_JOBS: Document = {
  $or: [
    INSERTS,
    { 'updateDescription.updatedFields.state': 'queued' },
    { 'updateDescription.updatedFields.runAt': { $exists: true } },
    { 'updateDescription.updatedFields.freedAt': { $exists: true } },
  ],
}

export class Notifier {
  /** null: there is no stream. */
  readonly #watched: Watched | null
  readonly #match: Document
  readonly #listeners = new Set<() => void>()
  #stream: ChangeStream | null = null
  #watching = false
  #isNotifying = false
  #closed = false
  #wake: (() => void) | null = null
  /** By the monotonic clock: the last response to the stream. */
  #respondedAtMs = Number.NEGATIVE_INFINITY

  /** @param match the changes to be notified of */
  constructor(watched: Watched | null, match = INSERTS) {
    this.#watched = watched
    this.#match = match
  }

  /** Whether the listeners are notified of the writes of all processes now. */
  get isWatching(): boolean {
    return performance.now() - this.#respondedAtMs < AWAIT_MS + LATE_RESPONSE_MS
  }

  /** The stream is opened for the first listener: a process that only enqueues needs none. */
  onWork(listener: () => void): () => void {
    // A new function is added each time, so that a listener that is given twice is called twice.
    const entry = () => listener()
    this.#listeners.add(entry)
    if (this.#watched !== null && !this.#watching && !this.#closed) {
      this.#watching = true
      void this.#watch(this.#watched)
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

  async #watch(watched: Watched): Promise<void> {
    let waitMs = FIRST_RESTART_MS
    while (!this.#closed) {
      try {
        // Neither the document nor its fields are sent.
        this.#stream = watched.watch([{ $match: this.#match }, { $project: { _id: 1 } }], {
          maxAwaitTimeMS: AWAIT_MS,
        })
        for (let isNew = true; !this.#closed; isNew = false) {
          const askedAtMs = performance.now()
          const change = await this.#stream.tryNext()
          this.#respondedAtMs = performance.now()
          // Changes before the stream was open were missed.
          if (isNew || change !== null) this.notify()
          // The server ended the stream, because the collection was dropped: the driver then
          // returns at once, again and again.
          const isEnded = change === null && this.#respondedAtMs - askedAtMs < AWAIT_MS / 2
          if (isEnded && !isNew) break
          waitMs = FIRST_RESTART_MS
        }
      } catch (error) {
        if ((error as { code?: unknown }).code === NOT_SUPPORTED) return
      }
      this.#respondedAtMs = Number.NEGATIVE_INFINITY
      await this.#stream?.close().catch(() => {})
      if (this.#closed) return
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
