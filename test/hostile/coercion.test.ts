// Nothing is coerced: a value of a wrong type is refused, even if its meaning seems clear.
import { afterAll, beforeAll, expect, it } from 'vitest'
import { type Fixture, openFixture } from './fixture.ts'
import { bodyWith, type Json, type Operation, type Place } from './operations.ts'

const LOOKALIKES: Record<string, string[]> = {
  number: ['"5"', '"1"', '"0x1"', '""', '" 1 "', 'true', '[1]', '{"valueOf":1}', '"1e0"'],
  boolean: ['"true"', '"false"', '1', '0', '"1"', '""', '[true]', '"yes"'],
  string: ['1', '0', 'true', 'false', '["a"]', '{"toString":"a"}', '1.5'],
}

let fixture: Fixture
beforeAll(async () => {
  fixture = await openFixture('sqlite')
})
afterAll(() => fixture.posthorn.close())

it('no field takes a value of another type for its own', async () => {
  const counts: Record<string, number> = { number: 0, boolean: 0, string: 0 }
  for (const operation of fixture.operations) {
    const path = await pathOf(operation)
    for (const place of operation.places) {
      const value: Json = place.at.reduce((inner: Json, step) => inner?.[step], place.body)
      if (isAnyJson(place)) continue
      for (const json of LOOKALIKES[typeof value] ?? []) {
        const { status, text } = await fixture.ask(operation.method, path, bodyWith(place, json))
        const where = [operation.method, operation.path, place.at.join('.'), json, text]
        expect([...where, status]).toEqual([...where, 400])
        const { errors } = JSON.parse(text)
        const top = `/${place.at[0] ?? ''}`
        expect(
          errors.every((one: { path: string }) => one.path.startsWith(top)),
          text,
        ).toBe(true)
        counts[typeof value] = (counts[typeof value] ?? 0) + 1
      }
    }
  }
  console.log(`values of another type refused: ${JSON.stringify(counts)}`)
  expect(counts.number).toBeGreaterThan(150)
  expect(counts.boolean).toBeGreaterThan(20)
  expect(counts.string).toBeGreaterThan(400)
})

it('a body that is no object is refused by every route that takes one', async () => {
  for (const operation of fixture.operations.filter(({ body }) => body !== undefined)) {
    const path = await pathOf(operation)
    for (const body of ['[]', '[{}]', '"a"', '1', 'true', '"null"']) {
      const { status } = await fixture.ask(operation.method, path, body)
      const where = [operation.method, operation.path, body]
      expect([...where, status]).toEqual([...where, 400])
    }
  }
})

it('a content type that is not JSON is refused, however near it comes; parameters are ignored', async () => {
  const job = '{"endpoint":"known","payload":1}'
  for (const [type, status] of [
    ['application/json', 201],
    ['application/json;charset=utf-8', 201],
    ['APPLICATION/JSON; CHARSET="UTF-8"', 201],
    ['application/json; charset=utf8', 201],
    ['application/json; charset=us-ascii', 201],
    ['application/json; odata=verbose', 201],
    ['application/json;', 201],
    ['application/json\t;x', 201],
    ['application/json, text/plain', 415],
    ['application/jsonp', 415],
    ['application/problem+json', 415],
    ['text/json', 415],
    ['text/plain', 415],
    ['multipart/form-data; boundary=x', 415],
    ['application/x-www-form-urlencoded', 415],
    ['json', 415],
    ['', 415],
  ] as const) {
    const answer = await fixture.ask('POST', '/jobs', job, { 'content-type': type })
    expect([type, answer.status]).toEqual([type, status])
  }
})

async function pathOf({ path }: Operation): Promise<string> {
  if (/(complete|fail|heartbeat)$/.test(path)) {
    const { id, token } = await fixture.heldJob()
    return `${path.replace('{id}', id)}?token=${token}`
  }
  const id = path.startsWith('/jobs/{id}') ? await fixture.newJob() : 'none'
  return path.replace('{id}', id).replace('{name}', 'idle').replace('{file}', 'none')
}

/** Payloads and results may be any JSON. names.test.ts tests the names of maps. */
function isAnyJson({ at }: Place): boolean {
  return ['payload', 'result'].includes(String(at[0])) || at.length === 0
}
