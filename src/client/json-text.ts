// Request bodies as JSON text. A raw payload is inserted unchanged, never re-serialised.
import { notNull, refuseNoDate } from './given.ts'
import type { RawJson } from './job.ts'

interface Envelope {
  payload?: unknown
  rawPayload?: RawJson | undefined
}

/** @throws TypeError if there is no payload, there are two, or the payload is not JSON */
export function jobText(job: Envelope): string {
  return envelopeText(job, payloadJson(job))
}

/** Returns the payload alone. Throws like jobText. */
export function payloadJson(job: Envelope): string {
  const payload = payloadText(job)
  if (payload !== undefined) return payload
  throw new TypeError('a payload that JSON can express is needed, or a rawPayload')
}

/** Does the same as jobText, but the payload is optional. */
export function changeText(change: Envelope): string {
  return envelopeText(change, payloadText(change))
}

function envelopeText({ payload, rawPayload, ...fields }: Envelope, text?: string): string {
  for (const [name, value] of Object.entries(fields)) refuseNoDate(name, value)
  const head = JSON.stringify(fields)
  if (text === undefined) return head
  return `${head.slice(0, -1)}${head === '{}' ? '' : ','}"payload":${text}}`
}

function payloadText({ payload, rawPayload }: Envelope): string | undefined {
  if (notNull('rawPayload', rawPayload) === undefined) return JSON.stringify(payload)
  if (payload !== undefined) throw new TypeError('payload and rawPayload cannot both be given')
  return rawText(rawPayload as RawJson)
}

/** Only one complete JSON value is inserted: other text could add fields to the envelope. */
function rawText(raw: RawJson): string {
  const text = typeof raw === 'string' ? raw : decoded(raw)
  if (!text.isWellFormed()) throw new TypeError('rawPayload contains a lone surrogate')
  try {
    JSON.parse(text)
  } catch (error) {
    throw new TypeError('rawPayload is not JSON text', { cause: error })
  }
  return text
}

function decoded(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch (error) {
    throw new TypeError('rawPayload is not UTF-8', { cause: error })
  }
}
