// From a document of an outbox to the JSON that a client would have posted. Every BSON type has one
// form, or none and then the document is refused by name: nothing is rounded or left out.
import { Binary, Decimal128, Double, Int32, Long, ObjectId, UUID } from 'mongodb'
import { MAX_JSON_DEPTH } from '../../job/json-depth.ts'

/** As deep as a request may be (routes/json-body.ts); the document itself is one level. */

/** Fields of ours, and of a document that is given another try: no part of the job. */
const OUR_FIELDS = new Set(['_id', 'posthornMove', 'posthornError'])

/** Why a document can not become a job, as a sentence. */
export class UnreadableDocument extends Error {
  override readonly name = 'UnreadableDocument'
}

/**
 * The body of POST /jobs that the document stands for.
 *
 * @param document deserialised without promoting values, so that every number has its type
 * @throws UnreadableDocument
 */
export function requestOf(document: Record<string, unknown>): Buffer {
  const parts: string[] = []
  for (const [name, value] of Object.entries(document)) {
    if (OUR_FIELDS.has(name)) continue
    if (name !== 'payloadJson') {
      parts.push(`${JSON.stringify(name)}:${jsonOf(value, [name])}`)
    } else if ('payload' in document) {
      throw new UnreadableDocument('payload and payloadJson can not both be given')
    } else {
      parts.push(`"payload":${wholeJson(value)}`)
    }
  }
  return Buffer.from(`{${parts.join(',')}}`)
}

/** Only one whole JSON value may go in: anything else could add fields to the request. */
function wholeJson(value: unknown): string {
  if (typeof value !== 'string') throw new UnreadableDocument('payloadJson is not a string')
  try {
    JSON.parse(value)
  } catch {
    throw new UnreadableDocument('payloadJson is not JSON text')
  }
  return value
}

function jsonOf(value: unknown, path: string[]): string {
  if (path.length > MAX_JSON_DEPTH)
    throw refusal(path, `is nested deeper than ${MAX_JSON_DEPTH} levels`)
  if (value === null || typeof value === 'boolean') return String(value)
  if (typeof value === 'string') return JSON.stringify(value)
  if (typeof value !== 'object') throw refusal(path, `is ${typeof value}, which no JSON says`)
  if (Array.isArray(value)) {
    return `[${value.map((item, i) => jsonOf(item, [...path, String(i)])).join(',')}]`
  }
  const scalar = scalarOf(value, path)
  if (scalar !== null) return scalar
  const fields = Object.entries(value).map(
    ([name, item]) => `${JSON.stringify(name)}:${jsonOf(item, [...path, name])}`,
  )
  return `{${fields.join(',')}}`
}

/** null: it is a document within the document. */
function scalarOf(value: object, path: string[]): string | null {
  if (value instanceof Int32) return String(value.value)
  if (value instanceof Long) return value.toString()
  if (value instanceof Double) return finite(value.value, path)
  if (value instanceof Date) return dateText(value, path)
  if (value instanceof ObjectId) return JSON.stringify(value.toHexString())
  if (value instanceof Decimal128) return JSON.stringify(value.toString())
  if (value instanceof UUID) return JSON.stringify(value.toString())
  if (value instanceof Binary) {
    const isUuid = value.sub_type === Binary.SUBTYPE_UUID && value.length() === 16
    return JSON.stringify(isUuid ? value.toUUID().toString() : value.toString('base64'))
  }
  if (Object.getPrototypeOf(value) === Object.prototype) return null
  throw refusal(path, `is a BSON ${value.constructor.name}, which has no JSON form here`)
}

function finite(value: number, path: string[]): string {
  if (Number.isFinite(value)) return String(value)
  throw refusal(path, `is ${value}, which no JSON says`)
}

function dateText(value: Date, path: string[]): string {
  const year = value.getUTCFullYear()
  if (year >= 0 && year <= 9_999) return JSON.stringify(value.toISOString())
  throw refusal(path, 'is a date that RFC 3339 can not write')
}

function refusal(path: string[], sentence: string): UnreadableDocument {
  return new UnreadableDocument(`/${path.slice(0, MAX_JSON_DEPTH).join('/')} ${sentence}`)
}
