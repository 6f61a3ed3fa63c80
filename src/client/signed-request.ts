// Reads headers and raw body from the request objects of different servers and frameworks.
import { readBytes } from './read-bytes.ts'
import { VerificationError } from './verification-error.ts'

/** Headers as in Fetch, or as in Node: an array for a header that was sent more than once. */
type RequestHeaders =
  | { get(name: string): string | null }
  | Record<string, string | readonly string[] | undefined>

/**
 * A Fetch Request; a request of Node, Express or a similar framework; or headers and body.
 * If a parser has read the body, the bytes are taken from `rawBody`, or from `body` if that is a
 * string or bytes.
 */
export interface SignedRequest {
  headers: RequestHeaders
  body?: unknown
  rawBody?: unknown
}

/** No payload is longer than the largest value of the setting MAX_BODY_BYTES. */
const MAX_BODY_BYTES = 8 * 1_048_576

/** Returns a function that reads a header by its lower-case name; null: the header is absent. */
export function signedHeaders({ headers }: SignedRequest): (name: string) => string | null {
  const { get } = headers
  if (typeof get === 'function') return (name) => get.call(headers, name) ?? null
  const byName = new Map<string, string>()
  for (const [name, value] of Object.entries(headers as Record<string, unknown>)) {
    if (typeof value === 'string') byName.set(name.toLowerCase(), value)
    // The values are joined as in Fetch. No header that is read here may occur twice, so the joined
    // value is refused.
    else if (Array.isArray(value)) byName.set(name.toLowerCase(), value.join(', '))
  }
  return (name) => byName.get(name) ?? null
}

/** @throws TypeError if the raw bytes are no longer available */
export async function rawBody(request: SignedRequest): Promise<Uint8Array> {
  const kept = bytesOf(request.rawBody) ?? bytesOf(request.body)
  if (kept !== null) return limited(kept)
  if (isParsed(request.body)) throw notRaw('its body was parsed')
  const stream = streamOf(request)
  // In Fetch, a request without a body has null as its body.
  if (stream === null && request.body === null) return new Uint8Array()
  if (stream === null) throw notRaw('there is no body')
  return limited(await readBytes(stream, MAX_BODY_BYTES))
}

function bytesOf(body: unknown): Uint8Array | null {
  if (typeof body === 'string') return Buffer.from(body)
  if (body instanceof Uint8Array) return body
  return body instanceof ArrayBuffer ? new Uint8Array(body) : null
}

/**
 * Whether a parser has turned the bytes into an object. The exact spelling of the payload is then
 * lost.
 */
function isParsed(body: unknown): boolean {
  return body !== undefined && body !== null && !isStream(body)
}

function limited(bytes: Uint8Array | null): Uint8Array {
  if (bytes !== null && bytes.byteLength <= MAX_BODY_BYTES) return bytes
  throw new VerificationError('body_too_large', `the body is over ${MAX_BODY_BYTES} bytes`)
}

function streamOf(request: SignedRequest): AsyncIterable<Uint8Array> | null {
  const { bodyUsed, readableDidRead } = request as { bodyUsed?: boolean; readableDidRead?: boolean }
  if (bodyUsed || readableDidRead) throw notRaw('its body was read before')
  if (isStream(request.body)) return request.body
  return isStream(request) ? request : null
}

function isStream(value: unknown): value is AsyncIterable<Uint8Array> {
  return typeof value === 'object' && value !== null && Symbol.asyncIterator in value
}

function notRaw(why: string): TypeError {
  return new TypeError(
    `verify needs the bytes of the request as they were received, but ${why}: verify before a body parser, or give { headers, body } with the raw body`,
  )
}
