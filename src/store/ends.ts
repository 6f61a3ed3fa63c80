// The attempts and jobs that a store ends without a settlement, so that a process can count them:
// attempts that are lost, overdue or cancelled, and jobs that die without an attempt. The caller
// of settle counts the ends that it reports.
import type { Attempt, FailureReason } from '../job/job.ts'

/** The end of an attempt, of the life of a job, or of both. */
export interface End {
  jobId: string
  endpoint: string
  /** null: the job had no attempt in progress. */
  attempt: Attempt | null
  /** null: the job is not dead. */
  deathReason: FailureReason | null
}

export interface EndListeners {
  /** Returns a function that removes the listener. */
  add(listener: (end: End) => void): () => void
  /** Must be called only after the write is stored. */
  emit(end: End): void
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
    emit(end) {
      for (const listener of listeners) listener(end)
    },
  }
}
