// Parses a request body, and keeps payloads and results as the bytes that were received.
//
// JSON.parse would change these bytes (big integers, 1.0, duplicate keys). So one pass over the
// body finds payloads and results, checks that they are JSON, and cuts them out. Items of a batch
// are cut out in the same way. The pass checks depth, duplicate keys and the size of the rest.
// JSON.parse then refuses everything else that is wrong. The pass works in steps, because a body of
// many megabytes must not block other requests. An envelope without lists, objects and escapes is
// read by parseFlat() alone.
import { isUtf8 } from 'node:buffer'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { AppError, shortened } from '../errors.ts'
import { MAX_JSON_DEPTH } from '../job/json-depth.ts'
import { endOfJson, endOfSpace, isTooDeep, MAX_STRING_BYTES, tooDeep } from './raw-json.ts'

/** A JSON value as the bytes that were received, checked to be JSON. */
export class RawJson {
  readonly bytes: Buffer
  constructor(bytes: Buffer) {
    this.bytes = bytes
  }
}

/** Limits of an envelope without its payloads and results; of a batch, for each item. */
interface EnvelopeLimits {
  /** Keys and items of lists: validation may report a problem with each. */
  values: number
  bytes: number
  /**
   * Items of a list `jobs`. This is more than a batch may have, so that validation can report their
   * number.
   */
  items: number
}

/** The largest job has some 250 values: headers, metadata, tags, dependencies, delays. */
export const REQUEST_LIMITS: EnvelopeLimits = { values: 500, bytes: 1_048_576, items: 2_000 }
const NO_LIMITS: EnvelopeLimits = {
  values: Number.POSITIVE_INFINITY,
  bytes: Number.POSITIVE_INFINITY,
  items: Number.POSITIVE_INFINITY,
}

/** Bytes of each step: a few milliseconds at most. */
const STEP_BYTES = 262_144

const QUOTE = 0x22
const BACKSLASH = 0x5c
const COMMA = 0x2c
const COLON = 0x3a
const OPEN_ARRAY = 0x5b
const CLOSE_ARRAY = 0x5d
const OPEN_OBJECT = 0x7b
const CLOSE_OBJECT = 0x7d
const SPACE = 0x20
const TILDE = 0x7e

/** Bytes that are cut out of the envelope. */
interface Cut {
  start: number
  end: number
  /** If this is an item of a batch: the bytes that are cut out of it. null: this is a raw value. */
  inner: Cut[] | null
  /** Set for an item that the pass refuses. Such an item is not parsed. */
  problem?: AppError
}

/**
 * Parses the envelope in `body`. A `payload` or `result` at the top, and the `payload` of each item
 * of a list `jobs`, become RawJson. An item that is too deep or beyond the limits becomes an
 * AppError. Throws AppError invalid_json; beyond the limits invalid_request or payload_too_large.
 */
export function parseEnvelope(body: Buffer, limits: EnvelopeLimits = NO_LIMITS): unknown {
  const steps = parseInSteps(body, limits)
  for (;;) {
    const step = steps.next()
    if (step.done) return step.value
  }
}

/** Parses the body of a request, with limits. Other requests are served after each step. */
export async function parseRequest(body: Buffer): Promise<unknown> {
  const steps = parseInSteps(body, REQUEST_LIMITS)
  for (;;) {
    const step = steps.next()
    if (step.done) return step.value
    await nextTurn()
  }
}

/** An envelope with more values is left to the general pass. */
const MAX_FLAT_VALUES = 32

/**
 * The usual envelope in one pass: an object whose values, except payload and result, are neither
 * objects nor lists, without escapes. null: this is another envelope, or a wrong one. The general
 * pass then finds out.
 */
