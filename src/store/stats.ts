// What the stores count of endpoints, of their fairness keys, and of the jobs before one job. Each
// count is exact up to MAX_COUNT.

export interface EndpointStats {
  /** Including due jobs. */
  queued: number
  due: number
  running: number
  dead: number
  /** The instant since which the oldest due job is due; null: none is due. */
  oldestDueAt: number | null
  /** Fairness keys that have due jobs, at most MAX_COUNT. */
  keysDue: number
  /** At least one count is MAX_COUNT and its true value is larger. */
  more: boolean
}

/** The jobs of one fairness key of an endpoint. */
export interface FairnessKeyStats {
  key: string
  /** Including due and blocked jobs. */
  queued: number
  due: number
  running: number
  /** As in EndpointStats. */
  more: boolean
}

/** Where a job is in the order of the fairness keys of its endpoint and priority. */
export interface PlaceInLine {
  /** Due jobs of its key that come before it; of a job without a key, those without one. */
  jobsBefore: number
  /** Keys with due jobs. The jobs without a key count as one key. */
  keyCount: number
}
