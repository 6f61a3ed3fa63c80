// What is kept of the body of an answer: a bounded part of its bytes, as text and as the result.
import { isUtf8 } from 'node:buffer'
import { isTooDeep } from '../job/json-depth.ts'

/** Beyond this the connection is dropped: an answer may be endless. */
export const MAX_ANSWER_BYTES = 64 * 1_024
/** What an attempt shows of its answer. */
export const MAX_SHOWN_BYTES = 4 * 1_024

/** The first `length` of `bytes` are what has come. */
export interface AnswerBody {
  bytes: Buffer
  length: number
}

export interface Result {
  /**
   * JSON text exactly as it was answered; `{"text": …}` for another text, or for JSON that is
   * nested deeper than requests may be; null: nothing, or too much.
   */
  result: string | null
  resultTruncated: boolean
}

export const NO_RESULT: Result = { result: null, resultTruncated: false }

/** The body with one more chunk. Nothing is added to one that is over MAX_ANSWER_BYTES. */
export function withChunk(body: AnswerBody | null, chunk: Buffer): AnswerBody {
  if (body === null) return { bytes: chunk, length: chunk.length }
  if (isTooLong(body)) return body
  const length = body.length + chunk.length
  // One buffer that doubles: a body that comes byte by byte must not cost an object for each.
  const bytes = length <= body.bytes.length ? body.bytes : grown(body, length)
  chunk.copy(bytes, body.length)
  return { bytes, length }
}

export function isTooLong(body: AnswerBody): boolean {
  return body.length > MAX_ANSWER_BYTES
}

/** The first MAX_SHOWN_BYTES as text, what is not UTF-8 replaced; null when nothing came. */
export function shownText(body: AnswerBody | null): string | null {
  if (body === null || body.length === 0) return null
  if (body.length <= MAX_SHOWN_BYTES) return body.bytes.toString('utf8', 0, body.length)
  // As a stream, so that a character cut in two at the end is left out instead of replaced.
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  return decoder.decode(body.bytes.subarray(0, MAX_SHOWN_BYTES), { stream: true })
}

/** The result that a whole body makes. */
export function resultOf(body: AnswerBody | null): Result {
  if (body === null || body.length === 0) return NO_RESULT
  if (isTooLong(body)) return { result: null, resultTruncated: true }
  const bytes = body.bytes.subarray(0, body.length)
  const text = bytes.toString('utf8')
  if (isUtf8(bytes) && isJson(text) && !isTooDeep(bytes))
    return { result: text, resultTruncated: false }
  const wrapped = JSON.stringify({ text })
  // Escapes and replaced bytes take more room than what they stand for.
  if (Buffer.byteLength(wrapped) > MAX_ANSWER_BYTES) return { result: null, resultTruncated: true }
  return { result: wrapped, resultTruncated: false }
}

function grown(body: AnswerBody, length: number): Buffer {
  const bytes = Buffer.allocUnsafe(Math.max(length, 2 * body.bytes.length))
  body.bytes.copy(bytes, 0, 0, body.length)
  return bytes
}

/** How any JSON text begins. An answer like "ok" is told by it; a thrown error costs 25 µs. */
const JSON_START = /^[ \t\r\n]*[[{"\-0-9tfn]/

function isJson(text: string): boolean {
  if (!JSON_START.test(text)) return false
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}
