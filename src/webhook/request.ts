// Builds the HTTP request of one attempt or test ping: headers, signature and body.
// docs/deliveries.md describes it to users.
import type { Endpoint, StatusChoices } from '../endpoint/endpoint.ts'
import { type ClaimedJob, HOPS_HEADER, type TraceContext } from '../job/job.ts'
import { deliveredBody } from '../job/needs.ts'
import { signatureHeader } from './signature.ts'

/** A request, always a POST. */
export interface WebhookRequest {
  url: string
  /** Alternating names and values. Names are in lower case, each once. */
  headers: string[]
  body: Uint8Array
  /**
   * The meanings of statuses at this endpoint that differ from the default; absent: none differ.
   */
  statuses?: StatusChoices
}

export interface RequestParts {
  job: Pick<
    ClaimedJob,
    | 'jobId'
    | 'fence'
    | 'attemptNumber'
    | 'attemptsLeft'
    | 'runAt'
    | 'payload'
    | 'inputs'
    | 'scheduleName'
    | 'hops'
  >
  /** The headers of the job. */
  headers: Record<string, string>
  endpoint: Pick<Endpoint, 'name' | 'secrets' | 'headers' | 'statuses'>
  url: string
  /**
   * Where an async handler reports: base URL of the API and token of the attempt. null: the handler
   * is not async.
   */
  completion: { baseUrl: string; token: string } | null
  trace: TraceContext | null
  /** Epoch milliseconds by the store's clock. */
  now: number
  timeoutMs: number
  /** `Posthorn/<version>` */
  userAgent: string
}

const CONTENT_TYPE = 'application/json'

/** The signed request of an attempt. */
export function webhookRequest(parts: RequestParts): WebhookRequest {
  const { job, endpoint, url, now, timeoutMs, userAgent } = parts
  const body = deliveredBody(job.payload, job.inputs)
  const timestampSeconds = Math.floor(now / 1_000)
  const headers = [
    'accept-encoding',
    'identity',
    'webhook-id',
    job.jobId,
    'webhook-timestamp',
    String(timestampSeconds),
    'webhook-signature',
    signatureHeader(endpoint.secrets, job.jobId, timestampSeconds, body),
    'idempotency-key',
    job.jobId,
    'posthorn-endpoint',
    endpoint.name,
    'posthorn-attempt',
    String(job.attemptNumber),
    'posthorn-attempts-left',
    String(job.attemptsLeft),
    'posthorn-fence',
    String(job.fence),
    HOPS_HEADER,
    String(job.hops + 1),
    'posthorn-scheduled-for',
    new Date(job.runAt).toISOString(),
    'posthorn-deadline',
    new Date(now + timeoutMs).toISOString(),
  ]
  if (job.scheduleName !== null) headers.push('posthorn-schedule', job.scheduleName)
  addCompletion(headers, job.jobId, parts.completion)
  addCallersHeaders(headers, userAgent, parts, parts.trace)
  return { url, headers, body, statuses: endpoint.statuses }
}

export const PING_BODY = Buffer.from('{"type":"posthorn.test"}')

/** The signed request of a test ping, which belongs to no job. */
export function pingRequest(parts: {
  id: string
  endpoint: RequestParts['endpoint']
  url: string
  now: number
  timeoutMs: number
  userAgent: string
}): WebhookRequest {
  const { id, endpoint, url, now, timeoutMs, userAgent } = parts
  const timestampSeconds = Math.floor(now / 1_000)
  const headers = [
    'accept-encoding',
    'identity',
    'webhook-id',
    id,
    'webhook-timestamp',
    String(timestampSeconds),
    'webhook-signature',
    signatureHeader(endpoint.secrets, id, timestampSeconds, PING_BODY),
    'posthorn-test',
    'true',
    'posthorn-endpoint',
    endpoint.name,
    'posthorn-deadline',
    new Date(now + timeoutMs).toISOString(),
  ]
  addCallersHeaders(headers, userAgent, { endpoint, headers: {} }, null)
  return { url, headers, body: PING_BODY, statuses: endpoint.statuses }
}

function addCompletion(
  headers: string[],
  jobId: string,
  completion: RequestParts['completion'],
): void {
  if (completion === null) return
  for (const verb of ['complete', 'fail', 'heartbeat']) {
    const url = `${completion.baseUrl}/jobs/${jobId}/${verb}?token=${completion.token}`
    headers.push(`posthorn-${verb}-url`, url)
  }
}

/**
 * Adds the headers of the job, then those of the endpoint, then those of the trace. A later header
 * replaces an earlier one of the same name: the client that enqueues a job is not trusted to
 * replace the credentials of the endpoint. This is decided here, because the endpoint can change
 * after the enqueue. The enqueue checked which names are allowed at all.
 */
function addCallersHeaders(
  headers: string[],
  userAgent: string,
  { endpoint, headers: ofJob }: Pick<RequestParts, 'endpoint' | 'headers'>,
  trace: TraceContext | null,
): void {
  const merged = new Map([
    ['content-type', CONTENT_TYPE],
    ['user-agent', userAgent],
  ])
  for (const given of [ofJob, endpoint.headers]) {
    for (const name of Object.keys(given)) merged.set(name.toLowerCase(), given[name] as string)
  }
  if (trace !== null) {
    merged.set('traceparent', trace.traceparent)
    if (trace.tracestate === null) merged.delete('tracestate')
    else merged.set('tracestate', trace.tracestate)
  }
  for (const [name, value] of merged) headers.push(name, value)
}
