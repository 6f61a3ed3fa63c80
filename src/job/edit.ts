// What a person may change of a job, and how its instants move with it.
import type { Job, JobState } from './job.ts'

/** What PATCH gives; what is undefined stays. */
export interface JobChange {
  /** The first due time moves with it while no attempt was made, and the expiry with that. */
  runAt?: number | undefined
  priority?: number | undefined
  tags?: string[] | undefined
  metadata?: Record<string, string> | undefined
  /** From the first due time; null: it never expires. */
  expiresInMs?: number | null | undefined
  payload?: Uint8Array | undefined
}

export type EditRefusal =
  | { kind: 'stale'; version: number }
  | { kind: 'refused'; state: JobState }
  /** A payload was given, and an attempt was sent with the old one. */
  | { kind: 'already_sent' }

/** Why the job is not changed; null: it may be. */
export function refusalOfEdit(
  job: Pick<Job, 'state' | 'version' | 'attemptCount'>,
  { payload }: JobChange,
  ifVersion: number | null,
): EditRefusal | null {
  if (ifVersion !== null && job.version !== ifVersion) {
    return { kind: 'stale', version: job.version }
  }
  if (job.state !== 'queued') return { kind: 'refused', state: job.state }
  return payload !== undefined && job.attemptCount > 0 ? { kind: 'already_sent' } : null
}

type Instants = Pick<Job, 'runAt' | 'firstRunAt' | 'expiresAt'>

export function instantsAfterEdit(
  job: Instants & Pick<Job, 'attemptCount'>,
  { runAt, expiresInMs }: JobChange,
): Instants {
  const moves = runAt !== undefined && job.attemptCount === 0
  const firstRunAt = moves ? runAt : job.firstRunAt
  const moved = job.expiresAt === null ? null : job.expiresAt + firstRunAt - job.firstRunAt
  const given = expiresInMs === undefined || expiresInMs === null ? null : firstRunAt + expiresInMs
  return {
    runAt: runAt ?? job.runAt,
    firstRunAt,
    expiresAt: expiresInMs === undefined ? moved : given,
  }
}
