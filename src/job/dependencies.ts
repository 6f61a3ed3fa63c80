// How dependencies decide about a job while it waits, and when it is retried or copied; and the
// order in which a bulk retry writes its jobs.
import { isFinal, type JobState, type JobSummary } from './job.ts'
import { LIFECYCLE } from './lifecycle.ts'
import { goesOnWithout, type Need, needsAtRetry } from './needs.ts'

/** A job that waits for another one, or is dead because of it. */
export type Dependent = Pick<JobSummary, 'id' | 'state' | 'dependsOn' | 'needs'>

export interface DependencyCheck {
  /** The dependencies that it still waits for. */
  unmet: string[]
  /**
   * The oldest of them that is dead, cancelled or gone: it makes the job fail. If these jobs depend
   * on each other, the oldest is the one that failed by itself. null: there is none.
   */
  failed: string | null
}

/**
 * Determines which dependencies a waiting job still waits for. A failed one without which the job
 * starts is met.
 *
 * @param stateOf null: the job is no longer stored
 */
export function checkDependencies(
  waitingFor: readonly string[],
  stateOf: (id: string) => JobState | null,
  needs: readonly Need[] = [],
): DependencyCheck {
  const unmet: string[] = []
  let failed: string | null = null
  for (const id of waitingFor) {
    const state = stateOf(id)
    if (state === 'succeeded') continue
    const hasFailed = state === null || isFinal(state)
    if (hasFailed && goesOnWithout(needs, id)) continue
    unmet.push(id)
    // Ids sort by the time at which they were made.
    const isOldest = failed === null || id < failed
    if (isOldest && hasFailed) failed = id
  }
  return { unmet, failed }
}

/** What a retry writes, or why it does not change the job. */
export type RetryDecision =
  | { kind: 'retry'; waitingFor: string[]; waived: string[] }
  | { kind: 'refused'; state: JobState }
  | { kind: 'unknown_endpoint' }
  /**
   * The job depends on these jobs, which did not succeed and are not retried. With `waives`, it
   * needs their results, which no retry waives.
   */
  | { kind: 'dependency_failed'; jobIds: string[] }

export interface RetryOptions {
  /**
   * Whether the job may run without the dependencies that stay dead, cancelled or gone: true for a
   * retry by id, false for a bulk retry.
   */
  waives: boolean
}

/** The fields of a job that decide about its retry. */
export interface RetriedJob {
  state: JobState
  endpointAccepts: boolean
  unmet: readonly string[]
  needs: readonly Need[]
  hasInputs: boolean
}

export function isRetryable(state: JobState): boolean {
  return LIFECYCLE.retry.from.some((one) => one === state)
}

/**
 * Decides about a retry of a job that may have dependencies. The job waits again for a dependency
 * that is queued or running, even if the same command has just queued it. A dependency that is
 * dead, cancelled or gone is waived, or prevents the retry. One whose result is needed is never
 * waived.
 *
 * @param job `unmet`: the dependencies that had not succeeded when the job became final;
 * `hasInputs`: it has had inputs; `endpointAccepts`: its endpoint exists and is not being deleted
 * @param stateOf null: the job is no longer stored
 */
export function decideRetry(
  job: RetriedJob,
  stateOf: (id: string) => JobState | null,
  { waives }: RetryOptions,
): RetryDecision {
  if (!isRetryable(job.state)) return { kind: 'refused', state: job.state }
  if (!job.endpointAccepts) return { kind: 'unknown_endpoint' }
  const needed = new Set(job.needs.map(({ jobId }) => jobId))
  const unmet = job.unmet.filter((id) => !needed.has(id))
  const { waitingFor, waived } = splitUnmet(unmet, stateOf)
  const needs = needsAtRetry(job.needs, job.hasInputs, stateOf)
  const failed = waives ? needs.failed : [...waived, ...needs.failed]
  if (failed.length > 0) return { kind: 'dependency_failed', jobIds: failed }
  return { kind: 'retry', waitingFor: [...waitingFor, ...needs.waitingFor], waived }
}

/** Separates the dependencies that a retry by id or a copy waits for from those that it waives. */
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
 * the jobs it depends on. A bulk retry writes page by page, and a worker may run a job as soon as
 * its page is written. In this order an ordering key starts with its first job, and every job is
 * decided after the jobs it depends on are queued again.
 */
export function retryOrder(
  jobs: readonly { id: string; dependsOn: readonly string[] }[],
): string[] {
  const byId = new Map(jobs.map((job) => [job.id, job]))
  const ordered = new Set<string>()
  for (const { id: first } of jobs.toSorted((a, b) => (a.id < b.id ? -1 : 1))) {
    // Depth first with an explicit stack, not recursion: a chain can be as long as the command.
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
