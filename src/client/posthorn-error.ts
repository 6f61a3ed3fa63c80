// The error that the client throws if Posthorn refuses a call or cannot be reached.

/** The codes of the API, as docs/ERRORS.md lists them. */
export const API_ERROR_CODES = [
  'invalid_json',
  'invalid_request',
  'unauthorized',
  'forbidden',
  'not_found',
  'job_not_found',
  'endpoint_not_found',
  'limit_not_found',
  'group_not_found',
  'schedule_not_found',
  'method_not_allowed',
  'job_state_conflict',
  'lease_lost',
  'endpoint_in_use',
  'limit_in_use',
  'too_many_limits',
  'too_many_endpoints',
  'too_many_keys',
  'group_closed',
  'group_full',
  'group_open',
  'group_state_conflict',
  'endpoint_disabled',
  'dedupe_conflict',
  'precondition_failed',
  'payload_too_large',
  'unsupported_media_type',
  'idempotency_key_reused',
  'internal_error',
  'store_unavailable',
  'overloaded',
] as const

/** The codes of the client itself: there was no response, or it did not come from Posthorn. */
export const CLIENT_ERROR_CODES = [
  'connection_failed',
  'timeout',
  'wait_timeout',
  'unexpected_answer',
] as const

/** Other codes are possible, because the server may be newer than the client. */
export type PosthornErrorCode =
  | (typeof API_ERROR_CODES)[number]
  | (typeof CLIENT_ERROR_CODES)[number]
  | (string & {})

export interface FieldProblem {
  /** A JSON Pointer into the body, or `query/limit`, `header/idempotency-key`. */
  path: string
  message: string
}

export class PosthornError extends Error {
  override readonly name = 'PosthornError'
  readonly code: PosthornErrorCode
  /** The status of the HTTP response; null: there was no response. */
  readonly status: number | null
  /** One sentence that states what was found and what was expected. */
  readonly detail: string
  /** The id of the request in the server's log. */
  readonly requestId: string | null
  /** The invalid fields, if there are any. */
  readonly errors: FieldProblem[]
  /** The delay before a retry that the response asked for. */
  readonly retryAfterMs: number | null

  constructor(parts: {
    code: PosthornErrorCode
    status: number | null
    detail: string
    requestId?: string | null
    errors?: FieldProblem[]
    retryAfterMs?: number | null
    cause?: unknown
  }) {
    const fields = (parts.errors ?? []).map(({ path, message }) => `${path}: ${message}`)
    super(
      [`${parts.code}: ${parts.detail}`, ...fields].join('\n  '),
      parts.cause === undefined ? undefined : { cause: parts.cause },
    )
    this.code = parts.code
    this.status = parts.status
    this.detail = parts.detail
    this.requestId = parts.requestId ?? null
    this.errors = parts.errors ?? []
    this.retryAfterMs = parts.retryAfterMs ?? null
  }
}
