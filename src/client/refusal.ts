// Converts an error response, or the lack of a response, to the error that is thrown.
import { PosthornError } from './posthorn-error.ts'

/** How much of a response that is not Posthorn's is shown. */
const MAX_QUOTE_LENGTH = 200

interface Asked {
  method: string
  path: string
}

/** Errors before a connection existed: the server has not seen the request. */
const UNSENT_CODES = [
  ...['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'ETIMEDOUT'],
  ...['EADDRNOTAVAIL', 'UND_ERR_CONNECT_TIMEOUT'],
]

export function noResponse(request: Asked, error: unknown, isLate: boolean): PosthornError {
  const what = `${request.method} ${request.path}`
  const why = error instanceof Error ? causeText(error) : String(error)
  return new PosthornError({
    code: isLate ? 'timeout' : 'connection_failed',
    status: null,
    detail: isLate
      ? `${what} got no response in time`
      : `${what} ${wasUnsent(error) ? 'could not be sent' : 'got no complete response'}: ${why}`,
    cause: error,
  })
}

/** @param error the error that fetch threw */
export function wasUnsent(error: unknown): boolean {
  const { cause } = error instanceof Error ? error : {}
  return (
    cause instanceof Error && UNSENT_CODES.includes((cause as NodeJS.ErrnoException).code ?? '')
  )
}

/** Returns the cause as text: the message of fetch is only "fetch failed". */
function causeText(error: Error): string {
  const { cause } = error
  if (!(cause instanceof Error)) return error.message
  const { code } = cause as NodeJS.ErrnoException
  return cause.message === '' ? (code ?? error.message) : cause.message
}

export function refusal(request: Asked, response: Response, body: Uint8Array): PosthornError {
  const text = new TextDecoder().decode(body)
  const problem = problemIn(text)
  const retryAfterMs = retryAfterIn(response.headers.get('retry-after'))
  if (problem === null) {
    const location = response.headers.get('location')
    const found = location === null ? body : Buffer.from(`a redirect to ${location}`)
    return unexpected(request, response.status, quoted(found), undefined, retryAfterMs)
  }
  return new PosthornError({
    code: problem.code,
    status: response.status,
    detail: problem.detail,
    requestId: problem.requestId ?? response.headers.get('x-request-id'),
    errors: problem.errors ?? [],
    retryAfterMs,
  })
}

interface Problem {
  code: string
  detail: string
  requestId?: string
  errors?: { path: string; message: string }[]
}

/** Returns null if the response does not come from Posthorn. */
function problemIn(text: string): Problem | null {
  if (!text.startsWith('{')) return null
  try {
    const problem = JSON.parse(text) as Partial<Problem>
    const { requestId = '', errors = [] } = problem
    const texts = [problem.code, problem.detail, requestId]
    const isOurs = texts.every((one) => typeof one === 'string') && areFieldProblems(errors)
    return isOurs ? (problem as Problem) : null
  } catch {
    return null
  }
}

function areFieldProblems(errors: unknown): boolean {
  if (!Array.isArray(errors)) return false
  return errors.every((one) => typeof one?.path === 'string' && typeof one.message === 'string')
}

/** The beginning of the body, to help find out which server responded. */
export function quoted(body: Uint8Array): string {
  if (body.byteLength === 0) return 'an empty body'
  const start = new TextDecoder().decode(body.subarray(0, 4 * MAX_QUOTE_LENGTH))
  // The text becomes one line without control characters, because it may end up in a log or a
  // terminal.
  const text = start.replace(/[\s\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu, ' ').trim()
  return text.length <= MAX_QUOTE_LENGTH ? text : `${text.slice(0, MAX_QUOTE_LENGTH)}…`
}

export function unexpected(
  request: Asked,
  status: number,
  found: string,
  cause?: unknown,
  retryAfterMs: number | null = null,
): PosthornError {
  return new PosthornError({
    code: 'unexpected_answer',
    status,
    detail: `${request.method} ${request.path} got a ${status} response that is not from Posthorn: ${found}`,
    retryAfterMs,
    cause,
  })
}

/** Reads a Retry-After (RFC 9110, section 10.2.3): seconds, or a date. */
function retryAfterIn(header: string | null): number | null {
  if (header === null) return null
  if (/^\d+$/.test(header)) return Number(header) * 1_000
  const instant = Date.parse(header)
  return Number.isNaN(instant) ? null : Math.max(0, instant - Date.now())
}
