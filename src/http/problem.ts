// Errors in responses: application/problem+json (RFC 9457) for every error, malformed HTTP
// included.
import { randomUUID } from 'node:crypto'
import { STATUS_CODES } from 'node:http'
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify'
import { AppError, ERRORS } from '../errors.ts'
import {
  StoreUnavailable,
  StoreUnusable,
  UNAVAILABLE,
  Undecryptable,
} from '../store/store-errors.ts'

export const PROBLEM_TYPE = 'application/problem+json'

/**
 * Headers of every response except files of pages: a response can contain a secret, and is never a
 * script or a page.
 */
export const SECURITY_HEADERS = {
  'cache-control': 'no-store',
  'x-content-type-options': 'nosniff',
}

/** Retry-After if the store does not respond. */
const RETRY_AFTER_SECONDS = '1'

/** The client disconnected before its body was complete, and will not read this response. */
const CUT_OFF = new AppError('invalid_request', 'the body is incomplete')

export function sendProblem(request: FastifyRequest, reply: FastifyReply, error: unknown): void {
  const isRead = request.method === 'GET' || request.method === 'HEAD'
  const known = request.raw.errored === error ? CUT_OFF : asAppError(error, isRead)
  if (known.code === 'internal_error' || known.code === 'store_unavailable') {
    request.log.error({ err: error, requestId: request.id }, 'request.failed')
  }
  reply
    .code(known.status)
    .headers({ 'x-request-id': request.id, ...SECURITY_HEADERS, ...known.headers })
    .type(PROBLEM_TYPE)
    .send(problemJson(known, request.id))
}

function problemJson(error: AppError, requestId: string): string {
  return JSON.stringify({
    type: `urn:posthorn:error:${error.code}`,
    title: ERRORS[error.code].title,
    status: error.status,
    code: error.code,
    detail: error.message,
    requestId,
    errors: error.errors,
  })
}

/** Fastify's own errors with our messages. The details of unknown errors are not sent. */
function asAppError(error: unknown, isRead: boolean): AppError {
  if (error instanceof AppError) return error
  if (error instanceof StoreUnavailable) {
    const found = `the store ${UNAVAILABLE[error.kind]}`
    const advice =
      '; if this was a write, it may have happened: repeat it with the same Idempotency-Key'
    return new AppError('store_unavailable', isRead ? found : found + advice, {
      headers: { 'retry-after': RETRY_AFTER_SECONDS },
    })
  }
  if (error instanceof StoreUnusable) {
    const what = error instanceof Undecryptable ? `what is stored of "${error.owner}"` : 'secrets'
    const detail = `no key of this process decrypts ${what}: its ENCRYPTION_KEY or key file lacks the key that encrypted it`
    return new AppError('store_unavailable', detail, {
      headers: { 'retry-after': RETRY_AFTER_SECONDS },
    })
  }
  switch ((error as FastifyError).code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new AppError('payload_too_large', 'the body is larger than MAX_BODY_BYTES allows')
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
    case 'FST_ERR_ROUTE_MISSING_CONTENT_TYPE':
      return new AppError('unsupported_media_type', 'content-type must be application/json')
    case 'FST_ERR_CTP_INVALID_CONTENT_LENGTH':
      return new AppError('invalid_request', 'the body is not as long as content-length says')
    case 'FST_ERR_MAX_PARAM_LENGTH':
      return new AppError('invalid_request', 'a part of the path is longer than any name or id')
    case 'FST_ERR_BAD_URL':
    case 'FST_ERR_ASYNC_CONSTRAINT':
      return new AppError('invalid_request', 'the path is not a valid URL path')
    default:
      return new AppError('internal_error', 'the request failed in Posthorn; its log has the cause')
  }
}

/** Errors of Node's parser, by code. No request exists yet when they occur. */
const CLIENT_ERRORS: Record<string, [status: number, detail: string]> = {
  HPE_HEADER_OVERFLOW: [431, 'the header fields are larger than 16 KiB'],
  ERR_HTTP_REQUEST_TIMEOUT: [408, 'the request did not arrive in time'],
}

/** The complete response to input that is not HTTP. */
export function clientErrorResponse({ code = '' }: { code?: string }): RawResponse {
  const [status, detail] = CLIENT_ERRORS[code] ?? [400, 'this is not an HTTP request']
  return rawResponse(new AppError('invalid_request', detail, { status }))
}

/** The complete response to a connection with too many requests without a response. */
export function tooManyPendingResponse(): RawResponse {
  const detail = 'too many requests of this connection have no response yet; read responses first'
  return rawResponse(
    new AppError('overloaded', detail, { headers: { 'retry-after': RETRY_AFTER_SECONDS } }),
  )
}

/** The complete response to CONNECT, for which Node creates no response object. */
export function refusedConnectResponse(): RawResponse {
  const detail = 'CONNECT is not supported: this server is not a proxy'
  return rawResponse(
    new AppError('method_not_allowed', detail, { headers: { allow: 'GET, HEAD, POST' } }),
  )
}

/** A response without a route, as it is written to the socket. */
export interface RawResponse {
  status: number
  bytes: string
}

function rawResponse(error: AppError): RawResponse {
  const requestId = randomUUID()
  const body = problemJson(error, requestId)
  const headers = {
    ...error.headers,
    ...SECURITY_HEADERS,
    'content-type': PROBLEM_TYPE,
    'x-request-id': requestId,
    'content-length': Buffer.byteLength(body),
    connection: 'close',
  }
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  const { status } = error
  const bytes = `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.join('')}\r\n${body}`
  return { status, bytes }
}
