// The table of job fields: the values, the default and the effect of each.
import { describe, expect, it } from 'vitest'
import {
  at,
  type Body,
  CONCURRENT,
  DAY_MS,
  heldReplies,
  NO_JOB,
  soon,
  useApi,
} from '../support/api-fixture.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'

describe.each(SQLITE_UNLESS_LONG)('on %s', CONCURRENT, (engine) => {
  const fixture = useApi(engine)
  const { request, readJob, expectJobRefused: expectRefused } = fixture

  it('endpoint: the name of one that exists; it is required', async () => {
    const endpoint = await fixture.pulledEndpoint()
    expect((await endpoint.post()).body.endpoint).toBe(endpoint.name)
    expect((await endpoint.post({ endpoint: 'unknown' })).status).toBe(422)
    await expectRefused(
      '/endpoint',
      { endpoint: undefined },
      { endpoint: 'No Name' },
      { endpoint: 1 },
    )
  })

  it('payload: any JSON value, delivered byte for byte, and read back so', async () => {
    const endpoint = await fixture.endpoint()
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
      const text = `{ "payload" : ${payload} , "endpoint":"${endpoint.name}" }`
      const { status, body } = await request('POST', '/jobs', text)
      expect([payload, status]).toEqual([payload, 201])
      await fixture.job(body.id, 'succeeded')
      expect(endpoint.receiver.requests.at(-1)?.body.toString()).toBe(payload)
      expect(body.payloadBytes).toBe(Buffer.byteLength(payload))
      const raw = await fetch(`${fixture.posthorn.url()}/jobs/${body.id}`)
      expect(await raw.text()).toContain(`"payload":${payload}`)
    }
    await expectRefused('/payload', { payload: undefined })
  })

  it('runAt or delay: at most a year ahead, a past instant means now, both are refused', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const now = await endpoint.post()
    expect(now.body.runAt).toBe(now.body.createdAt)
    for (const runAt of ['1999-01-01T00:00:00Z', '0001-01-01T00:00:00Z']) {
      const past = await endpoint.post({ runAt })
      expect(past.body.runAt).toBe(past.body.createdAt)
    }
    const ahead = new Date(Date.now() + 364 * DAY_MS)
    expect((await endpoint.post({ runAt: ahead.toISOString() })).body.runAt).toBe(
      ahead.toISOString(),
    )
    const delayed = await endpoint.post({ delay: '1h30m' })
    expect(at(delayed.body.runAt) - at(delayed.body.createdAt)).toBe(5_400_000)
    const later = new Date(Date.now() + 368 * DAY_MS).toISOString()
    await expectRefused('/runAt', { runAt: later }, { runAt: '2026-11-24' }, { runAt: 5 })
    await expectRefused('/delay', { delay: '368d' }, { delay: '1.5s' }, { delay: '-1s' })
    await expectRefused('/delay', { delay: '1s', runAt: ahead.toISOString() })
  })

  it('runAt or delay: an instant of RFC 3339, with a small t and z or any offset', async () => {
    const endpoint = await fixture.pulledEndpoint()
    for (const runAt of ['2031-11-24t08:30:00z', '2031-11-24T08:30:00.000Z']) {
      const answer = await endpoint.post({ runAt })
      expect([runAt, answer.status]).toEqual([runAt, 400])
      expect(answer.body.detail).toContain('at most a year ahead')
    }
    const soonAt = new Date(Date.now() + 3_600_000).toISOString()
    const answer = await endpoint.post({ runAt: soonAt.toLowerCase() })
    expect(answer).toMatchObject({ status: 201, body: { runAt: soonAt } })
  })

  it('runAt or delay: the job is not sent before, and soon after', async () => {
    const endpoint = await fixture.endpoint()
    const id = await endpoint.enqueue({ delay: '300ms' })
    const job = await fixture.job(id, 'succeeded')
    expect(at(job.startedAt) - at(job.createdAt)).toBeGreaterThanOrEqual(300)
    expect(endpoint.receiver.requests).toHaveLength(1)
  })

  it('priority: 0 to 9, higher first within its endpoint, by default 5', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const ids: Record<string, string> = {}
    for (const priority of [0, undefined, 9, 5, 7]) {
      ids[`${priority}`] = await endpoint.enqueue({ priority })
    }
    expect((await readJob(ids.undefined as string)).priority).toBe(5)
    const { body } = await request('POST', `/endpoints/${endpoint.name}/claim`, { limit: 5 })
    const order = body.jobs.map((job: Body) => job.id)
    expect(order).toEqual([ids['9'], ids['7'], ids.undefined, ids['5'], ids['0']])
    await expectRefused('/priority', ...[-1, 10, 1.5, '5'].map((priority) => ({ priority })))
  })

  it('timeout: the job’s own beats that of its endpoint', async () => {
    const endpoint = await fixture.endpoint('hang', { timeout: '15m', retry: { maxAttempts: 1 } })
    const id = await endpoint.enqueue({ timeout: '150ms' })
    expect((await fixture.job(id, 'dead')).attempts).toMatchObject([{ outcome: 'timeout' }])
    expect((await readJob(id)).timeout).toBe('150ms')
    const waiting = await (await fixture.pulledEndpoint()).enqueue()
    expect((await readJob(waiting)).timeout).toBe(null)
    await expectRefused('/timeout', { timeout: '99ms' }, { timeout: '16m' })
  })

  it('retry: parts given override those of the endpoint, backoff as a whole', async () => {
    const backoff = { type: 'fixed', delay: '10ms', jitter: 0 }
    const endpoint = await fixture.endpoint(500, { retry: { maxAttempts: 2, backoff } })
    const more = await endpoint.enqueue({ retry: { maxAttempts: 3 } })
    expect(await fixture.job(more, 'dead')).toMatchObject({
      maxAttempts: 3,
      attemptCount: 3,
      retry: { maxAttempts: 3 },
    })
    const plain = await endpoint.enqueue()
    expect(await fixture.job(plain, 'dead')).toMatchObject({ maxAttempts: 2, retry: null })
    const aged = await endpoint.enqueue({
      retry: { maxAge: '1s', backoff: { ...backoff, delay: '2s' } },
    })
    expect((await fixture.job(aged, 'dead')).failure.reason).toBe('max_age')
    await expectRefused('/retry/maxAttempts', { retry: { maxAttempts: 101 } })
  })

  it('expiresIn: from the first runAt; after it no attempt starts, and the job is dead', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const answer = await endpoint.post({ delay: '1h', expiresIn: '90m' })
    expect(at(answer.body.expiresAt) - at(answer.body.runAt)).toBe(5_400_000)
    expect((await endpoint.post()).body.expiresAt).toBe(null)
    const short = await endpoint.enqueue({ expiresIn: '50ms' })
    const job = await fixture.job(short, 'dead')
    expect(job).toMatchObject({ attemptCount: 0, failure: { reason: 'expired' } })
    await expectRefused('/expiresIn', { expiresIn: '0s' }, { expiresIn: 'soon' })
  })

  it('expiresIn: a running attempt may still finish the job, after a failure it is dead', async () => {
    const good = heldReplies()
    const bad = heldReplies()
    const [one, two] = [await fixture.endpoint(good.script), await fixture.endpoint(bad.script)]
    const [fine, failed] = [
      await one.enqueue({ expiresIn: '2s' }),
      await two.enqueue({ expiresIn: '2s' }),
    ]
    for (const id of [fine, failed]) await fixture.job(id, 'running')
    const expiresAt = at((await readJob(failed)).expiresAt)
    await soon(() => expect(Date.now()).toBeGreaterThan(expiresAt + 200))
    good.release(200)
    bad.release(500)
    expect((await fixture.job(fine, 'succeeded')).attemptCount).toBe(1)
    expect((await fixture.job(failed, 'dead')).failure.reason).toBe('expired')
  })

  it('tags: up to 10 of up to 64 characters', async () => {
    const endpoint = await fixture.pulledEndpoint()
    expect((await endpoint.post()).body.tags).toEqual([])
    const tags = Array.from({ length: 10 }, (_, i) => `${i}`.repeat(64))
    expect((await endpoint.post({ tags })).body.tags).toEqual(tags)
    await expectRefused('/tags', { tags: Array(11).fill('t') })
    await expectRefused('/tags/0', { tags: ['x'.repeat(65)] }, { tags: [''] }, { tags: [1] })
  })

  it('metadata: up to 20 pairs; stored and returned, not delivered', async () => {
    const endpoint = await fixture.endpoint()
    expect((await endpoint.post()).body.metadata).toEqual({})
    const metadata = Object.fromEntries(
      Array.from({ length: 20 }, (_, i) => [`${i}`.padStart(64, 'k'), 'v'.repeat(512)]),
    )
    const answer = await endpoint.post({ metadata })
    expect(answer.body.metadata).toEqual(metadata)
    await fixture.job(answer.body.id, 'succeeded')
    expect(JSON.stringify(endpoint.receiver.requests.at(-1)?.headers)).not.toContain('vvvv')
    await expectRefused('/metadata', { metadata: { ...metadata, more: '1' } })
    await expectRefused('/metadata/__proto__', { metadata: JSON.parse('{"__proto__":"x"}') })
    await expectRefused('/metadata/k', { metadata: { k: 'v'.repeat(513) } }, { metadata: { k: 1 } })
  })

  it('headers: extra ones for this job, below those of the endpoint, read back masked', async () => {
    const endpoint = await fixture.endpoint(200, { headers: { 'x-a': 'endpoint-a' } })
    const headers = { 'X-A': 'job-value-a', 'X-B': 'job-value-b', 'User-Agent': 'shop/7.0.12' }
    const id = await endpoint.enqueue({ headers })
    const job = await fixture.job(id, 'succeeded')
    expect(job.headers).toEqual({ 'X-A': '***ue-a', 'X-B': '***ue-b', 'User-Agent': '***0.12' })
    expect(endpoint.receiver.requests[0]?.headers).toMatchObject({
      'x-a': 'endpoint-a',
      'x-b': 'job-value-b',
      'user-agent': 'shop/7.0.12',
    })
    await expectRefused('/headers/Webhook-Id', { headers: { 'Webhook-Id': '1' } })
  })

  it('dedupe: keep returns the queued or running job, reject refuses, a final one has no effect', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const keep = { dedupe: { key: 'k', mode: 'keep' } }
    const first = await endpoint.post(keep)
    expect(first).toMatchObject({ status: 201, body: { dedupeKey: 'k' } })
    expect(first.body).not.toHaveProperty('deduplicated')
    const again = await endpoint.post({ ...keep, payload: 'other' })
    expect(again).toMatchObject({ status: 200, body: { id: first.body.id, deduplicated: true } })
    expect(again.body.payload).toEqual({})
    const reject = await endpoint.post({ dedupe: { key: 'k', mode: 'reject' } })
    expect(reject).toMatchObject({ status: 409, body: { code: 'dedupe_conflict' } })
    await request('POST', `/endpoints/${endpoint.name}/claim`)
    expect((await endpoint.post(keep)).body.id).toBe(first.body.id)
    const elsewhere = await fixture.pulledEndpoint()
    expect((await elsewhere.post(keep)).status).toBe(201)
    await request('POST', `/jobs/${first.body.id}/cancel`)
    expect((await readJob(first.body.id)).dedupeKey).toBe('k')
    expect((await endpoint.post(keep)).status).toBe(201)
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

  it('dedupe: replace gives the queued job the new payload and what goes with it, and responds with 200', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const dedupe = { key: 'r', mode: 'replace' }
    const first = await endpoint.post({
      dedupe,
      orderingKey: 'o',
      fairnessKey: 'f',
      cost: 2,
      onFinish: endpoint.name,
      retry: { maxAttempts: 7 },
      priority: 1,
    })
    const answer = await endpoint.post({
      dedupe,
      payload: { n: 2 },
      delay: '1h',
      priority: 8,
      tags: ['t'],
      metadata: { m: '1' },
      headers: { 'x-long-name': 'long-value' },
      expiresIn: '2h',
      orderingKey: 'other',
      fairnessKey: 'other',
      cost: 3,
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
        fairnessKey: 'f',
        cost: 2,
        maxAttempts: 7,
        onFinish: { endpoint: endpoint.name },
      },
    })
    const { runAt, expiresAt } = answer.body
    expect(at(runAt) - Date.now()).toBeGreaterThan(3_500_000)
    expect(at(expiresAt) - at(runAt)).toBe(7_200_000)
    expect(await readJob(first.body.id)).toMatchObject({ payload: { n: 2 }, priority: 8 })
  })

  it('dedupe: replace cancels one that was attempted, and supersedes a running one', async () => {
    const dedupe = { key: 'r', mode: 'replace' }
    const slow = { maxAttempts: 3, backoff: { type: 'fixed', delay: '1h', jitter: 0 } }
    const failing = await fixture.endpoint(500, { retry: slow })
    const attempted = await failing.enqueue({ dedupe })
    await soon(async () => expect((await readJob(attempted)).attempts).toHaveLength(1))
    const displacing = await failing.post({ dedupe, payload: 2, delay: '1h' })
    expect(displacing.status).toBe(201)
    expect((await readJob(attempted)).state).toBe('cancelled')

    const held = heldReplies()
    const endpoint = await fixture.endpoint(held.script)
    const running = await endpoint.enqueue({ dedupe })
    await fixture.job(running, 'running')
    const next = await endpoint.post({ dedupe, payload: 2, delay: '1h' })
    expect(next.status).toBe(201)
    expect((await readJob(running)).state).toBe('running')
    held.release(500)
    const job = await fixture.job(running, 'cancelled')
    expect(job).toMatchObject({ attemptCount: 1, attempts: [{ outcome: 'http_error' }] })
    expect((await readJob(next.body.id)).state).toBe('queued')
  })

  it('orderingKey: one at a time, in enqueue order; a head that waits holds the rest', async () => {
    const endpoint = await fixture.endpoint([500, 200])
    const waits = { maxAttempts: 2, backoff: { type: 'fixed', delay: '200ms', jitter: 0 } }
    const orderingKey = 'account-1'
    const ids = []
    for (let i = 0; i < 4; i++) {
      ids.push(await endpoint.enqueue({ orderingKey, payload: i, retry: waits, priority: i }))
    }
    const free = await endpoint.enqueue({ payload: 'free' })
    for (const id of [...ids, free]) await fixture.job(id, 'succeeded')
    const order = endpoint.receiver.requests.map(({ body }) => body.toString())
    expect(order.filter((one) => one !== '"free"')).toEqual(['0', '0', '1', '2', '3'])
    await expectRefused('/orderingKey', { orderingKey: '' }, { orderingKey: 'x'.repeat(257) })
  })

  it('orderingKey: one retried by hand takes its old place', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const orderingKey = 'k'
    const first = await endpoint.enqueue({ orderingKey })
    const second = await endpoint.enqueue({ orderingKey })
    await request('POST', `/jobs/${first}/cancel`)
    expect((await request('POST', `/jobs/${first}/retry`)).status).toBe(200)
    const { body } = await request('POST', `/endpoints/${endpoint.name}/claim`, { limit: 5 })
    expect(body.jobs.map((job: Body) => job.id)).toEqual([first])
    await request('POST', `/jobs/${first}/complete?token=${body.jobs[0].token}`)
    const next = await request('POST', `/endpoints/${endpoint.name}/claim`, {
      limit: 5,
      wait: '5s',
    })
    expect(next.body.jobs.map((job: Body) => job.id)).toEqual([second])
  })

  it('fairnessKey: 1 to 256 characters byte for byte, by default null; a notice has that of its job', async () => {
    const [endpoint, notified] = [await fixture.endpoint(), await fixture.pulledEndpoint()]
    expect((await endpoint.post()).body.fairnessKey).toBe(null)
    expect((await endpoint.post({ fairnessKey: null })).body.fairnessKey).toBe(null)
    for (const fairnessKey of ['a', '...', 'A/b %2F', '\u00e9 e\u0301', '😀'.repeat(128)]) {
      const made = await endpoint.post({ fairnessKey, onFinish: notified.name })
      expect(made).toMatchObject({ status: 201, body: { fairnessKey } })
      expect(await fixture.job(made.body.id, 'succeeded')).toMatchObject({ fairnessKey })
      const key = encodeURIComponent(fairnessKey)
      const of = async (name: string) =>
        (await fixture.get(`/jobs?endpoint=${name}&fairnessKey=${key}`)).items
      expect(await of(endpoint.name)).toMatchObject([{ id: made.body.id, fairnessKey }])
      await soon(async () => expect(await of(notified.name)).toMatchObject([{ fairnessKey }]))
    }
    const keys = ['', '.', '..', 'x'.repeat(257), 'a\0', '\ud800', 1, {}]
    await expectRefused('/fairnessKey', ...keys.map((fairnessKey) => ({ fairnessKey })))
  })

  it('group: the id of an open group, by default null', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const { body: group } = await request('POST', '/groups')
    expect((await endpoint.post()).body.group).toBe(null)
    expect((await endpoint.post({ group: null })).body.group).toBe(null)
    const id = await endpoint.enqueue({ group: group.id })
    expect((await fixture.readJob(id)).group).toBe(group.id)
    await expectRefused('/group', { group: 'grp_1' }, { group: id }, { group: 1 })
  })

  it('cost: an integer from 1 to 1,000, by default 1; a notice has the default', async () => {
    const [endpoint, notified] = [await fixture.endpoint(), await fixture.pulledEndpoint()]
    expect((await endpoint.post()).body.cost).toBe(1)
    for (const cost of [1, 2, 1_000]) {
      const made = await endpoint.post({ cost })
      expect(made).toMatchObject({ status: 201, body: { cost } })
      expect(await fixture.job(made.body.id, 'succeeded')).toMatchObject({ cost })
    }
    await endpoint.post({ cost: 2, onFinish: notified.name })
    const { body } = await request('POST', `/endpoints/${notified.name}/claim`, { wait: '30s' })
    expect(body.jobs).toMatchObject([{ cost: 1, fairnessKey: null }])
    const costs = [0, -1, 1_001, 1.5, '2', null]
    await expectRefused('/cost', ...costs.map((cost) => ({ cost })))
  })

  it('fairnessKey: a pulled job shows it, and its cost', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const fields = { fairnessKey: 'tenant-7', cost: 12 }
    const id = await endpoint.enqueue(fields)
    const { body } = await request('POST', `/endpoints/${endpoint.name}/claim`)
    expect(body.jobs).toMatchObject([{ id, ...fields }])
  })

  it('onFinish: each time the job becomes final a job reports it, once', async () => {
    const notified = await fixture.endpoint()
    const endpoint = await fixture.endpoint([{ status: 200, body: '{"pages":3}' }, 422])
    const good = await endpoint.enqueue({ onFinish: notified.name, metadata: { tenant: '7' } })
    await fixture.job(good, 'succeeded')
    const bad = await endpoint.enqueue({ onFinish: { endpoint: notified.name, states: ['dead'] } })
    await fixture.job(bad, 'dead')
    await notified.receiver.waitFor((requests) => requests.length === 2)
    const [first, second] = notified.receiver.requests.map(({ body }) => JSON.parse(String(body)))
    expect(first).toEqual({
      jobId: good,
      endpoint: endpoint.name,
      state: 'succeeded',
      metadata: { tenant: '7' },
      result: { pages: 3 },
    })
    expect(second).toMatchObject({ jobId: bad, state: 'dead', failure: { reason: 'rejected' } })
    await request('POST', `/jobs/${bad}/retry`)
    await notified.receiver.waitFor((requests) => requests.length === 3)
    const silent = await endpoint.enqueue({
      delay: '1h',
      onFinish: { endpoint: notified.name, states: ['dead'] },
    })
    await request('POST', `/jobs/${silent}/cancel`)
    const { items } = await fixture.get(`/jobs?endpoint=${notified.name}`)
    expect(items).toHaveLength(3)
  })

  it('onFinish: unknown at enqueue is 422; gone later it is dropped with a log line', async () => {
    const endpoint = await fixture.endpoint()
    expect((await endpoint.post({ onFinish: 'unknown' })).status).toBe(422)
    const gone = await fixture.pulledEndpoint()
    const id = await endpoint.enqueue({ onFinish: gone.name, delay: '1h' })
    expect((await request('DELETE', `/endpoints/${gone.name}`)).status).toBe(204)
    await request('PATCH', `/jobs/${id}`, { delay: '0s' })
    await fixture.job(id, 'succeeded')
    await soon(() => {
      const lines = [...fixture.api.log, ...fixture.workers.flatMap(({ log }) => log)]
      const line = lines.find(({ msg, jobId }) => msg === 'notice.dropped' && jobId === id)
      expect(line).toMatchObject({ endpoint: gone.name, reason: 'endpoint_not_found' })
    })
  })

  it('dependsOn: starts when all have succeeded; if one dies or is cancelled it is dead', async () => {
    const endpoint = await fixture.endpoint()
    const [one, two] = [
      await endpoint.enqueue({ delay: '100ms' }),
      await endpoint.enqueue({ delay: '200ms' }),
    ]
    const after = await endpoint.enqueue({ dependsOn: [one, two] })
    expect((await readJob(after)).dependsOn).toEqual([one, two])
    const done = await fixture.job(after, 'succeeded')
    expect(at(done.startedAt)).toBeGreaterThanOrEqual(at((await readJob(two)).finishedAt))

    const stopped = await endpoint.enqueue({ delay: '1h' })
    const failing = await endpoint.enqueue({ dependsOn: [stopped] })
    const further = await endpoint.enqueue({ dependsOn: [failing] })
    await request('POST', `/jobs/${stopped}/cancel`)
    for (const id of [failing, further]) {
      const job = await fixture.job(id, 'dead')
      expect(job).toMatchObject({ attemptCount: 0, failure: { reason: 'dependency_failed' } })
    }
    expect((await request('POST', `/jobs/${stopped}/retry`)).status).toBe(200)
    expect((await readJob(failing)).state).toBe('dead')
    await request('POST', `/jobs/${further}/retry`)
    await fixture.job(further, 'succeeded')
  })

  it('dependsOn: one already dead is 201 and then dead; an unknown one is 400; at most 50', async () => {
    const endpoint = await fixture.endpoint(422)
    const dead = await endpoint.enqueue()
    await fixture.job(dead, 'dead')
    const late = await endpoint.enqueue({ dependsOn: [dead] })
    const job = await fixture.job(late, 'dead')
    expect(job.failure.reason).toBe('dependency_failed')
    await expectRefused('/dependsOn', { dependsOn: [NO_JOB] }, { dependsOn: Array(51).fill(dead) })
    await expectRefused('/dependsOn/0', { dependsOn: ['#0'] }, { dependsOn: ['x'] })
  })

  it('Idempotency-Key: the same key with the same request is the same job, plain or quoted', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const plain = { 'idempotency-key': 'order:17' }
    const first = await endpoint.post({ delay: '1s' }, plain)
    expect(first).toMatchObject({ status: 201, body: { idempotencyKey: 'order:17' } })
    expect(first.headers.get('location')).toBe(`/jobs/${first.body.id}`)
    const quoted = await endpoint.post({ delay: '1s' }, { 'idempotency-key': '"order:17"' })
    expect(quoted).toMatchObject({ status: 200, body: { id: first.body.id, deduplicated: true } })
    expect(quoted.headers.get('location')).toBe(`/jobs/${first.body.id}`)
    const text = `{"payload":{},"endpoint":"${endpoint.name}","delay":"1000ms"}`
    expect((await request('POST', '/jobs', text, plain)).status).toBe(200)
    for (const same of [{ fairnessKey: null }, { cost: 1 }]) {
      expect((await endpoint.post({ delay: '1s', ...same }, plain)).status).toBe(200)
    }
    const others = [{ payload: [] }, { delay: '2s' }, { tags: ['t'] }]
    for (const other of [...others, { fairnessKey: 'f' }, { cost: 2 }]) {
      const answer = await endpoint.post({ delay: '1s', ...other }, plain)
      expect(answer).toMatchObject({ status: 422, body: { code: 'idempotency_key_reused' } })
    }
    const spaced = `{"endpoint":"${endpoint.name}","delay":"1s","payload":{ }}`
    expect((await request('POST', '/jobs', spaced, plain)).status).toBe(422)
    const elsewhere = await fixture.pulledEndpoint()
    expect((await elsewhere.post({ delay: '1s' }, plain)).status).toBe(201)
    await request('POST', `/jobs/${first.body.id}/cancel`)
    expect((await endpoint.post({ delay: '1s' }, plain)).body).toMatchObject({
      id: first.body.id,
      state: 'cancelled',
    })
    for (const key of ['', '""', 'x'.repeat(256), 'a b', 'ä']) {
      const text = Buffer.from(key, 'utf8').toString('latin1')
      expect((await endpoint.post({}, { 'idempotency-key': text })).status).toBe(400)
    }
    expect((await endpoint.post({}, { 'idempotency-key': 'x'.repeat(255) })).status).toBe(201)
  })

  it('Idempotency-Key: is looked at before dedupe, and a dedupe hit adds it to the job it found', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const keep = { dedupe: { key: 'd', mode: 'keep' } }
    const first = await endpoint.post(keep, { 'idempotency-key': 'a' })
    const hit = await endpoint.post(keep, { 'idempotency-key': 'b' })
    expect(hit).toMatchObject({ status: 200, body: { id: first.body.id } })
    await request('POST', `/jobs/${first.body.id}/cancel`)
    const repeat = await endpoint.post(keep, { 'idempotency-key': 'b' })
    expect(repeat).toMatchObject({ status: 200, body: { id: first.body.id, state: 'cancelled' } })
    const other = await endpoint.post({ ...keep, payload: 9 }, { 'idempotency-key': 'b' })
    expect(other).toMatchObject({ status: 422, body: { code: 'idempotency_key_reused' } })
    const reject = { dedupe: { key: 'd', mode: 'reject' } }
    const made = await endpoint.post(reject, { 'idempotency-key': 'c' })
    expect(made.status).toBe(201)
    expect(await endpoint.post(reject, { 'idempotency-key': 'c' })).toMatchObject({
      status: 200,
      body: { id: made.body.id },
    })
  })
})
