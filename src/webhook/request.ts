// The HTTP request of one attempt: headers, signature, bytes (docs: delivery, "The request").
import type { Endpoint } from '../endpoint/endpoint.ts'
import type { ClaimedJob } from '../job/job.ts'
import { signatureHeader } from './signature.ts'

/** What is sent, always by POST. */
export interface WebhookRequest {
  url: string
  /** Names and values in turn; names in lower case, each once. */
  headers: string[]
  body: Uint8Array
}

export interface RequestParts {
  job: Pick<
    ClaimedJob,
    'jobId' | 'fence' | 'attemptNumber' | 'attemptsLeft' | 'runAt' | 'payload' | 'headers'
  >
  endpoint: Pick<Endpoint, 'name' | 'url' | 'secrets' | 'headers'>
  /** Epoch milliseconds by the store's clock. */
  now: number
  timeoutMs: number
  /** `Posthorn/<version>` */
  userAgent: string
}

const CONTENT_TYPE = 'application/json'

/** Ours whatever a caller gives: the answer is read as it comes, so it must not be compressed. */
const FIXED_NAMES = new Set(['accept-encoding', 'user-agent'])

/** The signed request of this attempt. */
export function webhookRequest(parts: RequestParts): WebhookRequest {
  const { job, endpoint, now, timeoutMs, userAgent } = parts
  const timestampSeconds = Math.floor(now / 1_000)
  const headers = [
    'accept-encoding',
    'identity',
    'user-agent',
    userAgent,
    'webhook-id',
    job.jobId,
    'webhook-timestamp',
    String(timestampSeconds),
    'webhook-signature',
    signatureHeader(endpoint.secrets, job.jobId, timestampSeconds, job.payload),
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
    'posthorn-scheduled-for',
    new Date(job.runAt).toISOString(),
    'posthorn-deadline',
    new Date(now + timeoutMs).toISOString(),
  ]
  addCallersHeaders(headers, endpoint.headers, job.headers)
  return { url: endpoint.url, headers, body: job.payload }
}

/** The endpoint's, then the job's over them; which names may be given was checked at the door. */
function addCallersHeaders(
  headers: string[],
  ofEndpoint: Record<string, string>,
  ofJob: Record<string, string>,
): void {
  const merged = new Map([['content-type', CONTENT_TYPE]])
  for (const given of [ofEndpoint, ofJob]) {
    for (const name of Object.keys(given)) {
      const lower = name.toLowerCase()
      if (!FIXED_NAMES.has(lower)) merged.set(lower, given[name] as string)
    }
  }
  for (const [name, value] of merged) headers.push(name, value)
}
