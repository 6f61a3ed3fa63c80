// One attempt of `posthorn listen`: the pulled job sent to the handler as a worker would send it,
// its lease kept meanwhile, and what became of it reported.
import type { Call } from '../../src/client/call.ts'
import { type Posthorn, PosthornError } from '../../src/client/client.ts'
import { MAX_FAIL_MESSAGE, reportText } from '../../src/client/report-text.ts'
import { formatDuration, parseDuration } from '../../src/job/duration.ts'
import { VERSION } from '../../src/version.ts'
import { webhookRequest } from '../../src/webhook/request.ts'
import type { AttemptEnd, Sender, Sending } from '../../src/webhook/send.ts'
import { errorInCommandWords } from '../command-words.ts'
import { complete, fail, type PulledJob } from './claim-call.ts'
import { isOfServer } from './patience.ts'

export interface AttemptParts {
  posthorn: Posthorn
  call: Call
  sender: Sender
  endpoint: string
  url: string
  secret: string
  /** Of a job that gives none itself. */
  timeoutMs: number
  leaseMs: number
}

export interface AttemptUnderWay {
  /** What became of it, and why that could not be told to the server, if so; never rejects. */
  done: Promise<{ end: AttemptEnd; reportProblem: string | null }>
  /** Gives the handler up. */
  interrupt(): void
}

const USER_AGENT = `Posthorn/${VERSION} (listen)`
/** Two beats may be lost before the lease is. */
const BEATS_PER_LEASE = 3

/** @param claimedAtMs monotonic, just before the claim: its lease counts from no earlier */
export function startAttempt(
  parts: AttemptParts,
  job: PulledJob,
  claimedAtMs: number,
): AttemptUnderWay {
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
      // The API does not show what is left of a budget; without free attempts it is this.
      attemptsLeft: Math.max(0, job.maxAttempts - job.attemptCount),
      runAt: Date.parse(job.runAt),
      payload: job.payload,
      scheduleName: job.scheduleName,
      // The API does not show them.
      hops: 0,
    },
    // Their values are not shown to anybody: what is masked must not be sent.
    headers: {},
    endpoint: { name: endpoint, secrets: [secret], headers: {}, statuses: {} },
    url,
    completion: null,
    trace: null,
    now: Date.now(),
    timeoutMs,
    userAgent: USER_AGENT,
  })
  return sender.send(request, timeoutMs, mayStillSend)
}

/** Renews the lease until it is dropped; ends the attempt when it is lost or the job cancelled. */
function keepLease(
  { posthorn, leaseMs }: AttemptParts,
  job: PulledJob,
  claimedAtMs: number,
  abort: Sending['abort'],
): { mayStillSend: () => boolean; drop: () => void } {
  let endsAtMs = claimedAtMs + leaseMs
  let isBeating = false
  async function beat(): Promise<void> {
    if (performance.now() >= endsAtMs) return abort('lost')
    if (isBeating) return
    isBeating = true
    const askedAtMs = performance.now()
    try {
      const extend = formatDuration(leaseMs)
      const { cancelRequested } = await posthorn.heartbeat(job, { extend })
      if (cancelRequested) abort('cancelled')
      else endsAtMs = askedAtMs + leaseMs
    } catch (error) {
      // Any other failure may pass before the lease is over.
      if (error instanceof PosthornError && error.code === 'lease_lost') abort('lost')
    } finally {
      isBeating = false
    }
  }
  const timer = setInterval(() => void beat(), leaseMs / BEATS_PER_LEASE)
  return {
    mayStillSend: () => performance.now() < endsAtMs,
    drop: () => clearInterval(timer),
  }
}

/** What could not be told, as a sentence; null: the server knows. */
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

/** A result that the API does not take, for it is nested too deep, is no reason to do it again. */
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
    if (!(error instanceof PosthornError) || error.status !== 400 || !isOfServer(error)) throw error
    await complete(call, job, JSON.stringify({ text: result }), untilMs)
    return `its result is kept as text: ${errorInCommandWords(error).detail}`
  }
}

/** As a worker decides: what is rejected is dead at once, all else is tried again. */
function failureOf({ outcome, message, retryAfterMs }: AttemptEnd) {
  return {
    message: reportText(message, MAX_FAIL_MESSAGE),
    retryable: outcome !== 'rejected' && outcome !== 'blocked',
    ...(retryAfterMs === null ? {} : { retryAfter: formatDuration(retryAfterMs) }),
  }
}
