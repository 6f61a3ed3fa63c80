// An attempt as it lies in its job's document.
import type { Attempt } from '../../job/job.ts'
import type { EventName } from '../../job/lifecycle.ts'

/** An attempt, and what tells who wrote it: Job.attempts does not show the second part. */
export interface AttemptDocument extends Omit<Attempt, 'startedAt' | 'finishedAt'> {
  startedAt: Date
  finishedAt: Date
  fence: number
  leaseId: string
  event: EventName
  /** Random for each write: tells a write from its repetition. */
  writeId: string
}

export function attemptDocument(
  attempt: Attempt,
  writer: Pick<AttemptDocument, 'fence' | 'leaseId' | 'event' | 'writeId'>,
): AttemptDocument {
  return {
    number: attempt.number,
    startedAt: new Date(attempt.startedAt),
    finishedAt: new Date(attempt.finishedAt),
    durationMs: attempt.durationMs,
    outcome: attempt.outcome,
    statusCode: attempt.statusCode,
    errorCode: attempt.errorCode,
    message: attempt.message,
    responseBody: attempt.responseBody,
    workerId: attempt.workerId,
    fence: writer.fence,
    leaseId: writer.leaseId,
    event: writer.event,
    writeId: writer.writeId,
  }
}

export function attemptOf(document: AttemptDocument): Attempt {
  const { fence, leaseId, event, writeId, ...attempt } = document
  return {
    ...attempt,
    startedAt: document.startedAt.getTime(),
    finishedAt: document.finishedAt.getTime(),
  }
}
