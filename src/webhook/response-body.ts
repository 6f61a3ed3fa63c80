// Decides what is kept of the body of a response: a limited number of bytes, as text and as the
// result.
import { isUtf8 } from 'node:buffer'
import { brotliDecompressSync, constants, gunzipSync, inflateSync } from 'node:zlib'
import { isTooDeep } from '../job/json-depth.ts'

/** Beyond this limit the connection is closed: a response may be endless. */
export const MAX_RESPONSE_BYTES = 64 * 1_024
/** How many bytes of its response body an attempt shows. */
export const MAX_SHOWN_BYTES = 4 * 1_024

/** The first `length` bytes of `bytes` have arrived; the rest is unused. */
export interface ResponseBody {
  bytes: Buffer
  length: number
}

export interface Result {
  /**
   * JSON text exactly as the endpoint sent it; `{"text": …}` for other text, or for JSON nested
   * deeper than requests may be; null: the body is empty or too long.
   */
  result: string | null
  resultTruncated: boolean
}

export const NO_RESULT: Result = { result: null, resultTruncated: false }
/** There was a result, but it was cut off or is too long to keep. */
export const CUT_RESULT: Result = { result: null, resultTruncated: true }

/** Returns the body with one more chunk, unless it is over MAX_RESPONSE_BYTES already. */
export function withChunk(body: ResponseBody | null, chunk: Buffer): ResponseBody {
  if (body === null) return { bytes: chunk, length: chunk.length }
  if (isTooLong(body)) return body
  const length = body.length + chunk.length
  // One buffer doubles as needed: a body that arrives byte by byte must not cost an object for each
  // one.
  const bytes = length <= body.bytes.length ? body.bytes : grown(body, length)
  chunk.copy(bytes, body.length)
  return { bytes, length }
}

export function isTooLong(body: ResponseBody): boolean {
  return body.length > MAX_RESPONSE_BYTES
}

/** The first MAX_SHOWN_BYTES as text, invalid UTF-8 replaced; null: the body is empty. */
export function shownText(body: ResponseBody | null): string | null {
  if (body === null || body.length === 0) return null
  if (body.length <= MAX_SHOWN_BYTES) return body.bytes.toString('utf8', 0, body.length)
  // The bytes are decoded as a stream: a character that is cut in two at the end is omitted, not
  // replaced.
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  return decoder.decode(body.bytes.subarray(0, MAX_SHOWN_BYTES), { stream: true })
}

/** The result in a complete body. */
export function resultOf(body: ResponseBody | null): Result {
  if (body === null || body.length === 0) return NO_RESULT
  if (isTooLong(body)) return CUT_RESULT
  const bytes = body.bytes.subarray(0, body.length)
  const text = bytes.toString('utf8')
  if (isUtf8(bytes) && isJson(text) && !isTooDeep(bytes))
    return { result: text, resultTruncated: false }
  const wrapped = JSON.stringify({ text })
  // Escaped characters and replaced bytes take more room than the original.
  if (Buffer.byteLength(wrapped) > MAX_RESPONSE_BYTES) return CUT_RESULT
  return { result: wrapped, resultTruncated: false }
}

export interface DecodedBody {
  body: ResponseBody | null
  /**
   * `body` is incomplete: the compressed stream has no end, or it decompresses to more than
   * MAX_RESPONSE_BYTES.
   */
  isCut: boolean
}

/**
 * Decompresses a body, although compression was not requested, and converts it to UTF-8 without a
 * byte order mark. A body that does not match its header is returned unchanged.
 */
export function decoded(body: ResponseBody | null, encoding: string | undefined): DecodedBody {
  if (body === null || body.length === 0) return { body, isCut: false }
  const bytes = body.bytes.subarray(0, body.length)
  const inflate = encoding === undefined ? undefined : INFLATERS.get(encoding.trim().toLowerCase())
  const plain = inflate === undefined ? null : inflated(bytes, inflate)
  const text = withoutMark(plain?.bytes ?? bytes)
  if (text === bytes) return { body, isCut: false }
  return { body: { bytes: text, length: text.length }, isCut: plain?.isCut ?? false }
}

/** @param isWhole false: the stream may lack its end; returns as much as can be decompressed */
type Inflate = (bytes: Buffer, isWhole: boolean) => Buffer

/** Stops a decompression bomb: nothing is decompressed beyond the bytes that are kept. */
const WHOLE = { maxOutputLength: MAX_RESPONSE_BYTES }
const CUT_ZLIB = { ...WHOLE, finishFlush: constants.Z_SYNC_FLUSH }
const CUT_BROTLI = { ...WHOLE, finishFlush: constants.BROTLI_OPERATION_FLUSH }

const gunzip: Inflate = (bytes, isWhole) => gunzipSync(bytes, isWhole ? WHOLE : CUT_ZLIB)

const INFLATERS = new Map<string, Inflate>([
  ['gzip', gunzip],
  ['x-gzip', gunzip],
  ['deflate', (bytes, isWhole) => inflateSync(bytes, isWhole ? WHOLE : CUT_ZLIB)],
  ['br', (bytes, isWhole) => brotliDecompressSync(bytes, isWhole ? WHOLE : CUT_BROTLI)],
])

/** null: the bytes are not in this format. */
function inflated(bytes: Buffer, inflate: Inflate): { bytes: Buffer; isCut: boolean } | null {
  let isCut = false
  let { length } = bytes
  while (length > 0) {
    try {
      return { bytes: inflate(bytes.subarray(0, length), !isCut), isCut }
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      // zlib discards its output when it exceeds the limit. The next iteration reads half of the
      // input, which gives less output.
      if (code === 'ERR_BUFFER_TOO_LARGE') length = Math.floor(length / 2)
      // The compressed stream has no end. The next iteration reads the part that arrived.
      else if (code !== 'Z_BUF_ERROR' || isCut) return null
      isCut = true
    }
  }
  return null
}

function withoutMark(bytes: Buffer): Buffer {
  if (bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf) return bytes.subarray(3)
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return Buffer.from(UTF_16_LE.decode(bytes))
  if (bytes[0] === 0xfe && bytes[1] === 0xff) return Buffer.from(UTF_16_BE.decode(bytes))
  return bytes
}

const UTF_16_LE = new TextDecoder('utf-16le')
const UTF_16_BE = new TextDecoder('utf-16be')

function grown(body: ResponseBody, length: number): Buffer {
  const bytes = Buffer.allocUnsafe(Math.max(length, 2 * body.bytes.length))
  body.bytes.copy(bytes, 0, 0, body.length)
  return bytes
}

/**
 * How any JSON text begins. A body like "ok" is recognized without an error of JSON.parse, which
 * costs 25 µs.
 */
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
