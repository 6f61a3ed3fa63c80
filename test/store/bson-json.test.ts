// BSON to JSON: each BSON type has one JSON form, or none. The tests build values from bytes if
// drivers of other languages send them and the JavaScript driver does not.
import {
  Binary,
  BSON,
  BSONRegExp,
  BSONSymbol,
  Code,
  DBRef,
  Decimal128,
  Double,
  Int32,
  Long,
  MaxKey,
  MinKey,
  ObjectId,
  Timestamp,
  UUID,
} from 'mongodb'
import { describe, expect, it } from 'vitest'
import { decoded } from '../../cli/agenda/collection.ts'
import { planOf } from '../../cli/agenda/plan.ts'
import { jsonOfBson, NoJsonForm } from '../../src/store/bson-json.ts'
import { requestHashOf } from '../../src/store/mongo/outbox.ts'

/** The value as Posthorn's driver reads it, from the bytes that the driver wrote. */
const readAgain = (value: unknown): unknown =>
  BSON.deserialize(BSON.serialize({ value }), {
    ...{ promoteValues: false, promoteBuffers: false, promoteLongs: false, bsonRegExp: true },
  }).value
const json = (value: unknown, largeIntegers: 'number' | 'text' = 'number') =>
  jsonOfBson(readAgain(value), ['payload'], { largeIntegers })

const ID = new ObjectId('6b078efd9eae0ed217d8c1a3')
const UUID_TEXT = '0b7a1c9e-52f3-4d68-9a01-c0ffee123456'

describe('JSON of BSON', () => {
  it.each([
    [new Int32(-7), '-7'],
    [new Double(0.5), '0.5'],
    [new Double(2), '2'],
    [Long.fromString('9007199254740993'), '9007199254740993'],
    [Decimal128.fromString('12.50'), '"12.50"'],
    [ID, '"6b078efd9eae0ed217d8c1a3"'],
    [new UUID(UUID_TEXT), `"${UUID_TEXT}"`],
    [new Binary(Buffer.from('hello')), '"aGVsbG8="'],
    [new Binary(Buffer.alloc(16), Binary.SUBTYPE_UUID_OLD), '"AAAAAAAAAAAAAAAAAAAAAA=="'],
    [new Date(0), '"1970-01-01T00:00:00.000Z"'],
    [{ 'a.b': [null, true, 'ü"'] }, '{"a.b":[null,true,"ü\\""]}'],
    // Fields of a document never make it another type, whatever their names are.
    [{ $numberLong: '1', n: { toString: 1 } }, '{"$numberLong":"1","n":{"toString":1}}'],
  ])('%s is written as %s', (value, expected) => {
    expect(json(value)).toBe(expected)
  })

  it('writes an int64 as a text where that is asked for, if no number of JavaScript holds it', () => {
    expect(json(Long.fromString('9007199254740993'), 'text')).toBe('"9007199254740993"')
    expect(json(Long.fromString('9007199254740991'), 'text')).toBe('9007199254740991')
  })

  it('is not misled by a field that is named as the driver tags its values', () => {
    const bytes = BSON.serialize({ value: { _bsontypo: 'Long', x: 1 } })
    bytes.set(Buffer.from('_bsontype'), Buffer.from(bytes).indexOf('_bsontypo'))
    const { value } = BSON.deserialize(bytes)
    expect(jsonOfBson(value, [], { largeIntegers: 'text' })).toBe('{"_bsontype":"Long","x":1}')
  })

  it.each([
    [new Timestamp({ t: 1, i: 2 }), 'is a BSON Timestamp, which has no JSON form here'],
    [/x/g, 'is a BSON RegExp, which'],
    [new BSONRegExp('(?i)x', 'x'), 'is a BSON RegExp, which'],
    [new Code('x'), 'is a BSON Code, which'],
    [new Code('x', { a: 1 }), 'is a BSON Code, which'],
    [new BSONSymbol('x'), 'is a BSON Symbol, which'],
    [new MinKey(), 'is a BSON MinKey, which'],
    [new MaxKey(), 'is a BSON MaxKey, which'],
    [new DBRef('orders', ID), 'is a BSON DBRef, which'],
    [new Double(Number.NaN), 'is NaN, which JSON cannot express'],
    [Decimal128.fromString('-Infinity'), 'is -Infinity, which JSON cannot express'],
    [new Date(8.64e15), 'is a date that RFC 3339 cannot write'],
  ])('%s has none, and is named by its place', (value, reason) => {
    expect(() => json({ a: [value] })).toThrow(NoJsonForm)
    expect(() => json({ a: [value] })).toThrow(`/payload/a/0 ${reason}`)
  })
})

describe('a document with a text that is not UTF-8', () => {
  const broken = (document: object) => {
    const bytes = Buffer.from(BSON.serialize(document))
    bytes[bytes.indexOf('?')] = 0xff
    return bytes
  }

  it('becomes no job of an outbox', () => {
    const document = { _id: 1, endpoint: 'work', payload: { a: '?' } }
    expect(requestHashOf(BSON.serialize(document))).toMatch(/^[0-9a-f]{64}$/)
    expect(requestHashOf(broken(document))).toBeNull()
  })

  it('is refused by the import of Agenda, which still knows its id and name', () => {
    const document = { _id: ID, name: 'mail', data: '?', nextRunAt: new Date() }
    expect(decoded(BSON.serialize(document)).problem).toBeNull()
    const read = decoded(broken(document))
    expect(read).toMatchObject({
      document: { _id: ID },
      problem: 'it contains a string that is not UTF-8',
    })
    const given = { endpoints: new Map([['mail', 'mail']]), source: 'shop.agendaJobs' }
    expect(planOf(read.document, given).name).toBe('mail')
  })
})
