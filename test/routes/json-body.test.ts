import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { parseEnvelope, RawJson } from '../../routes/json-body.ts'
import { MAX_JSON_DEPTH } from '../../src/job/json-depth.ts'

const parse = (text: string | Buffer) => parseEnvelope(Buffer.from(text)) as Record<string, unknown>
const payloadOf = (text: string) => (parse(text).payload as RawJson).bytes.toString()

describe('a payload', () => {
  it.each([
    '{"a":1}',
    '[1,2,{"payload":3}]',
    '"a \\" quoted \\\\"',
    '12345678901234567890.10',
    '1.0',
    '-0',
    '1e400',
    'null',
    'true',
    '{"a":1,"a":2}',
    '"\\u0000 \\ud800"',
    '"🐎"',
    '{ "spaced" :\n [ ] }',
    '{}',
  ])('%s is kept byte for byte', (payload) => {
    expect(payloadOf(`{"payload":${payload}}`)).toBe(payload)
    expect(payloadOf(`{"endpoint":"x","payload" : ${payload} ,"tags":["t"]}`)).toBe(payload)
    expect(parse(`{"endpoint":"x","payload":${payload},"tags":["t"]}`)).toMatchObject({
      endpoint: 'x',
      tags: ['t'],
    })
  })

  it('is found under an escaped key, and only at the top', () => {
    expect(payloadOf('{"pay\\u006coad":7}')).toBe('7')
    expect(parse('{"metadata":{"payload":"x"}}')).toEqual({ metadata: { payload: 'x' } })
  })

  it('of any JSON value comes back as it was written', () => {
    fc.assert(
      fc.property(fc.json(), fc.constantFrom('', ' ', '\n\t'), (json, space) => {
        expect(payloadOf(`{"payload":${space}${json}${space}}`)).toBe(json)
      }),
      { numRuns: 500 },
    )
  })
})

describe('a body that is refused', () => {
  it.each([
    ['nothing of JSON', 'hello'],
    ['cut off', '{"payload":{"a":1}'],
    ['cut off in a string', '{"payload":"abc'],
    ['an empty payload', '{"payload":}'],
    ['a payload of two values', '{"payload":1 2}'],
    ['two colons', '{"payload"::1}'],
    ['no colon', '{"payload" 1}'],
    ['brackets that do not match', '{"payload":[1}}'],
    ['a trailing comma', '{"payload":1,}'],
    ['something behind it', '{"payload":1} x'],
    ['a duplicate key', '{"endpoint":"a","endpoint":"b"}'],
    ['a duplicate key inside', '{"retry":{"maxAttempts":1,"maxAttempts":2}}'],
    ['two payloads', '{"payload":1,"payload":2}'],
    ['two payloads, one escaped', '{"payload":1,"p\\u0061yload":2}'],
    ['a byte order mark', '\ufeff{"payload":1}'],
    ['a bare NaN', '{"payload":NaN}'],
  ])('%s', (_, text) => {
    expect(() => parse(text)).toThrow(expect.objectContaining({ code: 'invalid_json' }))
  })

  it('is not UTF-8', () => {
    const body = Buffer.from([...Buffer.from('{"payload":"'), 0xff, ...Buffer.from('"}')])
    expect(() => parse(body)).toThrow(/UTF-8/)
  })

  it('is nested deeper than the limit, wherever, however deep', () => {
    const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth)
    expect(payloadOf(`{"payload":${nested(MAX_JSON_DEPTH - 1)}}`)).toBe(nested(MAX_JSON_DEPTH - 1))
    for (const depth of [MAX_JSON_DEPTH, 200_000]) {
      expect(() => parse(`{"payload":${nested(depth)}}`)).toThrow(/deeper/)
      expect(() => parse(`{"tags":${nested(depth)}}`)).toThrow(/deeper/)
    }
  })

  it('any damage to a good body is refused or leaves both halves JSON', () => {
    const good = '{"endpoint":"a","payload":{"b":[1,"x\\"y"]},"tags":[]}'
    fc.assert(
      fc.property(fc.nat({ max: good.length - 1 }), fc.string({ maxLength: 2 }), (at, noise) => {
        const text = good.slice(0, at) + noise + good.slice(at + 1)
        let envelope: Record<string, unknown>
        try {
          envelope = parse(text)
        } catch {
          return
        }
        const whole = JSON.parse(text)
        if (envelope.payload instanceof RawJson) {
          expect(JSON.parse(envelope.payload.bytes.toString())).toEqual(whole.payload)
        }
        expect({ ...envelope, payload: 0 }).toEqual({ ...whole, payload: 0 })
      }),
      { numRuns: 2_000 },
    )
  })
})
