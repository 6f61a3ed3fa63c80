// Converts BSON values, as the MongoDB driver reads them without promoting, to JSON text: for
// documents of an outbox and for jobs of Agenda. A BSON type has one JSON form or none. A value
// without one is refused, with its path: nothing is rounded, left out, or replaced by text.
//
// `_bsontype` identifies the classes of the driver, so that this file need not load the driver.
import { MAX_JSON_DEPTH } from '../job/json-depth.ts'

/** A value has no JSON form. The message is a sentence. */
export class NoJsonForm extends Error {
  override readonly name = 'NoJsonForm'
}

export interface BsonForms {
  /** How an int64 beyond 2^53 is written, because JavaScript would round such a number. */
  largeIntegers: 'number' | 'text'
}

/** How the driver represents BSON numbers, ids and similar values. */
interface BsonScalar {
  _bsontype?: unknown
  value?: unknown
  sub_type?: number
  length?: () => number
  toHexString?: () => string
  toString(encoding?: string): string
}

const UUID_SUBTYPE = 4
const UUID_BYTES = 16

/**
 * @param value deserialised without promoting values, so that every number has its type
 * @param path the path of the value, for the message
 * @throws NoJsonForm
 */
export function jsonOfBson(value: unknown, path: string[], forms: BsonForms): string {
  if (path.length > MAX_JSON_DEPTH)
    throw refusal(path, `is nested deeper than ${MAX_JSON_DEPTH} levels`)
  if (value === null || typeof value === 'boolean') return String(value)
  if (typeof value === 'string') return JSON.stringify(value)
  if (typeof value === 'number') return finite(value, path)
  if (typeof value !== 'object')
    throw refusal(path, `is ${typeof value}, which JSON cannot express`)
  if (Array.isArray(value)) {
    return `[${value.map((item, i) => jsonOfBson(item, [...path, String(i)], forms)).join(',')}]`
  }
  // A document can have a field named _bsontype, so only its prototype shows that it is a document.
  if (Object.getPrototypeOf(value) !== Object.prototype) return scalarJson(value, path, forms)
  const fields = Object.entries(value).map(
    ([name, item]) => `${JSON.stringify(name)}:${jsonOfBson(item, [...path, name], forms)}`,
  )
  return `{${fields.join(',')}}`
}

function scalarJson(value: object, path: string[], forms: BsonForms): string {
  if (value instanceof Date) return dateText(value, path)
  const scalar = value as BsonScalar
  const type = String(scalar._bsontype ?? value.constructor.name)
  switch (type) {
    case 'Int32':
      return String(scalar.value)
    case 'Double':
      return finite(scalar.value as number, path)
    case 'Long':
      return longText(scalar.toString(), forms)
    case 'Decimal128':
      return decimalText(scalar.toString(), path)
    case 'ObjectId':
      return JSON.stringify(scalar.toHexString?.())
    case 'Binary':
      return JSON.stringify(binaryText(scalar))
    default:
      throw refusal(path, `is a BSON ${type.replace(/^BSON/, '')}, which has no JSON form here`)
  }
}

function longText(digits: string, { largeIntegers }: BsonForms): string {
  const isText = largeIntegers === 'text' && !Number.isSafeInteger(Number(digits))
  return isText ? JSON.stringify(digits) : digits
}

function decimalText(text: string, path: string[]): string {
  if (/\d/.test(text)) return JSON.stringify(text)
  throw refusal(path, `is ${text}, which JSON cannot express`)
}

function binaryText(binary: BsonScalar): string {
  const isUuid = binary.sub_type === UUID_SUBTYPE && binary.length?.() === UUID_BYTES
  if (!isUuid) return binary.toString('base64')
  return binary.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}

function finite(value: number, path: string[]): string {
  if (Number.isFinite(value)) return String(value)
  throw refusal(path, `is ${value}, which JSON cannot express`)
}

function dateText(value: Date, path: string[]): string {
  const year = value.getUTCFullYear()
  if (year >= 0 && year <= 9_999) return JSON.stringify(value.toISOString())
  throw refusal(path, 'is a date that RFC 3339 cannot write')
}

function refusal(path: string[], sentence: string): NoJsonForm {
  return new NoJsonForm(`/${path.slice(0, MAX_JSON_DEPTH).join('/')} ${sentence}`)
}
