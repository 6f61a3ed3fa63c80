// What becomes of a job by the jobs it depends on, while it waits and when it is retried or copied;
// and the order in which one command retries many.
import { isFinal, type JobState } from './job.ts'
import { LIFECYCLE } from './lifecycle.ts'

export interface DependencyCheck {
  /** Those that have not succeeded. */
  unmet: string[]
  /** The first of these that is dead, cancelled or gone: the job fails with it. null: none is. */
  failed: string | null
}

/**
 * What a job that waits still waits for.
 *
 * @param stateOf null: the job is no longer stored
 */
export function checkDependencies(
  waitingFor: readonly string[],
  stateOf: (id: string) => JobState | null,
): DependencyCheck {
  const unmet: string[] = []
  let failed: string | null = null
  for (const id of waitingFor) {
    const state = stateOf(id)
    if (state === 'succeeded') continue
    unmet.push(id)
    if (failed === null && (state === null || isFinal(state))) failed = id
  }
  return { unmet, failed }
}

/** What retry writes, or why it leaves the job as it is. */
export type RetryDecision =
  | { kind: 'retry'; waitingFor: string[]; waived: string[] }
  | { kind: 'refused'; state: JobState }
  | { kind: 'unknown_endpoint' }
  /** It depends on these, which did not succeed and are not retried. */
  | { kind: 'dependency_failed'; jobIds: string[] }

export interface RetryOptions {
  /**
   * Whether the job may run without the dependencies that stay dead, cancelled or gone: true of a
   * retry by id, false of a bulk retry.
   */
  waives: boolean
}

export function isRetryable(state: JobState): boolean {
  return LIFECYCLE.retry.from.some((one) => one === state)
}

/**
 * A dependency that is queued or running is waited for again, also when the same command has just
 * queued it. One that is dead, cancelled or gone is waived, or keeps the job from being retried.
 *
 * @param job `unmet`: the dependencies that had not succeeded when it became final;
 *   `endpointAccepts`: its endpoint is there, and is not being deleted
 * @param stateOf null: the job is no longer stored
 */
export function decideRetry(
  job: { state: JobState; endpointAccepts: boolean; unmet: readonly string[] },
  stateOf: (id: string) => JobState | null,
  { waives }: RetryOptions,
): RetryDecision {
  if (!isRetryable(job.state)) return { kind: 'refused', state: job.state }
  if (!job.endpointAccepts) return { kind: 'unknown_endpoint' }
  const { waitingFor, waived } = splitUnmet(job.unmet, stateOf)
  if (waived.length > 0 && !waives) return { kind: 'dependency_failed', jobIds: waived }
  return { kind: 'retry', waitingFor, waived }
}

/** What a retry by id and a copy wait for, and what they do without. */
export function splitUnmet(
  unmet: readonly string[],
  stateOf: (id: string) => JobState | null,
): { waitingFor: string[]; waived: string[] } {
  const waitingFor: string[] = []
  const waived: string[] = []
  for (const id of unmet) {
    const state = stateOf(id)
    if (state === 'queued' || state === 'running') waitingFor.push(id)
    else if (state !== 'succeeded') waived.push(id)
  }
  return { waitingFor, waived }
}

/**
 * The ids of these jobs, oldest first (ids sort by creation), except that a job always comes after
 * the jobs it depends on. A bulk retry writes page after page, and a worker may run a job as soon
 * as its page is written: in this order an ordering key starts with its first job, and no job is
 * looked at before the jobs it waits for are queued again.
 */
export function retryOrder(
  jobs: readonly { id: string; dependsOn: readonly string[] }[],
): string[] {
  const byId = new Map(jobs.map((job) => [job.id, job]))
  const ordered = new Set<string>()
  for (const { id: first } of jobs.toSorted((a, b) => (a.id < b.id ? -1 : 1))) {
    // Depth first, on a stack of its own: a chain may be as long as the command.
    const stack = [first]
    while (stack.length > 0) {
      const id = stack.at(-1) as string
      const open = byId.get(id)?.dependsOn.filter((other) => byId.has(other) && !ordered.has(other))
      if (ordered.has(id) || open === undefined || open.length === 0) {
        ordered.add(id)
        stack.pop()
      } else stack.push(...open)
    }
  }
  return [...ordered]
}
