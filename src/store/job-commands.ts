// What people ask of a job by its id, and what the store answers.
import type { EditRefusal } from '../job/edit.ts'
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

export type EditResult = { kind: 'applied'; job: Job } | { kind: 'not_found' } | EditRefusal
