// One attempt, from the claimed job to its recorded outcome. Read this first.
import type { Logger } from 'pino'
import type { Endpoint } from '../src/endpoint/endpoint.ts'
import type { FigureBook } from '../src/figure-book.ts'
import type { Attempt, ClaimedJob, Lease, TraceContext } from '../src/job/job.ts'
import { decide, effectivePolicy } from '../src/job/retry-policy.ts'
import type { WorkerMetrics } from '../src/metrics.ts'
import type { Settlement, SettleResult } from '../src/store/settlement.ts'
import type { StoreClock } from '../src/store/store.ts'
import { startAttemptSpan } from '../src/tracing.ts'
import { VERSION } from '../src/version.ts'
import { webhookRequest } from '../src/webhook/request.ts'
import type { AttemptEnd, Sender, Sending } from '../src/webhook/send.ts'
import type { HealthReports } from './health-reports.ts'
import type { LeaseKeeper } from './lease-renewal.ts'
import { asInterrupted, type OwnFaults, ownFaultOf } from './own-faults.ts'

export interface DeliveryParts {
  clock: StoreClock
  sender: Sender
  leases: LeaseKeeper
  /** Records how the attempt ended; resolves when that is stored. */
  settle: (settlement: Settlement) => Promise<SettleResult>
  /** Gives a claim back of which nothing was sent: it costs no attempt. */
  release: (lease: Lease) => Promise<unknown>
  ownFaults: Pick<OwnFaults, 'note'>
  health: Pick<HealthReports, 'add'>
  figures: Pick<FigureBook, 'add'>
  metrics: Pick<WorkerMetrics, 'onStarted' | 'onAttempt' | 'onStale'>
  /** The token by which an async handler speaks for this attempt. */
  mintToken: (lease: Lease) => string
  /** Base of the URLs that async handlers report to; null: none is known. */
  publicUrl: () => string | null
  workerId: string
  log: Logger
}

const USER_AGENT = `Posthorn/${VERSION}`

/**
 * Headers of a job that were sealed with a key that this worker does not have: to send it without
 * is wrong, and that is no fault of the job. It waits for a worker that has the key.
 */
const UNREADABLE_HEADERS: AttemptEnd = {
  outcome: 'interrupted',
  statusCode: null,
  errorCode: null,
  message: 'its headers were encrypted with a key that ENCRYPTION_KEY of this worker does not hold',
  responseBody: null,
  result: null,
  resultTruncated: false,
  retryAfterMs: 60_000,
  isGone: false,
  isSent: false,
  isResent: false,
  durationMs: 0,
}

/**
 * Sends the job once and settles what became of it. Never throws: a bad endpoint is an outcome.
 * When the lease was lost on the way nothing is written; whoever has the job now does that. When
 * nothing had been sent by then, the claim is given back, in case nobody else has the job yet.
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
  parts.metrics.onStarted(job.claimedAt - job.runAt)
  const span = startAttemptSpan(job)
  const lease = parts.leases.keep(job, claimedAtMs, (outcome) => sending.abort(outcome))
  const sending = send(parts, job, endpoint, span.trace, lease.mayStillSend)
  try {
    let end = asAccepted(endpoint, await sending.ended)
    const fault = ownFaultOf(end)
    if (fault !== null) parts.ownFaults.note(fault.code)
    onEnded()
    if (fault?.unsent || (end.outcome === 'lost' && !end.isSent)) {
      await giveBack(parts, job, end)
      span.end(end)
      return
    }
    if (fault !== null) end = asInterrupted(end)
    await record(parts, job, endpoint, end)
    if (end.outcome !== 'lost') {
      const settlement = settlementOf(parts, job, endpoint, end)
      const result = await parts.settle(settlement)
      if (result === 'lease_lost' && settlement.event !== 'await') tellStale(parts, job, end)
    }
    logAttempt(parts.log, job, end)
    span.end(end)
  } finally {
    lease.drop()
  }
}

function send(
  parts: DeliveryParts,
  job: ClaimedJob,
  endpoint: Endpoint,
  trace: TraceContext | null,
  mayStillSend: () => boolean,
): Sending {
  const { headers } = job
  if (headers === null) {
    const { jobId, endpoint: name } = job
    parts.log.error({ jobId, endpoint: name, detail: UNREADABLE_HEADERS.message }, 'job.unreadable')
    return { ended: Promise.resolve(UNREADABLE_HEADERS), abort() {} }
  }
  const timeoutMs = job.timeoutMs ?? endpoint.timeoutMs
  const request = webhookRequest({
    job,
    headers,
    endpoint,
    // A lane without a URL is not claimed: its jobs are pulled.
    url: endpoint.url as string,
    completion: completionOf(parts, job, endpoint),
    trace,
    now: parts.clock.now(),
    timeoutMs,
    userAgent: USER_AGENT,
  })
  return parts.sender.send(request, timeoutMs, mayStillSend)
}

async function giveBack(
  { release, log }: DeliveryParts,
  job: ClaimedJob,
  { message: detail }: AttemptEnd,
): Promise<void> {
  const { jobId, endpoint } = job
  try {
    await release(job)
    log.info({ jobs: 1, jobId, endpoint, detail }, 'claim.released')
  } catch (error) {
    // The sweeper finds the lease expired.
    log.warn({ err: error, jobId, endpoint, detail }, 'release.failed')
  }
}

function completionOf(parts: DeliveryParts, job: ClaimedJob, endpoint: Endpoint) {
  if (endpoint.completion === 'sync') return null
  const baseUrl = parts.publicUrl()
  return baseUrl === null ? null : { baseUrl, token: parts.mintToken(job) }
}

/** A 202 of an async endpoint is no end: its handler reports later. */
function asAccepted(endpoint: Endpoint, end: AttemptEnd): AttemptEnd {
  const isAccepted =
    endpoint.completion === 'async' && end.outcome === 'succeeded' && end.statusCode === 202
  return isAccepted ? { ...end, outcome: 'accepted' } : end
}

/** Resolves when the endpoint rests or is disabled, should this attempt lead to that. */
function record(
  { health, figures, metrics, clock }: DeliveryParts,
  job: ClaimedJob,
  endpoint: Endpoint,
  end: AttemptEnd,
): Promise<void> {
  const now = clock.now()
  figures.add(job.endpoint, end.outcome, end.durationMs, now)
  metrics.onAttempt(job.endpoint, end.outcome, end.durationMs)
  return health.add(endpoint, end, job.claimedAt, now)
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
  const lease = { jobId, fence, leaseId }
  if (decision.event === 'await') {
    const leaseExpiresAt = finishedAt + endpoint.completionTimeoutMs
    return { ...lease, event: 'await', leaseExpiresAt }
  }
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
  const held = { ...lease, attempt }
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
      resent: end.isResent || undefined,
      durationMs: Math.round(end.durationMs),
      runAt: job.runAt,
    },
    'attempt.finished',
  )
}

function tellStale(
  { log, metrics }: DeliveryParts,
  job: ClaimedJob,
  { outcome }: AttemptEnd,
): void {
  const { jobId, endpoint, attemptNumber: attempt } = job
  const detail = 'the job was cancelled or taken by another; this result is not applied'
  log.warn({ jobId, endpoint, attempt, outcome, detail }, 'attempt.stale')
  metrics.onStale()
}
