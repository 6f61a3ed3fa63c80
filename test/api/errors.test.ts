// The table of errors: every code, provoked for real.
import { request as rawRequest } from 'node:http'
import { connect } from 'node:net'
import { DatabaseSync } from 'node:sqlite'
import { text } from 'node:stream/consumers'
import { MongoClient } from 'mongodb'
import { beforeAll, describe, expect, it } from 'vitest'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { ENGINES, type Engine } from '../support/deployment.ts'
import { type Body, expectProblem, NO_JOB, soon, useFixture } from './fixture.ts'

const MAX_BODY_BYTES = 8_192

describe.each(ENGINES)('on %s', (engine) => {
  const fixture = useFixture(engine, { MAX_BODY_BYTES: String(MAX_BODY_BYTES) })
  const send = (...all: Parameters<typeof fixture.posthorn.request>) =>
    fixture.posthorn.request(...all)
  const known = { endpoint: 'known', payload: {} }
  beforeAll(async () => {
    await send('PUT', '/endpoints/known', { url: null })
    await send('POST', '/endpoints/known/pause')
  })

  it('invalid_json: no JSON, no UTF-8, nested too deep, or a duplicate key in the envelope', async () => {
    const deep = (levels: number) => `${'['.repeat(levels)}${']'.repeat(levels)}`
    const bodies = [
      '{"endpoint":',
      `{"endpoint":"known","payload":${deep(64)}}`,
      '{"endpoint":"known","endpoint":"known","payload":1}',
      '{"endpoint":"known","payload":{"a":}}',
    ]
    for (const body of bodies) expectProblem(await send('POST', '/jobs', body), 400, 'invalid_json')
    const latin1 = Buffer.from('{"endpoint":"known","payload":"\xe4"}', 'latin1')
    const answer = await fetch(`${fixture.posthorn.url()}/jobs`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: latin1,
    })
    expect(await answer.json()).toMatchObject({ status: 400, code: 'invalid_json' })
    // The payload counts: with the envelope this is 64 levels.
    const allowed = `{"endpoint":"known","payload":${deep(63)}}`
    expect((await send('POST', '/jobs', allowed)).status).toBe(201)
    const doubled = '{"endpoint":"known","payload":{"a":1,"a":2}}'
    expect((await send('POST', '/jobs', doubled)).status).toBe(201)
  })

  it('invalid_request: repeats no more than the beginning of a name', async () => {
    const long = 'x'.repeat(3_500)
    const answers = [
      await send('POST', '/jobs', { ...known, [long]: 1 }),
      await send('POST', '/jobs', { ...known, metadata: { [long]: 'a' } }),
      await send('POST', '/jobs', { ...known, headers: { [long]: 'a' } }),
      await send('POST', '/jobs', `{"${long}":1,"${long}":1,"payload":1}`),
      await send('GET', `/jobs?${long}=1`),
      await send('GET', `/jobs/${long}`),
      await send('DELETE', `/keys/${long}`),
      await send('GET', `/endpoints/${long}`),
    ]
    for (const { status, body } of answers) {
      expect([400, 404]).toContain(status)
      expect(JSON.stringify(body).length).toBeLessThan(1_000)
    }
  })

  it('invalid_request: more values than any job has are refused before they are judged', async () => {
    const many = (count: number, of: (i: number) => string) =>
      Array.from({ length: count }, (_, i) => of(i))
    const keys = many(600, (i) => `"${i}":0`)
    for (const body of [
      `{${keys}}`,
      `{"endpoint":"known","payload":1,"tags":[${many(600, () => '0')}]}`,
      `{"endpoint":"known","payload":1,"metadata":{${keys}}}`,
    ]) {
      expectProblem(await send('POST', '/jobs', body), 400, 'invalid_request')
    }
    // Of the payload none counts.
    const payload = `{${keys}}`
    expect((await send('POST', '/jobs', `{"endpoint":"known","payload":${payload}}`)).status).toBe(
      201,
    )
  })

  it('cache-control: every answer is kept by no cache, and is what its type says', async () => {
    const job = await send('POST', '/jobs', known)
    for (const answer of [job, await send('GET', '/jobs'), await send('GET', '/nothing')]) {
      expect(answer.headers.get('cache-control')).toBe('no-store')
      expect(answer.headers.get('x-content-type-options')).toBe('nosniff')
    }
  })

  it('invalid_request: says which field, query or header is wrong', async () => {
    const field = await send('POST', '/jobs', { ...known, retry: { maxAttempts: 0 } })
    expectProblem(field, 400, 'invalid_request', { errors: [{ path: '/retry/maxAttempts' }] })
    const query = await send('GET', '/jobs?limit=101')
    expectProblem(query, 400, 'invalid_request', { errors: [{ path: 'query/limit' }] })
    const header = await send('POST', '/jobs', known, { 'idempotency-key': 'a b' })
    const path = 'header/idempotency-key'
    expectProblem(header, 400, 'invalid_request', { errors: [{ path }] })
    const cursor = await send('GET', '/jobs?cursor=xyz')
    expectProblem(cursor, 400, 'invalid_request', { errors: [{ path: 'query/cursor' }] })
    const several = await send('POST', '/jobs', { ...known, priority: 10, tags: [1], colour: 1 })
    const paths = several.body.errors.map((error: { path: string }) => error.path).sort()
    expect(paths).toEqual(['/colour', '/priority', '/tags/0'])
  })

  it('unauthorized: an unknown key, or no token of the attempt', async () => {
    const answer = await send('GET', '/jobs', undefined, { authorization: 'Bearer unknown' })
    expectProblem(answer, 401, 'unauthorized')
    expect(answer.headers.get('www-authenticate')).toBe('Bearer')
    expectProblem(await send('POST', `/jobs/${NO_JOB}/complete`, {}), 401, 'unauthorized')
  })

  it('forbidden: the scope does not allow it, or in local mode the Host is not this machine', async () => {
    const { body } = await send('POST', '/keys', { name: 'small', scope: 'work' })
    const authorization = `Bearer ${body.key}`
    expectProblem(await send('GET', '/jobs', undefined, { authorization }), 403, 'forbidden')
    for (const path of ['/jobs', '/health/live']) {
      const status = await statusFor(fixture.posthorn.url() + path, { host: 'evil.example' })
      expect(status).toBe(403)
    }
    expect(await statusFor(fixture.posthorn.url(), { host: '[::1]:8080' })).toBe(200)
  })

  it('not_found: a path that no route has', async () => {
    for (const path of ['/nothing', '/jobs/a/b/c', '/JOBS', '/jobs//', '/keys/x/y']) {
      expectProblem(await send('GET', path), 404, 'not_found')
    }
    expectProblem(await send('DELETE', '/keys/key_none'), 404, 'not_found')
  })

  it('job_not_found: an id that no job has, well-formed or not', async () => {
    for (const id of [NO_JOB, 'x', 'job_', `${NO_JOB}0`]) {
      for (const verb of ['', '/payload', '/explain']) {
        expectProblem(await send('GET', `/jobs/${id}${verb}`), 404, 'job_not_found')
      }
      for (const verb of ['cancel', 'retry', 'copy']) {
        expectProblem(await send('POST', `/jobs/${id}/${verb}`), 404, 'job_not_found')
      }
      expectProblem(await send('PATCH', `/jobs/${id}`, { priority: 1 }), 404, 'job_not_found')
      expectProblem(await send('DELETE', `/jobs/${id}`), 404, 'job_not_found')
    }
  })

  it('endpoint_not_found: 404 in a path, 422 in a body', async () => {
    const path = '/endpoints/unknown'
    expectProblem(await send('GET', path), 404, 'endpoint_not_found')
    expectProblem(await send('DELETE', path), 404, 'endpoint_not_found')
    for (const verb of ['pause', 'resume', 'rotate-secret', 'test', 'claim']) {
      expectProblem(await send('POST', `${path}/${verb}`), 404, 'endpoint_not_found')
    }
    const enqueue = await send('POST', '/jobs', { ...known, endpoint: 'unknown' })
    expectProblem(enqueue, 422, 'endpoint_not_found', { errors: [{ path: '/endpoint' }] })
    const notice = await send('POST', '/jobs', { ...known, onFinish: 'unknown' })
    expectProblem(notice, 422, 'endpoint_not_found', { errors: [{ path: '/onFinish' }] })
  })

  it('schedule_not_found: a name that no schedule has', async () => {
    expectProblem(await send('GET', '/schedules/unknown'), 404, 'schedule_not_found')
  })

  it('method_not_allowed: says in Allow what is', async () => {
    const answer = await send('PUT', '/jobs')
    expectProblem(answer, 405, 'method_not_allowed')
    expect(answer.headers.get('allow')).toBe('GET, HEAD, POST')
    const one = await send('POST', `/jobs/${NO_JOB}`)
    expectProblem(one, 405, 'method_not_allowed')
    expect(one.headers.get('allow')?.split(', ')).toEqual(
      expect.arrayContaining(['GET', 'PATCH', 'DELETE']),
    )
  })

  it('job_state_conflict: says the present state of the job', async () => {
    const { body } = await send('POST', '/jobs', known)
    const retry = await send('POST', `/jobs/${body.id}/retry`)
    expectProblem(retry, 409, 'job_state_conflict', { detail: expect.stringContaining('queued') })
    const remove = await send('DELETE', `/jobs/${body.id}`)
    expectProblem(remove, 409, 'job_state_conflict', { detail: expect.stringContaining('queued') })
    await send('POST', `/jobs/${body.id}/cancel`)
    const edit = await send('PATCH', `/jobs/${body.id}`, { priority: 1 })
    expectProblem(edit, 409, 'job_state_conflict', { detail: expect.stringContaining('cancelled') })
  })

  it('lease_lost: a token whose attempt is over', async () => {
    const site = await fixture.pulled()
    const id = await site.enqueue()
    const { body } = await send('POST', `/endpoints/${site.name}/claim`)
    await send('POST', `/jobs/${id}/cancel`)
    for (const verb of ['complete', 'fail']) {
      const answer = await send('POST', `/jobs/${id}/${verb}?token=${body.jobs[0].token}`)
      expectProblem(answer, 409, 'lease_lost')
    }
  })

  it('endpoint_in_use: while jobs are queued, or a schedule names it', async () => {
    const site = await fixture.pulled()
    const id = await site.enqueue()
    expectProblem(await send('DELETE', `/endpoints/${site.name}`), 409, 'endpoint_in_use')
    await send('POST', `/jobs/${id}/cancel`)
    const schedule = { every: '1h', endpoint: site.name, payload: 1 }
    expect((await send('PUT', `/schedules/${site.name}`, schedule)).status).toBe(201)
    const named = await send('DELETE', `/endpoints/${site.name}`)
    expectProblem(named, 409, 'endpoint_in_use', { detail: expect.stringContaining('schedule') })
    await send('DELETE', `/schedules/${site.name}`)
    expect((await send('DELETE', `/endpoints/${site.name}`)).status).toBe(204)
  })

  it('endpoint_disabled: an enqueue to a disabled endpoint, but not to a paused one', async () => {
    const site = await fixture.site(410)
    const id = await site.enqueue()
    await fixture.posthorn.job(id, 'dead')
    await soon(async () => expect((await site.read()).state).toBe('disabled'))
    expectProblem(await site.post(), 409, 'endpoint_disabled')
    expect((await send('POST', '/jobs', known)).status).toBe(201)
  })

  it('dedupe_conflict: the key is held, and the request asked to be refused then', async () => {
    const dedupe = { key: 'one', mode: 'reject' }
    expect((await send('POST', '/jobs', { ...known, dedupe })).status).toBe(201)
    expectProblem(await send('POST', '/jobs', { ...known, dedupe }), 409, 'dedupe_conflict')
  })

  it('precondition_failed: If-Match of an older version of an endpoint, a schedule or a job', async () => {
    const site = await fixture.pulled()
    const stale = { 'if-match': '"99"' }
    const path = `/endpoints/${site.name}`
    const put = await send('PUT', path, { url: null }, stale)
    expectProblem(put, 412, 'precondition_failed')
    const patch = await send('PATCH', path, { description: 'two' }, stale)
    expectProblem(patch, 412, 'precondition_failed')
    expectProblem(await send('DELETE', path, undefined, stale), 412, 'precondition_failed')
    const schedule = `/schedules/${site.name}`
    const timing = { every: '1h', endpoint: site.name, payload: 1 }
    await send('PUT', schedule, timing)
    expectProblem(await send('PUT', schedule, timing, stale), 412, 'precondition_failed')
    expectProblem(await send('DELETE', schedule, undefined, stale), 412, 'precondition_failed')
    const id = await site.enqueue()
    const edit = await send('PATCH', `/jobs/${id}`, { priority: 1 }, stale)
    expectProblem(edit, 412, 'precondition_failed')
    const { headers } = await send('GET', `/jobs/${id}`)
    const fresh = { 'if-match': headers.get('etag') as string }
    expect((await send('PATCH', `/jobs/${id}`, { priority: 1 }, fresh)).status).toBe(200)
    const again = await send('PATCH', `/jobs/${id}`, { priority: 1 }, fresh)
    expectProblem(again, 412, 'precondition_failed')
  })

  it('precondition_failed: If-Match of an older version, of every verb that changes the record', async () => {
    const site = await fixture.pulled()
    const endpoint = `/endpoints/${site.name}`
    const schedule = `/schedules/${site.name}`
    await send('PUT', schedule, { every: '1h', endpoint: site.name, payload: 1 })
    const ended = await site.enqueue()
    await send('POST', `/jobs/${ended}/cancel`)
    for (const [method, record, verb] of [
      ['POST', endpoint, '/pause'],
      ['POST', endpoint, '/resume'],
      ['POST', endpoint, '/rotate-secret'],
      ['POST', schedule, '/pause'],
      ['POST', schedule, '/resume'],
      ['DELETE', `/jobs/${ended}`, ''],
    ] as const) {
      const etag = (await send('GET', record)).headers.get('etag') as string
      const stale = await send(method, `${record}${verb}`, undefined, { 'if-match': '"99"' })
      expectProblem(stale, 412, 'precondition_failed')
      expect((await send('GET', record)).headers.get('etag')).toBe(etag)
      const fresh = await send(method, `${record}${verb}`, undefined, { 'if-match': etag })
      expect([verb, fresh.status]).toEqual([verb, method === 'DELETE' ? 204 : 200])
    }
  })

  it('invalid_request: a condition of a request that looks at none', async () => {
    const { body: described } = await send('GET', '/openapi.json')
    let count = 0
    for (const [path, operations] of Object.entries<Body>(described.paths)) {
      for (const [method, { parameters = [] }] of Object.entries<Body>(operations)) {
        const heeds = parameters.some(({ name }: { name: string }) => name === 'if-match')
        // Those that need a token of their own refuse a request without one before all else.
        if (method === 'get' || heeds || /(complete|fail|heartbeat)$/.test(path)) continue
        count++
        for (const header of ['if-match', 'if-none-match']) {
          const url = path.replace(/\{\w+\}/g, 'none')
          const answer = await send(method.toUpperCase(), url, undefined, { [header]: '*' })
          expectProblem(answer, 400, 'invalid_request')
          expect(answer.body.errors).toMatchObject([{ path: `header/${header}` }])
        }
      }
    }
    expect(count).toBeGreaterThan(10)
  })

  it('precondition_failed: If-Match: * of an endpoint and a schedule that do not exist', async () => {
    const site = await fixture.pulled()
    const any = { 'if-match': '*' }
    const bodies = {
      endpoints: { url: null },
      schedules: { every: '1h', endpoint: site.name, payload: 1 },
    }
    for (const [kind, body] of Object.entries(bodies)) {
      const path = `/${kind}/${site.name}-new`
      expectProblem(await send('PUT', path, body, any), 412, 'precondition_failed')
      expect((await send('GET', path)).status, kind).toBe(404)
      expect((await send('PUT', path, body)).status, kind).toBe(201)
      expect((await send('PUT', path, body, any)).status, kind).toBe(200)
      expect((await send('DELETE', path, undefined, any)).status, kind).toBe(204)
    }
  })

  it('invalid_request: If-None-Match of a request that creates nothing', async () => {
    const site = await fixture.pulled()
    const none = { 'if-none-match': '*' }
    const schedule = `/schedules/${site.name}`
    await send('PUT', schedule, { every: '1h', endpoint: site.name, payload: 1 })
    const job = `/jobs/${await site.enqueue()}`
    for (const [method, path, body] of [
      ['PATCH', `/endpoints/${site.name}`, { description: 'two' }],
      ['DELETE', `/endpoints/${site.name}`, undefined],
      ['DELETE', schedule, undefined],
      ['PATCH', job, { priority: 1 }],
    ] as const) {
      const before = (await send('GET', path)).headers.get('etag')
      const answer = await send(method, path, body, none)
      expectProblem(answer, 400, 'invalid_request')
      expect((await send('GET', path)).headers.get('etag')).toBe(before)
    }
  })

  it('payload_too_large: one byte over MAX_BODY_BYTES, and not at it', async () => {
    const bare = JSON.stringify({ ...known, payload: '' })
    const body = (bytes: number) =>
      JSON.stringify({ ...known, payload: 'x'.repeat(bytes - bare.length) })
    expect((await send('POST', '/jobs', body(MAX_BODY_BYTES))).status).toBe(201)
    expectProblem(await send('POST', '/jobs', body(MAX_BODY_BYTES + 1)), 413, 'payload_too_large')
  })

  it('unsupported_media_type: anything but JSON', async () => {
    for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'application/xml']) {
      const answer = await send('POST', '/jobs', JSON.stringify(known), { 'content-type': type })
      expectProblem(answer, 415, 'unsupported_media_type')
    }
    const coded = await send('POST', '/jobs', known, { 'content-encoding': 'gzip' })
    expectProblem(coded, 415, 'unsupported_media_type')
  })

  it('idempotency_key_reused: the same key with another request', async () => {
    const key = { 'idempotency-key': 'reused' }
    expect((await send('POST', '/jobs', known, key)).status).toBe(201)
    const other = await send('POST', '/jobs', { ...known, payload: 2 }, key)
    expectProblem(other, 422, 'idempotency_key_reused')
  })

  it('internal_error: is logged with its request id, and tells nothing of its cause', async () => {
    await BREAKS[engine](fixture.posthorn.env.STORE_URL as string)
    const answer = await send('GET', '/keys', undefined, { 'x-request-id': 'broken-1' })
    expectProblem(answer, 500, 'internal_error', { requestId: 'broken-1' })
    await soon(() =>
      expect(fixture.api.log.find((line) => line.msg === 'request.failed')).toMatchObject({
        requestId: 'broken-1',
      }),
    )
  })

  it('X-Request-Id: the client’s own is kept if it is well-formed, else one is made', async () => {
    const kept = await send('GET', '/jobs', undefined, { 'x-request-id': 'Own.id_1-2' })
    expect(kept.headers.get('x-request-id')).toBe('Own.id_1-2')
    for (const id of ['with space', 'x'.repeat(65), 'semi;colon']) {
      const made = await send('GET', '/jobs', undefined, { 'x-request-id': id })
      expect(made.headers.get('x-request-id')).toMatch(/^[A-Za-z0-9._-]{1,64}$/)
    }
  })

  it('malformed HTTP: is answered by a problem with a request id too', async () => {
    const answer = await sendRaw('no such thing\r\n\r\n')
    expect(answer).toMatch(/^HTTP\/1\.1 400 /)
    expect(answer).toMatch(/x-request-id: [A-Za-z0-9._-]{1,64}\r\n/i)
    const problem = JSON.parse(answer.slice(answer.indexOf('\r\n\r\n')))
    expect(problem).toMatchObject({ status: 400, code: 'invalid_request' })
    // An expectation that nobody knows is let pass: Node would answer it without a problem.
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

/** A key whose instant is none: nothing that Posthorn itself would write. */
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

/** fetch() writes its own Host. */
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
