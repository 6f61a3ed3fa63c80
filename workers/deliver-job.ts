// One attempt, from the claimed job to its stored outcome. To read the worker, start here.
import type { Logger } from 'pino'
import type { Endpoint } from '../src/endpoint/endpoint.ts'
import {
  type Attempt,
  type ClaimedJob,
  dueAt,
  type Lease,
  type TraceContext,
} from '../src/job/job.ts'
import { decide, effectivePolicy } from '../src/job/retry-policy.ts'
import type { CountEnd } from '../src/stats/attempt-counts.ts'
import type { StaleReason, WorkerMetrics } from '../src/stats/metrics.ts'
import type { HeartbeatResult, Settlement, SettleResult, StoreClock } from '../src/store/store.ts'
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
  /** Stores how the attempt ended. */
  settle: (settlement: Settlement) => Promise<SettleResult>
  /** Returns the job to the queue before its request was sent. This uses no attempt. */
  release: (lease: Lease) => Promise<unknown>
  ownFaults: Pick<OwnFaults, 'note'>
  health: Pick<HealthReports, 'add'>
  countEnd: CountEnd
  /** Why a lease ended that no longer holds the job. */
  endOf: (lease: Lease) => Promise<HeartbeatResult['kind']>
  metrics: Pick<WorkerMetrics, 'onStarted' | 'onAccepted' | 'onStale'>
  /** The token that authorizes an async handler to report about this attempt. */
  issueToken: (lease: Lease) => string
  /** Base of the URLs that async handlers report to; null: unknown. */
  publicUrl: () => string | null
  workerId: string
  log: Logger
}

const USER_AGENT = `Posthorn/${VERSION}`

/**
 * The end of an attempt whose headers were encrypted with a key that this worker does not have. The
 * job must not be sent without them, and it is not at fault, so it waits for a worker with the key.
 */
const UNREADABLE_HEADERS: AttemptEnd = {
  outcome: 'interrupted',
  statusCode: null,
  errorCode: null,
  message: 'no key in ENCRYPTION_KEY of this worker decrypts the headers of the job',
  responseBody: null,
  result: null,
  resultTruncated: false,
  retryAfterMs: 60_000,
  isGone: false,
  throttlesKey: false,
  isSent: false,
  isResent: false,
  durationMs: 0,
}

/**
 * Sends the job once and settles the outcome. Never throws: a failing endpoint is an outcome. If
 * the lease is lost meanwhile, the attempt writes nothing: the process that holds the job now
 * settles it. If nothing had been sent by then, the claim is released, because the job may not have
 * another holder yet.
 *
 * @param claimedAtMs the worker's monotonic time just before the claim
 * @param onEnded called when the request is over, before its outcome is stored
 */
export async function deliverJob(
  parts: DeliveryParts,
  job: ClaimedJob,
  endpoint: Endpoint,
  claimedAtMs: number,
  onEnded: () => void,
): Promise<void> {
  parts.metrics.onStarted(job.claimedAt - dueAt(job))
  const span = startAttemptSpan(job, endpoint.url)
  const lease = parts.leases.keep(job, claimedAtMs, (outcome) => sending.abort(outcome))
  const sending = send(parts, job, endpoint, span.trace, lease.mayStillSend)
  try {
    let end = asAccepted(endpoint, await sending.ended)
    span.requestEnded()
    lease.ended()
    const fault = ownFaultOf(end)
    if (fault !== null) parts.ownFaults.note(fault.code)
    onEnded()
    if (fault?.unsent || (end.outcome === 'lost' && !end.isSent)) {
      await releaseClaim(parts, job, end)
      span.end(end)
      return
    }
    if (fault !== null) end = asInterrupted(end)
    await parts.health.add(endpoint, job, end, parts.clock.now())
    // An attempt whose lease was lost is ended and counted by another process.
    const isOurs = end.outcome !== 'lost' && (await settleEnd(parts, job, endpoint, end))
    if (!isOurs) end = await asStale(parts, job, end)
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
    // Workers do not claim jobs of pulled endpoints, which have no URL.
    url: endpoint.url as string,
    completion: completionOf(parts, job, endpoint),
    trace,
    now: parts.clock.now(),
    timeoutMs,
    userAgent: USER_AGENT,
  })
  return parts.sender.send(request, timeoutMs, mayStillSend)
}

