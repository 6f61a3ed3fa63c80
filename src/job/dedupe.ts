// What a request with a dedupe key does to the queued or running job of its endpoint that has the
// key: its owner.
import type { DedupeMode, JobState } from './job.ts'

export type DedupeDecision =
  /** The request is refused. */
  | { kind: 'reject' }
  /** The request is answered with the owner as it is. */
  | { kind: 'keep' }
  /** Nothing of the owner was sent: it takes over what the request gives, and answers it. */
  | { kind: 'replace' }
  /** The owner was attempted: it is cancelled, and the request makes a job. */
  | { kind: 'displace' }
  /** The owner runs: it goes on without the key, and the request makes a job. */
  | { kind: 'supersede' }

/** @param owner an attempt that was returned unsent is not counted */
export function decideDedupe(
  mode: DedupeMode,
  owner: { state: JobState; attemptCount: number },
): DedupeDecision {
  switch (mode) {
    case 'reject':
    case 'keep':
      return { kind: mode }
    case 'replace':
      if (owner.state === 'running') return { kind: 'supersede' }
      return { kind: owner.attemptCount > 0 ? 'displace' : 'replace' }
    default:
      throw new Error(`unknown mode ${mode satisfies never}`)
  }
}