function parseFlat(body: Buffer): Record<string, unknown> | null {
  const envelope: Record<string, unknown> = {}
  let i = endOfSpace(body, 0)
  if (body[i] !== OPEN_OBJECT) return null
  for (let count = 0; count < MAX_FLAT_VALUES; count++) {
    const keyAt = endOfSpace(body, i + 1)
    const keyEnd = endOfPlainString(body, keyAt)
    if (keyEnd === null) return null
    const key = body.toString('latin1', keyAt + 1, keyEnd - 1)
    // JSON.parse would define a field of this name, and an assignment does not.
    if (key === '__proto__' || Object.hasOwn(envelope, key)) return null
    i = endOfSpace(body, keyEnd)
    if (body[i] !== COLON) return null
    const start = endOfSpace(body, i + 1)
    if (key === 'payload' || key === 'result') {
      i = endOfJson(body, start, [], MAX_JSON_DEPTH - 1, body.length)
      if (i < 0) return null
      envelope[key] = new RawJson(body.subarray(start, i))
    } else if (body[start] === QUOTE) {
      const end = endOfPlainString(body, start)
      if (end === null) return null
      i = end
      envelope[key] = body.toString('latin1', start + 1, end - 1)
    } else {
      if (body[start] === OPEN_OBJECT || body[start] === OPEN_ARRAY) return null
      i = endOfJson(body, start, [], 0, body.length)
      if (i < 0) return null
      envelope[key] = JSON.parse(body.toString('latin1', start, i))
    }
    i = endOfSpace(body, i)
    if (body[i] === COMMA) continue
    return body[i] === CLOSE_OBJECT && endOfSpace(body, i + 1) === body.length ? envelope : null
  }
  return null
}

/** The index after a string of printable ASCII without escapes; null: it is another string. */
function endOfPlainString(body: Buffer, start: number): number | null {
  if (body[start] !== QUOTE) return null
  for (let i = start + 1; i < body.length; i++) {
    const byte = body[i] as number
    if (byte === QUOTE) return i + 1
    if (byte < SPACE || byte > TILDE || byte === BACKSLASH) return null
  }
  return null
}

function parseIfFlat(body: Buffer): Record<string, unknown> | null {
  try {
    return parseFlat(body)
  } catch (error) {
    // Of several problems, the general pass reports the first one.
    if (error instanceof AppError) return null
    throw error
  }
}

function* parseInSteps(body: Buffer, limits: EnvelopeLimits): Generator<void, unknown> {
  if (!isUtf8(body)) throw invalid('the body is not UTF-8')
  const flat = body.length > STEP_BYTES ? null : parseIfFlat(body)
  if (flat !== null) return flat
  // If the whole body is one step, items are not cut out, because that costs less.
  const cuts = yield* scan(body, limits, body.length > STEP_BYTES)
  const envelope = parsePart(body, { start: 0, end: body.length, inner: cuts }, limits)
  if (cuts.length === 0 || !isObject(envelope)) return envelope
  putBack(envelope, ['payload', 'result'], body, cuts)
  const { jobs } = envelope
  if (!Array.isArray(jobs)) return envelope
  const items = cuts.filter(({ inner }) => inner !== null)
  let stepAt = STEP_BYTES
  for (const [i, job] of jobs.entries()) {
    if (!isObject(job)) continue
    const item = items.shift()
    if (item === undefined) {
      putBack(job, ['payload'], body, cuts)
      continue
    }
    jobs[i] = parseItem(body, item, limits)
    if (item.end < stepAt) continue
    stepAt = item.end + STEP_BYTES
    yield
  }
  return envelope
}

