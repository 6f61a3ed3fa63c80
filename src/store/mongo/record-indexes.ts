// The indexes of schedules, keys, workers and figures, each beside the query that it serves.

import { COLLECTIONS } from '../collection-names.ts'
import { FIGURES_KEPT_MS, WORKER_KEPT_MS } from '../records.ts'
import type { NamedIndex } from './indexes.ts'

/** By collection, then by name, as in JOB_INDEXES. */
export const RECORD_INDEXES = {
  [COLLECTIONS.schedules]: {
    /** dueSchedules. Those without a next tick have null here, which no instant matches. */
    due: { key: { paused: 1, nextRunAt: 1, _id: 1 }, options: {} },
    /** deleteEndpoint: does a schedule name it. */
    by_endpoint: { key: { endpoint: 1, _id: 1 }, options: {} },
  },
  [COLLECTIONS.keys]: {
    hash: { key: { hash: 1 }, options: { unique: true } },
    /** listKeys: oldest first. */
    by_age: { key: { createdAt: 1, _id: 1 }, options: {} },
  },
  [COLLECTIONS.workers]: {
    /** listWorkers; and MongoDB's own removal of those not seen for long. */
    seen: { key: { seenAt: 1 }, options: { expireAfterSeconds: WORKER_KEPT_MS / 1_000 } },
  },
  [COLLECTIONS.figures]: {
    /** figuresSince; and MongoDB's own removal of the old ones. */
    by_minute: { key: { minute: 1 }, options: { expireAfterSeconds: FIGURES_KEPT_MS / 1_000 } },
  },
} as const satisfies Record<string, Record<string, NamedIndex>>
