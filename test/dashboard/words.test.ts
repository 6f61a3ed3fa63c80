import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'

/** A module for the browser without types. It uses nothing that only a browser has. */
const PATH = join(import.meta.dirname, '../../dashboard/words.js')
const { durationMs, laidOut, relative, span, visible, withInstants } = await import(PATH)

describe('JSON that is laid out', () => {
  it('is the same value', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        const text = JSON.stringify(value)
        expect(JSON.stringify(JSON.parse(laidOut(text)))).toBe(text)
      }),
    )
  })

  it('keeps each number, escape and key as it was sent, and only white space changes', () => {
    const text =
      '{ "a":1.0,"a" : 12345678901234567890,"\\u0061\\"{":[ ],"b":{},"c":[1e3,"x, y: {z}"] }'
    expect(laidOut(text)).toBe(
      [
        '{',
        '  "a": 1.0,',
        '  "a": 12345678901234567890,',
        '  "\\u0061\\"{": [],',
        '  "b": {},',
        '  "c": [',
        '    1e3,',
        '    "x, y: {z}"',
        '  ]',
        '}',
      ].join('\n'),
    )
  })
})

describe('words for figures', () => {
  it.each([
    [0, '0 ms'],
    [999, '999 ms'],
    [1_500, '1.5 s'],
    [59_999, '59 s'],
    [14 * 60_000, '14 min'],
    [12_000_000, '3 h 20 min'],
    [5 * 86_400_000, '5 d'],
  ])('%d ms is %s', (ms, text) => {
    expect(span(ms)).toBe(text)
  })

  it('durations of the API are read', () => {
    expect(['500ms', '15s', '1h30m', '7d', '14m20s564ms'].map(durationMs)).toEqual([
      500, 15_000, 5_400_000, 604_800_000, 860_564,
    ])
  })

  it('instants are relative to now, also within a sentence', () => {
    const now = Date.parse('2026-11-24T08:30:00.000Z')
    expect([relative(now - 61_000, now), relative(now + 7_900, now)]).toEqual([
      '1 min ago',
      'in 7 s',
    ])
    expect(withInstants('is resting until 2026-11-24T08:44:00.000Z after 20', now)).toBe(
      'is resting until 08:44:00 UTC (in 14 min) after 20',
    )
  })
})

it('no character of foreign text is unseen or turns the others, but for tabs and line ends', () => {
  const unseen = /[\p{Cc}\u200B-\u200F\u2028-\u202E\u2060-\u206F\uFEFF]/u
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      expect(visible(text).replaceAll(/[\t\n]/g, '')).not.toMatch(unseen)
    }),
  )
})
