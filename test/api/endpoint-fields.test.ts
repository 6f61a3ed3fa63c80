// The table of endpoint fields: what each takes, what it is without being given, what it does.
import { randomBytes } from 'node:crypto'
import { Webhook } from 'standardwebhooks'
import { describe, expect, it } from 'vitest'
import { ENGINES } from '../support/deployment.ts'
import { startReceiver } from '../support/receiver.ts'
import { at, type Body, useFixture } from './fixture.ts'

const HOOK = 'http://127.0.0.1:8099/hook'

describe.each(ENGINES)('on %s', (engine) => {
  const fixture = useFixture(engine)
  const put = (settings: object, name = 'probe') =>
    fixture.posthorn.request('PUT', `/endpoints/${name}`, { url: HOOK, ...settings })

  /** Each is refused, and the error names the field. */
  async function expectRefused(path: string, ...all: object[]): Promise<void> {
    for (const settings of all) {
      const answer = await put(settings)
      expect([settings, answer.status]).toEqual([settings, 400])
      expect(answer.body.code).toBe('invalid_request')
      expect(answer.body.errors.map((error: { path: string }) => error.path)).toContain(path)
    }
  }

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
      // Other URLs than they look like, to a parser that takes them.
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
    const site = await fixture.site(200, { headers })
    const read = await site.read()
    expect(read.headers).toEqual({ 'X-Tenant': '***0815', 'User-Agent': '***0.12' })
    await fixture.posthorn.job(await site.enqueue(), 'succeeded')
    expect(site.receiver.requests[0]?.headers).toMatchObject({
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
    const site = await fixture.site('hang', { timeout: '100ms', retry: { maxAttempts: 1 } })
    const job = await fixture.posthorn.job(await site.enqueue(), 'dead')
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
      const site = await fixture.site(500, { retry: { maxAttempts: 4, backoff } })
      const job = await fixture.posthorn.job(await site.enqueue(), 'dead')
      expect(job.failure.reason).toBe('attempts_exhausted')
      const { requests } = site.receiver
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
    await fixture.posthorn.job(body.id, 'succeeded')
    const [request] = receiver.requests
    const headers = request?.headers as Record<string, string>
    expect(new Webhook(given).verify(String(request?.body), headers)).toEqual({ n: 1 })
    expect(() => new Webhook(made.body.secret).verify(String(request?.body), headers)).toThrow()
    const wrong = ['x', 'whsec_', secretOf(23), secretOf(65), `${secretOf(24)}*`]
    await expectRefused('/secret', ...wrong.map((secret) => ({ secret })))
    await receiver.close()
  })

  it('onFinish: a default for its jobs, copied at enqueue', async () => {
    const told = await fixture.pulled()
    const site = await fixture.site(200, { onFinish: { endpoint: told.name, states: ['dead'] } })
    const id = await site.enqueue()
    const { onFinish } = await fixture.get(`/jobs/${id}`)
    expect(onFinish).toEqual({ endpoint: told.name, states: ['dead'] })
    await put({ url: site.receiver.url }, site.name)
    expect((await fixture.get(`/jobs/${id}`)).onFinish).toEqual(onFinish)
    expect((await fixture.get(`/jobs/${await site.enqueue()}`)).onFinish).toBe(null)
    expect((await put({})).body.onFinish).toBe(null)
    const named = await put({ onFinish: told.name }, 'named')
    expect(named.body.onFinish).toEqual({
      endpoint: told.name,
      states: ['succeeded', 'dead', 'cancelled'],
    })
    await expectRefused('/onFinish', { onFinish: 5 })
  })

  it('onFinish: null in a job, in a batch, in a schedule and in a copy is none', async () => {
    const told = await fixture.pulled()
    const site = await fixture.site(200, { onFinish: told.name })
    const send = fixture.posthorn.request
    const shownIn = async (id: string) => (await fixture.get(`/jobs/${id}`)).onFinish
    const silent = await site.enqueue({ onFinish: null })
    expect(await shownIn(silent)).toBe(null)
    expect((await send('POST', `/jobs/${silent}/copy`)).body.onFinish).toBe(null)
    const job = { endpoint: site.name, payload: 1 }
    const batch = await send('POST', '/jobs/batch', { jobs: [{ ...job, onFinish: null }, job] })
    const [none, inherited] = await Promise.all(batch.body.items.map(({ id }: Body) => shownIn(id)))
    expect([none, inherited?.endpoint]).toEqual([null, told.name])
    const schedule = `/schedules/${site.name}`
    const made = await send('PUT', schedule, { ...job, every: '1h', onFinish: null })
    expect(made.body.onFinish).toBe(null)
    expect((await send('POST', `${schedule}/run`)).body.onFinish).toBe(null)
    const replaced = await send('PUT', schedule, { ...job, every: '1h' })
    expect(replaced.body).not.toHaveProperty('onFinish')
    expect((await send('POST', `${schedule}/run`)).body.onFinish.endpoint).toBe(told.name)
  })

  it('read form: state, counts, version and times, and of the secret only its end', async () => {
    const site = await fixture.pulled()
    await site.enqueue()
    const { headers, body } = await fixture.posthorn.request('GET', `/endpoints/${site.name}`)
    expect(body).toMatchObject({
      name: site.name,
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
