// The error that verify throws for a request that must not be trusted.

export type VerificationErrorCode =
  | 'missing_header'
  | 'malformed_header'
  | 'timestamp_too_old'
  | 'timestamp_too_new'
  | 'no_matching_signature'
  | 'body_too_large'
  | 'invalid_payload'

export class VerificationError extends Error {
  override readonly name = 'VerificationError'
  readonly code: VerificationErrorCode

  constructor(code: VerificationErrorCode, detail: string, cause?: unknown) {
    super(`${code}: ${detail}`, cause === undefined ? undefined : { cause })
    this.code = code
  }
}
