// Async completion: the handler responds with 202 and reports with the token of its attempt.
import { describe, expect, it } from 'vitest'
import {
  at,
  type Body,
  CONCURRENT,
  heldReplies,
  QUICK_RETRY,
  soon,
  useApi,
} from '../support/api-fixture.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'
import type { Script } from '../support/receiver.ts'

type Verb = 'complete' | 'fail' | 'heartbeat'

describe.each(SQLITE_UNLESS_LONG)('on %s', CONCURRENT, (engine) => {
  const fixture = useApi(engine, { WORKER_CONCURRENCY: '4', LEASE_DURATION: '1500ms' })
  const { request, readJob } = fixture

  /**
   * A job whose handler has responded with 202, and the functions by which that handler reports.
   */
  async function accepted(settings: object = {}, fields: object = {}) {
    const endpoint = await asyncEndpoint(202, settings)
    const id = await endpoint.enqueue(fields)
    await isAwaiting(id)
    return { endpoint, id, report: reporter(endpoint.receiver.requests[0]?.headers as never) }
  }
  const asyncEndpoint = (script: Script, settings: object = {}) =>
    fixture.endpoint(script, { completion: 'async', ...settings })
  const isAwaiting = (id: string) =>
    soon(async () => expect((await readJob(id)).phase).toBe('awaiting_completion'))

  /** Calls the URLs in the request of the attempt, as an external handler does. */
  function reporter(headers: Record<string, string>) {
    return (verb: Verb, body?: unknown) => {
      const { origin, pathname, search } = new URL(headers[`posthorn-${verb}-url`] as string)
      expect(origin).toBe(fixture.posthorn.url())
      return request('POST', pathname + search, body)
    }
  }
  const applied = { status: 200, body: { applied: true } }
  const leaseLost = { status: 409, body: { code: 'lease_lost' } }

  it('complete: the job succeeds with the result, byte for byte; a repeat gets the same response', async () => {
    const { id, report } = await accepted()
    const result = '{"pages": 3.0, "big":12345678901234567890}'
    expect(await report('complete', `{"result": ${result} }`)).toEqual(
      expect.objectContaining(applied),
    )
    const raw = await (await fetch(`${fixture.posthorn.url()}/jobs/${id}`)).text()
    expect(raw).toContain(`"result":${result}`)
    expect(await readJob(id)).toMatchObject({
      state: 'succeeded',
      lease: null,
      phase: null,
      attempts: [{ number: 1, outcome: 'succeeded' }],
    })
    expect(await report('complete', { result: 'again' })).toMatchObject(applied)
    expect((await readJob(id)).result).toMatchObject({ pages: 3 })
  })

  it('complete: without a body the result is null, and over 64 KiB it is cut off whole', async () => {
    const bare = await accepted()
    expect(await bare.report('complete')).toMatchObject(applied)
    expect(await readJob(bare.id)).toMatchObject({ state: 'succeeded', result: null })
    const large = await accepted()
    expect(await large.report('complete', { result: 'x'.repeat(65_536) })).toMatchObject(applied)
    expect(await readJob(large.id)).toMatchObject({ result: null, resultTruncated: true })
    const wrong = await accepted()
    expect((await wrong.report('complete', { results: 1 })).status).toBe(400)
    expect((await readJob(wrong.id)).state).toBe('running')
  })

  it('complete: also before the 202 was sent', async () => {
    const held = heldReplies()
    const endpoint = await asyncEndpoint(held.script)
    const id = await endpoint.enqueue()
    await endpoint.receiver.waitFor((requests) => requests.length === 1)
    const report = reporter(endpoint.receiver.requests[0]?.headers as never)
    expect(await report('complete', { result: 'early' })).toMatchObject(applied)
    held.release(202)
    expect(await report('complete', { result: 'early' })).toMatchObject(applied)
    expect(await readJob(id)).toMatchObject({ state: 'succeeded', result: 'early' })
  })

  it('fail: the job is tried again, and dead when its attempts are used up', async () => {
    const { endpoint, id, report } = await accepted({ retry: { ...QUICK_RETRY, maxAttempts: 2 } })
    expect(await report('fail', { message: 'no disk' })).toMatchObject(applied)
    expect(await report('fail', { message: 'no disk' })).toMatchObject(applied)
    await soon(async () =>
      expect(await readJob(id)).toMatchObject({ fence: 2, phase: 'awaiting_completion' }),
    )
    const second = reporter(endpoint.receiver.requests[1]?.headers as never)
    expect(await second('fail')).toMatchObject(applied)
    const job = await fixture.job(id, 'dead')
    expect(job.failure.reason).toBe('attempts_exhausted')
    expect(job.attempts).toMatchObject([
      { outcome: 'failed', message: 'no disk' },
      { outcome: 'failed' },
    ])
    expect(await second('fail')).toMatchObject(applied)
  })

  it('fail: retryable false makes it dead at once, and retryAfter beats the back-off', async () => {
    const final = await accepted()
    expect(await final.report('fail', { message: 'bad file', retryable: false })).toMatchObject(
      applied,
    )
    expect(await readJob(final.id)).toMatchObject({
      state: 'dead',
      failure: { reason: 'failed_by_handler', message: 'bad file' },
    })
    const later = await accepted()
    expect(await later.report('fail', { retryAfter: '1h' })).toMatchObject(applied)
    const job = await readJob(later.id)
    expect(job).toMatchObject({ state: 'queued', attemptCount: 1 })
    expect(at(job.runAt) - Date.now()).toBeGreaterThan(3_500_000)
    for (const body of [{ retryable: 'no' }, { retryAfter: '2d' }, { reason: 'x' }]) {
      expect((await later.report('fail', body)).status).toBe(400)
    }
  })

  it('heartbeat: stores progress and extends the deadline, by the completionTimeout or what it names', async () => {
    const { id, report } = await accepted({ completionTimeout: '5s' })
    const beat = await report('heartbeat', { progress: 42.5, message: 'page 3' })
    expect(beat).toMatchObject({ status: 200, body: { cancelRequested: false } })
    expect(at(beat.body.leaseExpiresAt) - Date.now()).toBeGreaterThan(3_000)
    expect(await readJob(id)).toMatchObject({
      progress: { value: 42.5, message: 'page 3', at: expect.any(String) },
      lease: { expiresAt: beat.body.leaseExpiresAt },
    })
    const extended = await report('heartbeat', { extend: '1h' })
    expect(at(extended.body.leaseExpiresAt) - Date.now()).toBeGreaterThan(3_590_000)
    expect((await readJob(id)).progress).toMatchObject({ value: 42.5, message: 'page 3' })
    // A heartbeat never shortens the deadline.
    expect((await report('heartbeat')).body.leaseExpiresAt).toBe(extended.body.leaseExpiresAt)
    for (const body of [{ progress: 101 }, { progress: -1 }, { progress: '5' }, { extend: '8d' }]) {
      expect((await report('heartbeat', body)).status).toBe(400)
    }
    expect(await report('complete')).toMatchObject(applied)
    expect(await report('heartbeat')).toMatchObject(leaseLost)
  })

  it('heartbeat: on a cancelled job says that cancel was requested', async () => {
    const { id, report } = await accepted()
    await request('POST', `/jobs/${id}/cancel`)
    expect(await report('heartbeat', { progress: 50 })).toMatchObject({
      status: 200,
      body: { leaseExpiresAt: null, cancelRequested: true },
    })
    expect(await report('complete')).toMatchObject(leaseLost)
    expect(await report('fail')).toMatchObject(leaseLost)
    expect(await readJob(id)).toMatchObject({ state: 'cancelled', progress: null })
  })

  it('heartbeat: before the 202 it stores progress only', async () => {
    const held = heldReplies()
    const endpoint = await asyncEndpoint(held.script, { completionTimeout: '1h' })
    const id = await endpoint.enqueue()
    await endpoint.receiver.waitFor((requests) => requests.length === 1)
    const report = reporter(endpoint.receiver.requests[0]?.headers as never)
    const beat = await report('heartbeat', { progress: 1, extend: '1h' })
    expect(at(beat.body.leaseExpiresAt) - Date.now()).toBeLessThan(60_000)
    expect((await readJob(id)).progress).toMatchObject({ value: 1, message: null })
    held.release(200)
    await fixture.job(id, 'succeeded')
  })

  it('token: no API key is needed, and one alone is not enough', async () => {
    const { id, endpoint } = await accepted()
    const { body: key } = await request('POST', '/keys', { name: 'k', scope: 'admin' })
    const url = endpoint.receiver.requests[0]?.headers['posthorn-complete-url'] as string
    const token = new URL(url).searchParams.get('token') as string
    const tries: [path: string, headers: object][] = [
      ['', {}],
      ['', { authorization: `Bearer ${key.key}` }],
      ['?token=', {}],
      ['?token=nonsense', {}],
      [`?token=${flipped(token)}`, {}],
    ]
    for (const [query, headers] of tries) {
      for (const verb of ['complete', 'fail', 'heartbeat']) {
        const answer = await request('POST', `/jobs/${id}/${verb}${query}`, {}, headers)
        expect([query, answer.status, answer.body.code]).toEqual([query, 401, 'unauthorized'])
      }
    }
    const other = await accepted()
    const elsewhere = await request('POST', `/jobs/${other.id}/complete?token=${token}`)
    expect(elsewhere.status).toBe(401)
    const bearer = { authorization: `Bearer ${token}` }
    expect(await request('POST', `/jobs/${id}/complete`, {}, bearer)).toMatchObject(applied)
  })

  it('token: the same verb again is 200 whatever the job does now, any other is lease_lost', async () => {
    const { endpoint, id, report } = await accepted()
    expect(await report('fail')).toMatchObject(applied)
    await soon(async () =>
      expect(await readJob(id)).toMatchObject({ fence: 2, phase: 'awaiting_completion' }),
    )
    expect(await report('fail')).toMatchObject(applied)
    expect(await report('complete')).toMatchObject(leaseLost)
    expect(await report('heartbeat')).toMatchObject(leaseLost)
    const second = reporter(endpoint.receiver.requests[1]?.headers as never)
    expect(await second('complete', { result: 2 })).toMatchObject(applied)
    expect(await report('fail')).toMatchObject(applied)
    expect(await second('fail')).toMatchObject(leaseLost)
    expect(await readJob(id)).toMatchObject({ state: 'succeeded', result: 2 })
  })

  it('completionTimeout: a handler that stays silent is a timeout, and the job is tried again', async () => {
    const { id, report } = await accepted({
      completionTimeout: '1s',
      retry: { ...QUICK_RETRY, maxAttempts: 2 },
    })
    const job = await fixture.job(id, 'dead')
    expect(job.attempts).toMatchObject([{ outcome: 'timeout' }, { outcome: 'timeout' }])
    expect(job.failure.reason).toBe('attempts_exhausted')
    expect(await report('complete')).toMatchObject(leaseLost)
  })

  it('202: frees the slot of the worker, but not the place in the endpoint’s concurrency', async () => {
    const waiting = await Promise.all(Array.from({ length: 5 }, () => accepted()))
    expect(waiting).toHaveLength(5)
    const endpoint = await asyncEndpoint(202, { concurrency: 1 })
    const [first, second] = [await endpoint.enqueue(), await endpoint.enqueue()]
    const states = async () => [(await readJob(first)).state, (await readJob(second)).state].sort()
    await soon(async () => expect(await states()).toEqual(['queued', 'running']))
    const other = await fixture.endpoint()
    await fixture.job(await other.enqueue(), 'succeeded')
    expect(await states()).toEqual(['queued', 'running'])
    const report = reporter(endpoint.receiver.requests[0]?.headers as never)
    expect(await report('complete')).toMatchObject(applied)
    await soon(() => expect(endpoint.receiver.requests).toHaveLength(2))
  })

  it('200: of an async endpoint is done at once', async () => {
    const endpoint = await asyncEndpoint({ status: 200, body: '"now"' })
    const job: Body = await fixture.job(await endpoint.enqueue(), 'succeeded')
    expect(job.result).toBe('now')
  })
})

/** The same token with another character before the last one. */
function flipped(token: string): string {
  const at = token.length - 2
  return token.slice(0, at) + (token[at] === 'A' ? 'B' : 'A') + token.slice(at + 1)
}
