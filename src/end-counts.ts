// Counts each attempt once, where it ends, whoever ends it: in the metrics, in the minute figures
// and as one line of the log. And each job that dies.
import type { FigureBook } from './figure-book.ts'
import type { EndMetrics } from './metrics.ts'
import type { End } from './store/ends.ts'

/** What only the process that sent the request knows of it. */
export interface SentDetails {
  /** The request was sent again. */
  resent: boolean
  runAt: number
}

export type CountEnd = (end: End, sent?: SentDetails) => void

export function createEndCounts({
  figures,
  metrics,
  log,
}: {
  figures: Pick<FigureBook, 'add'>
  metrics: EndMetrics
  log: { info: (fields: object, message: string) => void }
}): CountEnd {
  return ({ jobId, endpoint, attempt, diedOf }, sent) => {
    if (diedOf !== null) metrics.onDead(endpoint, diedOf)
    if (attempt === null) return
    const { number, outcome, statusCode, errorCode, durationMs, finishedAt } = attempt
    figures.add(endpoint, outcome, durationMs, finishedAt)
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
