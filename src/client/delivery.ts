// A delivery as a handler sees it, read from the headers that came with it.
import { VerificationError } from './verification-error.ts'

export interface Delivery<Payload = unknown> {
  /** The same over all attempts: record it with the work, and the work is done once. */
  jobId: string
  endpoint: string
  /** Number of this attempt, from 1. */
  attempt: number
  /** What is left of the budget after this one. */
  attemptsLeft: number
  /** Only ever grows: keep it beside what you write, and refuse a smaller one. */
  fence: number
  /** When it was due. */
  scheduledFor: Date
  /** When Posthorn gives this request up. */
  deadline: Date
  /** Name of the schedule that made the job. */
  schedule: string | null
  /** Of an endpoint with async completion: where to report. */
  completeUrl: string | null
  failUrl: string | null
  heartbeatUrl: string | null
  /** A ping that somebody asked for, not a job. */
  isTest: boolean
  payload: Payload
  /** The payload's exact bytes, where JSON.parse would change a number. */
  rawPayload: Uint8Array
}

type Header = (name: string) => string | null

/** @throws VerificationError when a header or the payload is not what Posthorn sends */
export function deliveryFrom<Payload>(
  jobId: string,
  timestampSeconds: number,
  header: Header,
  body: Uint8Array,
): Delivery<Payload> {
  const isTest = header('posthorn-test') === 'true'
  const at = new Date(timestampSeconds * 1_000)
  // A ping belongs to no job, so that it may lack what only jobs have.
  const absent = isTest ? { endpoint: '', attempt: 1, count: 0, instant: at } : null
  return {
    jobId,
    endpoint: header('posthorn-endpoint') ?? absent?.endpoint ?? missing('posthorn-endpoint'),
    attempt: count(header, 'posthorn-attempt', absent?.attempt),
    attemptsLeft: count(header, 'posthorn-attempts-left', absent?.count),
    fence: count(header, 'posthorn-fence', absent?.count),
    scheduledFor: instant(header, 'posthorn-scheduled-for', absent?.instant),
    deadline: instant(header, 'posthorn-deadline', absent?.instant),
    schedule: header('posthorn-schedule'),
    completeUrl: header('posthorn-complete-url'),
    failUrl: header('posthorn-fail-url'),
    heartbeatUrl: header('posthorn-heartbeat-url'),
    isTest,
    payload: payloadFrom(body) as Payload,
    rawPayload: body,
  }
}

function count(header: Header, name: string, absent: number | undefined): number {
  const text = header(name)
  if (text === null) return absent ?? missing(name)
  if (!/^\d{1,15}$/.test(text)) throw malformed(name)
  return Number(text)
}

function instant(header: Header, name: string, absent: Date | undefined): Date {
  const text = header(name)
  if (text === null) return absent ?? missing(name)
  const date = new Date(text)
  if (Number.isNaN(date.getTime())) throw malformed(name)
  return date
}

function payloadFrom(body: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(body))
  } catch (error) {
    throw new VerificationError('invalid_payload', 'the body is not JSON in UTF-8', error)
  }
}

function missing(name: string): never {
  throw new VerificationError('missing_header', `the header ${name} is missing`)
}

function malformed(name: string): VerificationError {
  return new VerificationError('malformed_header', `the header ${name} is malformed`)
}
