// The table of errors: every code occurs in a real response.
import { request as rawRequest } from 'node:http'
import { connect } from 'node:net'
import { DatabaseSync } from 'node:sqlite'
import { text } from 'node:stream/consumers'
import { MongoClient } from 'mongodb'
import { beforeAll, describe, expect, it } from 'vitest'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { type Body, expectProblem, NO_JOB, soon, useApi } from '../support/api-fixture.ts'
import { type Engine, SQLITE_UNLESS_LONG } from '../support/engines.ts'

const MAX_BODY_BYTES = 8_192

/** Stores settings of 10,000 keys. */
const FILL_KEYS: Record<Engine, (url: string, endpoint: string) => Promise<void>> = {
  async sqlite(url, endpoint) {
    const db = new DatabaseSync(url.slice('sqlite:'.length))
    db.prepare(`with recursive n (i) as (select 1 union all select i + 1 from n where i < 10000)
      insert into fairness_keys (endpoint, key, settings, version, updated_at)
      select ?, 'key-' || i, '{"weight":1,"paused":false}', 1, 1 from n`).run(endpoint)
    db.close()
  },
  async mongo(url, endpoint) {
    const client = await MongoClient.connect(url)
    const fields = { settings: '{"weight":1,"paused":false}', version: 1, updatedAt: new Date() }
    const keys = Array.from({ length: 10_000 }, (_, i) => ({ _id: `${endpoint}\nkey-${i + 1}` }))
    await client
      .db()
      .collection<{ _id: string }>(COLLECTIONS.fairnessKeys)
      .insertMany(keys.map((key) => ({ ...key, ...fields })))
    await client.close()
  },
}

const FILL_LIMITS: Record<Engine, (url: string) => Promise<void>> = {
  async sqlite(url) {
    const db = new DatabaseSync(url.slice('sqlite:'.length))
    db.exec(`with recursive n (i) as (select 1 union all select i + 1 from n where i < 1000)
      insert into limits (name, concurrency, created_at, updated_at, version)
      select 'filled-' || i, 1, 1, 1, 1 from n`)
    db.close()
  },
  async mongo(url) {
    const client = await MongoClient.connect(url)
    const times = { createdAt: new Date(), updatedAt: new Date(), version: 1 }
    const admission = { admissionHolder: null, admissionUntil: null }
    const fields = { concurrency: 1, rateLimit: null, rateFullAt: null, waits: [], ...times }
    const limits = Array.from({ length: 1_000 }, (_, i) => ({ _id: `filled-${i + 1}` }))
    await client
      .db()
      .collection<{ _id: string }>(COLLECTIONS.limits)
      .insertMany(limits.map((limit) => ({ ...limit, ...fields, ...admission })))
    await client.close()
  },
}

