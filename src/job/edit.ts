// The changes that PATCH may make to a job, and how they move its instants.
import type { Job, JobState } from './job.ts'

/** The fields of a PATCH. An undefined field stays as it is. */
export interface JobChange {
  /**
   * Before the first attempt, it also moves the first due time, and the expiry by the same amount.
   */
  runAt?: number | undefined
  priority?: number | undefined
  tags?: string[] | undefined
  metadata?: Record<string, string> | undefined
  /** Counts from the first due time; null: the job never expires. */
  expiresInMs?: number | null | undefined
  payload?: Uint8Array | undefined
}

export type EditRefusal =
  | { kind: 'stale'; version: number }
  | { kind: 'refused'; state: JobState }
  /** The request gives a payload, but an attempt may have been sent with the old one. */
  | { kind: 'already_sent' }

/**
 * Why the job cannot be changed; null: it can be changed.
 *
 * @param job wasSent: an attempt was sent, or may have been before a power loss
 */
export function refusalOfEdit(
  job: Pick<Job, 'state' | 'version'> & { wasSent: boolean },
  { payload }: JobChange,
  ifVersion: number | null,
): EditRefusal | null {
  if (ifVersion !== null && job.version !== ifVersion) {
    return { kind: 'stale', version: job.version }
  }
  if (job.state !== 'queued') return { kind: 'refused', state: job.state }
  return payload !== undefined && job.wasSent ? { kind: 'already_sent' } : null
}

type Instants = Pick<Job, 'runAt' | 'firstRunAt' | 'expiresAt'>

export function instantsAfterEdit(
  job: Instants & { wasSent: boolean },
  { runAt, expiresInMs }: JobChange,
): Instants {
  const moves = runAt !== undefined && !job.wasSent
  const firstRunAt = moves ? runAt : job.firstRunAt
  const moved = job.expiresAt === null ? null : job.expiresAt + firstRunAt - job.firstRunAt
  const given = expiresInMs === undefined || expiresInMs === null ? null : firstRunAt + expiresInMs
  return {
    runAt: runAt ?? job.runAt,
    firstRunAt,
    expiresAt: expiresInMs === undefined ? moved : given,
  }
}
