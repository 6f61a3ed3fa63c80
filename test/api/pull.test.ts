// Pull: jobs for workers without a URL.
import { describe, expect, it } from 'vitest'
import { at, type Body, CONCURRENT, soon, useApi } from '../support/api-fixture.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'

describe.each(SQLITE_UNLESS_LONG)('on %s', CONCURRENT, (engine) => {
  const fixture = useApi(engine)
  const { request, readJob } = fixture
  const claim = async (endpoint: { name: string }, body?: object): Promise<Body[]> => {
    const answer = await request('POST', `/endpoints/${endpoint.name}/claim`, body)
    expect(answer.status).toBe(200)
    return answer.body.jobs
  }
  const report = ({ id, token }: Body, verb: string, body?: object) =>
    request('POST', `/jobs/${id}/${verb}?token=${token}`, body)

  it('claim: by default one job, now, for 30 s, with payload and token', async () => {
    const endpoint = await fixture.pulledEndpoint()
    expect(await claim(endpoint)).toEqual([])
    const payload = '{"a": 1.0}'
    const text = `{"endpoint":"${endpoint.name}","payload":${payload},"tags":["t"]}`
    for (let i = 0; i < 2; i++) await request('POST', '/jobs', text)
    const answer = await fetch(`${fixture.posthorn.url()}/endpoints/${endpoint.name}/claim`, {
      method: 'POST',
    })
    const raw = await answer.text()
    expect(raw).toContain(`"payload":${payload}`)
    const { jobs } = JSON.parse(raw)
    expect(jobs).toHaveLength(1)
    expect(jobs[0]).toMatchObject({
      state: 'running',
      phase: 'sending',
      attemptCount: 1,
      fence: 1,
      tags: ['t'],
      token: expect.stringMatching(/./),
    })
    const leaseMs = at(jobs[0].leaseExpiresAt) - Date.now()
    expect(leaseMs).toBeGreaterThan(20_000)
    expect(leaseMs).toBeLessThanOrEqual(30_500)
    expect(await readJob(jobs[0].id)).not.toHaveProperty('token')
  })

  it('claim: shows the hops that the worker sends on, one more than the request that enqueued the job had', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const notified = await fixture.pulledEndpoint()
    const body = { endpoint: endpoint.name, payload: 1, onFinish: notified.name }
    const enqueue = (hops: number) => request('POST', '/jobs', body, { 'posthorn-hops': `${hops}` })
    const complete = async (one: { name: string }) => {
      const [job] = await claim(one, { wait: '5s' })
      expect((await report(job as Body, 'complete')).status).toBe(200)
      return job?.hops
    }
    for (let hops = 0; hops < 10; hops += 2) {
      expect((await enqueue(hops)).status).toBe(201)
      expect(await complete(endpoint)).toBe(hops + 1)
      expect(await complete(notified)).toBe(hops + 2)
    }
    await enqueue(10)
    expect(await complete(endpoint)).toBe(11)
    expect(await claim(notified)).toEqual([])
    expect((await enqueue(11)).status).toBe(400)
  })

  it('limit: 1 to 100, each job to one claim only', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const jobs = Array(110).fill({ endpoint: endpoint.name, payload: 1 })
    await request('POST', '/jobs/batch', { jobs })
    const claims = await Promise.all([10, 30, 100].map((limit) => claim(endpoint, { limit })))
    const ids = claims.flat().map(({ id }) => id)
    expect(ids).toHaveLength(110)
    expect(new Set(ids).size).toBe(110)
    for (const body of [
      { limit: 0 },
      { limit: 101 },
      { wait: '61s' },
      { lease: '999ms' },
      { lease: '61m' },
      { max: 1 },
    ]) {
      expect((await request('POST', `/endpoints/${endpoint.name}/claim`, body)).status).toBe(400)
    }
  })

  it('wait: a claim ends as soon as a job comes, is due, or the endpoint is resumed, else empty', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const startedAtMs = performance.now()
    expect(await claim(endpoint, { wait: '200ms' })).toEqual([])
    expect(performance.now() - startedAtMs).toBeGreaterThanOrEqual(195)
    const coming = claim(endpoint, { wait: '30s' })
    const id = await endpoint.enqueue()
    expect((await coming)[0].id).toBe(id)
    const due = claim(endpoint, { wait: '30s' })
    const delayed = await endpoint.enqueue({ delay: '300ms' })
    expect((await due)[0].id).toBe(delayed)
    await request('POST', `/endpoints/${endpoint.name}/pause`)
    const behind = await endpoint.enqueue()
    const resumed = claim(endpoint, { wait: '30s' })
    expect(await claim(endpoint, { wait: '100ms' })).toEqual([])
    await request('POST', `/endpoints/${endpoint.name}/resume`)
    expect((await resumed)[0].id).toBe(behind)
    expect(performance.now() - startedAtMs).toBeLessThan(25_000)
  })

  it('wait: of one who has left takes nothing', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const left = new AbortController()
    const url = `${fixture.posthorn.url()}/endpoints/${endpoint.name}/claim`
    const waiting = fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"wait":"30s"}',
      signal: left.signal,
    })
    // The claims share their reads of the store. When this wait has ended, the other one has begun.
    await claim(endpoint, { wait: '50ms' })
    left.abort()
    await expect(waiting).rejects.toThrow()
    const id = await endpoint.enqueue()
    await soon(async () => expect((await claim(endpoint, { wait: '1s' }))[0]?.id).toBe(id))
  })

  it('complete, fail and heartbeat: as with async, and a heartbeat extends by the claim’s own lease', async () => {
    const backoff = { type: 'fixed', delay: '20ms', jitter: 0 }
    const endpoint = await fixture.pulledEndpoint({ retry: { backoff } })
    const id = await endpoint.enqueue()
    const [first] = await claim(endpoint, { lease: '10m' })
    const beat = await report(first, 'heartbeat', { progress: 10 })
    const extendedMs = at(beat.body.leaseExpiresAt) - Date.now()
    expect(extendedMs).toBeGreaterThan(590_000)
    expect(extendedMs).toBeLessThanOrEqual(600_500)
    expect((await readJob(id)).progress).toMatchObject({ value: 10 })
    expect((await report(first, 'fail', { message: 'no' })).status).toBe(200)
    const [second] = await claim(endpoint, { wait: '5s' })
    expect(second).toMatchObject({ id, attemptCount: 2, fence: 2, progress: null })
    expect((await report(first, 'complete')).status).toBe(409)
    expect((await report(second, 'complete', { result: 7 })).body).toEqual({ applied: true })
    expect(await readJob(id)).toMatchObject({
      state: 'succeeded',
      result: 7,
      attempts: [{ outcome: 'failed' }, { outcome: 'succeeded' }],
    })
  })

  it('lease: is the only deadline, and one that runs out is reclaimed as lost', async () => {
    const endpoint = await fixture.pulledEndpoint({ timeout: '100ms', completionTimeout: '1s' })
    const id = await endpoint.enqueue()
    const [first] = await claim(endpoint, { lease: '1s' })
    const [second] = await claim(endpoint, { wait: '10s' })
    expect(second).toMatchObject({ id, attemptCount: 2 })
    expect(second.attempts).toMatchObject([{ outcome: 'lost' }])
    expect(at(second.attempts[0].finishedAt) - at(second.attempts[0].startedAt)).toBeGreaterThan(
      900,
    )
    for (const verb of ['complete', 'fail', 'heartbeat']) {
      expect((await report(first, verb)).status).toBe(409)
    }
  })

  it('limits: of the endpoint hold for claims too', async () => {
    const endpoint = await fixture.pulledEndpoint({ concurrency: 2 })
    for (let i = 0; i < 3; i++) await endpoint.enqueue()
    const taken = await claim(endpoint, { limit: 10 })
    expect(taken).toHaveLength(2)
    expect(await claim(endpoint, { limit: 10 })).toEqual([])
    const next = claim(endpoint, { limit: 10, wait: '10s' })
    await report(taken[0], 'complete')
    expect(await next).toHaveLength(1)
    const rated = await fixture.pulledEndpoint({ rateLimit: { count: 1, per: '1h' } })
    for (let i = 0; i < 2; i++) await rated.enqueue()
    expect(await claim(rated, { limit: 10 })).toHaveLength(1)
    expect(await claim(rated, { limit: 10 })).toEqual([])
  })

  it('wrong kind: claim of an endpoint with a URL, and test of one without, are 409', async () => {
    const [pushed, pulled] = [await fixture.endpoint(), await fixture.pulledEndpoint()]
    for (const path of [`${pushed.name}/claim`, `${pulled.name}/test`]) {
      const answer = await request('POST', `/endpoints/${path}`)
      expect(answer).toMatchObject({ status: 409, body: { code: 'job_state_conflict' } })
    }
  })
})
