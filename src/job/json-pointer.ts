// JSON Pointers (RFC 6901) into recorded results. A value is cut out as the bytes that are stored:
// JSON.parse would change big integers, 1.0 and escapes.

/** Far longer than a path to a field of a result. */
export const MAX_POINTER_LENGTH = 1_000
const SHAPE = /^(?:\/(?:[^~/]|~[01])*)*$/
const INDEX = /^(?:0|[1-9]\d*)$/

const QUOTE = 0x22
const COMMA = 0x2c
const COLON = 0x3a
const OPEN_ARRAY = 0x5b
const BACKSLASH = 0x5c
const CLOSE_ARRAY = 0x5d
const OPEN_OBJECT = 0x7b
const CLOSE_OBJECT = 0x7d
const SPACE = 0x20

/** Whether the text is a pointer. The empty one is the whole value. */
export function isPointer(text: string): boolean {
  return text.length <= MAX_POINTER_LENGTH && SHAPE.test(text)
}

/**
 * The bytes of the value that the pointer names, without white space around it; null: it names
 * nothing. Of two equal keys, the last one counts, as for JSON.parse.
 *
 * @param json UTF-8 that is known to be JSON
 * @param pointer of isPointer
 */
export function valueAt(json: Uint8Array, pointer: string): Uint8Array | null {
  let start: number | null = afterSpace(json, 0)
  for (const token of tokensOf(pointer)) {
    start = startOfMember(json, start, token)
    if (start === null) return null
  }
  return json.subarray(start, endOfValue(json, start))
}

function tokensOf(pointer: string): string[] {
  const [, ...tokens] = pointer.split('/')
  return tokens.map((token) => token.replaceAll('~1', '/').replaceAll('~0', '~'))
}

function startOfMember(json: Uint8Array, start: number, token: string): number | null {
  if (json[start] === OPEN_OBJECT) return startOfField(json, start, token)
  if (json[start] !== OPEN_ARRAY || !INDEX.test(token)) return null
  return startOfItem(json, start, Number(token))
}

function startOfField(json: Uint8Array, start: number, name: string): number | null {
  let found: number | null = null
  let i = afterSpace(json, start + 1)
  while (json[i] === QUOTE) {
    const keyEnd = endOfString(json, i)
    const key = JSON.parse(Buffer.from(json.subarray(i, keyEnd)).toString())
    i = afterSpace(json, keyEnd)
    if (json[i] !== COLON) throw new Error('a stored result is not JSON')
    const valueAtIndex = afterSpace(json, i + 1)
    if (key === name) found = valueAtIndex
    i = afterSpace(json, endOfValue(json, valueAtIndex))
    if (json[i] !== COMMA) break
    i = afterSpace(json, i + 1)
  }
  return found
}

function startOfItem(json: Uint8Array, start: number, index: number): number | null {
  let i = afterSpace(json, start + 1)
  if (json[i] === CLOSE_ARRAY) return null
  for (let left = index; left > 0; left--) {
    i = afterSpace(json, endOfValue(json, i))
    if (json[i] !== COMMA) return null
    i = afterSpace(json, i + 1)
  }
  return i
}

function endOfValue(json: Uint8Array, start: number): number {
  if (json[start] === QUOTE) return endOfString(json, start)
  let depth = 0
  for (let i = start; i < json.length; i++) {
    const byte = json[i] as number
    if (byte === QUOTE) i = endOfString(json, i) - 1
    else if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) depth++
    else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) {
      if (depth === 0) return i
      if (--depth === 0) return i + 1
    } else if (depth === 0 && (byte === COMMA || byte <= SPACE)) return i
  }
  return json.length
}

function endOfString(json: Uint8Array, start: number): number {
  for (let i = start + 1; i < json.length; i++) {
    if (json[i] === BACKSLASH) i++
    else if (json[i] === QUOTE) return i + 1
  }
  return json.length
}

function afterSpace(json: Uint8Array, start: number): number {
  let i = start
  while (i < json.length && (json[i] as number) <= SPACE) i++
  return i
}
