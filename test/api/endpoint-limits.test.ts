import { describe, expect, it } from 'vitest'
import { ENGINES } from '../support/deployment.ts'
import { at, CONCURRENT, heldReplies, QUICK_RETRY, soon, useFixture } from './fixture.ts'

const HOOK = 'http://127.0.0.1:8099/hook'

describe.each(ENGINES)('on %s', CONCURRENT, (engine) => {
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

  it('concurrency: attempts in flight over all workers, 1 to 10,000 or null', async () => {
    expect((await put({})).body.concurrency).toBe(null)
    expect((await put({ concurrency: 10_000 })).body.concurrency).toBe(10_000)
    await expectRefused(
      '/concurrency',
      ...[0, 10_001, 1.5, '5'].map((concurrency) => ({ concurrency })),
    )
    const held = heldReplies()
    const site = await fixture.site(held.script, { concurrency: 2 })
    const ids = await Promise.all(Array.from({ length: 5 }, () => site.enqueue()))
    await site.receiver.waitFor((requests) => requests.length === 2)
    expect((await site.read()).counts).toEqual({ queued: 3, running: 2 })
    expect(site.receiver.requests).toHaveLength(2)
    held.release(200)
    for (const id of ids) await fixture.posthorn.job(id, 'succeeded')
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
    const site = await fixture.site(200, { rateLimit: { count: 2, per: '400ms' } })
    const startedAtMs = performance.now()
    const ids = await Promise.all(Array.from({ length: 5 }, () => site.enqueue()))
    for (const id of ids) await fixture.posthorn.job(id, 'succeeded')
    // Two at once, and three more tokens of 200 ms each.
    expect(performance.now() - startedAtMs).toBeGreaterThanOrEqual(590)
  })

  it('completion: sync or async; with async a 202 is no end', async () => {
    expect((await put({})).body.completion).toBe('sync')
    await expectRefused('/completion', { completion: 'later' }, { completion: null })
    const sync = await fixture.site(202)
    await fixture.posthorn.job(await sync.enqueue(), 'succeeded')
    const async = await fixture.site(202, { completion: 'async' })
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
    const site = await fixture.site(202, { completion: 'async', completionTimeout: '5m' })
    const id = await site.enqueue()
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

  it('statuses: decide what an answer means, and what is retried counts for the breaker', async () => {
    const statuses = { 400: 'retry', 404: 'final', 410: 'retry', 500: 'throttle' }
    const site = await fixture.site([400, 410, 200], { statuses, retry: QUICK_RETRY })
    const retried = await fixture.posthorn.job(await site.enqueue(), 'succeeded', 'dead')
    const outcomes = retried.attempts.map((one: { outcome: string }) => one.outcome)
    expect(outcomes).toEqual(['http_error', 'http_error', 'succeeded'])
    expect(await site.read()).toMatchObject({ state: 'active', disabledReason: null })
    site.receiver.answerWith(404)
    const final = await fixture.posthorn.job(await site.enqueue(), 'dead')
    expect(final).toMatchObject({ attemptCount: 1, failure: { reason: 'rejected' } })
    expect(final.failure.message).toContain('404, which is final')
    site.receiver.answerWith({ status: 400, headers: { 'posthorn-no-retry': 'true' } })
    expect(await fixture.posthorn.job(await site.enqueue(), 'dead')).toMatchObject({
      attemptCount: 1,
    })
    site.receiver.answerWith([500, 200])
    const patient = await site.enqueue({ retry: { maxAttempts: 1 } })
    expect(await fixture.posthorn.job(patient, 'succeeded', 'dead')).toMatchObject({
      state: 'succeeded',
      attempts: [{ outcome: 'throttled', statusCode: 500 }, {}],
    })
    const circuitBreaker = { failures: 2, cooldown: '1h' }
    const down = await fixture.site(400, { statuses, retry: QUICK_RETRY, circuitBreaker })
    await down.enqueue()
    await soon(async () => expect((await down.read()).state).toBe('resting'))
  })
})