describe.each(SQLITE_UNLESS_LONG)('on %s', (engine) => {
  const fixture = useApi(engine, { MAX_BODY_BYTES: String(MAX_BODY_BYTES) })
  const { request } = fixture
  const known = { endpoint: 'known', payload: {} }
  beforeAll(async () => {
    await request('PUT', '/endpoints/known', { url: null })
    await request('POST', '/endpoints/known/pause')
  })

  it('invalid_json: no JSON, no UTF-8, nested too deep, or a duplicate key in the envelope', async () => {
    const deep = (levels: number) => `${'['.repeat(levels)}${']'.repeat(levels)}`
    const bodies = [
      '{"endpoint":',
      `{"endpoint":"known","payload":${deep(64)}}`,
      '{"endpoint":"known","endpoint":"known","payload":1}',
      '{"endpoint":"known","payload":{"a":}}',
    ]
    for (const body of bodies)
      expectProblem(await request('POST', '/jobs', body), 400, 'invalid_json')
    const latin1 = Buffer.from('{"endpoint":"known","payload":"\xe4"}', 'latin1')
    const answer = await fetch(`${fixture.posthorn.url()}/jobs`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: latin1,
    })
    expect(await answer.json()).toMatchObject({ status: 400, code: 'invalid_json' })
    // The nesting of the payload counts: with the envelope this is 64 levels.
    const allowed = `{"endpoint":"known","payload":${deep(63)}}`
    expect((await request('POST', '/jobs', allowed)).status).toBe(201)
    const doubled = '{"endpoint":"known","payload":{"a":1,"a":2}}'
    expect((await request('POST', '/jobs', doubled)).status).toBe(201)
  })

  it('invalid_request: repeats no more than the beginning of a name', async () => {
    const long = 'x'.repeat(3_500)
    const answers = [
      await request('POST', '/jobs', { ...known, [long]: 1 }),
      await request('POST', '/jobs', { ...known, metadata: { [long]: 'a' } }),
      await request('POST', '/jobs', { ...known, headers: { [long]: 'a' } }),
      await request('POST', '/jobs', `{"${long}":1,"${long}":1,"payload":1}`),
      await request('GET', `/jobs?${long}=1`),
      await request('GET', `/jobs/${long}`),
      await request('DELETE', `/keys/${long}`),
      await request('GET', `/endpoints/${long}`),
    ]
    for (const { status, body } of answers) {
      expect([400, 404]).toContain(status)
      expect(JSON.stringify(body).length).toBeLessThan(1_000)
    }
  })

  it('invalid_request: more values than any job has are refused before they are checked', async () => {
    const many = (count: number, of: (i: number) => string) =>
      Array.from({ length: count }, (_, i) => of(i))
    const keys = many(600, (i) => `"${i}":0`)
    for (const body of [
      `{${keys}}`,
      `{"endpoint":"known","payload":1,"tags":[${many(600, () => '0')}]}`,
      `{"endpoint":"known","payload":1,"metadata":{${keys}}}`,
    ]) {
      expectProblem(await request('POST', '/jobs', body), 400, 'invalid_request')
    }
    // Keys in the payload do not count.
    const payload = `{${keys}}`
    expect(
      (await request('POST', '/jobs', `{"endpoint":"known","payload":${payload}}`)).status,
    ).toBe(201)
  })

  it('cache-control: every response is kept by no cache, and is what its type says', async () => {
    const job = await request('POST', '/jobs', known)
    for (const answer of [job, await request('GET', '/jobs'), await request('GET', '/nothing')]) {
      expect(answer.headers.get('cache-control')).toBe('no-store')
      expect(answer.headers.get('x-content-type-options')).toBe('nosniff')
    }
  })

  it('invalid_request: says which field, query or header is wrong', async () => {
    const field = await request('POST', '/jobs', { ...known, retry: { maxAttempts: 0 } })
    expectProblem(field, 400, 'invalid_request', { errors: [{ path: '/retry/maxAttempts' }] })
    const query = await request('GET', '/jobs?limit=101')
    expectProblem(query, 400, 'invalid_request', { errors: [{ path: 'query/limit' }] })
    const header = await request('POST', '/jobs', known, { 'idempotency-key': 'a b' })
    const path = 'header/idempotency-key'
    expectProblem(header, 400, 'invalid_request', { errors: [{ path }] })
    const cursor = await request('GET', '/jobs?cursor=xyz')
    expectProblem(cursor, 400, 'invalid_request', { errors: [{ path: 'query/cursor' }] })
    const several = await request('POST', '/jobs', { ...known, priority: 10, tags: [1], colour: 1 })
    const paths = several.body.errors.map((error: { path: string }) => error.path).sort()
    expect(paths).toEqual(['/colour', '/priority', '/tags/0'])
  })

  it('unauthorized: an unknown key, or no token of the attempt', async () => {
    const answer = await request('GET', '/jobs', undefined, { authorization: 'Bearer unknown' })
    expectProblem(answer, 401, 'unauthorized')
    expect(answer.headers.get('www-authenticate')).toBe('Bearer')
    expectProblem(await request('POST', `/jobs/${NO_JOB}/complete`, {}), 401, 'unauthorized')
  })

  it('forbidden: the scope does not allow it, or in local mode the Host is not this machine', async () => {
    const { body } = await request('POST', '/keys', { name: 'small', scope: 'work' })
    const authorization = `Bearer ${body.key}`
    expectProblem(await request('GET', '/jobs', undefined, { authorization }), 403, 'forbidden')
    for (const path of ['/jobs', '/health/live']) {
      const status = await statusFor(fixture.posthorn.url() + path, { host: 'evil.example' })
      expect(status).toBe(403)
    }
    expect(await statusFor(fixture.posthorn.url(), { host: '[::1]:8080' })).toBe(200)
  })

  it('not_found: a path that no route has', async () => {
    for (const path of ['/nothing', '/jobs/a/b/c', '/JOBS', '/jobs//', '/keys/x/y']) {
      expectProblem(await request('GET', path), 404, 'not_found')
    }
    expectProblem(await request('DELETE', '/keys/key_none'), 404, 'not_found')
  })

  it('job_not_found: an id that no job has, well-formed or not', async () => {
    for (const id of [NO_JOB, 'x', 'job_', `${NO_JOB}0`]) {
      for (const verb of ['', '/payload', '/explain']) {
        expectProblem(await request('GET', `/jobs/${id}${verb}`), 404, 'job_not_found')
      }
      for (const verb of ['cancel', 'retry', 'copy']) {
        expectProblem(await request('POST', `/jobs/${id}/${verb}`), 404, 'job_not_found')
      }
      expectProblem(await request('PATCH', `/jobs/${id}`, { priority: 1 }), 404, 'job_not_found')
      expectProblem(await request('DELETE', `/jobs/${id}`), 404, 'job_not_found')
    }
  })

  it('endpoint_not_found: 404 in a path, 422 in a body', async () => {
    const path = '/endpoints/unknown'
    expectProblem(await request('GET', path), 404, 'endpoint_not_found')
    expectProblem(await request('DELETE', path), 404, 'endpoint_not_found')
    for (const verb of ['pause', 'resume', 'rotate-secret', 'test', 'claim']) {
      expectProblem(await request('POST', `${path}/${verb}`), 404, 'endpoint_not_found')
    }
    const enqueue = await request('POST', '/jobs', { ...known, endpoint: 'unknown' })
    expectProblem(enqueue, 422, 'endpoint_not_found', { errors: [{ path: '/endpoint' }] })
    const notice = await request('POST', '/jobs', { ...known, onFinish: 'unknown' })
    expectProblem(notice, 422, 'endpoint_not_found', { errors: [{ path: '/onFinish' }] })
  })

  it('schedule_not_found: a name that no schedule has', async () => {
    expectProblem(await request('GET', '/schedules/unknown'), 404, 'schedule_not_found')
  })

  it('method_not_allowed: says in Allow what is', async () => {
    const answer = await request('PUT', '/jobs')
    expectProblem(answer, 405, 'method_not_allowed')
    expect(answer.headers.get('allow')).toBe('GET, HEAD, POST')
    const one = await request('POST', `/jobs/${NO_JOB}`)
    expectProblem(one, 405, 'method_not_allowed')
    expect(one.headers.get('allow')?.split(', ')).toEqual(
      expect.arrayContaining(['GET', 'PATCH', 'DELETE']),
    )
  })

  it('job_state_conflict: says the present state of the job', async () => {
    const { body } = await request('POST', '/jobs', known)
    const retry = await request('POST', `/jobs/${body.id}/retry`)
    expectProblem(retry, 409, 'job_state_conflict', { detail: expect.stringContaining('queued') })
    const remove = await request('DELETE', `/jobs/${body.id}`)
    expectProblem(remove, 409, 'job_state_conflict', { detail: expect.stringContaining('queued') })
    await request('POST', `/jobs/${body.id}/cancel`)
    const edit = await request('PATCH', `/jobs/${body.id}`, { priority: 1 })
    expectProblem(edit, 409, 'job_state_conflict', { detail: expect.stringContaining('cancelled') })
  })

  it('lease_lost: a token whose attempt is over', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const id = await endpoint.enqueue()
    const { body } = await request('POST', `/endpoints/${endpoint.name}/claim`)
    await request('POST', `/jobs/${id}/cancel`)
    for (const verb of ['complete', 'fail']) {
      const answer = await request('POST', `/jobs/${id}/${verb}?token=${body.jobs[0].token}`)
      expectProblem(answer, 409, 'lease_lost')
    }
  })

  it('endpoint_in_use: while jobs are queued, or a schedule names it', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const id = await endpoint.enqueue()
    expectProblem(await request('DELETE', `/endpoints/${endpoint.name}`), 409, 'endpoint_in_use')
    await request('POST', `/jobs/${id}/cancel`)
    const schedule = { every: '1h', endpoint: endpoint.name, payload: 1 }
    expect((await request('PUT', `/schedules/${endpoint.name}`, schedule)).status).toBe(201)
    const named = await request('DELETE', `/endpoints/${endpoint.name}`)
    expectProblem(named, 409, 'endpoint_in_use', { detail: expect.stringContaining('schedule') })
    await request('DELETE', `/schedules/${endpoint.name}`)
    expect((await request('DELETE', `/endpoints/${endpoint.name}`)).status).toBe(204)
  })

  it('limit_not_found: 404 by name, 422 for an endpoint that names it', async () => {
    for (const method of ['GET', 'DELETE']) {
      expectProblem(await request(method, '/limits/unknown'), 404, 'limit_not_found')
    }
    const limits = ['unknown']
    const put = await request('PUT', '/endpoints/limited', { url: null, limits })
    expectProblem(put, 422, 'limit_not_found', {
      detail: expect.stringContaining('PUT /limits/unknown'),
    })
    expect((await request('GET', '/endpoints/limited')).status).toBe(404)
    expectProblem(await request('PATCH', '/endpoints/known', { limits }), 422, 'limit_not_found')
  })

  it('limit_in_use: an endpoint names it', async () => {
    await request('PUT', '/limits/used', { concurrency: 1 })
    const { name } = await fixture.pulledEndpoint({ limits: ['used'] })
    expectProblem(await request('DELETE', '/limits/used'), 409, 'limit_in_use', {
      detail: expect.stringContaining(`"${name}"`),
    })
    await request('PATCH', `/endpoints/${name}`, { limits: [] })
    expect((await request('DELETE', '/limits/used')).status).toBe(204)
  })

  it('too_many_limits: more than 1,000, but those can be changed', async () => {
    await FILL_LIMITS[engine](fixture.posthorn.env.STORE_URL as string)
    expectProblem(await request('PUT', '/limits/more', {}), 409, 'too_many_limits')
    expect((await request('PUT', '/limits/filled-1', { concurrency: 2 })).status).toBe(200)
    for (let i = 1; i <= 1_000; i++) await request('DELETE', `/limits/filled-${i}`)
  })

  it('too_many_endpoints: more than 200 that name one limit', async () => {
    await request('PUT', '/limits/crowded', {})
    const crowded = { url: null, limits: ['crowded'] }
    for (let i = 0; i < 200; i++) await request('PUT', `/endpoints/crowd-${i}`, crowded)
    const path = '/endpoints/one-more'
    expectProblem(await request('PUT', path, crowded), 409, 'too_many_endpoints')
    await request('PUT', path, { url: null })
    const { limits } = crowded
    expectProblem(await request('PATCH', path, { limits }), 409, 'too_many_endpoints')
  })

  it('too_many_keys: settings for more than 10,000 keys of an endpoint', async () => {
    const { name } = await fixture.pulledEndpoint()
    const url = fixture.posthorn.env.STORE_URL as string
    await FILL_KEYS[engine](url, name)
    const path = `/endpoints/${name}/keys`
    expectProblem(await request('PUT', `${path}/more`, {}), 409, 'too_many_keys')
    expect((await request('PUT', `${path}/key-1`, { weight: 2 })).status).toBe(200)
  })

  it('endpoint_disabled: an enqueue to a disabled endpoint, but not to a paused one', async () => {
    const endpoint = await fixture.endpoint(410)
    const id = await endpoint.enqueue()
    await fixture.job(id, 'dead')
    await soon(async () => expect((await endpoint.read()).state).toBe('disabled'))
    expectProblem(await endpoint.post(), 409, 'endpoint_disabled')
    expect((await request('POST', '/jobs', known)).status).toBe(201)
  })

  it('dedupe_conflict: the key is held, and the request asked to be refused then', async () => {
    const dedupe = { key: 'one', mode: 'reject' }
    expect((await request('POST', '/jobs', { ...known, dedupe })).status).toBe(201)
    expectProblem(await request('POST', '/jobs', { ...known, dedupe }), 409, 'dedupe_conflict')
  })

  it('precondition_failed: If-Match of an older version of an endpoint, a schedule or a job', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const stale = { 'if-match': '"99"' }
    const path = `/endpoints/${endpoint.name}`
    const put = await request('PUT', path, { url: null }, stale)
    expectProblem(put, 412, 'precondition_failed')
    const patch = await request('PATCH', path, { description: 'two' }, stale)
    expectProblem(patch, 412, 'precondition_failed')
    expectProblem(await request('DELETE', path, undefined, stale), 412, 'precondition_failed')
    const schedule = `/schedules/${endpoint.name}`
    const timing = { every: '1h', endpoint: endpoint.name, payload: 1 }
    await request('PUT', schedule, timing)
    expectProblem(await request('PUT', schedule, timing, stale), 412, 'precondition_failed')
    expectProblem(await request('DELETE', schedule, undefined, stale), 412, 'precondition_failed')
    const id = await endpoint.enqueue()
    const edit = await request('PATCH', `/jobs/${id}`, { priority: 1 }, stale)
    expectProblem(edit, 412, 'precondition_failed')
    const { headers } = await request('GET', `/jobs/${id}`)
    const fresh = { 'if-match': headers.get('etag') as string }
    expect((await request('PATCH', `/jobs/${id}`, { priority: 1 }, fresh)).status).toBe(200)
    const again = await request('PATCH', `/jobs/${id}`, { priority: 1 }, fresh)
    expectProblem(again, 412, 'precondition_failed')
  })

  it('precondition_failed: If-Match of an older version, of every verb that changes the record', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const settings = `/endpoints/${endpoint.name}`
    const schedule = `/schedules/${endpoint.name}`
    await request('PUT', schedule, { every: '1h', endpoint: endpoint.name, payload: 1 })
    const ended = await endpoint.enqueue()
    await request('POST', `/jobs/${ended}/cancel`)
    for (const [method, record, verb] of [
      ['POST', settings, '/pause'],
      ['POST', settings, '/resume'],
      ['POST', settings, '/rotate-secret'],
      ['POST', schedule, '/pause'],
      ['POST', schedule, '/resume'],
      ['DELETE', `/jobs/${ended}`, ''],
    ] as const) {
      const etag = (await request('GET', record)).headers.get('etag') as string
      const stale = await request(method, `${record}${verb}`, undefined, { 'if-match': '"99"' })
      expectProblem(stale, 412, 'precondition_failed')
      expect((await request('GET', record)).headers.get('etag')).toBe(etag)
      const fresh = await request(method, `${record}${verb}`, undefined, { 'if-match': etag })
      expect([verb, fresh.status]).toEqual([verb, method === 'DELETE' ? 204 : 200])
    }
  })

  it('invalid_request: a condition of a request that looks at none', async () => {
    const { body: described } = await request('GET', '/openapi.json')
    let count = 0
    for (const [path, operations] of Object.entries<Body>(described.paths)) {
      for (const [method, { parameters = [] }] of Object.entries<Body>(operations)) {
        const heeds = parameters.some(({ name }: { name: string }) => name === 'if-match')
        // Routes that need the token of an attempt refuse a request without one before everything
        // else.
        if (method === 'get' || heeds || /(complete|fail|heartbeat)$/.test(path)) continue
        count++
        for (const header of ['if-match', 'if-none-match']) {
          const url = path.replace(/\{\w+\}/g, 'none')
          const answer = await request(method.toUpperCase(), url, undefined, { [header]: '*' })
          expectProblem(answer, 400, 'invalid_request')
          expect(answer.body.errors).toMatchObject([{ path: `header/${header}` }])
        }
      }
    }
    expect(count).toBeGreaterThan(10)
  })

  it('precondition_failed: If-Match: * of an endpoint and a schedule that do not exist', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const any = { 'if-match': '*' }
    const bodies = {
      endpoints: { url: null },
      schedules: { every: '1h', endpoint: endpoint.name, payload: 1 },
    }
    for (const [kind, body] of Object.entries(bodies)) {
      const path = `/${kind}/${endpoint.name}-new`
      expectProblem(await request('PUT', path, body, any), 412, 'precondition_failed')
      expect((await request('GET', path)).status, kind).toBe(404)
      expect((await request('PUT', path, body)).status, kind).toBe(201)
      expect((await request('PUT', path, body, any)).status, kind).toBe(200)
      expect((await request('DELETE', path, undefined, any)).status, kind).toBe(204)
    }
  })

  it('invalid_request: If-None-Match of a request that creates nothing', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const none = { 'if-none-match': '*' }
    const schedule = `/schedules/${endpoint.name}`
    await request('PUT', schedule, { every: '1h', endpoint: endpoint.name, payload: 1 })
    const job = `/jobs/${await endpoint.enqueue()}`
    for (const [method, path, body] of [
      ['PATCH', `/endpoints/${endpoint.name}`, { description: 'two' }],
      ['DELETE', `/endpoints/${endpoint.name}`, undefined],
      ['DELETE', schedule, undefined],
      ['PATCH', job, { priority: 1 }],
    ] as const) {
      const before = (await request('GET', path)).headers.get('etag')
      const answer = await request(method, path, body, none)
      expectProblem(answer, 400, 'invalid_request')
      expect((await request('GET', path)).headers.get('etag')).toBe(before)
    }
  })

  it('payload_too_large: one byte over MAX_BODY_BYTES, and not at it', async () => {
    const bare = JSON.stringify({ ...known, payload: '' })
    const body = (bytes: number) =>
      JSON.stringify({ ...known, payload: 'x'.repeat(bytes - bare.length) })
    expect((await request('POST', '/jobs', body(MAX_BODY_BYTES))).status).toBe(201)
    expectProblem(
      await request('POST', '/jobs', body(MAX_BODY_BYTES + 1)),
      413,
      'payload_too_large',
    )
  })

  it('unsupported_media_type: anything but JSON', async () => {
    for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'application/xml']) {
      const answer = await request('POST', '/jobs', JSON.stringify(known), { 'content-type': type })
      expectProblem(answer, 415, 'unsupported_media_type')
    }
    const coded = await request('POST', '/jobs', known, { 'content-encoding': 'gzip' })
    expectProblem(coded, 415, 'unsupported_media_type')
  })

  it('idempotency_key_reused: the same key with another request', async () => {
    const key = { 'idempotency-key': 'reused' }
    expect((await request('POST', '/jobs', known, key)).status).toBe(201)
    const other = await request('POST', '/jobs', { ...known, payload: 2 }, key)
    expectProblem(other, 422, 'idempotency_key_reused')
  })

  it('internal_error: is logged with its request id, and reveals nothing of its cause', async () => {
    await BREAKS[engine](fixture.posthorn.env.STORE_URL as string)
    const answer = await request('GET', '/keys', undefined, { 'x-request-id': 'broken-1' })
    expectProblem(answer, 500, 'internal_error', { requestId: 'broken-1' })
    await soon(() =>
      expect(fixture.api.log.find((line) => line.msg === 'request.failed')).toMatchObject({
        requestId: 'broken-1',
      }),
    )
  })

  it('X-Request-Id: the client’s own is kept if it is well-formed, else one is made', async () => {
    const kept = await request('GET', '/jobs', undefined, { 'x-request-id': 'Own.id_1-2' })
    expect(kept.headers.get('x-request-id')).toBe('Own.id_1-2')
    for (const id of ['with space', 'x'.repeat(65), 'semi;colon']) {
      const made = await request('GET', '/jobs', undefined, { 'x-request-id': id })
      expect(made.headers.get('x-request-id')).toMatch(/^[A-Za-z0-9._-]{1,64}$/)
    }
  })

  it('malformed HTTP: gets a problem with a request id too', async () => {
    const answer = await sendRaw('no such thing\r\n\r\n')
    expect(answer).toMatch(/^HTTP\/1\.1 400 /)
    expect(answer).toMatch(/x-request-id: [A-Za-z0-9._-]{1,64}\r\n/i)
    const problem = JSON.parse(answer.slice(answer.indexOf('\r\n\r\n')))
    expect(problem).toMatchObject({ status: 400, code: 'invalid_request' })
    // Posthorn accepts an unknown Expect header, because Node's own response to it would be no
    // problem document.
    const lines = 'GET /none HTTP/1.1\r\nHost: localhost\r\nExpect: x\r\nConnection: close\r\n\r\n'
    expect(await sendRaw(lines)).toMatch(/^HTTP\/1\.1 404 [\s\S]*application\/problem\+json/)
  })

  function sendRaw(bytes: string): Promise<string> {
    const { hostname, port } = new URL(fixture.posthorn.url())
    const socket = connect(Number(port), hostname)
    socket.write(bytes)
    return text(socket)
  }
})

/** An API key whose instant is invalid, which Posthorn itself would never write. */
const BREAKS: Record<Engine, (storeUrl: string) => Promise<void>> = {
  async sqlite(storeUrl) {
    const database = new DatabaseSync(storeUrl.replace('sqlite:', ''))
    database.exec("insert into api_keys values ('key_broken', 'b', 'work', 'h', 9000000000000000)")
    database.close()
  },
  async mongo(storeUrl) {
    const client = new MongoClient(storeUrl)
    const broken = { _id: 'key_broken' as never, name: 'b', scope: 'work', hash: 'h' }
    await client
      .db()
      .collection(COLLECTIONS.keys)
      .insertOne({ ...broken, createdAt: 'never' })
    await client.close()
  },
}

/** Does not use fetch(), which sets its own Host header. */
function statusFor(url: string, headers: Record<string, string>): Promise<number> {
  return new Promise((resolve, reject) => {
    const sending = rawRequest(url, { headers }, (answer) => {
      answer.resume()
      resolve(answer.statusCode ?? 0)
    })
    sending.on('error', reject)
    sending.end()
  })
}
