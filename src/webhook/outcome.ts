// Decides what a response, or the lack of one, means for the attempt. Pure. docs/outcomes.md
// explains the outcomes to users.
import type { StatusChoices } from '../endpoint/endpoint.ts'
import type { Outcome } from '../job/job.ts'
import { MAX_RETRY_AFTER_MS } from '../job/retry-policy.ts'

export interface ResponseMeaning {
  outcome: Extract<Outcome, 'succeeded' | 'rejected' | 'throttled' | 'http_error'>
  /** Retry-After, in milliseconds from now; null: absent, not usable, or not in the future. */
  retryAfterMs: number | null
  /** One sentence for people. */
  message: string
  /** The status is 410: the endpoint accepts no more requests. */
  isGone: boolean
  /** Throttled: the fairness key of the job alone rests, if it has one. */
  throttlesKey: boolean
}

export interface ErrorMeaning {
  outcome: Extract<
    Outcome,
    'connect_error' | 'dns_error' | 'tls_error' | 'protocol_error' | 'blocked'
  >
  errorCode: string
  /** One sentence for people. */
  message: string
}

/** Header names in lower case. A repeated name has a list of values. */
export type ResponseHeaders = Record<string, string | string[] | undefined>

/**
 * The one list of statuses with a meaning of their own; every other status outside 2xx is retried.
 * 503 throttles only with a Retry-After, whatever its value: the header means that the endpoint is
 * unavailable for a while, and a clock that is behind must not use up the attempts of its jobs.
 */
export const STATUS_MEANINGS = {
  rejected: [400, 410, 413, 414, 415, 422],
  throttled: [429, 503],
} as const

const GONE = 410

/** The address policy refused the address. */
export class AddressRefused extends Error {
  override readonly name = 'AddressRefused'
  readonly code = 'ADDRESS_REFUSED'
}

/** The TCP connection was open, but the TLS handshake failed. */
export class HandshakeFailed extends Error {
  override readonly name = 'HandshakeFailed'
  readonly code: string

  constructor(cause: Error) {
    super(cause.message, { cause })
    this.code = codeOf(cause)
  }
}

/**
 * The meaning of a response. `posthorn-no-retry` is about this response alone, so it takes
 * precedence over the endpoint's `statuses`, which are about all responses with a status.
 *
 * @param now epoch milliseconds, for a Retry-After that is a date
 * @param statuses of the endpoint
 */
export function outcomeOfResponse(
  status: number,
  headers: ResponseHeaders,
  now: number,
  statuses: StatusChoices = {},
): ResponseMeaning {
  const message = `the endpoint responded with ${status}${redirectOf(status, headers)}`
  const plain = { retryAfterMs: null, message, isGone: false, throttlesKey: false }
  if (status >= 200 && status < 300) return { ...plain, outcome: 'succeeded' }
  if (status >= 300 && word(headers['posthorn-no-retry']) === 'true') {
    return { ...plain, outcome: 'rejected', message: `${message} with posthorn-no-retry` }
  }
  const choice = statuses[status]
  if (choice === 'final') {
    const detail = `${message}, which is final according to the statuses of the endpoint`
    return { ...plain, outcome: 'rejected', message: detail }
  }
  if (choice === undefined && isOneOf(STATUS_MEANINGS.rejected, status)) {
    return { ...plain, outcome: 'rejected', isGone: status === GONE }
  }
  const retryAfter = first(headers['retry-after'])
  const retryAfterMs = retryAfter === undefined ? null : retryAfterIn(retryAfter, now)
  const isThrottled = choice === undefined ? throttles(status, retryAfter) : choice === 'throttle'
  if (!isThrottled) return { ...plain, outcome: 'http_error', retryAfterMs }
  const throttlesKey = word(headers['posthorn-throttle-scope']) === 'key'
  const scope = throttlesKey ? ' with posthorn-throttle-scope: key' : ''
  return {
    ...{ ...plain, outcome: 'throttled', retryAfterMs, throttlesKey },
    message: `${message}${scope}`,
  }
}

/** Names the target of a redirect, which is often the URL that should be registered. */
function redirectOf(status: number, { location }: ResponseHeaders): string {
  const target = first(location)
  if (status < 300 || status >= 400 || target === undefined) return ''
  return `, a redirect to ${shortened(withoutSecrets(target))}; redirects are not followed`
}

/**
 * Removes the user, the password, the query and the fragment. They may be credentials, and many
 * people can read a message.
 */
