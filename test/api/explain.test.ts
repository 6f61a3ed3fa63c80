// GET /jobs/:id/explain: every reason, in a real situation.
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

describe.each(SQLITE_UNLESS_LONG)('on %s', CONCURRENT, (engine) => {
  const fixture = useApi(engine)
  const { request } = fixture
  const explain = (id: string): Promise<Body> => fixture.get(`/jobs/${id}/explain`)

  it('not_due: and when it is', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const { body } = await endpoint.post({ delay: '1h' })
    expect(await explain(body.id)).toEqual({
      state: 'queued',
      version: 1,
      reason: 'not_due',
      detail: expect.stringContaining(body.runAt),
      expectedAt: body.runAt,
    })
  })

  it('not_due: also of one that waits for its retry', async () => {
    const retry = { backoff: { type: 'fixed', delay: '1h', jitter: 0 } }
    const endpoint = await fixture.endpoint(500, { retry })
    const id = await endpoint.enqueue()
    await soon(async () => expect(await explain(id)).toMatchObject({ reason: 'not_due' }))
    expect(at((await explain(id)).expectedAt)).toBeGreaterThan(Date.now() + 3_000_000)
  })

  it('endpoint_paused: until it is resumed', async () => {
    const endpoint = await fixture.endpoint()
    await request('POST', `/endpoints/${endpoint.name}/pause`)
    const id = await endpoint.enqueue()
    expect(await explain(id)).toMatchObject({
      state: 'queued',
      reason: 'endpoint_paused',
      detail: expect.stringContaining(`POST /endpoints/${endpoint.name}/resume`),
      expectedAt: null,
    })
  })

  it('endpoint_disabled: after a 410, until it is resumed', async () => {
    const endpoint = await fixture.endpoint(410)
    const waiting = await endpoint.enqueue({ delay: '1h' })
    await endpoint.enqueue()
    await soon(async () => expect((await endpoint.read()).state).toBe('disabled'))
    await changeIsKnown()
    await request('PATCH', `/jobs/${waiting}`, { delay: '0s' })
    expect(await explain(waiting)).toMatchObject({
      reason: 'endpoint_disabled',
      detail: expect.stringContaining(`POST /endpoints/${endpoint.name}/resume`),
      expectedAt: null,
    })
  })

  it('endpoint_resting: until the rest is over', async () => {
    const endpoint = await fixture.endpoint({ status: 429, headers: { 'retry-after': '60' } })
    await endpoint.enqueue()
    await soon(async () => expect((await endpoint.read()).state).toBe('resting'))
    const id = await endpoint.enqueue()
    const { reason, expectedAt } = await explain(id)
    expect(reason).toBe('endpoint_resting')
    expect(expectedAt).toBe((await endpoint.read()).restingUntil)
    expect(at(expectedAt) - Date.now()).toBeGreaterThan(50_000)
  })

  it('key_paused: until its settings change', async () => {
    const endpoint = await fixture.endpoint()
    const path = `/endpoints/${endpoint.name}/keys/a`
    await request('PUT', path, { paused: true })
    await changeIsKnown()
    const id = await endpoint.enqueue({ fairnessKey: 'a' })
    expect(await explain(id)).toMatchObject({
      ...{ state: 'queued', reason: 'key_paused', expectedAt: null },
      detail: `key "a" of endpoint "${endpoint.name}" is paused`,
    })
    await request('DELETE', path)
    await fixture.job(id, 'succeeded')
  })

  it('key_resting: until the rest of the key is over', async () => {
    const held = heldReplies()
    let isThrottled = true
    const headers = { 'retry-after': '60', 'posthorn-throttle-scope': 'key' }
    const endpoint = await fixture.endpoint(() =>
      isThrottled ? { status: 429, headers } : held.script(),
    )
    await endpoint.enqueue({ fairnessKey: 'a' })
    const path = `/endpoints/${endpoint.name}/keys/a`
    const restingUntil = async () => (await request('GET', path)).body.restingUntil
    await soon(async () => expect(await restingUntil()).not.toBeNull())
    await changeIsKnown()
    const id = await endpoint.enqueue({ fairnessKey: 'a' })
    const { reason, detail, expectedAt } = await explain(id)
    expect(reason).toBe('key_resting')
    expect(expectedAt).toBe(await restingUntil())
    expect(detail).toContain(
      `key "a" of endpoint "${endpoint.name}" is resting until ${expectedAt}`,
    )
    expect(at(expectedAt) - Date.now()).toBeGreaterThan(50_000)
    isThrottled = false
    await request('PUT', path, {})
    expect(await restingUntil()).toBeNull()
    await fixture.job(id, 'running')
    held.release(200)
    await fixture.job(id, 'succeeded')
  })

  it('key_concurrency_full: while as many jobs of the key run as may', async () => {
    const held = heldReplies()
    const perKey = { concurrency: 1 }
    const endpoint = await fixture.endpoint(held.script, { perKey })
    const first = await endpoint.enqueue({ fairnessKey: 'a' })
    await fixture.job(first, 'running')
    const second = await endpoint.enqueue({ fairnessKey: 'a' })
    expect(await explain(second)).toMatchObject({
      ...{ state: 'queued', reason: 'key_concurrency_full' },
      detail: expect.stringContaining('1 jobs of key "a" are running, and its limit is 1'),
    })
    const other = await endpoint.enqueue({ fairnessKey: 'b' })
    await fixture.job(other, 'running')
    held.release(200)
    await fixture.job(second, 'succeeded')
  })

  it('key_rate_limited: and when the next attempt of the key may start', async () => {
    const perKey = { rateLimit: { count: 1, per: '1h' } }
    const endpoint = await fixture.endpoint(200, { perKey })
    await fixture.job(await endpoint.enqueue({ fairnessKey: 'a' }), 'succeeded')
    const id = await endpoint.enqueue({ fairnessKey: 'a' })
    const { reason, expectedAt } = await explain(id)
    expect(reason).toBe('key_rate_limited')
    expect(at(expectedAt) - Date.now()).toBeGreaterThan(3_500_000)
    await fixture.job(await endpoint.enqueue({ fairnessKey: 'b' }), 'succeeded')
  })

  it('limit_full: which limit, while it has no room for the job', async () => {
    const held = heldReplies()
    await request('PUT', '/limits/slots', { concurrency: 1 })
    const endpoint = await fixture.endpoint(held.script, { limits: ['slots'] })
    const other = await fixture.endpoint(200, { limits: ['slots'] })
    const first = await endpoint.enqueue()
    await fixture.job(first, 'running')
    const second = await other.enqueue()
    expect(await explain(second)).toMatchObject({
      ...{ state: 'queued', reason: 'limit_full', expectedAt: null },
      detail: expect.stringContaining(
        '1 jobs of the 2 endpoints that share limit "slots" are running, and the limit is 1',
      ),
    })
    held.release(200)
    await fixture.job(second, 'succeeded')
  })

  it('limit_full: and when its rate lets the next attempt start', async () => {
    await request('PUT', '/limits/tokens', { rateLimit: { count: 1, per: '1h' } })
    const endpoint = await fixture.endpoint(200, { limits: ['tokens'] })
    await fixture.job(await endpoint.enqueue(), 'succeeded')
    const { reason, detail, expectedAt } = await explain(await endpoint.enqueue())
    expect([reason, detail]).toEqual([
      'limit_full',
      `limit "tokens" lets the next attempt start at ${expectedAt}`,
    ])
    expect(at(expectedAt) - Date.now()).toBeGreaterThan(3_500_000)
  })

  it('limit_full: and which endpoint its room is for', async () => {
    await request('PUT', '/limits/turns', { concurrency: 1 })
    const first = await fixture.pulledEndpoint({ limits: ['turns'] })
    const second = await fixture.pulledEndpoint({ limits: ['turns'] })
    const id = await first.enqueue()
    await second.enqueue()
    const [job] = (await request('POST', `/endpoints/${first.name}/claim`)).body.jobs
    expect(job.id).toBe(id)
    const waiting = await first.enqueue()
    expect((await request('POST', `/endpoints/${second.name}/claim`)).body.jobs).toEqual([])
    await request('POST', `/jobs/${id}/complete`, {}, { authorization: `Bearer ${job.token}` })
    expect(await explain(waiting)).toMatchObject({
      reason: 'limit_full',
      detail: `the room of limit "turns" is for endpoint "${second.name}", which was refused before`,
    })
  })

  it('concurrency_full: while as many attempts are in flight as may be', async () => {
    const held = heldReplies()
    const endpoint = await fixture.endpoint(held.script, { concurrency: 1 })
    const first = await endpoint.enqueue()
    await fixture.job(first, 'running')
    const second = await endpoint.enqueue()
    expect(await explain(second)).toMatchObject({ state: 'queued', reason: 'concurrency_full' })
    held.release(200)
    await fixture.job(second, 'succeeded')
  })

  it('rate_limited: and when the next attempt may start', async () => {
    const endpoint = await fixture.endpoint(200, { rateLimit: { count: 1, per: '1h' } })
    await fixture.job(await endpoint.enqueue(), 'succeeded')
    const id = await endpoint.enqueue()
    const { reason, expectedAt } = await explain(id)
    expect(reason).toBe('rate_limited')
    const untilMs = at(expectedAt) - Date.now()
    expect(untilMs).toBeGreaterThan(3_500_000)
    expect(untilMs).toBeLessThanOrEqual(3_600_000)
  })

  it('behind_ordering_key: and which job is before it', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const first = await endpoint.enqueue({ orderingKey: 'k', delay: '1h' })
    const second = await endpoint.enqueue({ orderingKey: 'k' })
    const third = await endpoint.enqueue({ orderingKey: 'k' })
    for (const id of [second, third]) {
      expect(await explain(id)).toMatchObject({
        state: 'queued',
        reason: 'behind_ordering_key',
        detail: expect.stringContaining(first),
      })
    }
    expect((await explain(first)).reason).toBe('not_due')
    await request('POST', `/jobs/${first}/cancel`)
    await soon(async () => expect((await explain(second)).reason).toBe('next_in_line'))
    expect(await explain(third)).toMatchObject({ detail: expect.stringContaining(second) })
  })

  it('waiting_for_dependencies: and for which job', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const first = await endpoint.enqueue({ delay: '1h' })
    const id = await endpoint.enqueue({ dependsOn: [first] })
    expect(await explain(id)).toMatchObject({
      state: 'queued',
      reason: 'waiting_for_dependencies',
      detail: expect.stringContaining(first),
    })
  })

  it('next_in_line: a job that waited for others is due since they let it go', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const first = await endpoint.enqueue()
    const { body: waiting } = await endpoint.post({ dependsOn: [first] })
    expect(waiting.dueAt).toBeNull()
    const listed = async () => {
      const { items } = await fixture.get(`/jobs?endpoint=${endpoint.name}`)
      return items.find(({ id }: Body) => id === waiting.id)
    }
    expect((await listed()).dueAt).toBeNull()
    expect((await fixture.get(`/jobs/${first}`)).dueAt).not.toBeNull()
    const { body } = await request('POST', `/endpoints/${endpoint.name}/claim`, { limit: 1 })
    expect((await fixture.get(`/jobs/${first}`)).dueAt).toBeNull()
    const endedAt = Date.now()
    await request('POST', `/jobs/${first}/complete?token=${body.jobs[0].token}`, { result: 1 })
    await soon(async () => expect((await explain(waiting.id)).reason).toBe('next_in_line'))
    const { runAt, dueAt } = await listed()
    expect(runAt).toBe(waiting.runAt)
    expect(at(dueAt)).toBeGreaterThanOrEqual(endedAt - 100)
    const later = (await request('PATCH', `/jobs/${waiting.id}`, { delay: '1h' })).body
    expect(later.dueAt).toBe(later.runAt)
  })

  it('next_in_line: due, and nothing in its way', async () => {
    const endpoint = await fixture.pulledEndpoint()
    expect(await explain(await endpoint.enqueue())).toMatchObject({
      state: 'queued',
      reason: 'next_in_line',
      expectedAt: null,
    })
  })

  describe('next_in_line: with fairness keys', () => {
    /** With as many jobs of each key. */
    async function fairEndpoint(jobs: Record<string, number>) {
      const endpoint = await fixture.pulledEndpoint()
      const ids: Record<string, string[]> = {}
      for (const [fairnessKey, count] of Object.entries(jobs)) {
        const some = Array.from({ length: count }, (_, payload) => ({
          ...{ endpoint: endpoint.name, payload },
          ...(fairnessKey === '' ? {} : { fairnessKey }),
        }))
        const { body } = await request('POST', '/jobs/batch', { jobs: some })
        ids[fairnessKey] = body.items.map(({ id }: Body) => id)
      }
      return (key: string, at: number) => explain(ids[key]?.[at] ?? '')
    }

    it('a job with a turn', async () => {
      const placeOf = await fairEndpoint({ 'tenant-7': 13, b: 1, c: 1 })
      expect(await placeOf('tenant-7', 12)).toMatchObject({
        reason: 'next_in_line',
        detail: expect.stringMatching(
          /; 12 jobs of key "tenant-7" before this one; 3 keys take turns$/,
        ),
        turn: { fairnessKey: 'tenant-7', jobsBefore: 12, keys: 3 },
      })
      expect(await placeOf('b', 0)).toMatchObject({
        detail: expect.stringMatching(/; no jobs of key "b" before this one; 3 keys take turns$/),
        turn: { fairnessKey: 'b', jobsBefore: 0, keys: 3 },
      })
    })

    it('a job outside of the claim index', async () => {
      const placeOf = await fairEndpoint({ flood: 200, b: 1 })
      expect(await placeOf('flood', 199)).toMatchObject({
        detail: expect.stringMatching(/; 199 jobs of key "flood" before this one; 2 keys take/),
        turn: { fairnessKey: 'flood', jobsBefore: 199, keys: 2 },
      })
    })

    it('a job whose key is alone', async () => {
      const placeOf = await fairEndpoint({ a: 2 })
      expect(await placeOf('a', 1)).toMatchObject({
        detail: expect.stringMatching(
          /; 1 job of key "a" before this one; no other key takes turns$/,
        ),
        turn: { fairnessKey: 'a', jobsBefore: 1, keys: 1 },
      })
    })

    it('a job without a key beside keys, and without any', async () => {
      const placeOf = await fairEndpoint({ '': 3, a: 1, b: 1 })
      expect(await placeOf('', 2)).toMatchObject({
        detail: expect.stringMatching(/; 2 jobs without a key before this one; 3 keys take turns$/),
        turn: { fairnessKey: null, jobsBefore: 2, keys: 3 },
      })
      const { detail, turn } = await (await fairEndpoint({ '': 3 }))('', 2)
      expect([detail, turn]).toEqual([expect.not.stringContaining('before this one'), undefined])
    })
  })

  it('running: with the attempt under way, or its handler to report', async () => {
    const held = heldReplies()
    const endpoint = await fixture.endpoint(held.script, { completion: 'async' })
    const id = await endpoint.enqueue()
    await fixture.job(id, 'running')
    expect(await explain(id)).toMatchObject({
      state: 'running',
      reason: 'running',
      detail: expect.stringContaining('attempt 1'),
    })
    held.release(202)
    await soon(async () => expect((await explain(id)).detail).toMatch(/reported completion/))
  })

  it('final: with its outcome', async () => {
    const endpoint = await fixture.endpoint(422)
    const id = await endpoint.enqueue()
    await fixture.job(id, 'dead')
    expect(await explain(id)).toMatchObject({
      state: 'dead',
      reason: 'final',
      detail: expect.stringContaining('422'),
      expectedAt: null,
    })
  })

  // This test ends the workers that the other tests need, so it runs alone.
  it('no_live_worker: when none has been seen lately', { concurrent: false }, async () => {
    for (const worker of fixture.workers) await worker.stop()
    const endpoint = await fixture.endpoint()
    const id = await endpoint.enqueue()
    expect(await explain(id)).toMatchObject({ state: 'queued', reason: 'no_live_worker' })
    fixture.workers.push(await fixture.posthorn.startWorker())
    await fixture.job(id, 'succeeded')
  })
})
