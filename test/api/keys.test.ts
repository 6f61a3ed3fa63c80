// Authentication: keys from the environment and stored ones, their scopes, and local mode.
import { once } from 'node:events'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { NO_JOB, soon } from '../support/api-fixture.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'
import { runPosthorn } from '../support/process.ts'

const ADMIN_KEY = 'an-admin-key-of-enough-characters'

/** One route of each kind, with the scopes other than admin that may use it. */
const ROUTES: [method: string, path: string, scopes: string[]][] = [
  ['POST', '/jobs', ['enqueue']],
  ['POST', '/jobs/batch', ['enqueue']],
  ['GET', '/jobs', ['enqueue']],
  ['GET', `/jobs/${NO_JOB}`, ['enqueue']],
  ['GET', `/jobs/${NO_JOB}/payload`, ['enqueue']],
  ['GET', `/jobs/${NO_JOB}/explain`, ['enqueue']],
  ['PATCH', `/jobs/${NO_JOB}`, ['enqueue']],
  ['DELETE', `/jobs/${NO_JOB}`, ['enqueue']],
  ['POST', `/jobs/${NO_JOB}/cancel`, ['enqueue']],
  ['POST', `/jobs/${NO_JOB}/retry`, ['enqueue']],
  ['POST', `/jobs/${NO_JOB}/copy`, ['enqueue']],
  ['POST', '/endpoints/none/claim', ['work']],
  ['POST', '/jobs/cancel', []],
  ['POST', '/jobs/retry', []],
  ['GET', '/endpoints', []],
  ['GET', '/endpoints/none', []],
  ['PUT', '/endpoints/none', []],
  ['DELETE', '/endpoints/none', []],
  ['POST', '/endpoints/none/pause', []],
  ['POST', '/endpoints/none/resume', []],
  ['POST', '/endpoints/none/rotate-secret', []],
  ['POST', '/endpoints/none/test', []],
  ['GET', '/limits', []],
  ['GET', '/limits/none', []],
  ['PUT', '/limits/none', []],
  ['DELETE', '/limits/none', []],
  ['GET', '/schedules', []],
  ['GET', '/schedules/none', []],
  ['PUT', '/schedules/none', []],
  ['DELETE', '/schedules/none', []],
  ['POST', '/schedules/none/pause', []],
  ['POST', '/schedules/none/resume', []],
  ['POST', '/schedules/none/run', []],
  ['GET', '/keys', []],
  ['POST', '/keys', []],
  ['DELETE', '/keys/none', []],
  ['GET', '/stats', []],
  ['GET', '/workers', []],
  ['GET', '/metrics', []],
]
const OPEN = ['/', '/health/live', '/health/ready', '/openapi.json', '/docs']

