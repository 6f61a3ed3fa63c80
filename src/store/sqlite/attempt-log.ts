// The attempts of a job as JSON lines, oldest first. Each line also holds the lease and the event
// that wrote it, which tell a settlement that was already applied; they are never shown.
import { attemptEndedByStore, type StoreEnd } from '../../job/attempt.ts'
import type { Attempt, Lease } from '../../job/job.ts'
import { MAX_ATTEMPTS_KEPT } from '../../job/job.ts'
import type { EventName } from '../../job/lifecycle.ts'

export interface AttemptLine extends Attempt {
  fence: number
  leaseId: string
  event: EventName
}

/**
 * The new value of `attempts`; its one parameter is the line. Every attempt that was counted wrote
 * one, so from the 21st on the oldest line goes.
 */
export const WITH_ATTEMPT = `coalesce(
  substr(attempts, iif(attempt_count > ${MAX_ATTEMPTS_KEPT}, instr(attempts, char(10)) + 1, 1))
  || char(10), '') || ?`

/** In this order they stand in a line: a list without names is half as long, and every row has one. */
const FIELDS = [
  ...(['number', 'startedAt', 'finishedAt', 'durationMs', 'outcome', 'statusCode'] as const),
  ...(['errorCode', 'message', 'responseBody', 'workerId', 'fence', 'leaseId', 'event'] as const),
] satisfies (keyof AttemptLine)[]

export function attemptLine(
  attempt: Attempt,
  lease: Omit<Lease, 'jobId'>,
  event: EventName,
): string {
  const { fence, leaseId } = lease
  const line: AttemptLine = { ...attempt, fence, leaseId, event }
  return JSON.stringify(FIELDS.map((field) => line[field]))
}

export function readAttemptLines(lines: string | null): AttemptLine[] {
  return lines === null ? [] : lines.split('\n').map(readLine)
}

function readLine(line: string): AttemptLine {
  const read: AttemptLine | AttemptLine[keyof AttemptLine][] = JSON.parse(line)
  // Those of before name their fields.
  if (!Array.isArray(read)) return read
  return Object.fromEntries(FIELDS.map((field, i) => [field, read[i]])) as unknown as AttemptLine
}

export function readAttempts(lines: string | null): Attempt[] {
  return readAttemptLines(lines).map(({ fence, leaseId, event, ...attempt }) => attempt)
}

/** The attempt of this row, ended by the store. */
export function endedAttempt(
  row: { attempt_count: number; claimed_at: number; worker_id: string },
  end: StoreEnd,
  now: number,
): Attempt {
  const { attempt_count: number, claimed_at: startedAt, worker_id: workerId } = row
  return attemptEndedByStore({ number, startedAt, workerId }, end, now)
}
