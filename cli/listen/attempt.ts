// One attempt of `posthorn listen`: sends the pulled job to the handler as a worker would, renews
// its lease meanwhile, and reports the outcome.
import type { Call } from '../../src/client/call.ts'
import { type Posthorn, PosthornError } from '../../src/client/client.ts'
import { MAX_FAIL_MESSAGE, reportText } from '../../src/client/report-text.ts'
import { formatDuration, parseDuration } from '../../src/job/duration.ts'
import { VERSION } from '../../src/version.ts'
import { webhookRequest } from '../../src/webhook/request.ts'
import type { AttemptEnd, Sender, Sending } from '../../src/webhook/send.ts'
import { errorInCommandWords } from '../command-words.ts'
import { complete, fail, type PulledJob } from './claim-call.ts'
import { isFromServer } from './retry-while-away.ts'

export interface AttemptParts {
  posthorn: Posthorn
  call: Call
  sender: Sender
  endpoint: string
  url: string
  secret: string
  /** The timeout of jobs without one of their own. */
  timeoutMs: number
  leaseMs: number
}

export interface RunningAttempt {
  /** The outcome, and why it could not be reported to the server, if so; never rejects. */
  done: Promise<{ end: AttemptEnd; reportProblem: string | null }>
  /** Aborts the request to the handler. */
  interrupt(): void
}

const USER_AGENT = `Posthorn/${VERSION} (listen)`
/** Two heartbeats in a row may fail before the lease expires. */
const HEARTBEATS_PER_LEASE = 3

/** @param claimedAtMs monotonic, just before the claim: the lease begins no earlier */
export function startAttempt(
  parts: AttemptParts,
  job: PulledJob,
  claimedAtMs: number,
): RunningAttempt {
  const lease = keepLease(parts, job, claimedAtMs, (outcome) => sending.abort(outcome))
  const sending = send(parts, job, lease.mayStillSend)
  async function report() {
    try {
      const end = await sending.ended
      return { end, reportProblem: await reportEnd(parts, job, end) }
    } finally {
      lease.drop()
    }
  }
  return { done: report(), interrupt: () => sending.abort('interrupted') }
}

function send(
  { sender, endpoint, url, secret, ...parts }: AttemptParts,
  job: PulledJob,
  mayStillSend: () => boolean,
): Sending {
  const timeoutMs = (job.timeout === null ? null : parseDuration(job.timeout)) ?? parts.timeoutMs
  const request = webhookRequest({
    job: {
      jobId: job.id,
      fence: job.fence,
      attemptNumber: job.attemptCount,
      // The API does not show the attempts left. If none was free, this many are left.
      attemptsLeft: Math.max(0, job.maxAttempts - job.attemptCount),
      runAt: Date.parse(job.runAt),
      payload: job.payload,
      inputs: job.inputs,
      scheduleName: job.scheduleName,
      // A claim counts this delivery, which webhookRequest adds again.
      hops: job.hops - 1,
    },
    // The API masks the values, and masked values must not be sent.
    headers: {},
    endpoint: { name: endpoint, secrets: [secret], headers: {}, statuses: {} },
    url,
    completion: null,
    trace:
      job.traceparent === null
        ? null
        : { traceparent: job.traceparent, tracestate: job.tracestate },
    now: Date.now(),
    timeoutMs,
    userAgent: USER_AGENT,
  })
  return sender.send(request, timeoutMs, mayStillSend)
}

/** Renews the lease until `drop`. Aborts the attempt if the lease is lost or the job cancelled. */
function keepLease(
  { posthorn, leaseMs }: AttemptParts,
  job: PulledJob,
  claimedAtMs: number,
  abort: Sending['abort'],
): { mayStillSend: () => boolean; drop: () => void } {
  let endsAtMs = claimedAtMs + leaseMs
  let isRenewing = false
  async function renew(): Promise<void> {
    if (performance.now() >= endsAtMs) return abort('lost')
    if (isRenewing) return
    isRenewing = true
    const askedAtMs = performance.now()
    try {
      const extend = formatDuration(leaseMs)
      const { cancelRequested } = await posthorn.heartbeat(job, { extend })
      if (cancelRequested) abort('cancelled')
      else endsAtMs = askedAtMs + leaseMs
    } catch (error) {
      // Any other failure may be over before the lease expires.
      if (error instanceof PosthornError && error.code === 'lease_lost') abort('lost')
    } finally {
      isRenewing = false
    }
  }
  const timer = setInterval(() => void renew(), leaseMs / HEARTBEATS_PER_LEASE)
  return {
    mayStillSend: () => performance.now() < endsAtMs,
    drop: () => clearInterval(timer),
  }
}

/** Why the outcome could not be reported, as a sentence; null: it was reported. */
async function reportEnd(
  parts: AttemptParts,
  job: PulledJob,
  end: AttemptEnd,
): Promise<string | null> {
  if (end.outcome === 'lost') return 'the lease was lost; the server tries the job again'
  if (end.outcome === 'cancelled') return null
  const untilMs = performance.now() + parts.leaseMs
  try {
    if (end.outcome === 'succeeded') return await completed(parts, job, end.result, untilMs)
    await fail(parts.call, job, failureOf(end), untilMs)
    return null
  } catch (error) {
    if (!(error instanceof PosthornError)) throw error
    return `not reported: ${errorInCommandWords(error).detail}`
  }
}

/**
 * If the API refuses the result, because it is nested too deep, stores it as text: the work is
 * done.
 */
async function completed(
  { call }: AttemptParts,
  job: PulledJob,
  result: string | null,
  untilMs: number,
): Promise<string | null> {
  try {
    await complete(call, job, result, untilMs)
    return null
  } catch (error) {
    if (!(error instanceof PosthornError) || error.status !== 400 || !isFromServer(error))
      throw error
    await complete(call, job, JSON.stringify({ text: result }), untilMs)
    return `its result is stored as text: ${errorInCommandWords(error).detail}`
  }
}

/** Decides as a worker does: a rejected job becomes dead at once, any other failure is retried. */
function failureOf({ outcome, message, retryAfterMs }: AttemptEnd) {
  return {
    message: reportText(message, MAX_FAIL_MESSAGE),
    retryable: outcome !== 'rejected' && outcome !== 'blocked',
    ...(retryAfterMs === null ? {} : { retryAfter: formatDuration(retryAfterMs) }),
  }
}
