// The table of endpoint fields: the values, the default and the effect of each.
import { randomBytes } from 'node:crypto'
import { Webhook } from 'standardwebhooks'
import { describe, expect, it } from 'vitest'
import {
  at,
  type Body,
  CONCURRENT,
  HOOK,
  heldReplies,
  QUICK_RETRY,
  soon,
  useApi,
} from '../support/api-fixture.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'
import { startReceiver } from '../support/receiver.ts'

describe.each(SQLITE_UNLESS_LONG)('on %s', CONCURRENT, (engine) => {
  const fixture = useApi(engine)
  const { request, putEndpoint: put, expectEndpointRefused: expectRefused } = fixture

  it('url: http or https without userinfo, up to 2,048 characters, or null; it is required', async () => {
    expect((await put({}, 'url')).body.url).toBe(HOOK)
    expect((await put({ url: null }, 'url')).body.url).toBe(null)
    const longest = `${HOOK}?${'q'.repeat(2_048 - HOOK.length - 1)}`
    expect((await put({ url: longest }, 'url')).body.url).toBe(longest)
    await expectRefused(
      '/url',
      { url: undefined },
      { url: `${longest}q` },
      { url: 'ftp://example.com' },
      { url: 'http://a:b@example.com' },
      { url: 'http://user@example.com' },
      { url: '/relative' },
      { url: 'https://exam\tple.com/' },
      { url: ' https://example.com/' },
      { url: 'https://example.com/\u200bhook' },
      { url: 'https://exam\u00adple.com/' },
      { url: 'https://example.com/\u0001' },
      { url: 'https://example.com/#/hook' },
      // Some parsers accept these, but read them as other URLs than a person would.
      { url: 'https:example.com/' },
      { url: 'https:/example.com/' },
      { url: 'https:///example.com/' },
      { url: 'https:\\\\example.com\\hook' },
      { url: 'https://example.com\\@10.0.0.1/' },
    )
  })

  it('url: the address policy refuses what is not public, in every spelling, and says what would allow it', async () => {
    await expectRefused(
      '/url',
      { url: 'http://10.0.0.1/' },
      { url: 'http://0x0a.1/' },
      { url: 'http://169.254.169.254/latest' },
      { url: 'http://[::ffff:10.0.0.1]/' },
      { url: 'http://[fd00::1]/' },
      { url: 'http://0.0.0.0/' },
      { url: 'http://metadata.google.internal/' },
      { url: 'http://example.com:25/' },
    )
    const answer = await put({ url: 'http://10.0.0.1/' })
    expect(answer.body.detail).toMatch(/10\.0\.0\.1.*ALLOWED_TARGETS/)
  })

  it('description: up to 500 characters, empty by default', async () => {
    expect((await put({})).body.description).toBe('')
    expect((await put({ description: 'd'.repeat(500) })).body.description).toHaveLength(500)
    await expectRefused('/description', { description: 'd'.repeat(501) }, { description: null })
  })

  it('headers: are sent, read back masked, and forbidden names are refused', async () => {
    const headers = { 'X-Tenant': 'tenant-0815', 'User-Agent': 'shop/7.0.12' }
    const endpoint = await fixture.endpoint(200, { headers })
    const read = await endpoint.read()
    expect(read.headers).toEqual({ 'X-Tenant': '***0815', 'User-Agent': '***0.12' })
    await fixture.job(await endpoint.enqueue(), 'succeeded')
    expect(endpoint.receiver.requests[0]?.headers).toMatchObject({
      'x-tenant': 'tenant-0815',
      'user-agent': 'shop/7.0.12',
    })
    expect((await put({})).body.headers).toEqual({})
    for (const name of FORBIDDEN_HEADERS) {
      await expectRefused(`/headers/${name}`, { headers: { [name]: 'x' } })
    }
    await expectRefused('/headers/a b', { headers: { 'a b': 'x' } })
    await expectRefused('/headers/a', { headers: { a: 'x\r\ny' } })
    await expectRefused('/headers/a', { headers: { a: 'x'.repeat(4_097) } })
    const proto = JSON.parse('{"__proto__":"x"}')
    await expectRefused('/headers/__proto__', { headers: proto })
    const many = Object.fromEntries(Array.from({ length: 21 }, (_, i) => [`h${i}`, 'x']))
    await expectRefused('/headers', { headers: many })
  })

  it('timeout: the total time of one attempt, 100ms to 15m, by default 15s', async () => {
    expect((await put({})).body.timeout).toBe('15s')
    expect((await put({ timeout: '90s' })).body.timeout).toBe('1m30s')
    expect((await put({ timeout: '15m' })).body.timeout).toBe('15m')
    await expectRefused('/timeout', { timeout: '99ms' }, { timeout: '15m1ms' }, { timeout: 15 })
    const endpoint = await fixture.endpoint('hang', { timeout: '100ms', retry: { maxAttempts: 1 } })
    const job = await fixture.job(await endpoint.enqueue(), 'dead')
    expect(job.attempts).toMatchObject([{ outcome: 'timeout' }])
    expect(job.attempts[0].durationMs).toBeGreaterThanOrEqual(95)
  })

  it('retry: the default, each kind in canonical form, and the limits of each part', async () => {
    expect((await put({})).body.retry).toEqual({
      maxAttempts: 10,
      backoff: { type: 'exponential', delay: '5s', factor: 3, maxDelay: '12h', jitter: 0.2 },
      maxAge: null,
    })
    const schedule = { type: 'schedule', delays: ['0s', '90s', '24h'], jitter: 0 }
    const given = { maxAttempts: 100, backoff: schedule, maxAge: '48h' }
    expect((await put({ retry: given })).body.retry).toEqual({
      maxAttempts: 100,
      backoff: { ...schedule, delays: ['0s', '1m30s', '1d'] },
      maxAge: '2d',
    })
    const { backoff } = (await put({ retry: { backoff: { type: 'linear', delay: '7d' } } })).body
      .retry
    expect(backoff).toMatchObject({ type: 'linear', delay: '7d' })
    await expectRefused(
      '/retry/maxAttempts',
      ...[0, 101, 1.5].map((n) => ({ retry: { maxAttempts: n } })),
    )
    const fixed = (more: object) => ({ retry: { backoff: { type: 'fixed', ...more } } })
    await expectRefused('/retry/backoff/delay', fixed({ delay: '7d1ms' }))
    await expectRefused('/retry/backoff/maxDelay', fixed({ maxDelay: '30d1s' }))
    await expectRefused('/retry/backoff/factor', fixed({ factor: 0.9 }), fixed({ factor: 11 }))
    await expectRefused('/retry/backoff/jitter', fixed({ jitter: 1.1 }), fixed({ jitter: -0.1 }))
    await expectRefused('/retry/backoff/delays', {
      retry: { backoff: { type: 'schedule', delays: [] } },
    })
  })

  it('retry: linear waits grow by the delay, and a schedule repeats its last one', async () => {
    const waits = async (backoff: object) => {
      const endpoint = await fixture.endpoint(500, { retry: { maxAttempts: 4, backoff } })
      const job = await fixture.job(await endpoint.enqueue(), 'dead')
      expect(job.failure.reason).toBe('attempts_exhausted')
      const { requests } = endpoint.receiver
      return requests.slice(1).map((one, i) => one.atMs - (requests[i]?.atMs ?? 0))
    }
    const linear = await waits({ type: 'linear', delay: '100ms', jitter: 0 })
    expectAtLeast(linear, [100, 200, 300])
    expectAtLeast(
      await waits({ type: 'schedule', delays: ['50ms', '150ms'], jitter: 0 }),
      [50, 150, 150],
    )
  })

  it('secret: whsec_ and base64 of 24 to 64 bytes, made if absent, shown once, kept by a PUT', async () => {
    const secretOf = (bytes: number) => `whsec_${randomBytes(bytes).toString('base64')}`
    const receiver = await startReceiver()
    const made = await put({ url: receiver.url }, 'secret')
    expect(made.body.secret).toMatch(/^whsec_[A-Za-z0-9+/]+=*$/)
    expect(made.body.secretHint).toBe(made.body.secret.slice(-4))
    const again = await put({ url: receiver.url }, 'secret')
    expect(again.body).not.toHaveProperty('secret')
    expect(again.body.secretHint).toBe(made.body.secretHint)
    const given = secretOf(64)
    const replaced = await put({ url: receiver.url, secret: given }, 'secret')
    expect(replaced.body).toMatchObject({ secret: given, secretHint: given.slice(-4) })
    const { body } = await fixture.posthorn.request('POST', '/jobs', {
      endpoint: 'secret',
      payload: { n: 1 },
    })
    await fixture.job(body.id, 'succeeded')
    const [request] = receiver.requests
    const headers = request?.headers as Record<string, string>
    expect(new Webhook(given).verify(String(request?.body), headers)).toEqual({ n: 1 })
    expect(() => new Webhook(made.body.secret).verify(String(request?.body), headers)).toThrow()
    const wrong = ['x', 'whsec_', secretOf(23), secretOf(65), `${secretOf(24)}*`]
    await expectRefused('/secret', ...wrong.map((secret) => ({ secret })))
    await receiver.close()
  })

  it('onFinish: a default for its jobs, copied at enqueue', async () => {
    const notified = await fixture.pulledEndpoint()
    const endpoint = await fixture.endpoint(200, {
      onFinish: { endpoint: notified.name, states: ['dead'] },
    })
    const id = await endpoint.enqueue()
    const { onFinish } = await fixture.get(`/jobs/${id}`)
    expect(onFinish).toEqual({ endpoint: notified.name, states: ['dead'] })
    await put({ url: endpoint.receiver.url }, endpoint.name)
    expect((await fixture.get(`/jobs/${id}`)).onFinish).toEqual(onFinish)
    expect((await fixture.get(`/jobs/${await endpoint.enqueue()}`)).onFinish).toBe(null)
    expect((await put({})).body.onFinish).toBe(null)
    const named = await put({ onFinish: notified.name }, 'named')
    expect(named.body.onFinish).toEqual({
      endpoint: notified.name,
      states: ['succeeded', 'dead', 'cancelled'],
    })
    await expectRefused('/onFinish', { onFinish: 5 })
  })

  it('onFinish: null in a job, in a batch, in a schedule and in a copy is none', async () => {
    const notified = await fixture.pulledEndpoint()
    const endpoint = await fixture.endpoint(200, { onFinish: notified.name })
    const shownIn = async (id: string) => (await fixture.get(`/jobs/${id}`)).onFinish
    const silent = await endpoint.enqueue({ onFinish: null })
    expect(await shownIn(silent)).toBe(null)
    expect((await request('POST', `/jobs/${silent}/copy`)).body.onFinish).toBe(null)
    const job = { endpoint: endpoint.name, payload: 1 }
    const batch = await request('POST', '/jobs/batch', { jobs: [{ ...job, onFinish: null }, job] })
    const [none, inherited] = await Promise.all(batch.body.items.map(({ id }: Body) => shownIn(id)))
    expect([none, inherited?.endpoint]).toEqual([null, notified.name])
    const schedule = `/schedules/${endpoint.name}`
    const made = await request('PUT', schedule, { ...job, every: '1h', onFinish: null })
    expect(made.body.onFinish).toBe(null)
    expect((await request('POST', `${schedule}/run`)).body.onFinish).toBe(null)
    const replaced = await request('PUT', schedule, { ...job, every: '1h' })
    expect(replaced.body).not.toHaveProperty('onFinish')
    expect((await request('POST', `${schedule}/run`)).body.onFinish.endpoint).toBe(notified.name)
  })

  it('read form: state, counts, version and times, and of the secret only its end', async () => {
    const endpoint = await fixture.pulledEndpoint()
    await endpoint.enqueue()
    const { headers, body } = await fixture.posthorn.request('GET', `/endpoints/${endpoint.name}`)
    expect(body).toMatchObject({
      name: endpoint.name,
      state: 'active',
      disabledReason: null,
      restingUntil: null,
      counts: { queued: 1, running: 0 },
      version: 1,
      secretHint: expect.stringMatching(/^.{4}$/),
    })
    expect(body).not.toHaveProperty('secret')
    expect(headers.get('etag')).toBe('"1"')
    expect(at(body.createdAt)).toBeLessThanOrEqual(at(body.updatedAt))
  })

  it('concurrency: attempts in flight over all workers, 1 to 10,000 or null', async () => {
    expect((await put({})).body.concurrency).toBe(null)
    expect((await put({ concurrency: 10_000 })).body.concurrency).toBe(10_000)
    await expectRefused(
      '/concurrency',
      ...[0, 10_001, 1.5, '5'].map((concurrency) => ({ concurrency })),
    )
    const held = heldReplies()
    const endpoint = await fixture.endpoint(held.script, { concurrency: 2 })
    const ids = await Promise.all(Array.from({ length: 5 }, () => endpoint.enqueue()))
    await endpoint.receiver.waitFor((requests) => requests.length === 2)
    expect((await endpoint.read()).counts).toEqual({ queued: 3, running: 2 })
    expect(endpoint.receiver.requests).toHaveLength(2)
    held.release(200)
    for (const id of ids) await fixture.job(id, 'succeeded')
  })

  it('rateLimit: attempts started over all workers, {count, per} or null', async () => {
    expect((await put({})).body.rateLimit).toBe(null)
    const given = { count: 5, per: '60s' }
    expect((await put({ rateLimit: given })).body.rateLimit).toEqual({ count: 5, per: '1m' })
    await expectRefused('/rateLimit/count', { rateLimit: { count: 0, per: '1s' } })
    await expectRefused(
      '/rateLimit/per',
      { rateLimit: { count: 1, per: '0s' } },
      { rateLimit: { count: 1 } },
    )
    const endpoint = await fixture.endpoint(200, { rateLimit: { count: 2, per: '400ms' } })
    const startedAtMs = performance.now()
    const ids = await Promise.all(Array.from({ length: 5 }, () => endpoint.enqueue()))
    for (const id of ids) await fixture.job(id, 'succeeded')
    // Two attempts start at once, and three wait for a token each, which takes 200 ms.
    expect(performance.now() - startedAtMs).toBeGreaterThanOrEqual(590)
  })

  it('perKey: limits of each fairness key, {concurrency, rateLimit} or null', async () => {
    expect((await put({})).body.perKey).toBe(null)
    expect((await put({ perKey: { concurrency: 3 } })).body.perKey).toEqual({
      ...{ concurrency: 3, rateLimit: null },
    })
    const rateLimit = { count: 5, per: '60s' }
    expect((await put({ perKey: { rateLimit } })).body.perKey).toEqual({
      ...{ concurrency: null, rateLimit: { count: 5, per: '1m' } },
    })
    expect((await put({ perKey: { concurrency: null } })).body.perKey).toBe(null)
    await expectRefused('/perKey/concurrency', { perKey: { concurrency: 0 } })
    await expectRefused('/perKey/rateLimit/per', { perKey: { rateLimit: { count: 1, per: '0s' } } })
    const held = heldReplies()
    const endpoint = await fixture.endpoint(held.script, { perKey: { concurrency: 1 } })
    const first = await endpoint.enqueue({ fairnessKey: 'a' })
    await fixture.job(first, 'running')
    const second = await endpoint.enqueue({ fairnessKey: 'a' })
    const other = await endpoint.enqueue({ fairnessKey: 'b' })
    await fixture.job(other, 'running')
    expect((await fixture.get(`/jobs/${second}`)).state).toBe('queued')
    const changed = await request('PATCH', `/endpoints/${endpoint.name}`, {
      perKey: { rateLimit },
    })
    expect(changed.body.perKey).toMatchObject({ concurrency: 1, rateLimit: { count: 5 } })
    held.release(200)
    await fixture.job(second, 'succeeded')
  })

  it('limits: up to five limits that it shares with other endpoints', async () => {
    expect((await put({})).body.limits).toEqual([])
    const names = ['field-b', 'field-a']
    for (const name of names) await request('PUT', `/limits/${name}`, { concurrency: 1 })
    const made = await fixture.putEndpoint({ limits: names }, 'sharing')
    expect(made.body.limits).toEqual(names)
    const { body } = await request('PATCH', '/endpoints/sharing', { description: 'kept' })
    expect(body.limits).toEqual(names)
    const reset = await request('PATCH', '/endpoints/sharing', { limits: null })
    expect(reset.body.limits).toEqual([])
    await expectRefused('/limits', { limits: ['field-a', 'field-a'] }, { limits: null })
    await expectRefused('/limits', { limits: Array.from({ length: 6 }, (_, i) => `limit-${i}`) })
    await expectRefused('/limits/0', { limits: ['Upper'] })
  })

  it('completion: sync or async; with async a 202 is no end', async () => {
    expect((await put({})).body.completion).toBe('sync')
    await expectRefused('/completion', { completion: 'later' }, { completion: null })
    const sync = await fixture.endpoint(202)
    await fixture.job(await sync.enqueue(), 'succeeded')
    const async = await fixture.endpoint(202, { completion: 'async' })
    const id = await async.enqueue()
    await soon(async () =>
      expect(await fixture.get(`/jobs/${id}`)).toMatchObject({ phase: 'awaiting_completion' }),
    )
  })

  it('completionTimeout: how long after the 202, 1s to 7d, by default 15m', async () => {
    expect((await put({})).body.completionTimeout).toBe('15m')
    expect((await put({ completionTimeout: '168h' })).body.completionTimeout).toBe('7d')
    await expectRefused(
      '/completionTimeout',
      { completionTimeout: '999ms' },
      { completionTimeout: '7d1s' },
    )
    const endpoint = await fixture.endpoint(202, { completion: 'async', completionTimeout: '5m' })
    const id = await endpoint.enqueue()
    await soon(async () => {
      const job = await fixture.get(`/jobs/${id}`)
      expect(job.phase).toBe('awaiting_completion')
      const leftMs = at(job.lease.expiresAt) - Date.now()
      expect(leftMs).toBeGreaterThan(4 * 60_000)
      expect(leftMs).toBeLessThan(5 * 60_000 + 2_000)
    })
  })

  it('circuitBreaker: {failures 1–1000, cooldown} or null, by default 20 and 30s', async () => {
    expect((await put({})).body.circuitBreaker).toEqual({ failures: 20, cooldown: '30s' })
    expect((await put({ circuitBreaker: null })).body.circuitBreaker).toBe(null)
    const given = { failures: 1_000, cooldown: '60s' }
    const answer = await put({ circuitBreaker: given })
    expect(answer.body.circuitBreaker).toEqual({ failures: 1_000, cooldown: '1m' })
    const failures = (count: number) => ({ circuitBreaker: { failures: count, cooldown: '1s' } })
    await expectRefused('/circuitBreaker/failures', failures(0), failures(1_001))
  })

  it('statuses: 300–599 → retry, final or throttle, at most 20, by default none', async () => {
    expect((await put({})).body.statuses).toEqual({})
    const given = { 300: 'final', 400: 'retry', 599: 'throttle' }
    expect((await put({ statuses: given }, 'chooses')).body.statuses).toEqual(given)
    expect((await fixture.get('/endpoints/chooses')).statuses).toEqual(given)
    for (const status of ['200', '299', '600', '99', '4xx', '404 ', '-400', '400.0']) {
      await expectRefused(`/statuses/${status}`, { statuses: { [status]: 'retry' } })
    }
    await expectRefused(
      '/statuses/400',
      { statuses: { 400: 'never' } },
      { statuses: { 400: null } },
    )
    const many = (count: number) =>
      Object.fromEntries(Array.from({ length: count }, (_, i) => [String(400 + i), 'retry']))
    expect((await put({ statuses: many(20) })).status).toBe(200)
    await expectRefused('/statuses', { statuses: many(21) })
  })

  it('statuses: decide what a response means, and what is retried counts for the breaker', async () => {
    const statuses = { 400: 'retry', 404: 'final', 410: 'retry', 500: 'throttle' }
    const endpoint = await fixture.endpoint([400, 410, 200], { statuses, retry: QUICK_RETRY })
    const retried = await fixture.job(await endpoint.enqueue(), 'succeeded', 'dead')
    const outcomes = retried.attempts.map((one: { outcome: string }) => one.outcome)
    expect(outcomes).toEqual(['http_error', 'http_error', 'succeeded'])
    expect(await endpoint.read()).toMatchObject({ state: 'active', disabledReason: null })
    endpoint.receiver.answerWith(404)
    const final = await fixture.job(await endpoint.enqueue(), 'dead')
    expect(final).toMatchObject({ attemptCount: 1, failure: { reason: 'rejected' } })
    expect(final.failure.message).toContain('404, which is final')
    endpoint.receiver.answerWith({ status: 400, headers: { 'posthorn-no-retry': 'true' } })
    expect(await fixture.job(await endpoint.enqueue(), 'dead')).toMatchObject({
      attemptCount: 1,
    })
    endpoint.receiver.answerWith([500, 200])
    const patient = await endpoint.enqueue({ retry: { maxAttempts: 1 } })
    expect(await fixture.job(patient, 'succeeded', 'dead')).toMatchObject({
      state: 'succeeded',
      attempts: [{ outcome: 'throttled', statusCode: 500 }, {}],
    })
    const circuitBreaker = { failures: 2, cooldown: '1h' }
    const down = await fixture.endpoint(400, { statuses, retry: QUICK_RETRY, circuitBreaker })
    await down.enqueue()
    await soon(async () => expect((await down.read()).state).toBe('resting'))
  })
})

const FORBIDDEN_HEADERS = [
  'Host',
  'Connection',
  'Content-Length',
  'Transfer-Encoding',
  'TE',
  'Trailer',
  'Upgrade',
  'Expect',
  'Keep-Alive',
  'Proxy-Authorization',
  'Webhook-Id',
  'Posthorn-Fence',
  'Forwarded',
  'X-Forwarded-For',
  'X-Real-IP',
  'Idempotency-Key',
  'Metadata-Flavor',
  'Metadata',
  'X-AWS-EC2-Metadata-Token',
  'Accept-Encoding',
  'Cookie',
  'Via',
  'True-Client-IP',
  'CF-Connecting-IP',
  'X-Original-URL',
  'X-Rewrite-URL',
  'X-HTTP-Method',
  'X-HTTP-Method-Override',
  'X-Method-Override',
]

/** Timers may fire a moment early. */
function expectAtLeast(waitsMs: number[], expected: number[]): void {
  expect(waitsMs).toHaveLength(expected.length)
  waitsMs.forEach((wait, i) => {
    expect(wait).toBeGreaterThanOrEqual((expected[i] as number) - 5)
  })
}
