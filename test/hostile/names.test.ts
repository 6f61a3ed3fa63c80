// Hostile names within a body: unknown fields at any level, and the names of pairs. No store sees
// an unknown field, so that part runs on SQLite alone, and on both with npm run test:long.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { ENGINES, SQLITE_UNLESS_LONG } from '../support/engines.ts'
import { type Fixture, openFixture } from './fixture.ts'
import { bodyWith, type Json, type Operation, type Place } from './operations.ts'
import { NAUGHTY_STRINGS } from './values.ts'

const MAX_NAME_LENGTH = 64
/** Names that have a meaning in JavaScript, BSON or a query language. */
const UNKNOWN_NAMES = [
  '__proto__',
  'constructor',
  'prototype',
  'toString',
  'toJSON',
  'then',
  '_bsontype',
  '$where',
  '$gt',
  'a.b',
  '',
  '0',
  'colour',
  '\u0000',
  '\ud800',
]

/** Much longer than this takes on a machine that is not busy. */
const DEADLINE_MS = 120_000

describe.each(ENGINES)('on %s', { timeout: DEADLINE_MS }, (engine) => {
  let fixture: Fixture
  beforeAll(async () => {
    fixture = await openFixture(engine)
  })
  afterAll(() => fixture.posthorn.close())

  const isPlayed = SQLITE_UNLESS_LONG.includes(engine)
  it.runIf(isPlayed)(
    'a name that no field has is refused in every object of every body',
    async () => {
      let count = 0
      for (const operation of fixture.operations) {
        const path = await pathOf(operation)
        for (const place of operation.places.filter(isClosedObject)) {
          for (const name of UNKNOWN_NAMES) {
            const inner = JSON.stringify(valueAt(place)).slice(0, -1)
            const comma = inner === '{' ? '' : ','
            const json = `${inner}${comma}${JSON.stringify(name)}:{}}`
            const answer = await fixture.ask(operation.method, path, bodyWith(place, json))
            const where = [operation.method, operation.path, place.at.join('.'), name]
            expect([...where, answer.status]).toEqual([...where, 400])
            count++
          }
        }
      }
      console.log(`${engine}: ${count} unknown names refused`)
      expect(count).toBeGreaterThan(400)
    },
  )

  it('a body with a field is refused by every route that changes something', async () => {
    for (const operation of fixture.operations) {
      if (operation.method === 'GET') continue
      const path = await pathOf(operation)
      const answer = await fixture.ask(operation.method, path, '{"colour":"red"}')
      const where = [operation.method, operation.path]
      expect([...where, answer.status]).toEqual([...where, 400])
    }
  })

  it('the names of metadata come back as they were sent, or are refused', async () => {
    let keptCount = 0
    const names = [...UNKNOWN_NAMES, ...NAUGHTY_STRINGS.map(([, text]) => text)]
    for (const name of names) {
      const metadata = `{${JSON.stringify(name)}:"a"}`
      const body = `{"endpoint":"known","payload":1,"metadata":${metadata}}`
      const answer = await fixture.ask('POST', '/jobs', body)
      const isGood = isKeepable(name)
      expect([name, answer.status]).toEqual([name, isGood ? 201 : 400])
      if (!isGood) continue
      keptCount++
      const { id } = JSON.parse(answer.text)
      const read = JSON.parse((await fixture.ask('GET', `/jobs/${id}`)).text)
      expect(Object.entries(read.metadata)).toEqual([[name, 'a']])
      const { text } = await fixture.ask('PATCH', `/jobs/${id}`, `{"metadata":${metadata}}`)
      expect(Object.entries(JSON.parse(text).metadata)).toEqual([[name, 'a']])
      const copy = JSON.parse((await fixture.ask('POST', `/jobs/${id}/copy`)).text)
      expect(Object.entries(copy.metadata)).toEqual([[name, 'a']])
    }
    expect(keptCount).toBeGreaterThan(40)
  })

  it('a header name is a token that is not ours, or refused', async () => {
    for (const [what, name] of NAUGHTY_STRINGS) {
      const body = `{"endpoint":"known","payload":1,"headers":{${JSON.stringify(name)}:"a"}}`
      const answer = await fixture.ask('POST', '/jobs', body)
      const isToken = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}$/.test(name) && name !== '__proto__'
      expect([what, answer.status]).toEqual([what, isToken ? 201 : 400])
    }
  })

  async function pathOf({ path }: Operation): Promise<string> {
    if (/(complete|fail|heartbeat)$/.test(path)) {
      const { id, token } = await fixture.heldJob()
      return `${path.replace('{id}', id)}?token=${token}`
    }
    const id = path.includes('{id}') && path.startsWith('/jobs') ? await fixture.newJob() : 'none'
    return path.replace('{id}', id).replace('{name}', 'idle').replace('{file}', 'none')
  }
})

function isKeepable(name: string): boolean {
  const isWhole = name.isWellFormed() && !name.includes('\0') && name !== '__proto__'
  return isWhole && name.length >= 1 && name.length <= MAX_NAME_LENGTH
}

function valueAt({ at, body }: Place): Json {
  return at.reduce((value, step) => value?.[step], body)
}

/** Whether the place is an object whose names are fields, not a payload or a map. */
function isClosedObject(place: Place): boolean {
  const value = valueAt(place)
  const last = String(place.at.at(-1) ?? '')
  if (['payload', 'result', 'metadata', 'headers'].includes(last)) return false
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
