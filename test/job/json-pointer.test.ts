// JSON Pointers into results: which texts are pointers, and that a value is cut out as it is
// spelled.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { isPointer, valueAt } from '../../src/job/json-pointer.ts'

function cut(json: string, pointer: string): string | null {
  const value = valueAt(Buffer.from(json), pointer)
  return value === null ? null : Buffer.from(value).toString()
}

describe('a pointer', () => {
  it.each(['', '/', '/a', '/a/0', '/a~0b~1c', '//', '/ä', '/"', `/${'x'.repeat(999)}`])(
    'is %j',
    (text) => {
      expect(isPointer(text)).toBe(true)
    },
  )

  it.each(['a', '#/a', '/~', '/~2', '/a~', '/a/~x', `/${'x'.repeat(1_000)}`])(
    'is not %j',
    (text) => {
      expect(isPointer(text)).toBe(false)
    },
  )
})

describe('the value at a pointer', () => {
  // The examples of RFC 6901, section 5.
  const EXAMPLE = `{
      "foo": ["bar", "baz"],
      "": 0,
      "a/b": 1,
      "c%d": 2,
      "e^f": 3,
      "g|h": 4,
      "i\\\\j": 5,
      "k\\"l": 6,
      " ": 7,
      "m~n": 8
   }`
  it.each([
    ['/foo', '["bar", "baz"]'],
    ['/foo/0', '"bar"'],
    ['/', '0'],
    ['/a~1b', '1'],
    ['/c%d', '2'],
    ['/e^f', '3'],
    ['/g|h', '4'],
    ['/i\\j', '5'],
    ['/k"l', '6'],
    ['/ ', '7'],
    ['/m~0n', '8'],
    ['', EXAMPLE],
  ])('%j is %s', (pointer, value) => {
    expect(cut(EXAMPLE, pointer)).toBe(value)
  })

  it.each([
    ['/bar', EXAMPLE],
    ['/foo/2', EXAMPLE],
    ['/foo/-', EXAMPLE],
    ['/foo/00', EXAMPLE],
    ['/foo/0/0', EXAMPLE],
    ['/foo/length', EXAMPLE],
    ['/0', '[]'],
    ['/0', '{}'],
    ['/a', 'null'],
    ['/0', '"text"'],
    ['/a', '{"b":{"a":1}}'],
    ['/__proto__', '{}'],
  ])('%j names nothing', (pointer, json) => {
    expect(cut(json, pointer)).toBeNull()
  })

  it.each([
    ['a 64-bit integer', '18446744073709551615'],
    ['numbers as they are spelled', '[1.0,-0 , 1E+2,1e400]'],
    ['escapes', '"\\u0041\\\\\\"]}"'],
    ['an object with keys out of order', '{"z" : 1,"10":{ },"a":[ ]}'],
    ['a literal', 'false'],
  ])('is cut out byte for byte: %s', (_, value) => {
    for (const space of ['', ' ', '\r\n\t']) {
      const json = `${space}{"x"${space}:[1,${space}${value}${space}],"y":${value}}${space}`
      expect(cut(json, '/x/1')).toBe(value)
      expect(cut(json, '/y')).toBe(value)
      expect(cut(`${space}${value}${space}`, '')).toBe(value)
    }
  })

  it('of two equal keys is the last one, as for JSON.parse, also if one is escaped', () => {
    expect(cut('{"a":1,"\\u0061":2}', '/a')).toBe('2')
    expect(cut('{"a":{"b":1},"a":{}}', '/a/b')).toBeNull()
  })

  it('is what JSON.parse finds there, for any JSON and any path', () => {
    const space = fc.constantFrom(undefined, 1, '\t')
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 4 }), space, fc.nat(), (value, indent, seed) => {
        const json = JSON.stringify(value, null, indent)
        const { pointer, found } = walk(JSON.parse(json), seed)
        expect(JSON.parse(cut(json, pointer) ?? '')).toEqual(found)
        expect(cut(json, `${pointer}/absent~0`)).toBeNull()
      }),
    )
  })
})

/** Goes down into the value, by the digits of the seed, until there is nothing below. */
function walk(value: unknown, seed: number): { pointer: string; found: unknown } {
  if (typeof value !== 'object' || value === null) return { pointer: '', found: value }
  const keys = Object.keys(value)
  const key = keys[seed % (keys.length + 1)]
  if (key === undefined) return { pointer: '', found: value }
  const below = walk((value as Record<string, unknown>)[key], Math.floor(seed / 3))
  const token = key.replaceAll('~', '~0').replaceAll('/', '~1')
  return { ...below, pointer: `/${token}${below.pointer}` }
}
