// The table of endpoint routes.
import { Webhook } from 'standardwebhooks'
import { describe, expect, it } from 'vitest'
import { at, type Body, CONCURRENT, heldReplies, soon, useApi } from '../support/api-fixture.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'

describe.each(SQLITE_UNLESS_LONG)('on %s', CONCURRENT, (engine) => {
  const fixture = useApi(engine)
  const { request } = fixture

  it('PUT /endpoints/:name: creates with 201, replaces with 200, and keeps what is not settings', async () => {
    const path = '/endpoints/deploy.1_a-b'
    const first = await request('PUT', path, { url: null, description: 'one', concurrency: 3 })
    expect(first).toMatchObject({ status: 201, body: { version: 1 } })
    await request('POST', `${path}/pause`)
    const second = await request('PUT', path, { url: null, description: 'two' })
    expect(second).toMatchObject({
      status: 200,
      body: { description: 'two', concurrency: null, state: 'paused' },
    })
    expect(second.body.createdAt).toBe(first.body.createdAt)
    expect(second.body.version).toBeGreaterThan(first.body.version)
    for (const name of ['Upper', '-first', '.first', 'a b', 'a'.repeat(65), '%C3%A4']) {
      expect((await request('PUT', `/endpoints/${name}`, { url: null })).status).toBe(400)
    }
    expect((await request('PUT', `/endpoints/${'a'.repeat(64)}`, { url: null })).status).toBe(201)
  })

  it('PUT /endpoints/:name: one that changes nothing leaves the version, and so does such a PATCH', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const path = `/endpoints/${endpoint.name}`
    const settings = {
      url: 'http://127.0.0.1:3999/',
      headers: { 'x-one': 'a value of some length', 'x-two': 'b' },
      retry: { maxAttempts: 3, backoff: { type: 'schedule', delays: ['1s'], jitter: 0 } },
      rateLimit: { count: 5, per: '60s' },
      statuses: { 404: 'final' },
      onFinish: { endpoint: endpoint.name, states: ['dead', 'cancelled'] },
      secret: `whsec_${Buffer.alloc(32, 7).toString('base64')}`,
    }
    const written = await request('PUT', path, settings)
    expect(written.status).toBe(200)
    const read = (await request('GET', path)).body
    const { secret: _, ...withoutSecret } = settings
    const same = {
      ...withoutSecret,
      rateLimit: { count: 5, per: '1m' },
      headers: { 'X-Two': 'b', 'X-ONE': settings.headers['x-one'] },
      onFinish: { endpoint: endpoint.name, states: ['cancelled', 'dead', 'cancelled'] },
    }
    for (const [method, body] of [
      ['PUT', settings],
      ['PUT', same],
      ['PATCH', same],
      ['PATCH', { description: '', secret: settings.secret }],
      ['PATCH', {}],
    ] as const) {
      const again = await request(method, path, body, { 'if-match': `"${read.version}"` })
      expect([again.body.detail, again.status]).toEqual([undefined, 200])
      expect(again.headers.get('etag')).toBe(written.headers.get('etag'))
      expect((await request('GET', path)).body).toEqual(read)
    }
    const stale = await request('PUT', path, settings, { 'if-match': `"${read.version - 1}"` })
    expect(stale.status).toBe(412)
    const other = { ...settings, secret: `whsec_${Buffer.alloc(32, 8).toString('base64')}` }
    expect((await request('PUT', path, other)).body.version).toBe(read.version + 1)
    const changed = { ...other, headers: { 'x-one': 'a value of some length' } }
    expect((await request('PUT', path, changed)).body.version).toBe(read.version + 2)
  })

  it('PATCH /endpoints/:name: changes the fields given, keeps the rest, and null resets one', async () => {
    const path = '/endpoints/patched'
    const settings = {
      url: 'http://127.0.0.1:3999/',
      description: 'one',
      headers: { 'x-api-key': 'a-long-secret-1234' },
      timeout: '90s',
      retry: { maxAttempts: 3, backoff: { type: 'fixed', delay: '1m' }, maxAge: '1d' },
      concurrency: 3,
      rateLimit: { count: 100, per: '1m' },
      completionTimeout: '1h',
      onFinish: 'patched',
      circuitBreaker: { failures: 5, cooldown: '10s' },
      statuses: { 404: 'final' },
    }
    const { body: made } = await request('PUT', path, settings)
    const patch = async (change: object, headers = {}) => {
      const answer = await request('PATCH', path, change, headers)
      expect(answer.status).toBe(200)
      expect(answer.headers.get('etag')).toBe(`"${answer.body.version}"`)
      expect(await fixture.get(path)).toMatchObject({ ...answer.body, counts: expect.anything() })
      const { secret: _, version: __, updatedAt: ___, ...read } = answer.body
      return read
    }
    const { secret: _, version: __, updatedAt: ___, ...asMade } = made

    expect(await patch({})).toEqual(asMade)
    expect(await patch({ description: 'two' })).toEqual({ ...asMade, description: 'two' })
    const three = { ...asMade, description: 'two', timeout: '30s', concurrency: null }
    expect(await patch({ timeout: '30s', concurrency: null })).toEqual(three)
    // Only parts of these two fields are given, as a job gives parts of its retry.
    expect(await patch({ retry: { maxAttempts: 7 }, circuitBreaker: { failures: 9 } })).toEqual({
      ...three,
      retry: { ...three.retry, maxAttempts: 7 },
      circuitBreaker: { failures: 9, cooldown: '10s' },
    })
    expect(await patch({ circuitBreaker: null, url: null })).toMatchObject({
      circuitBreaker: null,
      url: null,
      headers: asMade.headers,
    })
    const all = Object.keys(settings).map((field) => [field, null])
    await request('PUT', '/endpoints/plain', { url: null, circuitBreaker: null })
    const {
      name: _n,
      secretHint: _h,
      createdAt: _c,
      version: _v,
      updatedAt: _u,
      ...plain
    } = await fixture.get('/endpoints/plain')
    expect(await patch(Object.fromEntries(all))).toMatchObject(plain)

    const secret = 'whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY='
    expect((await request('PATCH', path, { secret })).body).toMatchObject({ secret })
    const { version } = await fixture.get(path)
    await patch({ description: 'three' }, { 'if-match': `"${version}"` })
    const stale = await request('PATCH', path, {}, { 'if-match': `"${version}"` })
    expect(stale).toMatchObject({ status: 412, body: { code: 'precondition_failed' } })
    const nowhere = await request('PATCH', '/endpoints/nowhere', { description: 'x' })
    expect(nowhere).toMatchObject({ status: 404, body: { code: 'endpoint_not_found' } })
    for (const wrong of [{ secret: null }, { name: 'other' }, { timeout: '1ms' }, null]) {
      expect([wrong, (await request('PATCH', path, wrong)).status]).toEqual([wrong, 400])
    }
    expect((await fixture.get(path)).version).toBe(version + 1)
    const { body: described } = await request('GET', '/openapi.json')
    const patched = described.paths['/endpoints/{name}'].patch.requestBody
    const { secret: own } = patched.content['application/json'].schema.properties
    expect(own).toMatchObject({ type: 'string', description: expect.stringContaining('null is') })
    const unreachable = await request('PATCH', path, { url: 'http://10.1.2.3/' })
    expect(unreachable).toMatchObject({ status: 400, body: { code: 'invalid_request' } })
  })

  it('PATCH /endpoints/:name: loses no change of those that others make at the same time', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const path = `/endpoints/${endpoint.name}`
    const changes = [{ description: 'a' }, { timeout: '7s' }, { concurrency: 7 }, { statuses: {} }]
    const answers = await Promise.all(changes.map((change) => request('PATCH', path, change)))
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200])
    expect(await endpoint.read()).toMatchObject({ description: 'a', timeout: '7s', concurrency: 7 })
  })

  it('GET /endpoints: by name, page by page', async () => {
    const names = ['list-a', 'list-b', 'list-c'] as const
    for (const name of names) await request('PUT', `/endpoints/${name}`, { url: null })
    const found: string[] = []
    let cursor: string | null = null
    do {
      const page: Awaited<ReturnType<typeof fixture.get>> = await fixture.get(
        `/endpoints?limit=2${cursor === null ? '' : `&cursor=${cursor}`}`,
      )
      expect(page.items.length).toBeLessThanOrEqual(2)
      for (const item of page.items) {
        expect(item).not.toHaveProperty('secret')
        found.push(item.name)
      }
      cursor = page.nextCursor
    } while (cursor !== null)
    expect(found).toEqual([...found].sort())
    expect(found).toEqual(expect.arrayContaining([...names]))
    expect(new Set(found).size).toBe(found.length)
  })

  it('GET /endpoints/:name: one, with its version as ETag', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const { status, headers, body } = await request('GET', `/endpoints/${endpoint.name}`)
    expect({ status, name: body.name }).toEqual({ status: 200, name: endpoint.name })
    expect(headers.get('etag')).toBe(`"${body.version}"`)
  })

  it('GET /endpoints/:name/keys: the fairness keys with queued or running jobs, in pages', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const path = `/endpoints/${endpoint.name}/keys`
    expect(await fixture.get(path)).toEqual({ items: [], nextCursor: null })
    const wide = '\uFF5E'.repeat(256)
    for (const fairnessKey of ['tenant-7', wide, 'tenant-7', 'a/b']) {
      await endpoint.enqueue({ fairnessKey })
    }
    await endpoint.enqueue({ fairnessKey: 'a/b', delay: '1h' })
    let claimedCount = 0
    await soon(async () => {
      const { body } = await request('POST', `/endpoints/${endpoint.name}/claim`, { limit: 4 })
      claimedCount += body.jobs.length
      expect(claimedCount).toBe(4)
    })
    const { items } = await fixture.get(path)
    expect(items.map(({ key }: Body) => key)).toEqual(['a/b', 'tenant-7', wide])
    const settings = { weight: 1, concurrency: null, rateLimit: null, paused: false }
    const shown = { ...settings, restingUntil: null }
    expect(items[0]).toEqual({ key: 'a/b', queued: 1, due: 0, running: 1, ...shown })
    const first = await fixture.get(`${path}?limit=1`)
    expect(first).toEqual({ items: [items[0]], nextCursor: expect.any(String) })
    const next = await fixture.get(`${path}?limit=2&cursor=${first.nextCursor}`)
    expect(next).toEqual({ items: items.slice(1), nextCursor: null })
    const cursor = Buffer.from(wide).toString('base64url')
    expect(await fixture.get(`${path}?cursor=${cursor}`)).toEqual({ items: [], nextCursor: null })

    // All other jobs run, or are not due.
    expect(await fixture.get(`${path}?order=wait`)).toEqual({ items: [], nextCursor: null })
    const { runAt } = (await endpoint.post({ fairnessKey: wide })).body
    await soon(async () => expect(Date.now()).toBeGreaterThan(at(runAt) + 50))
    await endpoint.enqueue({ fairnessKey: 'a' })
    const waits = await fixture.get(`${path}?order=wait&limit=1`)
    expect(waits.items).toMatchObject([{ key: wide, queued: 1, due: 1, running: 1 }])
    const after = await fixture.get(`${path}?order=wait&limit=1&cursor=${waits.nextCursor}`)
    expect(after.items).toMatchObject([{ key: 'a', queued: 1, due: 1, running: 0 }])
    expect(after.nextCursor).toBeNull()
    const other = await request('GET', `${path}?order=wait&cursor=${first.nextCursor}`)
    expect(other).toMatchObject({ status: 400, body: { errors: [{ path: 'query/cursor' }] } })

    const refused = await request(
      'GET',
      `${path}?cursor=${Buffer.from('..').toString('base64url')}`,
    )
    expect(refused).toMatchObject({ status: 400, body: { errors: [{ path: 'query/cursor' }] } })
    const unknown = await request('GET', '/endpoints/unknown/keys')
    expect(unknown).toMatchObject({ status: 404, body: { code: 'endpoint_not_found' } })
  })

  it('PUT /endpoints/:name/keys/:key: the weight, the limits and the pause of a key, by version', async () => {
    const perKey = { concurrency: 4, rateLimit: null }
    const endpoint = await fixture.pulledEndpoint({ perKey })
    const path = `/endpoints/${endpoint.name}/keys/${encodeURIComponent('a/b')}`
    const defaults = { weight: 1, paused: false, restingUntil: null }
    const none = { key: 'a/b', ...defaults, updatedAt: null, version: 0 }
    const read = await request('GET', path)
    expect(read).toMatchObject({ status: 200, body: none })
    expect(read.headers.get('etag')).toBe('"0"')
    const settings = { weight: 5, rateLimit: { count: 3, per: '60s' } }
    const created = await request('PUT', path, settings, { 'if-match': '"0"' })
    const rateLimit = { count: 3, per: '1m' }
    expect(created).toMatchObject({
      status: 201,
      body: { key: 'a/b', weight: 5, rateLimit, paused: false, version: 1 },
    })
    expect(created.headers.get('etag')).toBe('"1"')
    expect(created.body).not.toHaveProperty('concurrency')
    const again = await request('PUT', path, settings, { 'if-none-match': '*' })
    expect(again).toMatchObject({ status: 412, body: { code: 'precondition_failed' } })
    await endpoint.enqueue({ fairnessKey: 'a/b' })
    const { items } = await fixture.get(`/endpoints/${endpoint.name}/keys`)
    expect(items).toMatchObject([
      { key: 'a/b', weight: 5, concurrency: 4, rateLimit, paused: false },
    ])
    const paused = await request('PUT', path, { paused: true, concurrency: null })
    expect(paused).toMatchObject({
      status: 200,
      body: { weight: 1, paused: true, concurrency: null, version: 2 },
    })
    const stale = await request('DELETE', path, undefined, { 'if-match': '"1"' })
    expect(stale).toMatchObject({ status: 412, body: { code: 'precondition_failed' } })
    for (let i = 0; i < 2; i++) expect((await request('DELETE', path)).status).toBe(204)
    expect((await request('GET', path)).body).toEqual(none)

    for (const body of [{ weight: 0 }, { weight: 101 }, { concurrency: 0 }, { pause: true }]) {
      expect((await request('PUT', path, body)).status).toBe(400)
    }
    for (const method of ['PUT', 'GET', 'DELETE']) {
      const body = method === 'PUT' ? {} : undefined
      const unknown = await request(method, '/endpoints/unknown/keys/a', body)
      expect(unknown).toMatchObject({ status: 404, body: { code: 'endpoint_not_found' } })
      const long = `/endpoints/${endpoint.name}/keys/${'x'.repeat(257)}`
      expect((await request(method, long, body)).status).toBe(400)
    }
  })

  it('GET /endpoints/:name/keys/:key: the settings of a key, which need not exist', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const wide = '\uFF5E'.repeat(256)
    const path = `/endpoints/${endpoint.name}/keys/${encodeURIComponent(wide)}`
    expect(await fixture.get(path)).toMatchObject({ key: wide, weight: 1, version: 0 })
  })

  it('DELETE /endpoints/:name/keys/:key: 204, and the key has the defaults again', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const path = `/endpoints/${endpoint.name}/keys/a`
    await request('PUT', path, { paused: true })
    expect((await request('DELETE', path)).status).toBe(204)
    expect(await fixture.get(path)).toMatchObject({ paused: false, version: 0 })
    const given = (version: number) =>
      request('DELETE', path, undefined, { 'if-match': `"${version}"` })
    expect((await given(1)).status).toBe(412)
    expect((await given(0)).status).toBe(204)
  })

  it('DELETE /endpoints/:name: 204 when idle, 409 in use, and by force its jobs are buried and it is gone', async () => {
    const idle = await fixture.pulledEndpoint()
    expect((await request('DELETE', `/endpoints/${idle.name}`)).status).toBe(204)
    expect((await request('GET', `/endpoints/${idle.name}`)).status).toBe(404)
    const held = heldReplies()
    const endpoint = await fixture.endpoint(held.script)
    const path = `/endpoints/${endpoint.name}`
    const running = await endpoint.enqueue()
    const queued = await endpoint.enqueue({ delay: '1h' })
    await fixture.job(running, 'running')
    expect((await request('DELETE', path)).status).toBe(409)
    expect((await request('DELETE', `${path}?force=false`)).status).toBe(409)
    const forced = await request('DELETE', `${path}?force=true`)
    expect(forced).toMatchObject({ status: 202, body: { name: endpoint.name, state: 'deleting' } })
    expect((await endpoint.post()).status).toBe(422)
    for (const id of [running, queued]) {
      const job = await fixture.job(id, 'dead')
      expect(job.failure.reason).toBe('endpoint_gone')
    }
    held.release(200)
    await soon(async () => expect((await request('GET', path)).status).toBe(404))
    expect((await fixture.get(`/jobs/${running}`)).state).toBe('dead')
    expect((await request('POST', `/jobs/${queued}/retry`)).status).toBe(422)
    expect((await request('PUT', path, { url: null })).status).toBe(201)
  })

  it('POST /endpoints/:name/pause: deliveries stop, enqueueing goes on, a PUT does not end it', async () => {
    const endpoint = await fixture.endpoint()
    const paused = await request('POST', `/endpoints/${endpoint.name}/pause`)
    expect(paused).toMatchObject({ status: 200, body: { state: 'paused' } })
    expect((await request('POST', `/endpoints/${endpoint.name}/pause`)).status).toBe(200)
    const id = await endpoint.enqueue()
    await request('PUT', `/endpoints/${endpoint.name}`, { url: endpoint.receiver.url })
    const other = await fixture.endpoint()
    await fixture.job(await other.enqueue(), 'succeeded')
    expect((await fixture.get(`/jobs/${id}`)).state).toBe('queued')
    expect(endpoint.receiver.requests).toHaveLength(0)
  })

  it('POST /endpoints/:name/resume: deliveries go on within 1 s, also of one that was disabled', async () => {
    const endpoint = await fixture.endpoint(200)
    await request('POST', `/endpoints/${endpoint.name}/pause`)
    const id = await endpoint.enqueue()
    const resumed = await request('POST', `/endpoints/${endpoint.name}/resume`)
    expect(resumed).toMatchObject({ status: 200, body: { state: 'active' } })
    await fixture.job(id, 'succeeded')
    endpoint.receiver.answerWith(410)
    const waiting = await endpoint.enqueue({ delay: '1h' })
    await fixture.job(await endpoint.enqueue(), 'dead')
    await soon(async () => expect((await endpoint.read()).state).toBe('disabled'))
    await request('PUT', `/endpoints/${endpoint.name}`, { url: endpoint.receiver.url })
    expect(await endpoint.read()).toMatchObject({ state: 'disabled', disabledReason: 'gone' })
    endpoint.receiver.answerWith(200)
    const enabled = await request('POST', `/endpoints/${endpoint.name}/resume`)
    expect(enabled.body).toMatchObject({ state: 'active', disabledReason: null })
    await request('PATCH', `/jobs/${waiting}`, { delay: '0s' })
    await fixture.job(waiting, 'succeeded')
  })

  it('state: disabled is shown before paused, paused before resting', async () => {
    const endpoint = await fixture.endpoint({ status: 429, headers: { 'retry-after': '60' } })
    const throttled = await endpoint.enqueue()
    await soon(async () => expect((await endpoint.read()).state).toBe('resting'))
    await request('POST', `/endpoints/${endpoint.name}/pause`)
    expect((await endpoint.read()).state).toBe('paused')
    await request('POST', `/endpoints/${endpoint.name}/resume`)
    expect(await endpoint.read()).toMatchObject({ state: 'active', restingUntil: null })
    // The pause comes while the attempt is running whose response will be 410.
    const held = heldReplies()
    endpoint.receiver.answerWith(held.script)
    await request('PATCH', `/jobs/${throttled}`, { delay: '0s' })
    await fixture.job(throttled, 'running')
    held.release(410)
    await soon(async () => expect((await endpoint.read()).state).toBe('disabled'))
    await request('POST', `/endpoints/${endpoint.name}/pause`)
    expect((await endpoint.read()).state).toBe('disabled')
    await request('POST', `/endpoints/${endpoint.name}/resume`)
    expect((await endpoint.read()).state).toBe('active')
  })

  it('POST /endpoints/:name/rotate-secret: a new secret once, and both sign during the overlap', async () => {
    const endpoint = await fixture.endpoint()
    const path = `/endpoints/${endpoint.name}`
    const given = `whsec_${Buffer.alloc(32, 1).toString('base64')}`
    const { body: first } = await request('PUT', path, {
      url: endpoint.receiver.url,
      secret: given,
    })
    expect(first.secret).toBe(given)
    const rotated = await request('POST', `${path}/rotate-secret`)
    expect(rotated.status).toBe(200)
    expect(rotated.body.secret).toMatch(/^whsec_/)
    expect(rotated.body.secret).not.toBe(given)
    expect(rotated.body.secretHint).toBe(rotated.body.secret.slice(-4))
    await soon(async () => {
      await fixture.job(await endpoint.enqueue(), 'succeeded')
      expect(signers([given, rotated.body.secret])).toEqual([true, true])
    })
    const chosen = `whsec_${Buffer.alloc(24, 2).toString('base64')}`
    const body = { secret: chosen, overlap: '0s' }
    expect((await request('POST', `${path}/rotate-secret`, body)).body.secret).toBe(chosen)
    await soon(async () => {
      await fixture.job(await endpoint.enqueue(), 'succeeded')
      expect(signers([given, rotated.body.secret, chosen]).at(-1)).toBe(true)
      expect(signers([rotated.body.secret])).toEqual([false])
    })
    expect(await endpoint.read()).not.toHaveProperty('secret')

    function signers(secrets: string[]): boolean[] {
      const request = endpoint.receiver.requests.at(-1)
      const headers = request?.headers as Record<string, string>
      return secrets.map((secret) => {
        try {
          new Webhook(secret).verify(String(request?.body), headers)
          return true
        } catch {
          return false
        }
      })
    }
  })

  it('POST /endpoints/:name/test: one signed ping now, and the response has the attempt', async () => {
    const body = 'r'.repeat(10_000)
    const endpoint = await fixture.endpoint({ status: 418, body }, { headers: { 'x-own': 'yes' } })
    const path = `/endpoints/${endpoint.name}`
    const { body: put } = await request('POST', `${path}/rotate-secret`)
    const answer = await request('POST', `${path}/test`)
    expect(answer).toMatchObject({
      status: 200,
      body: { outcome: 'http_error', statusCode: 418, durationMs: expect.any(Number) },
    })
    expect(answer.body.responseBody).toBe(body.slice(0, 4_096))
    const [ping] = endpoint.receiver.requests
    expect(ping).toMatchObject({
      method: 'POST',
      headers: { 'posthorn-test': 'true', 'x-own': 'yes' },
    })
    const headers = ping?.headers as Record<string, string>
    expect(new Webhook(put.secret).verify(String(ping?.body), headers)).toEqual({
      type: 'posthorn.test',
    })
    expect((await endpoint.read()).counts).toEqual({ queued: 0, running: 0 })
    await endpoint.receiver.close()
    const refused = await request('POST', `${path}/test`)
    expect(refused.body).toMatchObject({ outcome: 'connect_error', errorCode: 'ECONNREFUSED' })
    const pulled = await fixture.pulledEndpoint()
    const conflict = await request('POST', `/endpoints/${pulled.name}/test`)
    expect(conflict).toMatchObject({ status: 409, body: { code: 'job_state_conflict' } })
  })

  it('a change to an endpoint: reaches the worker within 1 s, and an attempt under way keeps what it began with', async () => {
    const held = heldReplies()
    const endpoint = await fixture.endpoint(held.script)
    const other = await fixture.receive()
    const first = await endpoint.enqueue()
    await fixture.job(first, 'running')
    const { body } = await request('PUT', `/endpoints/${endpoint.name}`, { url: other.url })
    const changedAtMs = performance.now()
    held.release(200)
    await fixture.job(first, 'succeeded')
    while (performance.now() - changedAtMs < 1_000) {
      await fixture.job(await endpoint.enqueue(), 'succeeded')
    }
    const toOld = endpoint.receiver.requests.length
    const startedAtMs = performance.now()
    await fixture.job(await endpoint.enqueue(), 'succeeded')
    expect(startedAtMs - changedAtMs).toBeGreaterThanOrEqual(1_000)
    expect(endpoint.receiver.requests).toHaveLength(toOld)
    expect(at(body.updatedAt)).toBeGreaterThan(0)
  })
})
