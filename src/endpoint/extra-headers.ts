// The extra request headers that an endpoint or a job may have (docs/deliveries.md, "The request").

export const MAX_EXTRA_HEADERS = 20
const MAX_HEADER_VALUE_BYTES = 4_096
const MAX_HEADER_NAME_LENGTH = 256

/**
 * Posthorn sets these itself. accept-encoding is one of them because Posthorn does not decode
 * responses.
 */
const OWN_NAMES = ['host', 'content-length', 'idempotency-key', 'accept-encoding']
/** These headers belong to one connection, not to the message (RFC 9110, section 7.6.1). */
const HOP_NAMES = [
  'connection',
  'transfer-encoding',
  'te',
  'trailer',
  'upgrade',
  'expect',
  'keep-alive',
  'via',
]
/** Receivers trust these headers because only their own proxy, gateway or browser sets them. */
const TRUSTED_NAMES = [
  'cookie',
  'forwarded',
  'x-real-ip',
  'x-client-ip',
  'x-cluster-client-ip',
  'true-client-ip',
  'cf-connecting-ip',
  'fastly-client-ip',
  'x-original-host',
  'x-original-url',
  'x-rewrite-url',
  'x-http-method',
  'x-http-method-override',
  'x-method-override',
  'metadata-flavor',
  'metadata',
]
const FORBIDDEN_NAMES = new Set([...OWN_NAMES, ...HOP_NAMES, ...TRUSTED_NAMES])
const FORBIDDEN_PREFIXES = ['proxy-', 'webhook-', 'posthorn-', 'x-forwarded-', 'x-aws-']

/** A token of RFC 9110, section 5.6.2. */
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/
/**
 * Field values of RFC 9110, section 5.5, limited to those that HTTP/1.1 libraries send unchanged.
 */
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/

/** For comparisons: the case of a name means nothing, and every header is sent in lower case. */
export function withLowerNames(headers: Record<string, string>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]),
  )
}

/** Why this header must not be sent, as a sentence; null if it may be sent. */
export function extraHeaderProblem(name: string, value: string): string | null {
  const lower = name.toLowerCase()
  if (!TOKEN.test(name) || name.length > MAX_HEADER_NAME_LENGTH) {
    return 'the name is not an HTTP header name'
  }
  if (FORBIDDEN_NAMES.has(lower) || FORBIDDEN_PREFIXES.some((prefix) => lower.startsWith(prefix))) {
    return 'Posthorn, the connection or a proxy sets this header; it cannot be given'
  }
  if (!VALUE.test(value)) return 'the value holds a character that no HTTP header may hold'
  if (Buffer.byteLength(value, 'latin1') > MAX_HEADER_VALUE_BYTES) {
    return `the value is longer than ${MAX_HEADER_VALUE_BYTES} bytes`
  }
  return null
}
