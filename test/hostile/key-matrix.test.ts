// Every route in openapi.json, with every kind of key.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'
import { type Fixture, openFixture } from './fixture.ts'
import type { Operation } from './operations.ts'

const ADMIN_KEY = 'an-admin-key-of-enough-characters'
const SCOPES = ['enqueue', 'work', 'admin'] as const
const UNKNOWN_KEY = 'a-key-that-nobody-has-ever-made'
/** Makes keys that differ only a little from a valid one. */
const NEARLY: ((key: string) => string)[] = [
  (key) => key.slice(0, -1),
  (key) => `${key}a`,
  (key) => `${key.slice(0, -1)}${key.endsWith('a') ? 'b' : 'a'}`,
  (key) => key.toUpperCase(),
  (key) => `${key},${key}`,
]

/** The scopes other than admin that may use a route; `open`: the route needs no key. */
function scopesOf({ method, path, isOpen }: Operation): string[] | 'open' {
  if (isOpen) return 'open'
  if (path.endsWith('/claim')) return ['work']
  const isBulk = path === '/jobs/cancel' || path === '/jobs/retry'
  if (path.startsWith('/groups')) return ['enqueue']
  return path.startsWith('/jobs') && !(isBulk && method === 'POST') ? ['enqueue'] : []
}

/** Much longer than this takes on a machine that is not busy. */
const DEADLINE_MS = 120_000

describe.each(SQLITE_UNLESS_LONG)('on %s', { timeout: DEADLINE_MS }, (engine) => {
  let fixture: Fixture
  const keys: Record<string, string> = {}
  let revoked: string
  beforeAll(async () => {
    fixture = await openFixture(engine, { API_KEYS: ADMIN_KEY })
    const make = async (scope: string) =>
      JSON.parse((await fixture.ask('POST', '/keys', JSON.stringify({ name: scope, scope }))).text)
    for (const scope of SCOPES) keys[scope] = (await make(scope)).key
    const ended = await make('admin')
    revoked = ended.key
    expect((await ask('GET', '/jobs', revoked)).status).toBe(200)
    expect((await fixture.ask('DELETE', `/keys/${ended.id}`)).status).toBe(204)
  })
  afterAll(() => fixture.posthorn.close())

  const ask = (method: string, path: string, key: string | null, body?: string) =>
    fixture.ask(method, path, body, { authorization: key === null ? '' : `Bearer ${key}` })
  const aimed = ({ path }: Operation) => path.replaceAll(/\{(id|name|file)\}/g, 'none')
  const bodyOf = ({ body }: Operation) => (body === undefined ? undefined : '{"colour":"red"}')
  const isOfAttempt = ({ path }: Operation) => /(complete|fail|heartbeat)$/.test(path)

  /** Every GET route has a HEAD route, which openapi.json omits. */
  async function eachRoute(look: (operation: Operation, method: string) => Promise<void>) {
    for (const operation of fixture.operations) {
      await look(operation, operation.method)
      if (operation.method === 'GET') await look(operation, 'HEAD')
    }
  }

  it('without a key, or with one that is unknown, revoked or nearly right, it is 401', async () => {
    let count = 0
    const wrong = [null, UNKNOWN_KEY, revoked, ...NEARLY.map((change) => change(ADMIN_KEY))]
    await eachRoute(async (operation, method) => {
      if (scopesOf(operation) === 'open') return
      for (const key of [...wrong, ...NEARLY.map((change) => change(keys.admin as string))]) {
        const answer = await ask(method, aimed(operation), key, bodyOf(operation))
        const where = [method, operation.path, key]
        expect([...where, answer.status]).toEqual([...where, 401])
        expect(answer.headers.get('www-authenticate')).toBe('Bearer')
        count++
      }
    })
    expect(count).toBeGreaterThan(400)
  })

  it('with a key the scope decides: admin everywhere, the others on their own routes', async () => {
    let refusedCount = 0
    await eachRoute(async (operation, method) => {
      const scopes = scopesOf(operation)
      if (scopes === 'open') return
      for (const scope of SCOPES) {
        const answer = await ask(method, aimed(operation), keys[scope] as string, bodyOf(operation))
        const isAllowed = scope === 'admin' || scopes.includes(scope)
        const where = [method, operation.path, scope]
        expect([...where, answer.status === 403]).toEqual([...where, !isAllowed])
        expect(answer.status).not.toBe(401)
        if (!isAllowed) refusedCount++
      }
    })
    expect(refusedCount).toBeGreaterThan(40)
  })

  it('the open routes respond without a key, those of an attempt only to its token', async () => {
    await eachRoute(async (operation, method) => {
      if (scopesOf(operation) !== 'open') return
      for (const key of [null, UNKNOWN_KEY, ADMIN_KEY]) {
        const answer = await ask(method, aimed(operation), key, undefined)
        const isAnswered = isOfAttempt(operation)
          ? answer.status === 401
          : answer.status === 200 || operation.path.endsWith('/{file}')
        expect([method, operation.path, key, isAnswered]).toEqual([
          method,
          operation.path,
          key,
          true,
        ])
      }
    })
  })

  it('a key anywhere but in the Authorization header is no key', async () => {
    const places: [query: string, headers: object][] = [
      ...['key', 'token', 'api_key', 'apikey', 'access_token', 'authorization'].map(
        (name): [string, object] => [`?${name}=${ADMIN_KEY}`, {}],
      ),
      ['', { 'x-api-key': ADMIN_KEY }],
      ['', { cookie: `key=${ADMIN_KEY}; authorization=Bearer ${ADMIN_KEY}` }],
      ['', { 'proxy-authorization': `Bearer ${ADMIN_KEY}` }],
      ['', { authorization: `Basic ${Buffer.from(`:${ADMIN_KEY}`).toString('base64')}` }],
      ['', { authorization: ADMIN_KEY }],
      ['', { authorization: `Token ${ADMIN_KEY}` }],
    ]
    for (const operation of fixture.operations.filter((one) => scopesOf(one) !== 'open')) {
      for (const [query, headers] of places) {
        const path = aimed(operation) + query
        const all = { authorization: '', ...headers }
        const answer = await fixture.ask(operation.method, path, bodyOf(operation), all)
        expect([operation.method, path, answer.status]).toEqual([operation.method, path, 401])
      }
    }
  })

  it('the token of an attempt opens that attempt, no other job and no other route', async () => {
    const { id, token } = await fixture.heldJob()
    const other = await fixture.heldJob()
    for (const verb of ['complete', 'fail', 'heartbeat']) {
      for (const wrong of [other.token, `${token}a`, token.slice(0, -1), keys.admin as string]) {
        const answer = await fixture.ask('POST', `/jobs/${id}/${verb}?token=${wrong}`, '{}')
        expect([verb, answer.status]).toEqual([verb, 401])
      }
    }
    expect((await ask('GET', `/jobs/${id}`, token)).status).toBe(401)
    expect((await ask('POST', `/jobs/${id}/cancel`, token)).status).toBe(401)
    expect((await ask('POST', `/jobs/${id}/heartbeat`, token)).status).toBe(200)
  })

  it('what is not allowed was not done: the records of the fixture are as they were', async () => {
    const { items } = JSON.parse((await fixture.ask('GET', '/endpoints')).text)
    expect(items.map(({ name }: { name: string }) => name).sort()).toEqual([
      'held',
      'idle',
      'known',
    ])
    const listed = JSON.parse((await fixture.ask('GET', '/keys')).text).items
    expect(listed).toHaveLength(SCOPES.length)
  })
})
