// Request bodies: parses the envelope, and keeps payloads and results as the bytes that came.
//
// JSON.parse would change them (big integers, 1.0, duplicate keys), so one pass over the bytes
// finds where they stand; they are cut out, and all parts must then be JSON on their own. The
// pass judges nothing but depth and duplicate keys: whatever else is wrong, JSON.parse refuses.
import { isUtf8 } from 'node:buffer'
import { AppError } from '../src/errors.ts'
import { MAX_JSON_DEPTH } from '../src/job/json-depth.ts'

/** A JSON value as the bytes that came, checked to be JSON. */
export class RawJson {
  readonly bytes: Buffer
  constructor(bytes: Buffer) {
    this.bytes = bytes
  }
}

const QUOTE = 0x22
const BACKSLASH = 0x5c
const COMMA = 0x2c
const COLON = 0x3a
const OPEN_ARRAY = 0x5b
const CLOSE_ARRAY = 0x5d
const OPEN_OBJECT = 0x7b
const CLOSE_OBJECT = 0x7d
const SPACE = 0x20

/** Where the bytes of a raw value stand: from, to. */
type Range = [start: number, end: number]

/**
 * The envelope in `body`. A `payload` or `result` at the top and the `payload` of each item of a
 * list `jobs` are RawJson. Throws AppError invalid_json.
 */
export function parseEnvelope(body: Buffer): unknown {
  if (!isUtf8(body)) throw invalid('the body is not UTF-8')
  const ranges = scan(body)
  // In place of each raw value stands its number: at these places nothing else can stand.
  let text = ''
  let end = 0
  ranges.forEach(([from, to], i) => {
    text += body.toString('utf8', end, from) + i
    end = to
  })
  const envelope = parse(text + body.toString('utf8', end), 'the body')
  if (ranges.length === 0) return envelope
  const raw = ranges.map(([from, to]) => {
    const bytes = body.subarray(from, to)
    parse(bytes.toString(), 'the payload')
    return new RawJson(bytes)
  })
  putBack(envelope, ['payload', 'result'], raw)
  const { jobs } = envelope as { jobs?: unknown }
  if (Array.isArray(jobs)) for (const job of jobs) putBack(job, ['payload'], raw)
  return envelope
}

function putBack(value: unknown, keys: string[], raw: RawJson[]): void {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return
  const holder = value as Record<string, unknown>
  for (const key of keys) {
    if (Object.hasOwn(holder, key)) holder[key] = raw[holder[key] as number]
  }
}

function parse(text: string, what: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw invalid(`${what} is not JSON`)
  }
}

function invalid(detail: string): AppError {
  return new AppError('invalid_json', detail)
}

/** Finds the raw values; refuses depth and duplicate keys on the way. */
function scan(body: Buffer): Range[] {
  const keysOpen: (Set<string> | null)[] = []
  const ranges: Range[] = []
  let topKey = ''
  let expectKey = false
  for (let i = 0; i < body.length; i++) {
    const byte = body[i] as number
    if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) {
      if (keysOpen.length >= MAX_JSON_DEPTH) throw tooDeep()
      keysOpen.push(byte === OPEN_OBJECT ? new Set() : null)
      expectKey = byte === OPEN_OBJECT
    } else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) {
      keysOpen.pop()
      expectKey = false
    } else if (byte === COMMA) {
      expectKey = keysOpen.at(-1) instanceof Set
    } else if (byte === QUOTE) {
      const end = stringEnd(body, i)
      if (expectKey) {
        const key = keyText(body, i, end)
        addKey(keysOpen.at(-1), key)
        expectKey = false
        if (keysOpen.length === 1) topKey = key
        const valueAt = skipColon(body, end)
        if (isRaw(key, keysOpen, topKey) && valueAt < body.length) {
          const valueEndsAt = valueEnd(body, valueAt)
          ranges.push([valueAt, valueEndsAt])
          i = valueEndsAt - 1
          continue
        }
      }
      i = end - 1
    }
  }
  return ranges
}

function isRaw(key: string, open: (Set<string> | null)[], topKey: string): boolean {
  if (open.length === 1) return key === 'payload' || key === 'result'
  return key === 'payload' && open.length === 3 && open[1] === null && topKey === 'jobs'
}

function tooDeep(): AppError {
  return invalid(`the body is nested deeper than ${MAX_JSON_DEPTH} levels`)
}

function addKey(keys: Set<string> | null | undefined, key: string): void {
  if (!keys) return
  if (keys.has(key)) throw invalid(`the key ${JSON.stringify(key)} stands twice in one object`)
  keys.add(key)
}

/** The index after the string that begins at `start`. */
function stringEnd(body: Buffer, start: number): number {
  let i = start + 1
  while (i < body.length) {
    const byte = body[i]
    if (byte === QUOTE) return i + 1
    i += byte === BACKSLASH ? 2 : 1
  }
  return body.length
}

/** A key as it reads once its escapes are undone: `pay\u006coad` is `payload`. */
function keyText(body: Buffer, start: number, end: number): string {
  const text = body.toString('utf8', start, end)
  return text.includes('\\') ? String(parse(text, 'a key')) : text.slice(1, -1)
}

function skipColon(body: Buffer, from: number): number {
  let i = from
  while (i < body.length && ((body[i] as number) <= SPACE || body[i] === COLON)) i++
  return i
}

/** The index after the value that begins at `start`. */
function valueEnd(body: Buffer, start: number): number {
  let depth = 0
  for (let i = start; i < body.length; i++) {
    const byte = body[i] as number
    if (byte === QUOTE) {
      i = stringEnd(body, i) - 1
      if (depth === 0) return i + 1
    } else if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) {
      // The envelope itself is one level, that of an item in a batch as well.
      if (++depth >= MAX_JSON_DEPTH) throw tooDeep()
    } else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) {
      if (depth === 0) return i
      if (--depth === 0) return i + 1
    } else if (depth === 0 && (byte === COMMA || byte <= SPACE)) {
      return i
    }
  }
  return body.length
}
