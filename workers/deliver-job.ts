// One attempt, from the claimed job to its recorded outcome. Read this first.
import type { Logger } from 'pino'
import type { Endpoint } from '../src/endpoint/endpoint.ts'
import type { Attempt, ClaimedJob, Outcome } from '../src/job/job.ts'
import { decide, effectivePolicy } from '../src/job/retry-policy.ts'
import type { Settlement, SettleResult, StoreClock } from '../src/store/store.ts'
import { VERSION } from '../src/version.ts'
import { webhookRequest } from '../src/webhook/request.ts'
import type { AttemptEnd, Sender } from '../src/webhook/send.ts'
import type { LeaseKeeper } from './lease-renewal.ts'

export interface DeliveryParts {
  clock: StoreClock
  sender: Sender
  leases: LeaseKeeper
  /** Records how the attempt ended; resolves when that is stored. */
  settle: (settlement: Settlement) => Promise<SettleResult>
  workerId: string
  log: Logger
}

const USER_AGENT = `Posthorn/${VERSION}`

/**
 * Sends the job once and settles what became of it. Never throws: a bad endpoint is an outcome.
 * When the lease was lost on the way nothing is written; whoever has the job now does that.
 *
 * @param claimedAtMs the worker's monotonic time just before the claim
 * @param onEnded called when the request is over; its outcome may still have to be stored
 */
export async function deliverJob(
  parts: DeliveryParts,
  job: ClaimedJob,
  endpoint: Endpoint,
  claimedAtMs: number,
  onEnded: () => void,
): Promise<void> {
  const timeoutMs = job.timeoutMs ?? endpoint.timeoutMs
  const request = webhookRequest({
    job,
    endpoint,
    now: parts.clock.now(),
    timeoutMs,
    userAgent: USER_AGENT,
  })
  const sending = parts.sender.send(request, timeoutMs)
  const dropLease = parts.leases.keep(job, claimedAtMs, (outcome) => sending.abort(outcome))
  try {
    const end = await sending.ended
    onEnded()
    if (end.outcome !== 'lost') {
      const result = await parts.settle(settlementOf(parts, job, endpoint, end))
      if (result === 'lease_lost') logStale(parts.log, job, end.outcome)
    }
    logAttempt(parts.log, job, end)
  } finally {
    dropLease()
  }
}

function settlementOf(
  parts: DeliveryParts,
  job: ClaimedJob,
  endpoint: Endpoint,
  end: AttemptEnd,
): Settlement {
  const finishedAt = parts.clock.now()
  const policy = effectivePolicy(endpoint.retry, job.retry)
  const decision = decide(job, policy, end, finishedAt, Math.random())
  const { jobId, fence, leaseId } = job
  const attempt: Attempt = {
    number: job.attemptNumber,
    startedAt: job.claimedAt,
    finishedAt,
    durationMs: Math.round(end.durationMs),
    outcome: end.outcome,
    statusCode: end.statusCode,
    errorCode: end.errorCode,
    message: end.message,
    responseBody: end.responseBody,
    workerId: parts.workerId,
  }
  const held = { jobId, fence, leaseId, attempt }
  return decision.event === 'succeed'
    ? { ...held, event: 'succeed', result: end.result, resultTruncated: end.resultTruncated }
    : { ...held, ...decision }
}

/** The one line of every attempt. */
function logAttempt(log: Logger, job: ClaimedJob, end: AttemptEnd): void {
  log.info(
    {
      jobId: job.jobId,
      endpoint: job.endpoint,
      attempt: job.attemptNumber,
      outcome: end.outcome,
      statusCode: end.statusCode,
      errorCode: end.errorCode ?? undefined,
      durationMs: Math.round(end.durationMs),
      runAt: job.runAt,
    },
    'attempt.finished',
  )
}

function logStale(log: Logger, job: ClaimedJob, outcome: Outcome): void {
  const { jobId, endpoint, attemptNumber: attempt } = job
  const detail = 'the job was cancelled or taken by another; this result is not applied'
  log.warn({ jobId, endpoint, attempt, outcome, detail }, 'attempt.stale')
}
