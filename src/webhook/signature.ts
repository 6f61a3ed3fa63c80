// Signs a delivery as Standard Webhooks 1.0.0 specifies ("Signature scheme").
import { createHmac, createSecretKey, type KeyObject } from 'node:crypto'
import { secretKey } from '../endpoint/endpoint.ts'

/** Limit of cached key objects. To create one for each use costs 15 µs more than the HMAC. */
const MAX_READY_KEYS = 1_000

const readyKeys = new Map<string, KeyObject>()

/**
 * The value of `webhook-signature`: one signature for each secret, in their order.
 *
 * @param secrets of the endpoint, each `whsec_` + base64
 * @param id the value of `webhook-id`
 * @param timestampSeconds the value of `webhook-timestamp`
 * @throws Error on a secret of another form, which cannot have been stored
 */
export function signatureHeader(
  secrets: readonly string[],
  id: string,
  timestampSeconds: number,
  body: Uint8Array,
): string {
  const prefix = `${id}.${timestampSeconds}.`
  let header = ''
  for (const secret of secrets) {
    const digest = createHmac('sha256', readyKey(secret)).update(prefix).update(body)
    header += `${header === '' ? '' : ' '}v1,${digest.digest('base64')}`
  }
  return header
}

function readyKey(secret: string): KeyObject {
  const ready = readyKeys.get(secret)
  if (ready !== undefined) return ready
  const bytes = secretKey(secret)
  if (bytes === null) throw new Error('a signing secret is not whsec_ + base64 of 24–64 bytes')
  // Clearing the cache is simpler than counting uses, and creates each key again at most once in a
  // thousand.
  if (readyKeys.size >= MAX_READY_KEYS) readyKeys.clear()
  const key = createSecretKey(bytes)
  readyKeys.set(secret, key)
  return key
}
