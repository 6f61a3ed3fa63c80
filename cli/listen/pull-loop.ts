// The loop of `posthorn listen`: claims as many jobs as it has free slots, starts an attempt with
// each, and waits while the server is away. It claims no job that it cannot send at once: such a
// job would become due again only when its lease expires, at the cost of an attempt.
import type { AttemptEnd } from '../../src/webhook/send.ts'
import { type AttemptParts, type RunningAttempt, startAttempt } from './attempt.ts'
import { claim, type PulledJob } from './claim-call.ts'
import { retryWhileAway } from './retry-while-away.ts'

const MAX_CLAIM = 100
const CLAIM_WAIT_MS = 20_000
/** How long a handler may still respond after a stop. */
const GRACE_MS = 5_000

export interface PullParts extends AttemptParts {
  concurrency: number
  /** Called once, when the first claim has succeeded. */
  onReady: () => void
  onEnd: (job: PulledJob, end: AttemptEnd, reportProblem: string | null) => void
  /** Prints a sentence for the user. */
  print: (sentence: string) => void
}

/**
 * Runs until `stopping` is aborted; attempts in progress may then end within the grace.
 *
 * @throws PosthornError if the server refuses a claim
 */
export async function pullJobs(parts: PullParts, stopping: AbortSignal): Promise<void> {
  const running = new Set<RunningAttempt>()
  // The first claim does not wait: it shows at once whether the server refuses.
  let waitMs = 0
  try {
    while (!stopping.aborted) {
      const limit = Math.min(parts.concurrency - running.size, MAX_CLAIM)
      if (limit === 0) {
        await firstEnd(running, stopping)
        continue
      }
      const jobs = await claimJobs(parts, { limit, waitMs }, stopping)
      if (jobs === null) break
      if (waitMs === 0) parts.onReady()
      waitMs = CLAIM_WAIT_MS
      for (const { job, claimedAtMs } of jobs) start(parts, running, job, claimedAtMs)
    }
  } finally {
    await endAll(parts, running)
  }
}

/** null: `stopping` was aborted before. */
async function claimJobs(
  { call, endpoint, leaseMs, print }: PullParts,
  { limit, waitMs }: { limit: number; waitMs: number },
  stopping: AbortSignal,
): Promise<{ job: PulledJob; claimedAtMs: number }[] | null> {
  let claimedAtMs = 0
  const take = () => {
    claimedAtMs = performance.now()
    return claim(call, endpoint, { limit, waitMs, leaseMs, signal: stopping })
  }
  const jobs = await retryWhileAway(take, print, stopping)
  return jobs?.map((job) => ({ job, claimedAtMs })) ?? null
}

function start(
  parts: PullParts,
  running: Set<RunningAttempt>,
  job: PulledJob,
  claimedAtMs: number,
): void {
  const attempt = startAttempt(parts, job, claimedAtMs)
  running.add(attempt)
  attempt.done.then(({ end, reportProblem }) => {
    running.delete(attempt)
    parts.onEnd(job, end, reportProblem)
  })
}

async function firstEnd(running: Set<RunningAttempt>, stopping: AbortSignal): Promise<void> {
  const stopped = Promise.withResolvers<void>()
  const stop = () => stopped.resolve()
  stopping.addEventListener('abort', stop, { once: true })
  await Promise.race([stopped.promise, ...[...running].map(({ done }) => done)])
  stopping.removeEventListener('abort', stop)
}

async function endAll({ print }: PullParts, running: Set<RunningAttempt>): Promise<void> {
  if (running.size === 0) return
  print(`Waiting ${GRACE_MS / 1_000} s for attempts in progress: ${running.size}.`)
  const all = Promise.all([...running].map(({ done }) => done))
  const giveUp = setTimeout(() => {
    for (const attempt of running) attempt.interrupt()
  }, GRACE_MS)
  await all
  clearTimeout(giveUp)
}
