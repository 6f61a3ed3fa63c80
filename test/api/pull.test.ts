// Pull: jobs for workers that have no URL to be called at.
import { describe, expect, it } from 'vitest'
import { ENGINES } from '../support/deployment.ts'
import { at, type Body, CONCURRENT, soon, useFixture } from './fixture.ts'

describe.each(ENGINES)('on %s', CONCURRENT, (engine) => {
  const fixture = useFixture(engine)
  const send = (...all: Parameters<typeof fixture.posthorn.request>) =>
    fixture.posthorn.request(...all)
  const read = (id: string) => fixture.get(`/jobs/${id}`)
  const claim = async (site: { name: string }, body?: object): Promise<Body[]> => {
    const answer = await send('POST', `/endpoints/${site.name}/claim`, body)
    expect(answer.status).toBe(200)
    return answer.body.jobs
  }
  const report = ({ id, token }: Body, verb: string, body?: object) =>
    send('POST', `/jobs/${id}/${verb}?token=${token}`, body)

  it('claim: by default one job, now, for 30 s, with payload and token', async () => {
    const site = await fixture.pulled()
    expect(await claim(site)).toEqual([])
    const payload = '{"a": 1.0}'
    const text = `{"endpoint":"${site.name}","payload":${payload},"tags":["t"]}`
    for (let i = 0; i < 2; i++) await send('POST', '/jobs', text)
    const answer = await fetch(`${fixture.posthorn.url()}/endpoints/${site.name}/claim`, {
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
    expect(await read(jobs[0].id)).not.toHaveProperty('token')
  })

  it('claim: shows the hops that the worker sends on, one more than the request that enqueued the job had', async () => {
    const site = await fixture.pulled()
    const told = await fixture.pulled()
    const body = { endpoint: site.name, payload: 1, onFinish: told.name }
    const enqueue = (hops: number) => send('POST', '/jobs', body, { 'posthorn-hops': `${hops}` })
    const complete = async (one: { name: string }) => {
      const [job] = await claim(one, { wait: '5s' })
      expect((await report(job as Body, 'complete')).status).toBe(200)
      return job?.hops
    }
    for (let hops = 0; hops < 10; hops += 2) {
      expect((await enqueue(hops)).status).toBe(201)
      expect(await complete(site)).toBe(hops + 1)
      expect(await complete(told)).toBe(hops + 2)
    }
    await enqueue(10)
    expect(await complete(site)).toBe(11)
    expect(await claim(told)).toEqual([])
    expect((await enqueue(11)).status).toBe(400)
  })

  it('limit: 1 to 100, each job to one claim only', async () => {
    const site = await fixture.pulled()
    const jobs = Array(110).fill({ endpoint: site.name, payload: 1 })
    await send('POST', '/jobs/batch', { jobs })
    const claims = await Promise.all([10, 30, 100].map((limit) => claim(site, { limit })))
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
      expect((await send('POST', `/endpoints/${site.name}/claim`, body)).status).toBe(400)
    }
  })

  it('wait: a claim ends as soon as a job comes, is due, or the endpoint is resumed, else empty', async () => {
    const site = await fixture.pulled()
    const startedAtMs = performance.now()
    expect(await claim(site, { wait: '200ms' })).toEqual([])
    expect(performance.now() - startedAtMs).toBeGreaterThanOrEqual(195)
    const coming = claim(site, { wait: '30s' })
    const id = await site.enqueue()
    expect((await coming)[0].id).toBe(id)
    const due = claim(site, { wait: '30s' })
    const delayed = await site.enqueue({ delay: '300ms' })
    expect((await due)[0].id).toBe(delayed)
    await send('POST', `/endpoints/${site.name}/pause`)
    const behind = await site.enqueue()
    const resumed = claim(site, { wait: '30s' })
    expect(await claim(site, { wait: '100ms' })).toEqual([])
    await send('POST', `/endpoints/${site.name}/resume`)
    expect((await resumed)[0].id).toBe(behind)
    expect(performance.now() - startedAtMs).toBeLessThan(25_000)
  })

  it('wait: of one who has left takes nothing', async () => {
    const site = await fixture.pulled()
    const left = new AbortController()
    const url = `${fixture.posthorn.url()}/endpoints/${site.name}/claim`
    const waiting = fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"wait":"30s"}',
      signal: left.signal,
    })
    // What is claimed by the time another wait has ended was seen by this one as well.
    await claim(site, { wait: '50ms' })
    left.abort()
    await expect(waiting).rejects.toThrow()
    const id = await site.enqueue()
    await soon(async () => expect((await claim(site, { wait: '1s' }))[0]?.id).toBe(id))
  })

  it('complete, fail and heartbeat: as with async, and a heartbeat extends by the claim’s own lease', async () => {
    const backoff = { type: 'fixed', delay: '20ms', jitter: 0 }
    const site = await fixture.pulled({ retry: { backoff } })
    const id = await site.enqueue()
    const [first] = await claim(site, { lease: '10m' })
    const beat = await report(first, 'heartbeat', { progress: 10 })
    const extendedMs = at(beat.body.leaseExpiresAt) - Date.now()
    expect(extendedMs).toBeGreaterThan(590_000)
    expect(extendedMs).toBeLessThanOrEqual(600_500)
    expect((await read(id)).progress).toMatchObject({ value: 10 })
    expect((await report(first, 'fail', { message: 'no' })).status).toBe(200)
    const [second] = await claim(site, { wait: '5s' })
    expect(second).toMatchObject({ id, attemptCount: 2, fence: 2, progress: null })
    expect((await report(first, 'complete')).status).toBe(409)
    expect((await report(second, 'complete', { result: 7 })).body).toEqual({ applied: true })
    expect(await read(id)).toMatchObject({
      state: 'succeeded',
      result: 7,
      attempts: [{ outcome: 'failed' }, { outcome: 'succeeded' }],
    })
  })

  it('lease: is the only deadline, and one that runs out is reclaimed as lost', async () => {
    const site = await fixture.pulled({ timeout: '100ms', completionTimeout: '1s' })
    const id = await site.enqueue()
    const [first] = await claim(site, { lease: '1s' })
    const [second] = await claim(site, { wait: '10s' })
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
    const site = await fixture.pulled({ concurrency: 2 })
    for (let i = 0; i < 3; i++) await site.enqueue()
    const taken = await claim(site, { limit: 10 })
    expect(taken).toHaveLength(2)
    expect(await claim(site, { limit: 10 })).toEqual([])
    const next = claim(site, { limit: 10, wait: '10s' })
    await report(taken[0], 'complete')
    expect(await next).toHaveLength(1)
    const rated = await fixture.pulled({ rateLimit: { count: 1, per: '1h' } })
    for (let i = 0; i < 2; i++) await rated.enqueue()
    expect(await claim(rated, { limit: 10 })).toHaveLength(1)
    expect(await claim(rated, { limit: 10 })).toEqual([])
  })

  it('wrong kind: claim of an endpoint with a URL, and test of one without, are 409', async () => {
    const [pushed, pulled] = [await fixture.site(), await fixture.pulled()]
    for (const path of [`${pushed.name}/claim`, `${pulled.name}/test`]) {
      const answer = await send('POST', `/endpoints/${path}`)
      expect(answer).toMatchObject({ status: 409, body: { code: 'job_state_conflict' } })
    }
  })
})
