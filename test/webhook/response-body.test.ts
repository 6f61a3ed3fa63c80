// The parts of a response body that are kept: its first bytes as text, and the result, both
// limited.
import { describe, expect, it } from 'vitest'
import {
  isTooLong,
  MAX_RESPONSE_BYTES,
  MAX_SHOWN_BYTES,
  type ResponseBody,
  resultOf,
  shownText,
  withChunk,
} from '../../src/webhook/response-body.ts'

const bodyOf = (...chunks: (string | Buffer)[]) =>
  chunks.reduce<ResponseBody | null>((body, chunk) => withChunk(body, Buffer.from(chunk)), null)

describe('the result', () => {
  it.each([
    ['{"n":12345678901234567890,"b":1.0, "a":[ ]}'],
    ['  [1]\n'],
    ['"text"'],
    ['-0.0e+10'],
    ['true'],
    ['null'],
  ])('is the JSON %j exactly as the endpoint sent it', (text) => {
    expect(resultOf(bodyOf(text))).toEqual({ result: text, resultTruncated: false })
  })

  it.each([['ok'], ['nearly'], ['{"a":'], ['{"a":1}{'], ['<html>'], ['01'], ['{"a":1}\0']])(
    'is the text of %j, which is not JSON',
    (text) => {
      const { result } = resultOf(bodyOf(text))
      expect(JSON.parse(result as string)).toEqual({ text })
    },
  )

  it('is JSON up to the depth of requests, and a text beyond', () => {
    const nested = (open: string, close: string, depth: number) =>
      `${open.repeat(depth)}1${close.repeat(depth)}`
    for (const [open, close] of [
      ['[', ']'],
      ['{"a":', '}'],
    ] as const) {
      const deep = nested(open, close, 64)
      expect(resultOf(bodyOf(deep)).result).toBe(deep)
      for (const depth of [65, 5_000]) {
        const tooDeep = nested(open, close, depth)
        expect(resultOf(bodyOf(tooDeep)).result).toBe(JSON.stringify({ text: tooDeep }))
      }
    }
    const wide = JSON.stringify([...Array(100).fill([]), '[['.repeat(100), `\\"${'{'.repeat(99)}`])
    expect(resultOf(bodyOf(wide)).result).toBe(wide)
  })

  it('is null when the response was empty', () => {
    expect(resultOf(null)).toEqual({ result: null, resultTruncated: false })
    expect(resultOf(bodyOf(''))).toEqual({ result: null, resultTruncated: false })
  })

  it('is never JSON with broken UTF-8 in it', () => {
    const broken = Buffer.from([0x22, 0xff, 0x22])
    expect(JSON.parse(resultOf(bodyOf(broken)).result as string)).toEqual({ text: '"\ufffd"' })
  })

  it('is kept up to 64 KiB and given up beyond', () => {
    const longest = `"${'x'.repeat(MAX_RESPONSE_BYTES - 2)}"`
    expect(resultOf(bodyOf(longest)).result).toBe(longest)
    expect(resultOf(bodyOf(`${longest} `))).toEqual({ result: null, resultTruncated: true })
  })

  it('is given up when its escapes would make it longer than that', () => {
    const control = Buffer.alloc(MAX_RESPONSE_BYTES / 2, 1)
    expect(resultOf(bodyOf(control))).toEqual({ result: null, resultTruncated: true })
  })
})

describe('the shown text', () => {
  it('is what came, with what is not UTF-8 replaced', () => {
    expect(shownText(bodyOf('grüße'))).toBe('grüße')
    expect(shownText(bodyOf(Buffer.from([0x61, 0xff, 0x62])))).toBe('a\ufffdb')
    expect(shownText(null)).toBeNull()
    expect(shownText(bodyOf(''))).toBeNull()
  })

  it('ends before a character that is cut in two at 4 KiB', () => {
    const whole = 'a'.repeat(MAX_SHOWN_BYTES)
    expect(shownText(bodyOf(`${whole}b`))).toBe(whole)
    const cut = 'a'.repeat(MAX_SHOWN_BYTES - 1)
    expect(shownText(bodyOf(`${cut}üü`))).toBe(cut)
  })
})

describe('chunks', () => {
  it('make the same body however they are cut', () => {
    const text = JSON.stringify({ text: 'grüße, '.repeat(1_000) })
    const bytes = [...Buffer.from(text)].map((byte) => Buffer.from([byte]))
    expect(resultOf(bodyOf(...bytes)).result).toBe(text)
    expect(resultOf(bodyOf(text.slice(0, 10), '', text.slice(10))).result).toBe(text)
  })

  it('leave the chunk that came first as it was', () => {
    const first = Buffer.from('ab')
    withChunk(withChunk(null, first), Buffer.from('cd'))
    expect(first.toString()).toBe('ab')
  })

  it('cost no more memory once there are too many', () => {
    let body: ResponseBody | null = null
    for (let i = 0; i < 1_000; i++) body = withChunk(body, Buffer.alloc(1_024))
    expect(body !== null && isTooLong(body)).toBe(true)
    expect(body?.bytes.length).toBeLessThanOrEqual(4 * MAX_RESPONSE_BYTES)
  })
})
