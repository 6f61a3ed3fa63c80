// What a store ends without a settlement, for the counts of a process: attempts that are lost,
// overdue or cancelled, and jobs that die without one. Callers of settle know what it ends.
import type { Attempt, FailureReason } from '../job/job.ts'

/** The end of an attempt, of the life of a job, or of both. */
export interface End {
  jobId: string
  endpoint: string
  /** null: none was under way. */
  attempt: Attempt | null
  /** null: the job is not dead. */
  diedOf: FailureReason | null
}

export interface EndListeners {
  /** Returns how to stop. */
  add(listener: (end: End) => void): () => void
  /** To be called once the write is stored. */
  tell(end: End): void
}

export function createEndListeners(): EndListeners {
  const listeners = new Set<(end: End) => void>()
  return {
    add(listener) {
      listeners.add(listener)
      return () => {
        listeners.delete(listener)
      }
    },
    tell(end) {
      for (const listener of listeners) listener(end)
    },
  }
}