function parseItem(body: Buffer, item: Cut, limits: EnvelopeLimits): unknown {
  if (item.problem !== undefined) return item.problem
  try {
    const job = parsePart(body, item, limits)
    if (isObject(job)) putBack(job, ['payload'], body, item.inner ?? [])
    return job
  } catch (error) {
    // An item that is too large does not affect the others. An item that is not JSON makes the
    // whole body invalid.
    if (error instanceof AppError && error.code === 'payload_too_large') return error
    throw error
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Parses a part of the body without the bytes that are cut out of it. */
function parsePart(body: Buffer, { start, end, inner }: Cut, limits: EnvelopeLimits): unknown {
  let text = ''
  let at = start
  let kept = end - start
  inner?.forEach((cut, i) => {
    // Unlike a number, these placeholders cannot form another value with the text beside them.
    text += body.toString('utf8', at, cut.start) + (cut.inner === null ? `[${i}]` : '{}')
    at = cut.end
    kept -= cut.end - cut.start
  })
  if (kept > limits.bytes) throw tooLarge(limits.bytes)
  return parse(text + body.toString('utf8', at, end), 'the body')
}

function putBack(holder: Record<string, unknown>, keys: string[], body: Buffer, cuts: Cut[]): void {
  for (const key of keys) {
    if (!Object.hasOwn(holder, key)) continue
    const [index] = holder[key] as [number]
    const { start, end } = cuts[index] as Cut
    holder[key] = new RawJson(body.subarray(start, end))
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

/** The state of the pass. */
interface Scan {
  /** The keys of each open object; null: an array. */
  open: (Set<string> | null)[]
  topKey: string
  expectKey: boolean
  cuts: Cut[]
  /** Whether items of a batch are cut out. */
  cutsItems: boolean
  /**
   * Items are not cut out, but one of them has a problem: the pass must start again and cut them
   * out.
   */
  mustCut: boolean
  /**
   * Open brackets beyond the deepest level. They are possible only in an item of a batch, which is
   * then refused.
   */
  beyond: number
  /** The open item of a batch. */
  item: Cut | null
  itemCount: number
  /** How many values were read: of the open item, or, outside of items, of the body. */
  valueCount: number
}

/** Finds what to cut out. Refuses depth, duplicate keys and too many values. */
function* scan(body: Buffer, limits: EnvelopeLimits, cutsItems: boolean): Generator<void, Cut[]> {
  const at: Scan = {
    ...{ open: [], topKey: '', expectKey: false },
    ...{ cuts: [], cutsItems, mustCut: false, beyond: 0, item: null },
    ...{ itemCount: 0, valueCount: 0 },
  }
  let stepAt = STEP_BYTES
  for (let i = 0; i < body.length; i++) {
    if (i > stepAt) {
      stepAt = i + STEP_BYTES
      yield
    }
    if (at.mustCut) return yield* scan(body, limits, true)
    const byte = body[i] as number
    if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) {
      begin(at, byte === OPEN_OBJECT, i, limits)
    } else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) {
      finish(at, i + 1)
    } else if (byte === COMMA) {
      separate(at, limits)
    } else if (byte === QUOTE) {
      const from = i
      const end = stringEnd(at, body, from, limits)
      i = end - 1
      if (!at.expectKey) continue
      const key = keyText(body, from, end)
      noteKey(at, key)
      const start = skipColon(body, end)
      if (!isRaw(at, key) || start === body.length) continue
      const rawEnd = yield* endOfRaw(at, body, start)
      i = (rawEnd ?? start) - 1
      if (rawEnd === null) continue
      const cuts = at.item?.inner ?? at.cuts
      cuts.push({ start, end: rawEnd, inner: null })
    }
  }
  return at.cuts
}

/** Returns null if the item is refused because of this value. The pass then continues inside it. */
function* endOfRaw(at: Scan, body: Buffer, start: number): Generator<void, number | null> {
  // The envelope counts as one level. So does the envelope of an item in a batch.
  const open: number[] = []
  try {
    let end = endOfJson(body, start, open, MAX_JSON_DEPTH - 1, start + STEP_BYTES)
    while (end < 0) {
      yield
      end = endOfJson(body, -end, open, MAX_JSON_DEPTH - 1, STEP_BYTES - end)
    }
    return end
  } catch (error) {
    if (!isTooDeep(error)) throw error
    noteProblem(at, () => error)
    return null
  }
}

/**
 * Notes a problem. In an item of a batch it does not affect the other items; elsewhere it refuses
 * the body.
 *
 * @param errorOf called once for each item: creating an error costs 10 µs, and millions of values
 * can be wrong
 */
function noteProblem(at: Scan, errorOf: () => AppError): void {
  const { open, topKey, item, cutsItems } = at
  if (open.length < 3 || open[1] !== null || topKey !== 'jobs') throw errorOf()
  if (item === null && cutsItems) throw errorOf()
  if (item === null) at.mustCut = true
  else item.problem ??= errorOf()
}

function begin(at: Scan, isMap: boolean, index: number, limits: EnvelopeLimits): void {
  if (at.open.length >= MAX_JSON_DEPTH) {
    noteProblem(at, tooDeep)
    at.beyond++
    at.expectKey = false
    return
  }
  if (at.cutsItems && isInBatch(at)) {
    at.item = { start: index, end: index, inner: [] }
    at.cuts.push(at.item)
  }
  count(at, limits)
  at.open.push(isMap ? new Set() : null)
  at.expectKey = isMap
}

function finish(at: Scan, end: number): void {
  at.expectKey = false
  if (at.beyond > 0) {
    at.beyond--
    return
  }
  at.open.pop()
  if (at.item === null || at.open.length > 2) return
  at.item.end = end
  at.item = null
}

function separate(at: Scan, limits: EnvelopeLimits): void {
  if (at.beyond > 0) return
  at.expectKey = at.open.at(-1) instanceof Set
  if (!isInBatch(at)) {
    count(at, limits)
    return
  }
  at.valueCount = 0
  if (++at.itemCount >= limits.items) throw tooMany(limits.items, 'jobs')
}

function count(at: Scan, limits: EnvelopeLimits): void {
  if (++at.valueCount > limits.values) noteProblem(at, () => tooManyValues(limits))
}

function noteKey(at: Scan, key: string): void {
  at.expectKey = false
  // The keys of a refused item may be keys of its payload, where duplicates are allowed.
  if (at.item?.problem !== undefined) return
  const keys = at.open.at(-1)
  if (keys?.has(key)) throw invalid(`duplicate key ${JSON.stringify(shortened(key))} in one object`)
  keys?.add(key)
  if (at.open.length === 1) at.topKey = key
}

/** Whether the open value is directly in the list `jobs` at the top. */
function isInBatch({ open, topKey }: Scan): boolean {
  return open.length === 2 && open[1] === null && topKey === 'jobs'
}

function isRaw({ open, topKey }: Scan, key: string): boolean {
  if (open.length === 1) return key === 'payload' || key === 'result'
  return key === 'payload' && open.length === 3 && open[1] === null && topKey === 'jobs'
}

function tooLarge(most: number): AppError {
  return new AppError(
    'payload_too_large',
    `the body without the payload is larger than ${most} bytes`,
  )
}

function tooManyValues({ values }: EnvelopeLimits): AppError {
  return tooMany(values, 'values outside the payload')
}

function tooMany(most: number, what: string): AppError {
  return new AppError('invalid_request', `the body contains more than ${most} ${what}`)
}

/** The index after the string that begins at `start`. */
function stringEnd(at: Scan, body: Buffer, start: number, { bytes }: EnvelopeLimits): number {
  let i = start + 1
  while (i < body.length) {
    if (i - start > MAX_STRING_BYTES) throw tooLarge(bytes)
    if (i - start === bytes + 1) noteProblem(at, () => tooLarge(bytes))
    const byte = body[i]
    if (byte === QUOTE) return i + 1
    i += byte === BACKSLASH ? 2 : 1
  }
  return body.length
}

/** The key with its escapes decoded: `pay\u006coad` is `payload`. */
function keyText(body: Buffer, start: number, end: number): string {
  const text = body.toString('utf8', start, end)
  return text.includes('\\') ? String(parse(text, 'a key')) : text.slice(1, -1)
}

function skipColon(body: Buffer, from: number): number {
  let i = from
  while (i < body.length && ((body[i] as number) <= SPACE || body[i] === COLON)) i++
  return i
}
