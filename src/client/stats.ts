// Types of statistics and workers in responses. Shapes only.

export interface Stats {
  /** The time of the snapshot, usually at most 5 s ago. */
  asOf: string
  liveWorkers: number
  /** null: no outbox is configured. Counts stop at 10000, which means 10000 or more. */
  outbox: { waiting: number; setAside: number; oldestAge: string | null } | null
  endpoints: {
    name: string
    state: string
    queued: number
    due: number
    running: number
    dead: number
    /** A count stopped at 10000: the true number may be larger. */
    more?: true
    /** A duration; null: nothing is due. */
    oldestDueAge: string | null
    /**
     * Only with `by: 'endpoint'`: the attempts that ended in each minute, starting with `from`, and
     * the durations of all of these attempts.
     */
    ended?: { from: string; succeeded: number[]; failed: number[]; durations: number[] }
  }[]
  /** Only the first 10,000 endpoints by name are listed. Ask for another endpoint by its name. */
  more?: true
  /** Dead jobs of deleted endpoints, for the first 1,000 by name. */
  deletedEndpoints?: { name: string; dead: number }[]
  /** With a window: upper bounds of the duration classes. The last class has no upper bound. */
  durationBounds?: string[]
  minutes?: { minute: string; succeeded: number; failed: number; durations: number[] }[]
  /** Older minutes of the window are omitted, because all endpoints together have too many. */
  moreMinutes?: true
}

/** A worker process that reported within the last hour. */
export interface WorkerView {
  id: string
  version: string
  startedAt: string
  seenAt: string
  isLive: boolean
  concurrency: number
  inFlight: number
  /** false: its ENCRYPTION_KEY differs from the API's, and it delivers nothing. */
  hasEncryptionKey: boolean
}
