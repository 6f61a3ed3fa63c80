// The table of the routes of limits that endpoints share.
import { describe, expect, it } from 'vitest'
import { type Body, CONCURRENT, heldReplies, useApi } from '../support/api-fixture.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'

describe.each(SQLITE_UNLESS_LONG)('on %s', CONCURRENT, (engine) => {
  const fixture = useApi(engine)
  const { request } = fixture

  it('PUT /limits/:name: creates with 201, replaces both settings with 200, by version', async () => {
    const path = '/limits/put.1'
    const rateLimit = { count: 5, per: '60s' }
    const first = await request('PUT', path, { concurrency: 3, rateLimit })
    expect(first).toMatchObject({
      status: 201,
      body: {
        ...{ name: 'put.1', concurrency: 3, rateLimit: { count: 5, per: '1m' }, tokens: 5 },
        ...{ endpoints: [], running: 0, waiting: [], version: 1 },
      },
    })
    expect(first.headers.get('etag')).toBe('"1"')
    const stale = await request('PUT', path, {}, { 'if-match': '"9"' })
    expect([stale.status, stale.body.code]).toEqual([412, 'precondition_failed'])
    const second = await request('PUT', path, {}, { 'if-match': '"1"' })
    expect(second).toMatchObject({
      status: 200,
      body: { concurrency: null, rateLimit: null, tokens: null, version: 2 },
    })
    expect((await request('PUT', path, {}, { 'if-none-match': '*' })).status).toBe(412)
    for (const body of [
      { concurrency: 0 },
      { concurrency: 10_001 },
      { rateLimit: { count: 0, per: '1s' } },
      { rateLimit: { count: 1 } },
      { weight: 1 },
    ]) {
      expect((await request('PUT', path, body)).status).toBe(400)
    }
    expect((await request('PUT', '/limits/Upper', {})).status).toBe(400)
  })

  it('GET /limits: by name, in pages', async () => {
    for (const name of ['list-b', 'list-a', 'list-c']) await request('PUT', `/limits/${name}`, {})
    const names: string[] = []
    let cursor = ''
    do {
      const { items, nextCursor } = await fixture.get(`/limits?limit=2${cursor}`)
      names.push(...items.map(({ name }: Body) => name))
      cursor = nextCursor === null ? '' : `&cursor=${nextCursor}`
    } while (cursor !== '')
    expect(names.filter((name) => name.startsWith('list-'))).toEqual(['list-a', 'list-b', 'list-c'])
    expect(names).toEqual([...names].sort())
  })

  it('GET /limits/:name: the endpoints that name it, their running jobs, and the line', async () => {
    await request('PUT', '/limits/read', { concurrency: 2 })
    const held = heldReplies()
    const busy = await fixture.endpoint(held.script, { limits: ['read'] })
    const quiet = await fixture.pulledEndpoint({ limits: ['read'] })
    const ids = await Promise.all([busy.enqueue(), busy.enqueue()])
    for (const id of ids) await fixture.job(id, 'running')
    await quiet.enqueue()
    expect((await request('POST', `/endpoints/${quiet.name}/claim`)).body.jobs).toEqual([])
    expect(await fixture.get('/limits/read')).toMatchObject({
      ...{ running: 2, endpoints: [busy.name, quiet.name].sort(), waiting: [quiet.name] },
    })
    held.release(200)
    for (const id of ids) await fixture.job(id, 'succeeded')
    expect((await request('POST', `/endpoints/${quiet.name}/claim`)).body.jobs).toHaveLength(1)
    expect(await fixture.get('/limits/read')).toMatchObject({ running: 1, waiting: [] })
  })

  it('DELETE /limits/:name: 204, by version, and 404 then', async () => {
    await request('PUT', '/limits/gone', {})
    const stale = await request('DELETE', '/limits/gone', undefined, { 'if-match': '"2"' })
    expect(stale.status).toBe(412)
    expect((await request('DELETE', '/limits/gone')).status).toBe(204)
    expect((await request('DELETE', '/limits/gone')).status).toBe(404)
  })

  it('a limit: holds over its endpoints, and each of them gets its turn', async () => {
    await request('PUT', '/limits/turns', { concurrency: 1 })
    const inFlight = { now: 0, most: 0 }
    const order: string[] = []
    const isAllEnqueued = Promise.withResolvers<void>()
    const script = (name: string) => async () => {
      inFlight.now += 1
      inFlight.most = Math.max(inFlight.most, inFlight.now)
      order.push(name)
      await isAllEnqueued.promise
      inFlight.now -= 1
      return 200
    }
    const busy = await fixture.endpoint(script('busy'), { limits: ['turns'] })
    const quiet = await fixture.endpoint(script('quiet'), { limits: ['turns'] })
    const ids = await Promise.all(Array.from({ length: 40 }, () => busy.enqueue()))
    ids.push(...(await Promise.all([quiet.enqueue(), quiet.enqueue(), quiet.enqueue()])))
    isAllEnqueued.resolve()
    for (const id of ids) await fixture.job(id, 'succeeded')
    expect(inFlight.most).toBe(1)
    // The endpoint with 40 jobs is still at work when the others are done.
    expect(order.lastIndexOf('quiet')).toBeLessThan(order.length - 1)
  })
})
