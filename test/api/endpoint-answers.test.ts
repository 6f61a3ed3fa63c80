// Responses that concern the whole endpoint: gone, throttled, failing, and how the endpoint becomes
// active again.
import { describe, expect, it } from 'vitest'
import {
  at,
  type Body,
  CONCURRENT,
  changeIsKnown,
  heldReplies,
  soon,
  useApi,
} from '../support/api-fixture.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'

const SLOW = { retry: { backoff: { type: 'fixed', delay: '1h', jitter: 0 } } }

describe.each(SQLITE_UNLESS_LONG)('on %s', CONCURRENT, (engine) => {
  const fixture = useApi(engine)
  const { request, readJob } = fixture
  const firstAttempt = async (id: string): Promise<Body> => {
    await soon(async () => expect((await readJob(id)).attempts.length).toBeGreaterThan(0))
    return (await readJob(id)).attempts[0]
  }

  it('410: rejected, dead, and the endpoint is disabled as gone; its jobs wait', async () => {
    const endpoint = await fixture.endpoint(410)
    const waiting = await endpoint.enqueue({ delay: '1h' })
    const job = await fixture.job(await endpoint.enqueue(), 'dead')
    expect(job.attempts).toMatchObject([{ outcome: 'rejected', statusCode: 410 }])
    await soon(async () =>
      expect(await endpoint.read()).toMatchObject({ state: 'disabled', disabledReason: 'gone' }),
    )
    await changeIsKnown()
    await request('PATCH', `/jobs/${waiting}`, { delay: '0s' })
    const other = await fixture.endpoint()
    await fixture.job(await other.enqueue(), 'succeeded')
    expect((await readJob(waiting)).state).toBe('queued')
    expect(endpoint.receiver.requests).toHaveLength(1)
  })

  it('410: does not disable an endpoint that was changed since the attempt began', async () => {
    const held = heldReplies()
    const endpoint = await fixture.endpoint(held.script)
    const id = await endpoint.enqueue()
    await fixture.job(id, 'running')
    await fixture.posthorn.endpoint(endpoint.name, endpoint.receiver.url)
    held.release(410)
    await fixture.job(id, 'dead')
    endpoint.receiver.answerWith(200)
    await fixture.job(await endpoint.enqueue(), 'succeeded')
    expect(await endpoint.read()).toMatchObject({ state: 'active', disabledReason: null })
  })

  it('429, or 503 with Retry-After: throttled, costs no attempt, and rests the endpoint for all its jobs', async () => {
    for (const status of [429, 503]) {
      const endpoint = await fixture.endpoint([{ status, headers: { 'retry-after': '1' } }, 200], {
        retry: { maxAttempts: 1 },
      })
      const first = await endpoint.enqueue()
      await soon(async () => expect((await endpoint.read()).state).toBe('resting'))
      const second = await endpoint.enqueue()
      for (const id of [first, second]) {
        const job = await fixture.job(id, 'succeeded')
        expect(job.maxAttempts).toBe(1)
      }
      const { attempts, attemptCount } = await readJob(first)
      expect(attempts).toMatchObject([{ outcome: 'throttled', statusCode: status }, {}])
      expect(attemptCount).toBe(2)
      const [throttled, ...rest] = endpoint.receiver.requests
      for (const one of rest) expect(one.atMs - (throttled?.atMs ?? 0)).toBeGreaterThan(950)
      expect(rest[0]?.headers['posthorn-attempts-left']).toBe('0')
    }
  })

  it('429, or 503 with Retry-After: without one the rest is 1 s, then 2 s; at most 24 h; resume ends it', async () => {
    const endpoint = await fixture.endpoint([429, 429, 200])
    await fixture.job(await endpoint.enqueue(), 'succeeded')
    const [one, two, three] = endpoint.receiver.requests.map(({ atMs }) => atMs) as [
      number,
      number,
      number,
    ]
    expect(two - one).toBeGreaterThan(950)
    expect(three - two).toBeGreaterThan(1_950)
    const long = await fixture.endpoint({ status: 429, headers: { 'retry-after': '9999999' } })
    const id = await long.enqueue()
    await soon(async () => expect((await long.read()).state).toBe('resting'))
    const restMs = at((await long.read()).restingUntil) - Date.now()
    expect(restMs).toBeGreaterThan(86_300_000)
    expect(restMs).toBeLessThanOrEqual(86_400_000)
    long.receiver.answerWith(200)
    const resumed = await request('POST', `/endpoints/${long.name}/resume`)
    expect(resumed.body).toMatchObject({ state: 'active', restingUntil: null })
    await fixture.job(await long.enqueue(), 'succeeded')
    expect((await readJob(id)).attempts).toMatchObject([{ outcome: 'throttled' }])
  })

  it('circuit breaker: trips after failures in a row, rests, lets one probe through, and resets on success', async () => {
    const circuitBreaker = { failures: 3, cooldown: '700ms' }
    const endpoint = await fixture.endpoint(500, { ...SLOW, circuitBreaker })
    for (let i = 0; i < 3; i++) await firstAttempt(await endpoint.enqueue())
    await soon(async () => expect((await endpoint.read()).state).toBe('resting'))
    const ids = await Promise.all(Array.from({ length: 4 }, () => endpoint.enqueue()))
    // The first test attempt fails, and the endpoint rests once more. The second one gets no
    // response yet, and no other job is sent.
    await endpoint.receiver.waitFor((requests) => requests.length === 4)
    const held = heldReplies()
    endpoint.receiver.answerWith((_, index) => (index === 0 ? held.script() : 200))
    await endpoint.receiver.waitFor((requests) => requests.length === 5)
    const [, , third, fourth, fifth] = endpoint.receiver.requests.map(
      ({ atMs }) => atMs,
    ) as number[]
    expect((fourth as number) - (third as number)).toBeGreaterThan(650)
    expect((fifth as number) - (fourth as number)).toBeGreaterThan(650)
    const other = await fixture.endpoint()
    await fixture.job(await other.enqueue(), 'succeeded')
    expect(endpoint.receiver.requests).toHaveLength(5)
    held.release(200)
    await soon(async () => expect(await stateCount(ids, 'succeeded')).toBe(3))
    expect(await stateCount(ids, 'queued')).toBe(1)
    expect((await endpoint.read()).state).toBe('active')
  })

  it('circuit breaker: rejected, throttled and cancelled do not count, and null is never', async () => {
    const circuitBreaker = { failures: 1, cooldown: '1h' }
    const endpoint = await fixture.endpoint(422, { ...SLOW, circuitBreaker })
    await fixture.job(await endpoint.enqueue(), 'dead')
    endpoint.receiver.answerWith(200)
    await fixture.job(await endpoint.enqueue(), 'succeeded')
    endpoint.receiver.answerWith(500)
    await firstAttempt(await endpoint.enqueue())
    await soon(async () => expect((await endpoint.read()).state).toBe('resting'))
    endpoint.receiver.answerWith(200)
    await request('POST', `/endpoints/${endpoint.name}/resume`)
    await fixture.job(await endpoint.enqueue(), 'succeeded')
    const without = await fixture.endpoint(500, { ...SLOW, circuitBreaker: null })
    for (let i = 0; i < 25; i++) await firstAttempt(await without.enqueue())
    expect((await without.read()).state).toBe('active')
  })

  async function stateCount(ids: string[], state: string): Promise<number> {
    const jobs = await Promise.all(ids.map(readJob))
    return jobs.filter((job) => job.state === state).length
  }
})
