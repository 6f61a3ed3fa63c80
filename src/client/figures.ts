// What waits, runs and has ended, and who works, on the wire. Shapes only.

export interface Stats {
  /** Of one snapshot, at most 5 s old. */
  asOf: string
  liveWorkers: number
  /** null: none is set. Counts up to 10000, which also stands for more. */
  outbox: { waiting: number; setAside: number; oldestAge: string | null } | null
  endpoints: {
    name: string
    state: string
    queued: number
    due: number
    running: number
    dead: number
    /** A figure of 10000 is larger. */
    more?: true
    /** A duration; null: nothing is due. */
    oldestDueAge: string | null
    /** With `by: 'endpoint'`: attempts for each minute from `from` on, durations of all of them. */
    ended?: { from: string; succeeded: number[]; failed: number[]; durations: number[] }
  }[]
  /** Endpoints beyond the first 10,000 by name are left out; asked for by its name each is found. */
  more?: true
  /** Dead jobs of endpoints that were deleted, the first 1,000 by name. */
  deletedEndpoints?: { name: string; dead: number }[]
  /** With a window: upper bounds of the durations, the last figure being above all. */
  durationBounds?: string[]
  minutes?: { minute: string; succeeded: number; failed: number; durations: number[] }[]
  /** Older minutes of the window are left out: all endpoints together have too many. */
  moreMinutes?: true
}

/** A worker process that was seen within the last hour. */
export interface WorkerView {
  id: string
  version: string
  startedAt: string
  seenAt: string
  isLive: boolean
  concurrency: number
  inFlight: number
  /** false: its ENCRYPTION_KEY is not that of the API, and it delivers nothing. */
  hasEncryptionKey: boolean
}