describe.each(SQLITE_UNLESS_LONG)('on %s', (engine) => {
  let posthorn: Deployment
  let urls: [first: string, second: string]
  beforeAll(async () => {
    posthorn = deploy(engine, { API_KEYS: `${ADMIN_KEY}\nanother-${ADMIN_KEY}\n` })
    await posthorn.startApi()
    const first = posthorn.url()
    await posthorn.startApi()
    urls = [first, posthorn.url()]
  })
  afterAll(() => posthorn.close())

  const requestAs = (method: string, path: string, key: string | null, body?: unknown) =>
    posthorn.request(method, path, body, key === null ? {} : { authorization: `Bearer ${key}` })
  const bodyFor = (method: string) => (method === 'GET' || method === 'DELETE' ? undefined : {})
  const make = async (scope: string, name = scope) =>
    (await requestAs('POST', '/keys', ADMIN_KEY, { name, scope })).body

  it('API_KEYS: each is admin, an unknown one and none are 401, but for the open routes', async () => {
    for (const [method, path] of ROUTES) {
      for (const key of [null, 'unknown-key-of-enough-characters', '']) {
        const answer = await requestAs(method, path, key, bodyFor(method))
        expect([method, path, answer.status]).toEqual([method, path, 401])
        expect(answer.headers.get('www-authenticate')).toBe('Bearer')
      }
      for (const key of [ADMIN_KEY, `another-${ADMIN_KEY}`]) {
        const answer = await requestAs(method, path, key, bodyFor(method))
        expect([401, 403]).not.toContain(answer.status)
      }
    }
    for (const path of OPEN) expect((await requestAs('GET', path, null)).status).toBe(200)
  })

  it('POST /keys: makes a key that is shown once, of one of three scopes', async () => {
    const answer = await requestAs('POST', '/keys', ADMIN_KEY, { name: 'mine', scope: 'work' })
    expect(answer.status).toBe(201)
    expect(answer.body).toEqual({
      id: expect.any(String),
      name: 'mine',
      scope: 'work',
      key: expect.stringMatching(/^.{24,}$/),
      createdAt: expect.any(String),
    })
    for (const body of [
      {},
      { name: 'x' },
      { name: '', scope: 'work' },
      { name: 'x', scope: 'root' },
    ]) {
      expect((await requestAs('POST', '/keys', ADMIN_KEY, body)).status).toBe(400)
    }
  })

  it('GET /keys: lists them, never the key', async () => {
    const made = await make('enqueue', 'listed')
    const { body } = await requestAs('GET', '/keys', ADMIN_KEY)
    const { key, ...shown } = made
    expect(body.items).toContainEqual(shown)
    expect(JSON.stringify(body)).not.toContain(key)
  })

  it.each(['enqueue', 'work', 'admin'])(
    'scopes: %s allows its routes, and no other',
    async (scope) => {
      const { key } = await make(scope)
      for (const [method, path, scopes] of ROUTES) {
        const answer = await requestAs(method, path, key, bodyFor(method))
        const isAllowed = scope === 'admin' || scopes.includes(scope)
        expect([method, path, answer.status === 403]).toEqual([method, path, !isAllowed])
        expect(answer.status).not.toBe(401)
        if (!isAllowed) expect(answer.body.code).toBe('forbidden')
      }
    },
  )

  it('DELETE /keys/:id: ends a key on every API process within 5 s', async () => {
    const { id, key } = await make('enqueue', 'short-lived')
    const statuses = () =>
      Promise.all(
        urls.map(async (url) => {
          const answer = await fetch(`${url}/jobs`, { headers: { authorization: `Bearer ${key}` } })
          await answer.arrayBuffer()
          return answer.status
        }),
      )
    await soon(async () => expect(await statuses()).toEqual([200, 200]), 5_000)
    expect(await requestAs('DELETE', `/keys/${id}`, ADMIN_KEY)).toMatchObject({
      status: 204,
      body: '',
    })
    expect((await statuses())[1]).toBe(401)
    await soon(async () => expect(await statuses()).toEqual([401, 401]), 5_000)
    expect((await requestAs('DELETE', `/keys/${id}`, ADMIN_KEY)).status).toBe(404)
    const listed = (await requestAs('GET', '/keys', ADMIN_KEY)).body.items
    expect(listed.map((one: { id: string }) => one.id)).not.toContain(id)
  })

  it('DELETE /keys/:id: a wait that began before hands nothing over after', async () => {
    const worker = await make('work', 'waiting')
    const reader = await make('enqueue', 'reading')
    const name = `waited-${engine}`
    await requestAs('PUT', `/endpoints/${name}`, ADMIN_KEY, { url: null })
    const running = (await requestAs('POST', '/jobs', ADMIN_KEY, { endpoint: name, payload: 1 }))
      .body
    const [held] = (await requestAs('POST', `/endpoints/${name}/claim`, ADMIN_KEY)).body.jobs
    const claiming = requestAs('POST', `/endpoints/${name}/claim`, worker.key, { wait: '20s' })
    const reading = requestAs('GET', `/jobs/${running.id}?wait=20s`, reader.key)
    // Requests begin in the order in which they arrive. So when this one ends, both others have
    // begun.
    await requestAs('GET', `/jobs/${running.id}`, ADMIN_KEY)
    for (const { id } of [worker, reader]) {
      expect((await requestAs('DELETE', `/keys/${id}`, ADMIN_KEY)).status).toBe(204)
    }

    const next = (await requestAs('POST', '/jobs', ADMIN_KEY, { endpoint: name, payload: 2 })).body
    expect(await claiming).toMatchObject({ status: 401, body: { code: 'unauthorized' } })
    await posthorn.request('POST', `/jobs/${held.id}/complete?token=${held.token}`)
    expect(await reading).toMatchObject({ status: 401, body: { code: 'unauthorized' } })

    const { jobs } = (
      await requestAs('POST', `/endpoints/${name}/claim`, ADMIN_KEY, { wait: '5s' })
    ).body
    expect(jobs).toMatchObject([{ id: next.id, payload: 2 }])
  })

  it('PUBLIC_URL: without it an async endpoint with a URL is refused, a pulled one is not', async () => {
    const put = (settings: object) =>
      requestAs('PUT', '/endpoints/later', ADMIN_KEY, { completion: 'async', ...settings })
    const refused = await put({ url: 'https://example.com/' })
    expect(refused).toMatchObject({ status: 400, body: { errors: [{ path: '/completion' }] } })
    expect((await put({ url: null })).status).toBe(201)
  })
})

describe.each(SQLITE_UNLESS_LONG)('in local mode on %s', (engine) => {
  let posthorn: Deployment
  beforeAll(async () => {
    posthorn = deploy(engine)
    await posthorn.startApi()
  })
  afterAll(() => posthorn.close())

  it('local mode: holds whatever keys are stored, and a Bearer that is sent is still checked', async () => {
    const get = (authorization?: string) =>
      posthorn.request(
        'GET',
        '/endpoints',
        undefined,
        authorization === undefined ? {} : { authorization },
      )
    const made = await posthorn.request('POST', '/keys', { name: 'local', scope: 'enqueue' })
    expect(made.status).toBe(201)
    expect((await get()).status).toBe(200)
    expect((await get('Bearer unknown')).status).toBe(401)
    expect((await get(`Bearer ${made.body.key}`)).status).toBe(403)
    const admin = await posthorn.request('POST', '/keys', { name: 'admin', scope: 'admin' })
    expect((await get(`Bearer ${admin.body.key}`)).status).toBe(200)
  })

  it('local mode: refuses pages of other sites by Origin and Sec-Fetch-Site', async () => {
    const get = (headers: object) => posthorn.request('GET', '/health/live', undefined, headers)
    for (const headers of [
      { origin: 'https://evil.example' },
      { origin: 'null' },
      { 'sec-fetch-site': 'cross-site' },
      { 'sec-fetch-site': 'same-site' },
    ]) {
      expect(await get(headers)).toMatchObject({ status: 403, body: { code: 'forbidden' } })
    }
    expect((await get({ origin: posthorn.url() })).status).toBe(200)
    expect((await get({ 'sec-fetch-site': 'same-origin' })).status).toBe(200)
  })

  it('local mode: asked to listen on anything but loopback it does not start, and says how to set a key', async () => {
    const refused = runPosthorn(['api'], { ...posthorn.env, HOST: '0.0.0.0' })
    await once(refused.child, 'close')
    expect(refused.child.exitCode).toBe(2)
    expect(refused.stderr() + JSON.stringify(refused.log)).toMatch(/API_KEYS/)
  })
})
