// Every error a client can see: code, status, title. docs/ERRORS.md is compared with this table.

export const ERRORS = {
  invalid_json: { status: 400, title: 'The body is not the JSON that was expected' },
  invalid_request: { status: 400, title: 'The request is not valid' },
  unauthorized: { status: 401, title: 'An API key is needed' },
  forbidden: { status: 403, title: 'This is not allowed' },
  not_found: { status: 404, title: 'There is nothing at this path' },
  job_not_found: { status: 404, title: 'There is no such job' },
  endpoint_not_found: { status: 404, title: 'There is no such endpoint' },
  schedule_not_found: { status: 404, title: 'There is no such schedule' },
  method_not_allowed: { status: 405, title: 'The path does not know this method' },
  job_state_conflict: { status: 409, title: 'The state of the job does not allow this' },
  lease_lost: { status: 409, title: 'The attempt no longer holds the job' },
  endpoint_in_use: { status: 409, title: 'The endpoint is in use' },
  endpoint_disabled: { status: 409, title: 'The endpoint is disabled' },
  dedupe_conflict: { status: 409, title: 'Another job has the dedupe key' },
  precondition_failed: { status: 412, title: 'The record has changed since it was read' },
  payload_too_large: { status: 413, title: 'The body is too large' },
  unsupported_media_type: { status: 415, title: 'The body must be application/json' },
  idempotency_key_reused: { status: 422, title: 'The idempotency key belongs to another request' },
  internal_error: { status: 500, title: 'Something went wrong in Posthorn' },
  store_unavailable: { status: 503, title: 'The store does not answer' },
  overloaded: { status: 503, title: 'Too much is waiting to be stored' },
} as const
export type ErrorCode = keyof typeof ERRORS

/** One wrong field: a JSON Pointer into the body, or `query/limit`, `header/idempotency-key`. */
export interface FieldError {
  path: string
  message: string
}

const MAX_SHOWN_LENGTH = 100

/** A name that a client chose, as an error may repeat it: it can be as long as a request. */
export function shortened(name: string): string {
  return name.length <= MAX_SHOWN_LENGTH ? name : `${name.slice(0, MAX_SHOWN_LENGTH)}…`
}

/** What a client should see. Anything else that is thrown is a 500 without a word of detail. */
export class AppError extends Error {
  override readonly name = 'AppError'
  readonly code: ErrorCode
  readonly status: number
  readonly errors: FieldError[] | undefined
  readonly headers: Record<string, string>

  /** @param detail one sentence that says what was found and what was expected */
  constructor(
    code: ErrorCode,
    detail: string,
    extra: { status?: number; errors?: FieldError[]; headers?: Record<string, string> } = {},
  ) {
    super(detail)
    this.code = code
    this.status = extra.status ?? ERRORS[code].status
    this.errors = extra.errors
    this.headers = extra.headers ?? {}
  }
}
