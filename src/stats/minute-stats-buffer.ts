// Statistics, per minute and endpoint, of the attempts that this process ended.
// minute-stat-reports.ts writes them to the store.
import type { Outcome } from '../job/job.ts'
import { DURATION_BOUNDS_MS, type MinuteStats, minuteOf } from '../store/minute-stats.ts'

/**
 * These outcomes are neither a success nor a failure of the endpoint: a request cancelled the
 * attempt, the worker aborted it, or the endpoint asked for fewer requests. `accepted` does not end
 * an attempt.
 */
const NOT_COUNTED: ReadonlySet<Outcome> = new Set([
  'accepted',
  'cancelled',
  'interrupted',
  'throttled',
])
/** Limit of rows, one for each minute and endpoint, so that memory is bounded. */
const MAX_OPEN = 10_000

export interface MinuteStatsBuffer {
  /** @param now epoch milliseconds by the store's clock */
  add(endpoint: string, outcome: Outcome, durationMs: number, now: number): void
  /** Returns the rows added since the last call. */
  take(): MinuteStats[]
  /**
   * Returns how many attempts were left out since the last call, because there were too many
   * endpoints.
   */
  takeLeftOut(): number
}

export function createMinuteStatsBuffer(): MinuteStatsBuffer {
  let open = new Map<string, MinuteStats>()
  let leftOut = 0
  return {
    add(endpoint, outcome, durationMs, now) {
      if (NOT_COUNTED.has(outcome)) return
      const minute = minuteOf(now)
      const key = `${minute} ${endpoint}`
      if (open.size >= MAX_OPEN && !open.has(key)) {
        leftOut++
        return
      }
      const stats = open.get(key) ?? emptyStats(minute, endpoint)
      open.set(key, stats)
      if (outcome === 'succeeded') stats.succeeded++
      else stats.failed++
      const bucket = DURATION_BOUNDS_MS.findIndex((boundMs) => durationMs <= boundMs)
      const at = bucket === -1 ? DURATION_BOUNDS_MS.length : bucket
      stats.durations[at] = (stats.durations[at] as number) + 1
    },
    take() {
      const taken = [...open.values()]
      open = new Map()
      return taken
    },
    takeLeftOut() {
      const count = leftOut
      leftOut = 0
      return count
    },
  }
}

function emptyStats(minute: number, endpoint: string): MinuteStats {
  const durations = Array.from({ length: DURATION_BOUNDS_MS.length + 1 }, () => 0)
  return { minute, endpoint, succeeded: 0, failed: 0, durations }
}
