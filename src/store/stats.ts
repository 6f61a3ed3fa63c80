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
export interface KeyStats {
  key: string
  /** Including due and blocked jobs. */
  queued: number
  due: number
  running: number
  /** As in EndpointStats. */
  more: boolean
}

/** How long a key has waited. */
export interface KeyWait {
  key: string
  /** The instant since which the first due job of the key is due. */
  dueSince: number
}

/** The keys of an endpoint that have due jobs, the one that waits longest first. */
export interface KeysByWait {
  items: KeyStats[]
  /** The last one of this page; null: this is the last page. */
  next: KeyWait | null
  /** There are more than MAX_COUNT keys, and only so many of each priority were compared. */
  partial: boolean
}

/** The keys of a page: those that come after `after`, and the last one if there are more. */
export function pageByWait(waits: KeyWait[], after: KeyWait | null, limit: number) {
  const earliest = new Map<string, number>()
  for (const { key, dueSince } of waits) {
    earliest.set(key, Math.min(dueSince, earliest.get(key) ?? dueSince))
  }
  const left = [...earliest]
    .map(([key, dueSince]): KeyWait => ({ key, dueSince }))
    .filter((one) => after === null || compareWaits(after, one) < 0)
    .sort(compareWaits)
  const page = left.slice(0, limit)
  return {
    keys: page.map(({ key }) => key),
    next: left.length > limit ? (page.at(-1) ?? null) : null,
  }
}

function compareWaits(a: KeyWait, b: KeyWait): number {
  return a.dueSince - b.dueSince || (a.key < b.key ? -1 : Number(a.key > b.key))
}

/** Where a job is in the order of the fairness keys of its endpoint and priority. */
export interface PlaceInLine {
  /** Due jobs of its key that come before it; of a job without a key, those without one. */
  jobsBefore: number
  /** Keys with due jobs. The jobs without a key count as one key. */
  keyCount: number
}
