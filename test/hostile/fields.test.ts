// Every field of every body gets hostile values. Posthorn refuses each with a message of its own,
// or stores it. npm run test:long tries more of them on MongoDB.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { ENGINES, type Engine, RUN_LONG } from '../support/engines.ts'
import { type Fixture, openFixture } from './fixture.ts'
import { bodyWith, type Json, type Operation, type Place } from './operations.ts'
import { DEEP_JSON, HOSTILE_JSON } from './values.ts'

/**
 * Fields that are stored in another form, or shown only in part, by the first name of the place.
 */
const MASKED = new Set(['headers', 'secret'])
/** Fields that are stored and shown as the bytes that were received. */
const RAW = new Set(['payload', 'result'])
/** The API returns these in their canonical form. */
const CANONICAL = /^(0s|\d{4}-.*)$/
const MAX_RESULT_BYTES = 65_536
const DEADLINE_MS = 300_000
/**
 * A job in a batch gets all values in every field. Other operations get one of this many. Nine of
 * ten are refused before a store sees them.
 */
const SHARE: Record<Engine, number> = { sqlite: 8, mongo: RUN_LONG ? 8 : 48 }

describe.each(ENGINES)('on %s', { timeout: DEADLINE_MS }, (engine) => {
  let fixture: Fixture
  let kept: string
  beforeAll(async () => {
    fixture = await openFixture(engine)
    await fixture.ask('PUT', '/endpoints/kept', '{"url":null}')
    await fixture.ask('PUT', '/endpoints/patched', '{"url":null}')
    const body = '{"endpoint":"kept","payload":{"kept":true},"tags":["kept"],"metadata":{"a":"b"}}'
    kept = JSON.parse((await fixture.ask('POST', '/jobs', body)).text).id
  })
  afterAll(() => fixture.posthorn.close())

  it('the walk through openapi.json finds fields at every depth', () => {
    const found = fixture.operations.flatMap(({ method, path, places }) =>
      places.map(({ at }) => `${method} ${path} ${at.join('.')}`),
    )
    expect(found).toEqual(
      expect.arrayContaining([
        'POST /jobs endpoint',
        'POST /jobs retry.backoff.delays.0',
        'POST /jobs onFinish.states.0',
        'POST /jobs dedupe.key',
        'POST /jobs metadata.x-one',
        'PATCH /jobs/{id} tags.0',
        'PUT /endpoints/{name} circuitBreaker.cooldown',
        'PATCH /endpoints/{name} retry.backoff.delay',
        'PUT /schedules/{name} retry.maxAge',
        'POST /jobs/cancel filter.failureReason',
        'POST /jobs/{id}/heartbeat message',
        'POST /keys name',
      ]),
    )
  })

  it('a hostile value in any field is refused, or comes back as it was sent', {
    timeout: DEADLINE_MS,
  }, async () => {
    const withBody = fixture.operations.filter(({ places }) => places.length > 0)
    const counts = await Promise.all(withBody.map((operation) => attack(operation)))
    const sum = (pick: (one: { refused: number; kept: number }) => number) =>
      counts.reduce((all, one) => all + pick(one), 0)
    console.log(
      `${engine}: ${sum((one) => one.refused)} values refused, ${sum((one) => one.kept)} kept`,
    )
    expect(sum((one) => one.refused)).toBeGreaterThan(4_000 / SHARE[engine])
    expect(sum((one) => one.kept)).toBeGreaterThan(800 / SHARE[engine])
  })

  it('a hostile value in any field of a job in a batch is refused, or comes back', async () => {
    const single = fixture.operations.find(
      ({ method, path }) => method === 'POST' && path === '/jobs',
    ) as Operation
    for (const place of single.places) {
      const items = HOSTILE_JSON.filter(([what]) => what !== '65 levels').map(([what, json]) => ({
        what,
        json,
        text: bodyWith(place, json),
      }))
      const body = `{"jobs":[${items.map(({ text }) => text).join(',')}]}`
      const answer = await fixture.ask('POST', '/jobs/batch', body)
      expect([place.at, answer.status]).toEqual([place.at, 200])
      const { items: results } = JSON.parse(answer.text)
      await Promise.all(
        items.map(async ({ what, json }, i) => {
          const { status, id } = results[i]
          expect([place.at, what, status < 500]).toEqual([place.at, what, true])
          if (status < 300) await expectKept(place, json, `/jobs/${id}`)
        }),
      )
    }
  })

  it('a job that no request meant is as it was', async () => {
    const { text } = await fixture.ask('GET', `/jobs/${kept}`)
    expect(JSON.parse(text)).toMatchObject({
      state: 'queued',
      version: 1,
      tags: ['kept'],
      metadata: { a: 'b' },
      payload: { kept: true },
    })
    expect((await fixture.ask('GET', '/endpoints/kept')).status).toBe(200)
  })

  it('the API has logged no failure', () => {
    expect(fixture.api.log.filter(({ msg }) => msg === 'request.failed')).toEqual([])
    expect(fixture.api.stderr()).toBe('')
  })

  async function attack(operation: Operation): Promise<{ refused: number; kept: number }> {
    const counts = { refused: 0, kept: 0 }
    const target = targetOf(operation)
    for (const place of operation.places) {
      const isTop = place.at.length === 0 || RAW.has(String(place.at[0]))
      const values = someFor(place, SHARE[engine])
      for (const [, json] of [...values, ...(isTop ? DEEP_JSON : [])]) {
        const path = await target.path()
        const answer = await fixture.ask(operation.method, path, bodyWith(place, json))
        if (answer.status >= 300) {
          counts.refused++
          continue
        }
        counts.kept++
        await expectKept(place, json, target.readPath(path, answer.text))
        target.used()
      }
    }
    return counts
  }

  /** @param readPath null: nothing of the request is stored */
  async function expectKept(place: Place, json: string, readPath: string | null): Promise<void> {
    if (readPath === null) return
    const { status, text } = await fixture.ask('GET', readPath)
    expect(status).toBe(200)
    const names = place.at.map(String)
    const where = `${names.join('.')} = ${json.slice(0, 200)} reads ${text.slice(0, 2_000)}`
    if (RAW.has(names[0] ?? '')) {
      const isTooLong = names[0] === 'result' && json.length > MAX_RESULT_BYTES
      expect(text.includes(`"${names[0]}":${isTooLong ? 'null' : json}`), where).toBe(true)
      return
    }
    if (MASKED.has(names[0] ?? '') || CANONICAL.test(JSON.parse(json))) return
    const value = JSON.parse(json)
    const isShown = typeof value === 'string' || names[0] === 'metadata'
    if (isShown) expect(holds(JSON.parse(text), value), where).toBe(true)
  }

  /** The path of an operation, the path of the next one, and where to read the result. */
  function targetOf({ method, path }: Operation) {
    let next: { id: string; token: string } | null = null
    const isOfAttempt = /(complete|fail|heartbeat)$/.test(path)
    const name = { PUT: 'changed', PATCH: 'patched' }[method] ?? 'idle'
    return {
      async path() {
        if (!path.includes('{id}')) return path.replace('{name}', name)
        next ??= isOfAttempt ? await fixture.heldJob() : { id: await fixture.newJob(), token: '' }
        return path.replace('{id}', next.id) + (isOfAttempt ? `?token=${next.token}` : '')
      },
      used() {
        if (method === 'POST') next = null
      },
      readPath(sentTo: string, text: string): string | null {
        const bare = sentTo.split('?', 1)[0] as string
        if (method === 'PUT' || method === 'PATCH') return bare
        if (path === '/jobs') return `/jobs/${JSON.parse(text).id}`
        if (path === '/keys') return '/keys'
        return isOfAttempt ? bare.replace(/\/\w+$/, '') : null
      },
    }
  }
})

/** One of this many values; the next place gets others. */
function someFor({ at }: Place, share: number): typeof HOSTILE_JSON {
  const turn = at.join('.').length % share
  return HOSTILE_JSON.filter((_, i) => i % share === turn)
}

/** Whether the value occurs anywhere in what was read. */
function holds(read: Json, value: Json): boolean {
  if (JSON.stringify(read) === JSON.stringify(value)) return true
  if (typeof read !== 'object' || read === null) return false
  return Object.values(read).some((inner) => holds(inner, value))
}
