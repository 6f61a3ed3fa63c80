// From a document of an outbox to the JSON that a client would have posted.
import { BSON } from 'mongodb'
import { jsonOfBson, NoJsonForm } from '../bson-json.ts'
import { deserialised, hashOf } from './outbox-documents.ts'

/** Fields of ours, and of a document that is given another try: no part of the job. */
const OUR_FIELDS = new Set(['_id', 'posthornMove', 'posthornError'])

/**
 * The body of POST /jobs that the document stands for.
 *
 * @param document deserialised without promoting values, so that every number has its type
 * @throws NoJsonForm why the document cannot become a job, as a sentence
 */
export function requestOf(document: Record<string, unknown>): Buffer {
  const parts: string[] = []
  for (const [name, value] of Object.entries(document)) {
    if (OUR_FIELDS.has(name)) continue
    if (name !== 'payloadJson') {
      const json = jsonOfBson(value, [name], { largeIntegers: 'number' })
      parts.push(`${JSON.stringify(name)}:${json}`)
    } else if ('payload' in document) {
      throw new NoJsonForm('payload and payloadJson cannot both be given')
    } else {
      parts.push(`"payload":${wholeJson(value)}`)
    }
  }
  return Buffer.from(`{${parts.join(',')}}`)
}

/** Tells one document from another with the same `_id`; null: it can become no job. */
export function requestHashOf(raw: Uint8Array): string | null {
  try {
    return hashOf(requestOf(deserialised(raw, { utf8: true })))
  } catch (error) {
    if (error instanceof NoJsonForm || error instanceof BSON.BSONError) return null
    throw error
  }
}

/** Only one whole JSON value may go in: anything else could add fields to the request. */
function wholeJson(value: unknown): string {
  if (typeof value !== 'string') throw new NoJsonForm('payloadJson is not a string')
  try {
    JSON.parse(value)
  } catch {
    throw new NoJsonForm('payloadJson is not JSON text')
  }
  return value
}
