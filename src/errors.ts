// Every error that a client can see: code, status and title. A test compares docs/ERRORS.md with
// this table.

export const ERRORS = {
  invalid_json: { status: 400, title: 'The body is not valid JSON' },
  invalid_request: { status: 400, title: 'The request is invalid' },
  unauthorized: { status: 401, title: 'A valid API key or token is required' },
  forbidden: { status: 403, title: 'The request is not allowed' },
  not_found: { status: 404, title: 'Not found' },
  job_not_found: { status: 404, title: 'The job does not exist' },
  endpoint_not_found: { status: 404, title: 'The endpoint does not exist' },
  limit_not_found: { status: 404, title: 'The limit does not exist' },
  group_not_found: { status: 404, title: 'The group does not exist' },
  schedule_not_found: { status: 404, title: 'The schedule does not exist' },
  method_not_allowed: { status: 405, title: 'The path does not support this method' },
  job_state_conflict: { status: 409, title: 'The state of the job does not allow this' },
  lease_lost: { status: 409, title: 'The attempt no longer holds the lease of the job' },
  endpoint_in_use: { status: 409, title: 'The endpoint is in use' },
  limit_in_use: { status: 409, title: 'An endpoint names the limit' },
  too_many_limits: { status: 409, title: 'There are too many limits' },
  too_many_endpoints: { status: 409, title: 'Too many endpoints name the limit' },
  too_many_keys: { status: 409, title: 'Too many keys of the endpoint have settings' },
  group_closed: { status: 409, title: 'The group takes no more jobs' },
  group_full: { status: 409, title: 'The group has too many jobs' },
  group_open: { status: 409, title: 'The group takes further jobs' },
  group_state_conflict: { status: 409, title: 'The state of the group does not allow this' },
  endpoint_disabled: { status: 409, title: 'The endpoint is disabled' },
  dedupe_conflict: { status: 409, title: 'Another job holds the dedupe key' },
  precondition_failed: { status: 412, title: 'The record has changed since it was read' },
  payload_too_large: { status: 413, title: 'The body is too large' },
  unsupported_media_type: { status: 415, title: 'The body must be application/json' },
  idempotency_key_reused: {
    status: 422,
    title: 'The idempotency key was used with another request',
  },
  internal_error: { status: 500, title: 'Internal error' },
  store_unavailable: { status: 503, title: 'The store is unavailable' },
  overloaded: { status: 503, title: 'The server is overloaded' },
} as const
/** How the 404 of an unknown path begins; a command then knows that POSTHORN_URL is wrong. */
export const NO_ROUTE = 'no route has this path'

export type ErrorCode = keyof typeof ERRORS

/** One invalid field: a JSON Pointer into the body, or `query/limit`, `header/idempotency-key`. */
export interface FieldError {
  path: string
  message: string
}

const MAX_SHOWN_LENGTH = 100

/** Shortens a name from a client for an error message: it can be as long as a request. */
export function shortened(name: string): string {
  return name.length <= MAX_SHOWN_LENGTH ? name : `${name.slice(0, MAX_SHOWN_LENGTH)}…`
}

/** An error for the client. Any other error becomes a 500 without details. */
export class AppError extends Error {
  override readonly name = 'AppError'
  readonly code: ErrorCode
  readonly status: number
  readonly errors: FieldError[] | undefined
  readonly headers: Record<string, string>

  /** @param detail one sentence: what was found and what was expected */
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