async function releaseClaim(
  { release, log }: DeliveryParts,
  job: ClaimedJob,
  { message: detail }: AttemptEnd,
): Promise<void> {
  const { jobId, endpoint } = job
  try {
    await release(job)
    log.info({ jobs: 1, jobId, endpoint, detail }, 'claim.released')
  } catch (error) {
    // Not retried: the lease expires and the sweeper finds it.
    log.warn({ err: error, jobId, endpoint, detail }, 'release.failed')
  }
}

function completionOf(parts: DeliveryParts, job: ClaimedJob, endpoint: Endpoint) {
  if (endpoint.completion === 'sync') return null
  const baseUrl = parts.publicUrl()
  return baseUrl === null ? null : { baseUrl, token: parts.issueToken(job) }
}

/** A 202 of an async endpoint does not end the attempt: its handler reports later. */
function asAccepted(endpoint: Endpoint, end: AttemptEnd): AttemptEnd {
  const isAccepted =
    endpoint.completion === 'async' && end.outcome === 'succeeded' && end.statusCode === 202
  return isAccepted ? { ...end, outcome: 'accepted' } : end
}

/** Stores the end and counts it. Resolves with whether the attempt still held the job. */
async function settleEnd(
  parts: DeliveryParts,
  job: ClaimedJob,
  endpoint: Endpoint,
  end: AttemptEnd,
): Promise<boolean> {
  const settlement = settlementOf(parts, job, endpoint, end)
  // A repeated write may find that its first try stored the end. That end is not counted yet.
  const isOurs = (await parts.settle(settlement)) !== 'lease_lost'
  const { jobId, runAt } = job
  if (settlement.event === 'await') {
    if (isOurs) noteAccepted(parts, job, end)
    // Its handler may have reported already. The attempt was accepted all the same.
    else parts.metrics.onAccepted(job.endpoint)
    return true
  }
  if (!isOurs) return false
  const deathReason = settlement.event === 'bury' ? settlement.failure.reason : null
  const { attempt } = settlement
  const sent = { resent: end.isResent, runAt }
  parts.countEnd({ jobId, endpoint: job.endpoint, attempt, deathReason }, sent)
  return true
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
  const { jobId, endpoint: name, fence, leaseId } = job
  const lease = { jobId, endpoint: name, fence, leaseId }
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

/** The attempt continues. The API or a sweeper ends and logs it later. */
function noteAccepted({ log, metrics }: DeliveryParts, job: ClaimedJob, end: AttemptEnd): void {
  const { jobId, endpoint, attemptNumber: attempt } = job
  metrics.onAccepted(endpoint)
  const runAt = new Date(job.runAt).toISOString()
  const durationMs = Math.round(end.durationMs)
  log.info(
    { jobId, endpoint, attempt, statusCode: end.statusCode, durationMs, runAt },
    'attempt.accepted',
  )
}

/** Ends of a lease that a request caused, and not a fault of a worker or the store. */
const BY_REQUEST: { [kind in HeartbeatResult['kind']]?: string } = {
  cancelled: 'the job was cancelled',
  evicted: 'the endpoint was deleted',
}

/** The attempt no longer held the job when it ended, or it was aborted because of that. */
async function asStale(
  { log, metrics, endOf }: DeliveryParts,
  job: ClaimedJob,
  end: AttemptEnd,
): Promise<AttemptEnd> {
  const { jobId, endpoint, attemptNumber: attempt } = job
  const kind = await endOf(job)
  const cause = BY_REQUEST[kind] ?? 'the lease of the attempt was lost'
  const reason: StaleReason = kind in BY_REQUEST ? 'cancelled' : 'lease_lost'
  metrics.onStale(reason)
  const isAborted = end.outcome === 'lost'
  const detail = `${cause}: ${isAborted ? 'its request was aborted' : 'its result is not applied'}`
  const outcome = isAborted ? undefined : end.outcome
  const fields = { jobId, endpoint, attempt, reason, outcome, detail }
  if (reason === 'cancelled') log.info(fields, 'attempt.stale')
  else log.warn(fields, 'attempt.stale')
  return isAborted && reason === 'cancelled' ? { ...end, outcome: 'cancelled' } : end
}
