// The table of job fields, continued: those by which a job is told from others, or waits for them.
import { describe, expect, it } from 'vitest'
import { ENGINES } from '../support/deployment.ts'
import { at, type Body, CONCURRENT, heldReplies, NO_JOB, soon, useFixture } from './fixture.ts'

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

  it('dedupe: keep answers with the queued or running job, reject refuses, a final one is no hindrance', async () => {
    const site = await fixture.pulled()
    const keep = { dedupe: { key: 'k', mode: 'keep' } }
    const first = await site.post(keep)
    expect(first).toMatchObject({ status: 201, body: { dedupeKey: 'k' } })
    expect(first.body).not.toHaveProperty('deduplicated')
    const again = await site.post({ ...keep, payload: 'other' })
    expect(again).toMatchObject({ status: 200, body: { id: first.body.id, deduplicated: true } })
    expect(again.body.payload).toEqual({})
    const reject = await site.post({ dedupe: { key: 'k', mode: 'reject' } })
    expect(reject).toMatchObject({ status: 409, body: { code: 'dedupe_conflict' } })
    await send('POST', `/endpoints/${site.name}/claim`)
    expect((await site.post(keep)).body.id).toBe(first.body.id)
    const elsewhere = await fixture.pulled()
    expect((await elsewhere.post(keep)).status).toBe(201)
    await send('POST', `/jobs/${first.body.id}/cancel`)
    expect((await read(first.body.id)).dedupeKey).toBe('k')
    expect((await site.post(keep)).status).toBe(201)
    await expectRefused(
      '/dedupe/key',
      { dedupe: { key: '', mode: 'keep' } },
      { dedupe: { key: 'x'.repeat(257), mode: 'keep' } },
    )
    await expectRefused(
      '/dedupe/mode',
      { dedupe: { key: 'k', mode: 'merge' } },
      { dedupe: { key: 'k' } },
    )
  })

  it('dedupe: replace gives the queued job the new payload and what goes with it, and answers 200', async () => {
    const site = await fixture.pulled()
    const dedupe = { key: 'r', mode: 'replace' }
    const first = await site.post({
      dedupe,
      orderingKey: 'o',
      onFinish: site.name,
      retry: { maxAttempts: 7 },
      priority: 1,
    })
    const answer = await site.post({
      dedupe,
      payload: { n: 2 },
      delay: '1h',
      priority: 8,
      tags: ['t'],
      metadata: { m: '1' },
      headers: { 'x-long-name': 'long-value' },
      expiresIn: '2h',
      orderingKey: 'other',
      retry: { maxAttempts: 2 },
    })
    expect(answer).toMatchObject({
      status: 200,
      body: {
        id: first.body.id,
        deduplicated: true,
        payload: { n: 2 },
        priority: 8,
        tags: ['t'],
        metadata: { m: '1' },
        headers: { 'x-long-name': '***alue' },
        orderingKey: 'o',
        maxAttempts: 7,
        onFinish: { endpoint: site.name },
      },
    })
    const { runAt, expiresAt } = answer.body
    expect(at(runAt) - Date.now()).toBeGreaterThan(3_500_000)
    expect(at(expiresAt) - at(runAt)).toBe(7_200_000)
    expect(await read(first.body.id)).toMatchObject({ payload: { n: 2 }, priority: 8 })
  })

  it('dedupe: replace cancels one that was attempted, and supersedes a running one', async () => {
    const dedupe = { key: 'r', mode: 'replace' }
    const slow = { maxAttempts: 3, backoff: { type: 'fixed', delay: '1h', jitter: 0 } }
    const failing = await fixture.site(500, { retry: slow })
    const attempted = await failing.enqueue({ dedupe })
    await soon(async () => expect((await read(attempted)).attempts).toHaveLength(1))
    const displacing = await failing.post({ dedupe, payload: 2, delay: '1h' })
    expect(displacing.status).toBe(201)
    expect((await read(attempted)).state).toBe('cancelled')

    const held = heldReplies()
    const site = await fixture.site(held.script)
    const running = await site.enqueue({ dedupe })
    await fixture.posthorn.job(running, 'running')
    const next = await site.post({ dedupe, payload: 2, delay: '1h' })
    expect(next.status).toBe(201)
    expect((await read(running)).state).toBe('running')
    held.release(500)
    const job = await fixture.posthorn.job(running, 'cancelled')
    expect(job).toMatchObject({ attemptCount: 1, attempts: [{ outcome: 'http_error' }] })
    expect((await read(next.body.id)).state).toBe('queued')
  })

  it('orderingKey: one at a time, in enqueue order; a head that waits holds the rest', async () => {
    const site = await fixture.site([500, 200])
    const waits = { maxAttempts: 2, backoff: { type: 'fixed', delay: '200ms', jitter: 0 } }
    const orderingKey = 'account-1'
    const ids = []
    for (let i = 0; i < 4; i++) {
      ids.push(await site.enqueue({ orderingKey, payload: i, retry: waits, priority: i }))
    }
    const free = await site.enqueue({ payload: 'free' })
    for (const id of [...ids, free]) await fixture.posthorn.job(id, 'succeeded')
    const order = site.receiver.requests.map(({ body }) => body.toString())
    expect(order.filter((one) => one !== '"free"')).toEqual(['0', '0', '1', '2', '3'])
    await expectRefused('/orderingKey', { orderingKey: '' }, { orderingKey: 'x'.repeat(257) })
  })

  it('orderingKey: one retried by hand takes its old place', async () => {
    const site = await fixture.pulled()
    const orderingKey = 'k'
    const first = await site.enqueue({ orderingKey })
    const second = await site.enqueue({ orderingKey })
    await send('POST', `/jobs/${first}/cancel`)
    expect((await send('POST', `/jobs/${first}/retry`)).status).toBe(200)
    const { body } = await send('POST', `/endpoints/${site.name}/claim`, { limit: 5 })
    expect(body.jobs.map((job: Body) => job.id)).toEqual([first])
    await send('POST', `/jobs/${first}/complete?token=${body.jobs[0].token}`)
    const next = await send('POST', `/endpoints/${site.name}/claim`, { limit: 5, wait: '5s' })
    expect(next.body.jobs.map((job: Body) => job.id)).toEqual([second])
  })

  it('onFinish: each time the job becomes final a job tells of it, once', async () => {
    const told = await fixture.site()
    const site = await fixture.site([{ status: 200, body: '{"pages":3}' }, 422])
    const good = await site.enqueue({ onFinish: told.name, metadata: { tenant: '7' } })
    await fixture.posthorn.job(good, 'succeeded')
    const bad = await site.enqueue({ onFinish: { endpoint: told.name, states: ['dead'] } })
    await fixture.posthorn.job(bad, 'dead')
    await told.receiver.waitFor((requests) => requests.length === 2)
    const [first, second] = told.receiver.requests.map(({ body }) => JSON.parse(String(body)))
    expect(first).toEqual({
      jobId: good,
      endpoint: site.name,
      state: 'succeeded',
      metadata: { tenant: '7' },
      result: { pages: 3 },
    })
    expect(second).toMatchObject({ jobId: bad, state: 'dead', failure: { reason: 'rejected' } })
    await send('POST', `/jobs/${bad}/retry`)
    await told.receiver.waitFor((requests) => requests.length === 3)
    const silent = await site.enqueue({
      delay: '1h',
      onFinish: { endpoint: told.name, states: ['dead'] },
    })
    await send('POST', `/jobs/${silent}/cancel`)
    const { items } = await fixture.get(`/jobs?endpoint=${told.name}`)
    expect(items).toHaveLength(3)
  })

  it('onFinish: unknown at enqueue is 422; gone later it is dropped with a log line', async () => {
    const site = await fixture.site()
    expect((await site.post({ onFinish: 'unknown' })).status).toBe(422)
    const gone = await fixture.pulled()
    const id = await site.enqueue({ onFinish: gone.name, delay: '1h' })
    expect((await send('DELETE', `/endpoints/${gone.name}`)).status).toBe(204)
    await send('PATCH', `/jobs/${id}`, { delay: '0s' })
    await fixture.posthorn.job(id, 'succeeded')
    await soon(() => {
      const lines = [...fixture.api.log, ...fixture.workers.flatMap(({ log }) => log)]
      const line = lines.find(({ msg, jobId }) => msg === 'notice.dropped' && jobId === id)
      expect(line).toMatchObject({ endpoint: gone.name, reason: 'endpoint_not_found' })
    })
  })

  it('dependsOn: starts when all have succeeded; if one dies or is cancelled it is dead', async () => {
    const site = await fixture.site()
    const [one, two] = [
      await site.enqueue({ delay: '100ms' }),
      await site.enqueue({ delay: '200ms' }),
    ]
    const after = await site.enqueue({ dependsOn: [one, two] })
    expect((await read(after)).dependsOn).toEqual([one, two])
    const done = await fixture.posthorn.job(after, 'succeeded')
    expect(at(done.startedAt)).toBeGreaterThanOrEqual(at((await read(two)).finishedAt))

    const stopped = await site.enqueue({ delay: '1h' })
    const failing = await site.enqueue({ dependsOn: [stopped] })
    const further = await site.enqueue({ dependsOn: [failing] })
    await send('POST', `/jobs/${stopped}/cancel`)
    for (const id of [failing, further]) {
      const job = await fixture.posthorn.job(id, 'dead')
      expect(job).toMatchObject({ attemptCount: 0, failure: { reason: 'dependency_failed' } })
    }
    expect((await send('POST', `/jobs/${stopped}/retry`)).status).toBe(200)
    expect((await read(failing)).state).toBe('dead')
    await send('POST', `/jobs/${further}/retry`)
    await fixture.posthorn.job(further, 'succeeded')
  })

  it('dependsOn: one already dead is 201 and then dead; an unknown one is 400; at most 50', async () => {
    const site = await fixture.site(422)
    const dead = await site.enqueue()
    await fixture.posthorn.job(dead, 'dead')
    const late = await site.enqueue({ dependsOn: [dead] })
    const job = await fixture.posthorn.job(late, 'dead')
    expect(job.failure.reason).toBe('dependency_failed')
    await expectRefused('/dependsOn', { dependsOn: [NO_JOB] }, { dependsOn: Array(51).fill(dead) })
    await expectRefused('/dependsOn/0', { dependsOn: ['#0'] }, { dependsOn: ['x'] })
  })

  it('Idempotency-Key: the same key with the same request is the same job, plain or quoted', async () => {
    const site = await fixture.pulled()
    const plain = { 'idempotency-key': 'order:17' }
    const first = await site.post({ delay: '1s' }, plain)
    expect(first).toMatchObject({ status: 201, body: { idempotencyKey: 'order:17' } })
    expect(first.headers.get('location')).toBe(`/jobs/${first.body.id}`)
    const quoted = await site.post({ delay: '1s' }, { 'idempotency-key': '"order:17"' })
    expect(quoted).toMatchObject({ status: 200, body: { id: first.body.id, deduplicated: true } })
    expect(quoted.headers.get('location')).toBe(`/jobs/${first.body.id}`)
    const text = `{"payload":{},"endpoint":"${site.name}","delay":"1000ms"}`
    expect((await send('POST', '/jobs', text, plain)).status).toBe(200)
    for (const other of [{ payload: [] }, { delay: '2s' }, { tags: ['t'] }]) {
      const answer = await site.post({ delay: '1s', ...other }, plain)
      expect(answer).toMatchObject({ status: 422, body: { code: 'idempotency_key_reused' } })
    }
    const spaced = `{"endpoint":"${site.name}","delay":"1s","payload":{ }}`
    expect((await send('POST', '/jobs', spaced, plain)).status).toBe(422)
    const elsewhere = await fixture.pulled()
    expect((await elsewhere.post({ delay: '1s' }, plain)).status).toBe(201)
    await send('POST', `/jobs/${first.body.id}/cancel`)
    expect((await site.post({ delay: '1s' }, plain)).body).toMatchObject({
      id: first.body.id,
      state: 'cancelled',
    })
    for (const key of ['', '""', 'x'.repeat(256), 'a b', 'ä']) {
      const text = Buffer.from(key, 'utf8').toString('latin1')
      expect((await site.post({}, { 'idempotency-key': text })).status).toBe(400)
    }
    expect((await site.post({}, { 'idempotency-key': 'x'.repeat(255) })).status).toBe(201)
  })

  it('Idempotency-Key: is looked at before dedupe, and a dedupe hit adds it to the job it found', async () => {
    const site = await fixture.pulled()
    const keep = { dedupe: { key: 'd', mode: 'keep' } }
    const first = await site.post(keep, { 'idempotency-key': 'a' })
    const hit = await site.post(keep, { 'idempotency-key': 'b' })
    expect(hit).toMatchObject({ status: 200, body: { id: first.body.id } })
    await send('POST', `/jobs/${first.body.id}/cancel`)
    const repeat = await site.post(keep, { 'idempotency-key': 'b' })
    expect(repeat).toMatchObject({ status: 200, body: { id: first.body.id, state: 'cancelled' } })
    const other = await site.post({ ...keep, payload: 9 }, { 'idempotency-key': 'b' })
    expect(other).toMatchObject({ status: 422, body: { code: 'idempotency_key_reused' } })
    const reject = { dedupe: { key: 'd', mode: 'reject' } }
    const made = await site.post(reject, { 'idempotency-key': 'c' })
    expect(made.status).toBe(201)
    expect(await site.post(reject, { 'idempotency-key': 'c' })).toMatchObject({
      status: 200,
      body: { id: made.body.id },
    })
  })
})
