// The table of job routes.
import { describe, expect, it } from 'vitest'
import {
  at,
  type Body,
  CONCURRENT,
  heldReplies,
  NO_JOB,
  soon,
  useApi,
} from '../support/api-fixture.ts'
import { ENGINES } from '../support/engines.ts'

describe.each(ENGINES)('on %s', CONCURRENT, (engine) => {
  const fixture = useApi(engine)
  const { request, readJob } = fixture

  it('POST /jobs: 201 with where it is and all of it', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const { status, headers, body } = await endpoint.post()
    expect(status).toBe(201)
    expect(headers.get('location')).toBe(`/jobs/${body.id}`)
    const { id, runAt, dueAt, createdAt, timeout, retry, version, ...rest } = body
    expect(id).toMatch(/^job_/)
    expect([timeout, retry, version]).toEqual([null, null, 1])
    expect(at(runAt)).toBe(at(createdAt))
    expect(dueAt).toBe(runAt)
    expect(rest).toEqual({
      endpoint: endpoint.name,
      state: 'queued',
      priority: 5,
      startedAt: null,
      finishedAt: null,
      expiresAt: null,
      attemptCount: 0,
      maxAttempts: 10,
      fence: 0,
      phase: null,
      lease: null,
      progress: null,
      result: null,
      resultTruncated: false,
      failure: null,
      attempts: [],
      payload: {},
      payloadBytes: 2,
      tags: [],
      metadata: {},
      headers: {},
      idempotencyKey: null,
      dedupeKey: null,
      orderingKey: null,
      fairnessKey: null,
      cost: 1,
      scheduleName: null,
      group: null,
      dependsOn: [],
      needs: {},
      onFinish: null,
    })
    expect(await readJob(id)).toEqual(body)
  })

  it('GET /jobs/:id: the job after its attempts, with lease and attempts as they are', async () => {
    const held = heldReplies()
    const endpoint = await fixture.endpoint([{ status: 500, body: 'no' }, 200])
    const id = await endpoint.enqueue()
    const done = await fixture.job(id, 'succeeded')
    expect(done.attempts).toHaveLength(2)
    expect(done.attempts[0]).toEqual({
      number: 1,
      startedAt: done.startedAt,
      finishedAt: expect.any(String),
      durationMs: expect.any(Number),
      outcome: 'http_error',
      statusCode: 500,
      errorCode: null,
      message: expect.any(String),
      responseBody: 'no',
      workerId: expect.any(String),
    })
    expect(done).toMatchObject({ fence: 2, attemptCount: 2, lease: null, result: null })
    const slow = await fixture.endpoint(held.script)
    const { lease, phase } = await fixture.job(await slow.enqueue(), 'running')
    expect(phase).toBe('sending')
    expect(Object.keys(lease).sort()).toEqual(['expiresAt', 'workerId'])
    held.release(200)
  })

  it('GET /jobs/:id: the result is the JSON of the response, or its text, up to 64 KiB', async () => {
    const big = JSON.stringify('x'.repeat(65_536))
    const cases: [body: string, shown: object][] = [
      ['{"a":1}', { result: { a: 1 }, resultTruncated: false }],
      ['plain', { result: { text: 'plain' }, resultTruncated: false }],
      ['', { result: null, resultTruncated: false }],
      [big, { result: null, resultTruncated: true }],
    ]
    for (const [body, shown] of cases) {
      const endpoint = await fixture.endpoint({ status: 200, body })
      expect(await fixture.job(await endpoint.enqueue(), 'succeeded')).toMatchObject(shown)
    }
  })

  it('GET /jobs/:id: ?wait responds as soon as it is final, else at the end as it is', async () => {
    const held = heldReplies()
    const endpoint = await fixture.endpoint(held.script)
    const id = await endpoint.enqueue()
    const short = await readJob(`${id}?wait=100ms`)
    expect(['queued', 'running']).toContain(short.state)
    const waiting = readJob(`${id}?wait=30s`)
    await fixture.job(id, 'running')
    const releasedAtMs = performance.now()
    held.release(200)
    expect((await waiting).state).toBe('succeeded')
    expect(performance.now() - releasedAtMs).toBeLessThan(5_000)
    expect((await readJob(`${id}?wait=60s`)).state).toBe('succeeded')
    for (const wait of ['61s', 'long', '-1s']) {
      expect((await request('GET', `/jobs/${id}?wait=${wait}`)).status).toBe(400)
    }
  })

  it('GET /jobs/:id: ETag and If-None-Match lead to 304 without a body until it changes', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const id = await endpoint.enqueue()
    const { headers } = await request('GET', `/jobs/${id}`)
    const etag = headers.get('etag') as string
    for (const tag of [etag, `W/${etag}`, `"x", ${etag}`, '*']) {
      const same = await request('GET', `/jobs/${id}`, undefined, { 'if-none-match': tag })
      expect(same).toMatchObject({ status: 304, body: '' })
      expect(same.headers.get('etag')).toBe(etag)
    }
    await request('PATCH', `/jobs/${id}`, { priority: 9 })
    const changed = await request('GET', `/jobs/${id}`, undefined, { 'if-none-match': etag })
    expect(changed).toMatchObject({ status: 200, body: { priority: 9 } })
  })

  it('version: is raised by events, not by renewals of the lease', async () => {
    const held = heldReplies()
    const endpoint = await fixture.endpoint(held.script)
    const id = await endpoint.enqueue()
    const before = await fixture.job(id, 'running')
    await soon(async () => {
      const { lease } = await readJob(id)
      expect(at(lease.expiresAt)).toBeGreaterThan(at(before.lease.expiresAt))
    })
    expect((await readJob(id)).version).toBe(before.version)
    held.release(200)
    expect((await fixture.job(id, 'succeeded')).version).toBeGreaterThan(before.version)
  })

  it('GET /jobs/:id/payload: the exact bytes', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const payload = '{"big": 12345678901234567890,  "a":[1.0]}'
    const text = `{"endpoint":"${endpoint.name}","payload":${payload}}`
    const { body } = await request('POST', '/jobs', text)
    const answer = await fetch(`${fixture.posthorn.url()}/jobs/${body.id}/payload`)
    expect(await answer.text()).toBe(payload)
    expect(answer.headers.get('content-type')).toMatch(/^application\/json/)
  })

  it('GET /jobs/:id/inputs: the exact bytes, once they are made', async () => {
    const held = heldReplies()
    const endpoint = await fixture.endpoint(held.script)
    const sink = await fixture.pulledEndpoint()
    const first = await endpoint.enqueue()
    const id = await sink.enqueue({ needs: { big: `${first}/result/big` } })
    const read = (of: string) => request('GET', `/jobs/${of}/inputs`)
    expect(await read(id)).toMatchObject({ status: 409, body: { code: 'job_state_conflict' } })
    expect((await read(first)).body).toEqual({ inputs: {} })
    expect((await read(NO_JOB)).status).toBe(404)
    held.release({ body: '{"big": 12345678901234567890}' })
    await soon(async () => expect((await read(id)).status).toBe(200))
    const answer = await fetch(`${fixture.posthorn.url()}/jobs/${id}/inputs`)
    expect(await answer.text()).toBe('{"inputs":{"big":12345678901234567890}}')
    expect(answer.headers.get('content-type')).toMatch(/^application\/json/)
  })

  it('GET /jobs: newest first, page by page, with every filter, and without what is large', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const ids: string[] = []
    for (let i = 0; i < 6; i++) {
      ids.push(
        await endpoint.enqueue({
          payload: i,
          tags: i % 2 === 0 ? ['even', 'all'] : ['all'],
          dedupe: { key: `key-${i}`, mode: 'keep' },
          fairnessKey: i < 2 ? 'tenant/7' : 'tenant',
        }),
      )
    }
    const [first, second] = ids as [string, string]
    await request('POST', `/jobs/${first}/cancel`)
    const of = async (query: string): Promise<string[]> => {
      const page = await fixture.get(`/jobs?endpoint=${endpoint.name}&${query}`)
      return page.items.map((item: Body) => item.id)
    }
    const newest = ids.toReversed()
    expect(await of('')).toEqual(newest)
    expect(await of('state=cancelled')).toEqual([first])
    expect(await of('state=cancelled&state=queued')).toEqual(newest)
    expect(await of('tag=even')).toEqual(newest.filter((_, i) => i % 2 === 1))
    expect(await of('tag=none')).toEqual([])
    expect(await of('dedupeKey=key-1')).toEqual([second])
    expect(await of('dedupeKey=key-0')).toEqual([first])
    expect(await of('fairnessKey=tenant%2F7')).toEqual([second, first])
    expect(await of('fairnessKey=tenant%2F7&state=queued')).toEqual([second])
    const alone = await request('GET', '/jobs?fairnessKey=tenant')
    expect(alone).toMatchObject({ status: 400, body: { code: 'invalid_request' } })
    expect(alone.body.errors).toMatchObject([{ path: 'query/endpoint' }])
    const middle = (await readJob(ids[3] as string)).createdAt
    const later = await of(`createdAfter=${middle}`)
    const earlier = await of(`createdBefore=${middle}`)
    expect(later.every((id) => ids.indexOf(id) >= 3)).toBe(true)
    expect(earlier.every((id) => ids.indexOf(id) <= 3)).toBe(true)
    expect(new Set([...later, ...earlier, ids[3]]).size).toBe(6)
    expect(await of('createdAfter=0001-01-01T00:00:00Z')).toEqual(newest)
    expect(await of('createdBefore=0001-01-01T00:00:00Z')).toEqual([])

    const paged: string[] = []
    let cursor: string | null = ''
    while (cursor !== null) {
      const more: string = cursor === '' ? '' : `&cursor=${cursor}`
      const page: Body = await fixture.get(`/jobs?endpoint=${endpoint.name}&limit=4${more}`)
      paged.push(...page.items.map((item: Body) => item.id))
      cursor = page.nextCursor
    }
    expect(paged).toEqual(newest)
    const { items } = await fixture.get('/jobs?limit=1')
    for (const field of ['payload', 'result', 'attempts'])
      expect(items[0]).not.toHaveProperty(field)
    for (const query of ['limit=0', 'limit=101', 'state=done', 'colour=red', 'cursor=%00']) {
      expect((await request('GET', `/jobs?${query}`)).status).toBe(400)
    }
  })
})
