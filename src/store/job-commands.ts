// What people ask of a job by its id, and what the store answers.
import type { Job, JobState } from '../job/job.ts'

export type CommandResult =
  | { kind: 'applied' }
  | { kind: 'refused'; state: JobState }
  | { kind: 'not_found' }

export type DeleteJobResult =
  | CommandResult
  /** `ifVersion` is another version. */
  | { kind: 'stale'; version: number }

export type RetryResult =
  | Exclude<CommandResult, { kind: 'applied' }>
  /** `waived`: dependencies that it no longer waits for; absent when there are none. */
  | { kind: 'applied'; waived?: string[] }
  /** The endpoint is gone or being deleted. */
  | { kind: 'unknown_endpoint' }
  /** Another job has its dedupe key by now. */
  | { kind: 'dedupe_conflict'; jobId: string }
  /** Of a bulk retry: it depends on these, which stay dead, cancelled or gone. */
  | { kind: 'dependency_failed'; jobIds: string[] }

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

export type EditResult =
  | { kind: 'applied'; job: Job }
  | { kind: 'refused'; state: JobState }
  /** A payload was given, and an attempt was sent with the old one. */
  | { kind: 'already_sent' }
  | { kind: 'stale'; version: number }
  | { kind: 'not_found' }
