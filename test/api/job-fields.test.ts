// The table of job fields: what each takes, what it is without being given, what it does.
import { describe, expect, it } from 'vitest'
import { ENGINES } from '../support/deployment.ts'
import { at, type Body, CONCURRENT, DAY_MS, heldReplies, soon, useFixture } from './fixture.ts'

describe.each(ENGINES)('on %s', CONCURRENT, (engine) => {
  const fixture = useFixture(engine)
  const send = (...all: Parameters<typeof fixture.posthorn.request>) =>
    fixture.posthorn.request(...all)
  const read = (id: string) => fixture.get(`/jobs/${id}`)

  /** Each is refused, and the error names the field. */
  async function expectRefused(path: string, ...all: object[]): Promise<void> {
    const site = await fixture.pulled()
    for (const fields of all) {
      const answer = await site.post(fields)
      expect([fields, answer.status]).toEqual([fields, 400])
      expect(answer.body.code).toBe('invalid_request')
      expect(answer.body.errors.map((error: { path: string }) => error.path)).toContain(path)
    }
    expect((await site.read()).counts.queued).toBe(0)
  }

  it('endpoint: the name of one that exists; it is required', async () => {
    const site = await fixture.pulled()
    expect((await site.post()).body.endpoint).toBe(site.name)
    expect((await site.post({ endpoint: 'unknown' })).status).toBe(422)
    await expectRefused(
      '/endpoint',
      { endpoint: undefined },
      { endpoint: 'No Name' },
      { endpoint: 1 },
    )
  })

  it('payload: any JSON value, delivered byte for byte, and read back so', async () => {
    const site = await fixture.site()
    const payloads = [
      'null',
      '0',
      '""',
      'false',
      '[ 1.0, 1e400, 12345678901234567890123 ]',
      '{"b": 1,"a" :{"b":2, "b":3}, "__proto__": {"x":1}}',
      '"\\u00e4\\ud83d\\ude00 ä 😀 \\u0000"',
    ]
    for (const payload of payloads) {
      const text = `{ "payload" : ${payload} , "endpoint":"${site.name}" }`
      const { status, body } = await send('POST', '/jobs', text)
      expect([payload, status]).toEqual([payload, 201])
      await fixture.posthorn.job(body.id, 'succeeded')
      expect(site.receiver.requests.at(-1)?.body.toString()).toBe(payload)
      expect(body.payloadBytes).toBe(Buffer.byteLength(payload))
      const raw = await fetch(`${fixture.posthorn.url()}/jobs/${body.id}`)
      expect(await raw.text()).toContain(`"payload":${payload}`)
    }
    await expectRefused('/payload', { payload: undefined })
  })

  it('runAt or delay: at most a year ahead, a past instant means now, both are refused', async () => {
    const site = await fixture.pulled()
    const now = await site.post()
    expect(now.body.runAt).toBe(now.body.createdAt)
    for (const runAt of ['1999-01-01T00:00:00Z', '0001-01-01T00:00:00Z']) {
      const past = await site.post({ runAt })
      expect(past.body.runAt).toBe(past.body.createdAt)
    }
    const ahead = new Date(Date.now() + 364 * DAY_MS)
    expect((await site.post({ runAt: ahead.toISOString() })).body.runAt).toBe(ahead.toISOString())
    const delayed = await site.post({ delay: '1h30m' })
    expect(at(delayed.body.runAt) - at(delayed.body.createdAt)).toBe(5_400_000)
    const later = new Date(Date.now() + 368 * DAY_MS).toISOString()
    await expectRefused('/runAt', { runAt: later }, { runAt: '2026-11-24' }, { runAt: 5 })
    await expectRefused('/delay', { delay: '368d' }, { delay: '1.5s' }, { delay: '-1s' })
    await expectRefused('/delay', { delay: '1s', runAt: ahead.toISOString() })
  })

  it('runAt or delay: an instant of RFC 3339, with a small t and z or any offset', async () => {
    const site = await fixture.pulled()
    for (const runAt of ['2031-11-24t08:30:00z', '2031-11-24T08:30:00.000Z']) {
      const answer = await site.post({ runAt })
      expect([runAt, answer.status]).toEqual([runAt, 400])
      expect(answer.body.detail).toContain('at most a year ahead')
    }
    const soonAt = new Date(Date.now() + 3_600_000).toISOString()
    const answer = await site.post({ runAt: soonAt.toLowerCase() })
    expect(answer).toMatchObject({ status: 201, body: { runAt: soonAt } })
  })

  it('runAt or delay: the job is not sent before, and soon after', async () => {
    const site = await fixture.site()
    const id = await site.enqueue({ delay: '300ms' })
    const job = await fixture.posthorn.job(id, 'succeeded')
    expect(at(job.startedAt) - at(job.createdAt)).toBeGreaterThanOrEqual(300)
    expect(site.receiver.requests).toHaveLength(1)
  })

  it('priority: 0 to 9, higher first within its endpoint, by default 5', async () => {
    const site = await fixture.pulled()
    const ids: Record<string, string> = {}
    for (const priority of [0, undefined, 9, 5, 7]) {
      ids[`${priority}`] = await site.enqueue({ priority })
    }
    expect((await read(ids.undefined as string)).priority).toBe(5)
    const { body } = await send('POST', `/endpoints/${site.name}/claim`, { limit: 5 })
    const order = body.jobs.map((job: Body) => job.id)
    expect(order).toEqual([ids['9'], ids['7'], ids.undefined, ids['5'], ids['0']])
    await expectRefused('/priority', ...[-1, 10, 1.5, '5'].map((priority) => ({ priority })))
  })

  it('timeout: the job’s own beats that of its endpoint', async () => {
    const site = await fixture.site('hang', { timeout: '15m', retry: { maxAttempts: 1 } })
    const id = await site.enqueue({ timeout: '150ms' })
    expect((await fixture.posthorn.job(id, 'dead')).attempts).toMatchObject([
      { outcome: 'timeout' },
    ])
    expect((await read(id)).timeout).toBe('150ms')
    const waiting = await (await fixture.pulled()).enqueue()
    expect((await read(waiting)).timeout).toBe(null)
    await expectRefused('/timeout', { timeout: '99ms' }, { timeout: '16m' })
  })

  it('retry: parts given override those of the endpoint, backoff as a whole', async () => {
    const backoff = { type: 'fixed', delay: '10ms', jitter: 0 }
    const site = await fixture.site(500, { retry: { maxAttempts: 2, backoff } })
    const more = await site.enqueue({ retry: { maxAttempts: 3 } })
    expect(await fixture.posthorn.job(more, 'dead')).toMatchObject({
      maxAttempts: 3,
      attemptCount: 3,
      retry: { maxAttempts: 3 },
    })
    const plain = await site.enqueue()
    expect(await fixture.posthorn.job(plain, 'dead')).toMatchObject({ maxAttempts: 2, retry: null })
    const aged = await site.enqueue({
      retry: { maxAge: '1s', backoff: { ...backoff, delay: '2s' } },
    })
    expect((await fixture.posthorn.job(aged, 'dead')).failure.reason).toBe('max_age')
    await expectRefused('/retry/maxAttempts', { retry: { maxAttempts: 101 } })
  })

  it('expiresIn: from the first runAt; after it no attempt starts, and the job is dead', async () => {
    const site = await fixture.pulled()
    const answer = await site.post({ delay: '1h', expiresIn: '90m' })
    expect(at(answer.body.expiresAt) - at(answer.body.runAt)).toBe(5_400_000)
    expect((await site.post()).body.expiresAt).toBe(null)
    const short = await site.enqueue({ expiresIn: '50ms' })
    const job = await fixture.posthorn.job(short, 'dead')
    expect(job).toMatchObject({ attemptCount: 0, failure: { reason: 'expired' } })
    await expectRefused('/expiresIn', { expiresIn: '0s' }, { expiresIn: 'soon' })
  })

  it('expiresIn: an attempt under way may still finish the job, a failure then buries it', async () => {
    const good = heldReplies()
    const bad = heldReplies()
    const [one, two] = [await fixture.site(good.script), await fixture.site(bad.script)]
    const [fine, failed] = [
      await one.enqueue({ expiresIn: '2s' }),
      await two.enqueue({ expiresIn: '2s' }),
    ]
    for (const id of [fine, failed]) await fixture.posthorn.job(id, 'running')
    const expiresAt = at((await read(failed)).expiresAt)
    await soon(() => expect(Date.now()).toBeGreaterThan(expiresAt + 200))
    good.release(200)
    bad.release(500)
    expect((await fixture.posthorn.job(fine, 'succeeded')).attemptCount).toBe(1)
    expect((await fixture.posthorn.job(failed, 'dead')).failure.reason).toBe('expired')
  })

  it('tags: up to 10 of up to 64 characters', async () => {
    const site = await fixture.pulled()
    expect((await site.post()).body.tags).toEqual([])
    const tags = Array.from({ length: 10 }, (_, i) => `${i}`.repeat(64))
    expect((await site.post({ tags })).body.tags).toEqual(tags)
    await expectRefused('/tags', { tags: Array(11).fill('t') })
    await expectRefused('/tags/0', { tags: ['x'.repeat(65)] }, { tags: [''] }, { tags: [1] })
  })

  it('metadata: up to 20 pairs; stored and returned, not delivered', async () => {
    const site = await fixture.site()
    expect((await site.post()).body.metadata).toEqual({})
    const metadata = Object.fromEntries(
      Array.from({ length: 20 }, (_, i) => [`${i}`.padStart(64, 'k'), 'v'.repeat(512)]),
    )
    const answer = await site.post({ metadata })
    expect(answer.body.metadata).toEqual(metadata)
    await fixture.posthorn.job(answer.body.id, 'succeeded')
    expect(JSON.stringify(site.receiver.requests.at(-1)?.headers)).not.toContain('vvvv')
    await expectRefused('/metadata', { metadata: { ...metadata, more: '1' } })
    await expectRefused('/metadata/__proto__', { metadata: JSON.parse('{"__proto__":"x"}') })
    await expectRefused('/metadata/k', { metadata: { k: 'v'.repeat(513) } }, { metadata: { k: 1 } })
  })

  it('headers: extra ones for this job, below those of the endpoint, read back masked', async () => {
    const site = await fixture.site(200, { headers: { 'x-a': 'endpoint-a' } })
    const headers = { 'X-A': 'job-value-a', 'X-B': 'job-value-b', 'User-Agent': 'shop/7.0.12' }
    const id = await site.enqueue({ headers })
    const job = await fixture.posthorn.job(id, 'succeeded')
    expect(job.headers).toEqual({ 'X-A': '***ue-a', 'X-B': '***ue-b', 'User-Agent': '***0.12' })
    expect(site.receiver.requests[0]?.headers).toMatchObject({
      'x-a': 'endpoint-a',
      'x-b': 'job-value-b',
      'user-agent': 'shop/7.0.12',
    })
    await expectRefused('/headers/Webhook-Id', { headers: { 'Webhook-Id': '1' } })
  })
})
