// Checks that bytes are one JSON value (RFC 8259) without building it: JSON.parse would create, in
// one go, an object for each of the millions of values that a payload may contain.
import { AppError } from '../errors.ts'
import { MAX_JSON_DEPTH } from '../job/json-depth.ts'

/** As long as MAX_BODY_BYTES can be. A string is read in one go, which takes about 10 ms. */
export const MAX_STRING_BYTES = 8 * 1_048_576

const TAB = 0x09
const LINE_FEED = 0x0a
const RETURN = 0x0d
const SPACE = 0x20
const QUOTE = 0x22
const PLUS = 0x2b
const COMMA = 0x2c
const MINUS = 0x2d
const DOT = 0x2e
const ZERO = 0x30
const NINE = 0x39
const COLON = 0x3a
const OPEN_ARRAY = 0x5b
const BACKSLASH = 0x5c
const CLOSE_ARRAY = 0x5d
const SMALL_U = 0x75
const OPEN_OBJECT = 0x7b
const CLOSE_OBJECT = 0x7d

const LARGE_E = 0x45
const SMALL_E = 0x65
const SMALL_F = 0x66
const SMALL_N = 0x6e
const SMALL_T = 0x74
const TRUE = Buffer.from('true')
const FALSE = Buffer.from('false')
const NULL = Buffer.from('null')
/** Characters after a backslash. */
const ESCAPES = new Set(Buffer.from('"\\/bfnrtu'))
const HEX = new Set(Buffer.from('0123456789abcdefABCDEF'))

/**
 * Reads the JSON value that begins at `start`; `body` is UTF-8. Returns the index after it. If it
 * reaches `stopAt` before the end, it returns the negative index at which to continue with the same
 * `open`. Throws AppError invalid_json.
 *
 * @param open the open brackets: an empty list at first
 * @param maxDepth the limit of nested objects and arrays
 */
export function endOfJson(
  body: Buffer,
  start: number,
  open: number[],
  maxDepth: number,
  stopAt: number,
): number {
  let i = start
  // Each iteration reads one value, or the beginning of one.
  while (i <= stopAt) {
    i = endOfSpace(body, i)
    const byte = body[i]
    if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) {
      if (open.length >= maxDepth) throw tooDeep()
      open.push(byte)
      i = endOfSpace(body, i + 1)
      if (!isClosing(body[i], byte)) {
        if (byte === OPEN_OBJECT) i = endOfKey(body, i)
        continue
      }
      open.pop()
      i++
    } else if (byte === QUOTE) {
      i = endOfString(body, i)
    } else {
      i = endOfScalar(body, i, byte)
    }
    if (open.length > 0) i = endOfClosings(body, i, open)
    if (open.length === 0) return i
    if (open.at(-1) === OPEN_OBJECT) i = endOfKey(body, endOfSpace(body, i))
  }
  return -i
}

/** After a value: the index after the following comma, or after the last closing bracket. */
function endOfClosings(body: Buffer, start: number, open: number[]): number {
  let i = start
  while (open.length > 0) {
    i = endOfSpace(body, i)
    const byte = body[i++]
    if (byte === COMMA) return i
    if (!isClosing(byte, open.pop())) throw notJson()
  }
  return i
}

function isClosing(byte: number | undefined, opening: number | undefined): boolean {
  return byte === (opening === OPEN_OBJECT ? CLOSE_OBJECT : CLOSE_ARRAY)
}

/** Returns the index after the colon. */
function endOfKey(body: Buffer, start: number): number {
  if (body[start] !== QUOTE) throw notJson()
  const i = endOfSpace(body, endOfString(body, start))
  if (body[i] !== COLON) throw notJson()
  return i + 1
}

function endOfString(body: Buffer, start: number): number {
  const most = Math.min(body.length, start + MAX_STRING_BYTES)
  for (let i = start + 1; i < most; i++) {
    const byte = body[i] as number
    if (byte === QUOTE) return i + 1
    if (byte < SPACE) throw notJson()
    if (byte !== BACKSLASH) continue
    const letter = body[++i] as number
    if (!ESCAPES.has(letter)) throw notJson()
    if (letter !== SMALL_U) continue
    for (let digit = 0; digit < 4; digit++) if (!HEX.has(body[++i] as number)) throw notJson()
  }
  if (most === body.length) throw notJson()
  const detail = `a string of the payload is longer than ${MAX_STRING_BYTES} bytes`
  throw new AppError('payload_too_large', detail)
}

/** Returns the index after a number, true, false or null. */
function endOfScalar(body: Buffer, start: number, byte: number | undefined): number {
  if (byte === SMALL_T) return endOfLiteral(body, start, TRUE)
  if (byte === SMALL_F) return endOfLiteral(body, start, FALSE)
  return byte === SMALL_N ? endOfLiteral(body, start, NULL) : endOfNumber(body, start)
}

function endOfLiteral(body: Buffer, start: number, literal: Buffer): number {
  for (let i = 0; i < literal.length; i++) if (body[start + i] !== literal[i]) throw notJson()
  return start + literal.length
}

function endOfNumber(body: Buffer, start: number): number {
  let i = body[start] === MINUS ? start + 1 : start
  i = body[i] === ZERO ? i + 1 : endOfDigits(body, i)
  if (body[i] === DOT) i = endOfDigits(body, i + 1)
  if (body[i] !== SMALL_E && body[i] !== LARGE_E) return i
  i++
  return endOfDigits(body, body[i] === PLUS || body[i] === MINUS ? i + 1 : i)
}

function endOfDigits(body: Buffer, start: number): number {
  let i = start
  while ((body[i] as number) >= ZERO && (body[i] as number) <= NINE) i++
  if (i === start) throw notJson()
  return i
}

export function endOfSpace(body: Buffer, start: number): number {
  let i = start
  for (;;) {
    const byte = body[i]
    if (byte !== SPACE && byte !== LINE_FEED && byte !== RETURN && byte !== TAB) return i
    i++
  }
}

function notJson(): AppError {
  return new AppError('invalid_json', 'the payload is not JSON')
}

const TOO_DEEP = `the body is nested deeper than ${MAX_JSON_DEPTH} levels`

export function tooDeep(): AppError {
  return new AppError('invalid_json', TOO_DEEP)
}

/**
 * Whether the only problem is the depth. The JSON is valid so far, so the text after it can be
 * read.
 */
export function isTooDeep(error: unknown): error is AppError {
  return error instanceof AppError && error.message === TOO_DEEP
}
