// Counts each attempt once, in the process that ends it: in the metrics, in the minute statistics
// and as one line of the log. Also counts each job that becomes dead.

import type { End } from '../store/ends.ts'
import type { EndMetrics } from './metrics.ts'
import type { MinuteStatsBuffer } from './minute-stats-buffer.ts'

/** Details that only the process that sent the request has. */
interface SentDetails {
  /** The request was sent a second time, on a new connection. */
  resent: boolean
  runAt: number
}

export type CountEnd = (end: End, sent?: SentDetails) => void

export function createAttemptCounts({
  minuteStats,
  metrics,
  log,
}: {
  minuteStats: Pick<MinuteStatsBuffer, 'add'>
  metrics: EndMetrics
  log: { info: (fields: object, message: string) => void }
}): CountEnd {
  return ({ jobId, endpoint, attempt, deathReason }, sent) => {
    if (deathReason !== null) metrics.onDead(endpoint, deathReason)
    if (attempt === null) return
    const { number, outcome, statusCode, errorCode, durationMs, finishedAt } = attempt
    minuteStats.add(endpoint, outcome, durationMs, finishedAt)
    metrics.onAttempt(endpoint, outcome, durationMs)
    log.info(
      {
        ...{ jobId, endpoint, attempt: number, outcome, statusCode },
        ...{ errorCode: errorCode ?? undefined, resent: sent?.resent || undefined },
        ...{ durationMs, runAt: sent && new Date(sent.runAt).toISOString() },
      },
      'attempt.finished',
    )
  }
}
