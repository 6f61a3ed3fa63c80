// Every query, path parameter and header that the API reads gets hostile values. npm run test:long
// tries every value on each of them.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { ENGINES, type Engine, RUN_LONG } from '../support/engines.ts'
import { expectNothingFromInside, type Fixture, openFixture } from './fixture.ts'
import type { Operation } from './operations.ts'
import { answersIn, exchange } from './raw-http.ts'
import { HOSTILE_HEADERS, HOSTILE_QUERIES, HOSTILE_SEGMENTS, NAUGHTY_STRINGS } from './values.ts'

/** Headers that Posthorn, Fastify or Node reads, but that are not described as parameters. */
const OTHER_HEADERS = [
  'authorization',
  'host',
  'origin',
  'sec-fetch-fixture',
  'content-type',
  'content-encoding',
  'content-length',
  'transfer-encoding',
  'connection',
  'upgrade',
  'expect',
  'x-request-id',
  'traceparent',
  'tracestate',
  'user-agent',
  'accept',
  'x-http-method-override',
]

/** The test sends thousands of requests. Only a busy machine needs much longer than this. */
const DEADLINE_MS = 120_000

/** Each operation uses a part of the values of a list; other operations use the other parts. */
const SHARE: Record<Engine, number> = {
  sqlite: RUN_LONG ? 1 : 6,
  mongo: RUN_LONG ? 6 : 12,
}

function shareOf<T>(engine: Engine, values: readonly T[], turn: string): readonly T[] {
  const share = SHARE[engine]
  return values.filter((_, i) => i % share === turn.length % share)
}

describe.each(ENGINES)('on %s', { timeout: DEADLINE_MS }, (engine) => {
  let fixture: Fixture
  let kept: string
  beforeAll(async () => {
    fixture = await openFixture(engine)
    const body =
      '{"endpoint":"known","payload":1,"tags":["kept"],"dedupe":{"key":"k","mode":"keep"}}'
    kept = JSON.parse((await fixture.ask('POST', '/jobs', body)).text).id
  })
  afterAll(() => fixture.posthorn.close())

  it('every query takes hostile strings, and never finds what it does not name', async () => {
    for (const operation of fixture.operations) {
      const path = pathOf(operation)
      for (const name of operation.inQuery) {
        for (const [, text] of shareOf(engine, NAUGHTY_STRINGS, path + name)) {
          const value = encodeURIComponent(text.toWellFormed().slice(0, 8_000))
          const target = `${path}?${name}=${value}`
          const answer = await fixture.ask(operation.method, target, bodyOf(operation))
          if (operation.path !== '/jobs' || name === 'limit' || answer.status !== 200) continue
          expect([target, JSON.parse(answer.text).items]).toEqual([target, []])
        }
      }
    }
  })

  it('an operator, a doubled, unknown or badly coded query is refused everywhere', async () => {
    for (const operation of fixture.operations) {
      for (const name of operation.inQuery.length > 0 ? operation.inQuery : ['limit']) {
        for (const [what, query] of shareOf(engine, HOSTILE_QUERIES, operation.path)) {
          const target = `${pathOf(operation)}?${query(name)}`
          const answer = await fixture.ask(operation.method, target, bodyOf(operation))
          const where = [operation.method, target, what]
          const isRefused = answer.status === 400 || answer.status === 401
          expect([...where, answer.status, isRefused]).toEqual([...where, answer.status, true])
        }
      }
    }
  })

  it('every part of a path takes hostile segments, and finds nothing', async () => {
    for (const operation of fixture.operations) {
      for (const parameter of operation.inPath) {
        for (const [what, segment] of shareOf(engine, HOSTILE_SEGMENTS, operation.path)) {
          const target = operation.path.replace(`{${parameter}}`, segment)
          const answer = await fixture.ask(operation.method, target, bodyOf(operation))
          const isName = parameter === 'name' && /^[a-z0-9][a-z0-9._-]{0,63}$/.test(segment)
          const isRefused = answer.status >= 400 || isName
          expect([operation.method, operation.path, what, isRefused]).toEqual([
            operation.method,
            operation.path,
            what,
            true,
          ])
        }
      }
    }
  })

  it('every header takes hostile values', async () => {
    for (const operation of fixture.operations) {
      const own = operation.inHeader
      const names = operation.path === '/jobs' ? [...own, ...OTHER_HEADERS] : own
      for (const name of names) {
        const values = shareOf(engine, HOSTILE_HEADERS, operation.path + name)
        for (const [what, value] of values) await sendHeader(operation, name, what, value)
      }
    }
  })

  it('nothing that was stored before has changed', async () => {
    const { text } = await fixture.ask('GET', `/jobs/${kept}`)
    expect(JSON.parse(text)).toMatchObject({ state: 'queued', version: 1, tags: ['kept'] })
    expect(fixture.api.log.filter(({ msg }) => msg === 'request.failed')).toEqual([])
  })

  async function sendHeader(operation: Operation, name: string, what: string, value: Buffer) {
    const body = bodyOf(operation) ?? ''
    const others = [
      `${operation.method} ${pathOf(operation)} HTTP/1.1`,
      ...(name === 'host' ? [] : ['host: localhost']),
      ...(name === 'connection' ? [] : ['connection: close']),
      ...(body === '' || name === 'content-type' ? [] : ['content-type: application/json']),
      ...(body === '' || name === 'content-length' ? [] : [`content-length: ${body.length}`]),
      `${name}: `,
    ]
    const bytes = Buffer.concat([
      Buffer.from(others.join('\r\n')),
      value,
      Buffer.from(`\r\n\r\n${body}`),
    ])
    const where = `${operation.method} ${operation.path} with ${name}: ${what}`
    const half =
      name === 'connection'
        ? `${bytes}GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n`
        : bytes
    const answers = answersIn(await exchange(fixture.posthorn.url(), half))
    expect(answers.length, where).toBeGreaterThan(0)
    for (const { status, headers, body: text } of answers) {
      expect(status, where).toBeLessThan(500)
      expect(headers['x-request-id'], where).toMatch(/^[A-Za-z0-9._-]{1,64}$/)
      expectNothingFromInside(text, where)
      if (status >= 400) {
        expect(headers['content-type'], where).toMatch(/^application\/problem\+json/)
        if (text !== '') expect(JSON.parse(text), where).toMatchObject({ status })
      } else if (name === 'idempotency-key' && status === 201) {
        const sent = value.toString('latin1').trim()
        const key = /^".*"$/.test(sent) ? sent.slice(1, -1).replace(/\\(["\\])/g, '$1') : sent
        expect(JSON.parse(text).idempotencyKey, where).toBe(key)
      }
    }
  }

  function pathOf({ path }: Operation): string {
    return path.replace('{name}', 'nobody').replace('{id}', kept).replace('{file}', 'start.js')
  }
})

function bodyOf({ body }: Operation): string | undefined {
  return body === undefined ? undefined : JSON.stringify(body)
}
