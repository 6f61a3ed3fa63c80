// The routes about the service itself: health, statistics, workers, its description.
import { describe, expect, inject, it } from 'vitest'
import { at, type Body, heldReplies, soon, useApi } from '../support/api-fixture.ts'
import { deploy } from '../support/deployment.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'
import { databaseUrl } from '../support/mongo.ts'
import { startMongoProxy } from '../support/mongo-proxy.ts'
import { until } from '../support/until.ts'

describe.each(SQLITE_UNLESS_LONG)('on %s', (engine) => {
  const fixture = useApi(engine, {}, 2)
  const { request } = fixture
  const statsOf = async (name: string): Promise<Body> => {
    const { endpoints } = await fixture.get('/stats')
    return endpoints.find((one: Body) => one.name === name)
  }

  it('GET /: says what this is, and where to go on', async () => {
    const body = await fixture.get('/')
    expect(body).toMatchObject({
      name: 'Posthorn',
      version: expect.stringMatching(/^\d+\.\d+\.\d+/),
    })
    for (const path of Object.values(body.links) as string[]) {
      expect((await request('GET', path)).status).toBe(200)
    }
    expect(Object.values(body.links)).toEqual(expect.arrayContaining(['/docs', '/openapi.json']))
  })

  it('GET /health/live: the process responds', async () => {
    expect(await request('GET', '/health/live')).toMatchObject({
      status: 200,
      body: { status: 'ok' },
    })
  })

  it('GET /health/ready: the store responds', async () => {
    expect(await request('GET', '/health/ready')).toMatchObject({
      status: 200,
      body: { status: 'ok', checks: { store: 'ok' } },
    })
  })

  it('GET /workers: those that live, with what they do', async () => {
    await soon(async () => {
      const { items } = await fixture.get('/workers')
      expect(items.filter((worker: Body) => worker.isLive)).toHaveLength(2)
    })
    const { items } = await fixture.get('/workers')
    const ids = fixture.workers.map(
      ({ log }) => log.find((line) => line.msg === 'worker.started')?.workerId,
    )
    expect(items.map((worker: Body) => worker.id).sort()).toEqual(ids.sort())
    expect(items[0]).toMatchObject({ concurrency: 100, inFlight: expect.any(Number) })
    expect(at(items[0].seenAt)).toBeGreaterThanOrEqual(at(items[0].startedAt))
  })

  it('GET /stats: per endpoint what waits, is due, runs and is dead, at most 5 s old', async () => {
    const held = heldReplies()
    const [endpoint, waiting, failing] = [
      await fixture.endpoint(held.script),
      await fixture.pulledEndpoint(),
      await fixture.endpoint(422),
    ]
    await fixture.job(await endpoint.enqueue(), 'running')
    await waiting.enqueue()
    await waiting.enqueue({ delay: '1h' })
    await fixture.job(await failing.enqueue(), 'dead')
    await soon(async () => {
      expect(await statsOf(endpoint.name)).toMatchObject({ queued: 0, due: 0, running: 1, dead: 0 })
      expect(await statsOf(waiting.name)).toMatchObject({ queued: 2, due: 1, running: 0, dead: 0 })
      expect(await statsOf(failing.name)).toMatchObject({ queued: 0, running: 0, dead: 1 })
    })
    expect((await statsOf(waiting.name)).oldestDueAge).toMatch(/^(\d+m)?(\d+s)?(\d+ms)?$/)
    expect((await statsOf(endpoint.name)).oldestDueAge).toBe(null)
    const stats = await fixture.get('/stats')
    expect(stats.liveWorkers).toBe(2)
    expect(Date.now() - at(stats.asOf)).toBeLessThan(6_000)
    expect(stats).not.toHaveProperty('minutes')
    held.release(200)
  })

  it('GET /stats: ?window adds per minute what succeeded and failed, with durations', async () => {
    const good = await fixture.endpoint()
    const bad = await fixture.endpoint(500)
    for (let i = 0; i < 3; i++) await fixture.job(await good.enqueue(), 'succeeded')
    await fixture.job(await bad.enqueue(), 'dead')
    const sum = async (name: string, field: string) => {
      const { minutes } = await fixture.get(`/stats?window=1h&endpoint=${name}`)
      return minutes.reduce((total: number, one: Body) => total + one[field], 0)
    }
    await soon(async () => {
      expect(await sum(good.name, 'succeeded')).toBe(3)
      expect(await sum(bad.name, 'failed')).toBe(3)
    })
    expect(await sum(good.name, 'failed')).toBe(0)
    const stats = await fixture.get(`/stats?window=1h&endpoint=${good.name}`)
    for (const minute of stats.minutes) {
      expect(at(minute.minute) % 60_000).toBe(0)
      expect(minute.durations).toHaveLength(stats.durationBounds.length + 1)
    }
    for (const window of ['49h', '1s', 'day']) {
      expect((await request('GET', `/stats?window=${window}`)).status).toBe(400)
    }
  })

  it('GET /metrics: in the text format of Prometheus', async () => {
    const answer = await request('GET', '/metrics')
    expect(answer.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/)
    expect(answer.body).toMatch(/^# TYPE posthorn_\w+ (counter|gauge|histogram)$/m)
  })

  it('GET /openapi.json: OpenAPI 3.1 of all routes', async () => {
    const document = await fixture.get('/openapi.json')
    expect(document.openapi).toMatch(/^3\.1\./)
    expect(Object.keys(document.paths)).toEqual(
      expect.arrayContaining(['/jobs', '/jobs/{id}/explain', '/endpoints/{name}/claim']),
    )
  })

  it('GET /docs: the page of the API reference, which loads nothing from elsewhere', async () => {
    const answer = await request('GET', '/docs')
    expect(answer.status).toBe(200)
    expect(answer.headers.get('content-type')).toMatch(/^text\/html/)
    expect(answer.body).not.toMatch(/(src|href)="(https?:)?\/\//)
  })
})

describe('on mongo, while the network brings nothing', () => {
  it('GET /health/ready: 503 that names the store, while the process lives on', async () => {
    const database = `test-ready-${Date.now().toString(36)}`
    const proxy = await startMongoProxy(databaseUrl(inject('mongoUrl'), database))
    const posthorn = deploy('mongo', { STORE_URL: proxy.url })
    try {
      await posthorn.startApi()
      proxy.stall()
      // A write of the last second counts as a proof that the store accepts writes.
      let answer = await posthorn.request('GET', '/health/ready')
      await until(async () => {
        answer = await posthorn.request('GET', '/health/ready')
        return answer.status !== 200
      })
      expect(answer).toMatchObject({
        status: 503,
        body: { checks: { store: expect.stringMatching(/not/) } },
      })
      expect(answer.headers.get('retry-after')).toBe('1')
      expect((await posthorn.request('GET', '/health/live')).status).toBe(200)
    } finally {
      await posthorn.close()
      await proxy.stop()
    }
  })
})
