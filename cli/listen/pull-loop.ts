// The loop of `posthorn listen`: claims as many jobs as there is room for, starts an attempt with
// each, and outlasts a server that is away. Nothing is claimed that is not sent at once: what would
// lie here could only come back by the end of its lease, at the cost of an attempt.
import type { AttemptEnd } from '../../src/webhook/send.ts'
import { type AttemptParts, type AttemptUnderWay, startAttempt } from './attempt.ts'
import { claim, type PulledJob } from './claim-call.ts'
import { withPatience } from './patience.ts'

const MAX_CLAIM = 100
const CLAIM_WAIT_MS = 20_000
/** How long a handler may still answer once we are asked to stop. */
const GRACE_MS = 5_000

export interface PullParts extends AttemptParts {
  concurrency: number
  /** Called once, when the server has answered a claim: it would give jobs of this endpoint. */
  onReady: () => void
  onEnd: (job: PulledJob, end: AttemptEnd, reportProblem: string | null) => void
  /** A sentence for the user at the terminal. */
  print: (sentence: string) => void
}

/**
 * Runs until `stopping` is aborted; then attempts under way may end within the grace.
 *
 * @throws PosthornError when the server refuses to give jobs
 */
export async function pullJobs(parts: PullParts, stopping: AbortSignal): Promise<void> {
  const underWay = new Set<AttemptUnderWay>()
  // The first claim does not wait: it shows at once whether the server refuses.
  let waitMs = 0
  try {
    while (!stopping.aborted) {
      const limit = Math.min(parts.concurrency - underWay.size, MAX_CLAIM)
      if (limit === 0) {
        await firstEnd(underWay, stopping)
        continue
      }
      const jobs = await claimJobs(parts, { limit, waitMs }, stopping)
      if (jobs === null) break
      if (waitMs === 0) parts.onReady()
      waitMs = CLAIM_WAIT_MS
      for (const { job, claimedAtMs } of jobs) start(parts, underWay, job, claimedAtMs)
    }
  } finally {
    await endAll(parts, underWay)
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
  const jobs = await withPatience(take, print, stopping)
  return jobs?.map((job) => ({ job, claimedAtMs })) ?? null
}

function start(
  parts: PullParts,
  underWay: Set<AttemptUnderWay>,
  job: PulledJob,
  claimedAtMs: number,
): void {
  const attempt = startAttempt(parts, job, claimedAtMs)
  underWay.add(attempt)
  attempt.done.then(({ end, reportProblem }) => {
    underWay.delete(attempt)
    parts.onEnd(job, end, reportProblem)
  })
}

async function firstEnd(underWay: Set<AttemptUnderWay>, stopping: AbortSignal): Promise<void> {
  const stopped = Promise.withResolvers<void>()
  const stop = () => stopped.resolve()
  stopping.addEventListener('abort', stop, { once: true })
  await Promise.race([stopped.promise, ...[...underWay].map(({ done }) => done)])
  stopping.removeEventListener('abort', stop)
}

async function endAll({ print }: PullParts, underWay: Set<AttemptUnderWay>): Promise<void> {
  if (underWay.size === 0) return
  print(`${underWay.size} under way: waiting ${GRACE_MS / 1_000} s for their handler.`)
  const all = Promise.all([...underWay].map(({ done }) => done))
  const giveUp = setTimeout(() => {
    for (const attempt of underWay) attempt.interrupt()
  }, GRACE_MS)
  await all
  clearTimeout(giveUp)
}