function withoutSecrets(target: string): string {
  return target
    .replace(/[?#].*$/s, (rest) => `${rest[0]}…`)
    .replace(/^([^:/\\]*:[/\\\s]*|[/\\\s]{2,})[^/\\]*@/, '$1…@')
}

function throttles(status: number, retryAfter: string | undefined): boolean {
  return isOneOf(STATUS_MEANINGS.throttled, status) && (status !== 503 || retryAfter !== undefined)
}

/** The message about a status below 100, which HTTP does not define. */
export function invalidStatus(status: number): string {
  const digits = String(status).padStart(3, '0')
  return `the response is not valid HTTP: ${digits} is not a status code`
}

/** The message about a 101, whose headers may or may not name the protocol. */
export const SWITCHES_PROTOCOL =
  'the response is not valid HTTP: it switches the protocol, which was not requested'

const CLOSED_CODES = new Set(['ECONNRESET', 'EPIPE', 'UND_ERR_SOCKET'])

/** Whether the other side closed an open connection. */
export function isClosedByReceiver(errorCode: string): boolean {
  return CLOSED_CODES.has(errorCode)
}

/** The meaning of an error without a response. An unknown error counts as a failed connection. */
export function outcomeOfError(error: Error): ErrorMeaning {
  const errorCode = codeOf(error)
  if (error instanceof AddressRefused) {
    return { outcome: 'blocked', errorCode, message: error.message }
  }
  if (isDnsError(error, errorCode)) {
    const message = `the host name of the endpoint does not resolve (${errorCode})`
    return { outcome: 'dns_error', errorCode, message }
  }
  if (error instanceof HandshakeFailed || TLS_CODE.test(errorCode)) {
    return { outcome: 'tls_error', errorCode, message: tlsMessage(errorCode, error) }
  }
  if (isProtocolError(error, errorCode)) {
    return { outcome: 'protocol_error', errorCode, message: protocolMessage(errorCode, error) }
  }
  return { outcome: 'connect_error', errorCode, message: connectMessage(errorCode) }
}

/** Limit of text that comes from the endpoint: names in a certificate, a redirect target. */
const MAX_DETAIL_LENGTH = 300

/** OpenSSL's and Node's codes of TLS failures outside the handshake: TLS 1.3 alerts come late. */
const TLS_CODE = /^(ERR_TLS_|ERR_SSL_|EPROTO$)/

/** undici's codes, and the code that codeOf() gives to parser errors, which have none. */
const PROTOCOL_CODE = /^(HTTP_PARSER_ERROR|UND_ERR_HEADERS_OVERFLOW|UND_ERR_RES_\w+)$/
/** undici marks an unrequested 100 and an unrequested upgrade only by the text of the error. */
const PROTOCOL_TEXT = /^bad (response|upgrade)$/

const CONNECT_MESSAGES: Record<string, string> = {
  ECONNREFUSED: 'the endpoint refused the connection',
  ECONNRESET: 'the endpoint closed the connection before it responded',
  EPIPE: 'the endpoint closed the connection before it responded',
  UND_ERR_SOCKET: 'the endpoint closed the connection before it responded',
  ETIMEDOUT: 'the endpoint did not accept the connection in time',
  EHOSTUNREACH: 'the endpoint cannot be reached',
  ENETUNREACH: 'the endpoint cannot be reached',
}

function connectMessage(errorCode: string): string {
  return `${CONNECT_MESSAGES[errorCode] ?? 'the connection failed'} (${errorCode})`
}

/** What the parser objects to, found by words of its message. The first match applies. */
const PARSER_OBJECTIONS: readonly (readonly [words: RegExp, detail: string])[] = [
  [/content-length|transfer-encoding/i, 'its length is declared twice or incorrectly'],
  [/header/i, 'it has a malformed header'],
  [/./, 'its status line is malformed'],
]

function protocolMessage(errorCode: string, error: Error): string {
  if (PROTOCOL_TEXT.test(error.message)) return SWITCHES_PROTOCOL
  return `the response is not valid HTTP: ${protocolDetail(errorCode, error.message)}`
}

function protocolDetail(errorCode: string, text: string): string {
  if (errorCode === 'UND_ERR_HEADERS_OVERFLOW') return 'its headers are longer than 16 KiB'
  return PARSER_OBJECTIONS.find(([words]) => words.test(text))?.[1] ?? 'it has no status line'
}

const UNKNOWN_ISSUER =
  'the issuer of its certificate is unknown, or an intermediate certificate is missing; EXTRA_CA_CERTS can add the issuer'
const NO_TLS = 'the endpoint does not speak TLS on this port'
const OLD_TLS = 'the endpoint offers only versions of TLS that are no longer safe'

const TLS_MESSAGES: Record<string, string> = {
  CERT_HAS_EXPIRED: 'its certificate has expired',
  CERT_NOT_YET_VALID: 'its certificate is not valid yet',
  CERT_REVOKED: 'its certificate was revoked',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'its certificate is self-signed; EXTRA_CA_CERTS can add it',
  SELF_SIGNED_CERT_IN_CHAIN: UNKNOWN_ISSUER,
  UNABLE_TO_GET_ISSUER_CERT: UNKNOWN_ISSUER,
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: UNKNOWN_ISSUER,
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: UNKNOWN_ISSUER,
  INVALID_PURPOSE: 'its certificate is not a server certificate',
  CERT_SIGNATURE_FAILURE: 'the signature of its certificate is wrong',
  EE_KEY_TOO_SMALL: 'the key of its certificate is too small to be safe',
  CA_MD_TOO_WEAK: 'its certificate is signed with an algorithm that is no longer safe',
  ERR_SSL_WRONG_VERSION_NUMBER: NO_TLS,
  ERR_SSL_PACKET_LENGTH_TOO_LONG: NO_TLS,
  ERR_SSL_UNSUPPORTED_PROTOCOL: OLD_TLS,
  ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION: OLD_TLS,
  ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED: 'the endpoint requires a client certificate',
}

function tlsMessage(errorCode: string, error: Error): string {
  const detail = otherNames(errorCode, error.cause ?? error) ?? TLS_MESSAGES[errorCode]
  const known = detail === undefined ? errorCode : `${detail} (${errorCode})`
  return `no TLS connection could be made: ${known}`
}

/** Shows the names in the certificate, so that a reader can compare them with the URL. */
function otherNames(errorCode: string, cause: unknown): string | null {
  if (errorCode !== 'ERR_TLS_CERT_ALTNAME_INVALID') return null
  const { host, cert } = cause as { host?: string; cert?: { subjectaltname?: string } }
  const names = cert?.subjectaltname
  const shown = names === undefined ? 'no name' : shortened(names)
  return `its certificate is for ${shown}, not for ${host ?? 'this host'}`
}

function isDnsError(error: Error, code: string): boolean {
  const { syscall } = error as NodeJS.ErrnoException
  return syscall === 'getaddrinfo' || code.startsWith('EAI_') || code === 'ENOTFOUND'
}

function isProtocolError(error: Error, code: string): boolean {
  return (
    PROTOCOL_CODE.test(code) || (code === 'UND_ERR_SOCKET' && PROTOCOL_TEXT.test(error.message))
  )
}

function codeOf(error: Error): string {
  const { code } = error as NodeJS.ErrnoException
  if (typeof code === 'string' && code !== '') return code
  if (error.name === 'HTTPParserError') return 'HTTP_PARSER_ERROR'
  return 'UNKNOWN'
}

function shortened(text: string): string {
  return text.length <= MAX_DETAIL_LENGTH ? text : `${text.slice(0, MAX_DETAIL_LENGTH)}…`
}

function first(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value
}

function word(value: string | string[] | undefined): string | undefined {
  return first(value)?.trim().toLowerCase()
}

function isOneOf(statuses: readonly number[], status: number): boolean {
  return statuses.includes(status)
}

/** The three forms of an HTTP date (RFC 9110, section 5.6.7). Date.parse accepts more. */
const HTTP_DATES = [
  /^(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT$/,
  /^(Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, \d{2}-[A-Z][a-z]{2}-\d{2} \d{2}:\d{2}:\d{2} GMT$/,
  /^(Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} [ \d]\d \d{2}:\d{2}:\d{2} \d{4}$/,
]

/** Milliseconds from now, at most MAX_RETRY_AFTER_MS; null for 0, a past date or other text. */
function retryAfterIn(value: string, now: number): number | null {
  const text = value.trim()
  if (/^\d+$/.test(text)) return waitOf(Number(text) * 1_000)
  if (!HTTP_DATES.some((shape) => shape.test(text))) return null
  return waitOf(Date.parse(text.endsWith('GMT') ? text : `${text} GMT`) - now)
}

function waitOf(ms: number): number | null {
  return ms > 0 ? Math.min(ms, MAX_RETRY_AFTER_MS) : null
}
