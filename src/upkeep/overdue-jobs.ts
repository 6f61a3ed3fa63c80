// Ends attempts whose handler accepted the job but did not report its end in time. The retry policy
// decides whether the job is retried or dead.
import type { Endpoint } from '../endpoint/endpoint.ts'
import { DEFAULT_RETRY, decide, effectivePolicy } from '../job/retry-policy.ts'
import type { Store } from '../store/store.ts'
import type { OverdueEnd, OverdueJob } from '../store/sweep.ts'

const MESSAGE = 'the handler accepted the job, but did not report in time'

type OverdueStore = Pick<Store, 'clock' | 'overdue' | 'endOverdue' | 'endpointsNamed'>

/** Ends at most `limit` overdue attempts. Returns how many it ended. */
export async function endOverdueJobs(store: OverdueStore, limit: number): Promise<number> {
  const jobs = await store.overdue(limit)
  if (jobs.length === 0) return 0
  const endpoints = await store.endpointsNamed([...new Set(jobs.map(({ endpoint }) => endpoint))])
  const byName = new Map(endpoints.map((endpoint) => [endpoint.name, endpoint]))
  const now = store.clock.now()
  const results = await store.endOverdue(
    jobs.map((job) => endOf(job, byName.get(job.endpoint), now)),
  )
  return results.filter((result) => result === 'applied').length
}

function endOf(job: OverdueJob, endpoint: Endpoint | undefined, now: number): OverdueEnd {
  const policy = effectivePolicy(endpoint?.retry ?? DEFAULT_RETRY, job.retry)
  const ending = { outcome: 'timeout', retryAfterMs: null, message: MESSAGE } as const
  const decision = decide(job, policy, ending, now, Math.random())
  const { jobId, endpoint: name, fence, leaseId, leaseExpiresAt } = job
  const attempt = {
    number: job.attemptNumber,
    startedAt: job.claimedAt,
    finishedAt: now,
    durationMs: Math.max(0, now - job.claimedAt),
    outcome: 'timeout',
    statusCode: null,
    errorCode: null,
    message: MESSAGE,
    responseBody: null,
    workerId: job.workerId,
  } as const
  const seen = { jobId, endpoint: name, fence, leaseId, leaseExpiresAt, attempt }
  switch (decision.event) {
    case 'reschedule':
      return { ...seen, event: 'time_out', runAt: decision.runAt }
    case 'bury':
      return { ...seen, event: 'bury_timed_out', failure: decision.failure }
    default:
      throw new Error(`a timeout cannot lead to ${decision.event}`)
  }
}
