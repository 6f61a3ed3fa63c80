import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { AppError } from '../../src/errors.ts'
import { MAX_JSON_DEPTH } from '../../src/job/json-depth.ts'
import { parseEnvelope, RawJson, REQUEST_LIMITS } from '../../src/wire/envelope.ts'

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

/** The value as if no payload had been cut out. */
const whole = (value: unknown): unknown =>
  JSON.parse(
    JSON.stringify(value, (_, one) =>
      one instanceof RawJson ? JSON.parse(one.bytes.toString()) : one,
    ),
  )
/** Longer than one step of the pass, so that items are cut out. */
const LONG = ' '.repeat(300_000)

describe('a batch', () => {
  it.each([
    ['short', ''],
    ['long', LONG],
  ])('that is %s is read as JSON.parse reads it', (_, space) => {
    const job = fc.record({
      payload: fc.json().map((text) => JSON.parse(text)),
      tags: fc.jsonValue(),
    })
    const items = fc.oneof(job, fc.integer(), fc.constant(null), fc.array(fc.integer()))
    fc.assert(
      fc.property(fc.array(items), fc.jsonValue(), (jobs, more) => {
        const text = JSON.stringify({ jobs, more, payload: jobs })
        // JSON.parse treats this name like any other, and so does parseEnvelope.
        fc.pre(!text.includes('__proto__'))
        expect(whole(parse(text + space))).toEqual(JSON.parse(text))
      }),
      { numRuns: space === '' ? 300 : 50 },
    )
  })

  it.each([
    ['short', ''],
    ['long', LONG],
  ])('that is %s and damaged is refused, or still what JSON.parse reads', (_, space) => {
    const good = '{"jobs":[{"payload":1,"a":[1]},{"payload":"x"},3,{"b":{}}],"payload":[2,{}]}'
    fc.assert(
      fc.property(fc.nat({ max: good.length - 1 }), fc.string({ maxLength: 2 }), (at, noise) => {
        const text = good.slice(0, at) + noise + good.slice(at + 1)
        let envelope: unknown
        try {
          envelope = parse(text + space)
        } catch {
          return
        }
        expect(whole(envelope)).toEqual(JSON.parse(text))
      }),
      { numRuns: space === '' ? 2_000 : 100 },
    )
  })

  it('refuses an item that holds too much, and none of the others', () => {
    const limited = (text: string) =>
      parseEnvelope(Buffer.from(text), REQUEST_LIMITS) as { jobs: unknown[] }
    const many = `{"tags":[${'0,'.repeat(REQUEST_LIMITS.values)}0]}`
    const large = `{"tags":[${'"x",'.repeat(100)}"${'x'.repeat(1_000_000)}","${'x'.repeat(100_000)}"]}`
    for (const [item, code] of [
      [many, 'invalid_request'],
      [large, 'payload_too_large'],
      [`[${'0,'.repeat(REQUEST_LIMITS.values)}0]`, 'invalid_request'],
    ]) {
      const { jobs } = limited(`{"jobs":[{"payload":[1,2]},${item},{"payload":3}]}`)
      expect(jobs[1]).toBeInstanceOf(AppError)
      expect(jobs[1]).toMatchObject({ code })
      expect(whole([jobs[0], jobs[2]])).toEqual([{ payload: [1, 2] }, { payload: 3 }])
    }
    expect(() => limited(many)).toThrow(expect.objectContaining({ code: 'invalid_request' }))
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

  it.each([0, 300_000])('of an item of a batch harms no other, in a body of %d bytes', (size) => {
    const nested = (depth: number) => `${'[{"a":'.repeat(depth / 2)}1${'}]'.repeat(depth / 2)}`
    const filler = `{"payload":"${'x'.repeat(size)}"}`
    const bad = [
      `{"payload":{"a":1,"a":${nested(64)}},"endpoint":"a"}`,
      `{"payload":${nested(20_000)}}`,
      `{"payload":[${nested(64)},"${'y'.repeat(2_000_000)}"],"tags":["}]\\\\"]}`,
      `{"tags":${nested(62)}}`,
      `{"tags":${nested(20_000)},"payload":{"a":1}}`,
      nested(1_000),
      `{"metadata":{"a":"${'z'.repeat(1_100_000)}"},"payload":4}`,
    ]
    const all = bad.flatMap((one, n) => [`{"payload":{"n":${n}}}`, one])
    const { jobs, after } = parseEnvelope(
      Buffer.from(`{"jobs":[${filler},${all.join(', ')},{"payload":{"last":[]}}],"after":[1]}`),
      REQUEST_LIMITS,
    ) as { jobs: unknown[]; after: unknown }
    expect(after).toEqual([1])
    const found = jobs.map((job) => {
      if (job instanceof AppError) return job.message
      return (job as { payload: RawJson }).payload.bytes.toString()
    })
    const deep = 'the body is nested deeper than 64 levels'
    const reasons = [
      ...[deep, deep, deep, deep, deep, deep],
      'the body without the payload is larger than 1048576 bytes',
    ]
    const expected = reasons.flatMap((reason, n) => [`{"n":${n}}`, reason])
    expect(found.slice(1)).toEqual([...expected, '{"last":[]}'])
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
