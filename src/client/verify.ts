// Verifies in a handler that a delivery comes from its Posthorn, is recent and unchanged (Standard
// Webhooks 1.0.0, standardwebhooks.com).
import { createHmac, timingSafeEqual } from 'node:crypto'
import { type Delivery, deliveryFrom } from './delivery.ts'
import { notNull } from './given.ts'
import { rawBody, type SignedRequest, signedHeaders } from './signed-request.ts'
import { VerificationError } from './verification-error.ts'

export type { Delivery } from './delivery.ts'
export type { SignedRequest } from './signed-request.ts'
export { VerificationError } from './verification-error.ts'

export interface VerifyOptions {
  /**
   * The largest difference between the clocks of sender and receiver, in either direction. Default:
   * 300.
   */
  toleranceSeconds?: number | undefined
}

const DEFAULT_TOLERANCE_SECONDS = 300
const MIN_SECRET_BYTES = 24
const MAX_SECRET_BYTES = 64
/** Limits the work that a forged header can cause. An endpoint signs with at most 5 secrets. */
const MAX_SIGNATURES = 20

/**
 * Verifies the signature of a request and returns its delivery.
 *
 * The signature covers the job's id, the time and the payload. The other headers are only as
 * trustworthy as the connection: receive deliveries over TLS.
 *
 * @param request a Fetch Request; a request of Node or of a framework based on it, with its body
 *   unread or kept raw; or headers and raw body
 * @param secrets of the endpoint: `whsec_` + base64. During a rotation, the old and the new one
 * @throws VerificationError if the request must not be trusted: respond with 401
 * @throws TypeError if it cannot be verified: an invalid secret, or a body that is no longer raw
 */
export async function verify<Payload = unknown>(
  request: SignedRequest,
  secrets: string | readonly string[],
  { toleranceSeconds = DEFAULT_TOLERANCE_SECONDS }: VerifyOptions = {},
): Promise<Delivery<Payload>> {
  const keys = keysFrom(secrets)
  const header = signedHeaders(request)
  const id = needed(header('webhook-id'), 'webhook-id')
  const timestamp = needed(header('webhook-timestamp'), 'webhook-timestamp')
  const signatures = needed(header('webhook-signature'), 'webhook-signature')
  // A dot would let bytes move between id, time and body without changing the signed content.
  if (!/^[\x21-\x2d\x2f-\x7e]{1,255}$/.test(id)) throw malformed('webhook-id')
  if (!/^\d{1,12}$/.test(timestamp)) throw malformed('webhook-timestamp')
  refuseOtherTimes(Number(timestamp), toleranceSeconds)

  const body = await rawBody(request)
  const signed = [`${id}.${timestamp}.`, body] as const
  if (!keys.some((key) => matches(signatures, key, signed))) {
    throw new VerificationError('no_matching_signature', 'no signature matches the secret')
  }
  return deliveryFrom<Payload>(id, Number(timestamp), header, body)
}

function needed(value: string | null, name: string): string {
  if (value !== null && value !== '') return value
  throw new VerificationError('missing_header', `the header ${name} is missing`)
}

function malformed(name: string): VerificationError {
  return new VerificationError('malformed_header', `the header ${name} is malformed`)
}

function refuseOtherTimes(timestampSeconds: number, toleranceSeconds: number): void {
  if (!(notNull('toleranceSeconds', toleranceSeconds) >= 0))
    throw new TypeError('toleranceSeconds must be 0 or more')
  const ageSeconds = Math.floor(Date.now() / 1_000) - timestampSeconds
  if (ageSeconds > toleranceSeconds) {
    throw new VerificationError('timestamp_too_old', `it was signed ${ageSeconds} s ago`)
  }
  if (-ageSeconds > toleranceSeconds) {
    throw new VerificationError('timestamp_too_new', `it was signed ${-ageSeconds} s from now`)
  }
}

/** Compares each signature in constant time. */
function matches(header: string, key: Buffer, [head, body]: readonly [string, Uint8Array]) {
  const expected = Buffer.from(createHmac('sha256', key).update(head).update(body).digest('base64'))
  return header
    .split(' ', MAX_SIGNATURES)
    .filter((one) => one.startsWith('v1,'))
    .map((one) => Buffer.from(one.slice('v1,'.length)))
    .some((given) => given.length === expected.length && timingSafeEqual(given, expected))
}

/** Decodes the secrets. The errors never show a secret. */
function keysFrom(secrets: string | readonly string[]): Buffer[] {
  const list = typeof secrets === 'string' ? [secrets] : secrets
  if (!Array.isArray(list) || list.length === 0) throw new TypeError('a secret is needed')
  return list.map(keyFrom)
}

/**
 * Decodes a secret: base64 with or without the prefix, as the libraries of Standard Webhooks accept
 * it.
 */
function keyFrom(secret: unknown): Buffer {
  if (typeof secret !== 'string') throw new TypeError('a secret is not a string')
  const text = secret.startsWith('whsec_') ? secret.slice('whsec_'.length) : secret
  const key = Buffer.from(text, 'base64')
  const isWhole = key.toString('base64') === text
  if (!isWhole || key.length < MIN_SECRET_BYTES || key.length > MAX_SECRET_BYTES) {
    throw new TypeError(
      `a secret is not whsec_ and base64 of ${MIN_SECRET_BYTES}–${MAX_SECRET_BYTES} bytes`,
    )
  }
  return key
}
