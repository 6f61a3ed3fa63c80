// Decides what a request with a dedupe key does to the owner: the queued or running job of the same
// endpoint that already has the key.
import type { DedupeMode, JobState } from './job.ts'

export type DedupeDecision =
  /** The request is refused. */
  | { kind: 'reject' }
  /** The response is the unchanged owner. */
  | { kind: 'keep' }
  /**
   * No attempt of the owner was sent: the owner takes the values of the request, and the response
   * is the owner.
   */
  | { kind: 'replace' }
  /** An attempt of the owner was sent: the owner is cancelled, and the request creates a job. */
  | { kind: 'displace' }
  /** The owner is running: it continues without the key, and the request creates a job. */
  | { kind: 'supersede' }

/** @param owner wasSent: an attempt was sent, or may have been before a power loss */
export function decideDedupe(
  mode: DedupeMode,
  owner: { state: JobState; wasSent: boolean },
): DedupeDecision {
  switch (mode) {
    case 'reject':
    case 'keep':
      return { kind: mode }
    case 'replace':
      if (owner.state === 'running') return { kind: 'supersede' }
      return { kind: owner.wasSent ? 'displace' : 'replace' }
    default:
      throw new Error(`unknown mode ${mode satisfies never}`)
  }
}
