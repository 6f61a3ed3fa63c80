// A delivery as a handler sees it, read from the headers of its request.
import { VerificationError } from './verification-error.ts'

export interface Delivery<Payload = unknown> {
  /** The same for all attempts. Record it with the work so that the work is done only once. */
  jobId: string
  endpoint: string
  /** Number of this attempt, from 1. */
  attempt: number
  /** Attempts left after this one. */
  attemptsLeft: number
  /**
   * A number that only grows. Store it with what you write, and reject a write with a smaller
   * number.
   */
  fence: number
  /** When the attempt was due. */
  scheduledFor: Date
  /** When Posthorn ends this request as timed out. */
  deadline: Date
  /** Name of the schedule that enqueued the job. */
  schedule: string | null
  /** Where to report, if the endpoint has async completion; null: it has not. */
  completeUrl: string | null
  failUrl: string | null
  heartbeatUrl: string | null
  /** The request is a test ping and belongs to no job. */
  isTest: boolean
  payload: Payload
  /** The exact bytes of the payload, for numbers that JSON.parse would change. */
  rawPayload: Uint8Array
}

type Header = (name: string) => string | null

/** @throws VerificationError if a header or the payload is not what Posthorn sends */
export function deliveryFrom<Payload>(
  jobId: string,
  timestampSeconds: number,
  header: Header,
  body: Uint8Array,
): Delivery<Payload> {
  const isTest = header('posthorn-test') === 'true'
  const at = new Date(timestampSeconds * 1_000)
  // A ping belongs to no job, so it may lack headers that only jobs have.
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
