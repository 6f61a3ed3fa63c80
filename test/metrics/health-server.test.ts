import { once } from 'node:events'
import { connect } from 'node:net'
import { pino } from 'pino'
import { afterEach, describe, expect, it } from 'vitest'
import {
  type HealthServer,
  type HealthServerParts,
  startHealthServer,
} from '../../src/http/health-server.ts'
import { createWorkerMetrics } from '../../src/stats/metrics.ts'

const KEY = 'a-key-of-twenty-four-characters'

const open: HealthServer[] = []
afterEach(async () => {
  await Promise.all(open.splice(0).map((port) => port.close()))
})

async function start(changes: Partial<HealthServerParts> = {}): Promise<HealthServer> {
  const metrics = createWorkerMetrics({
    concurrency: 1,
    unsettledCount: () => 0,
    unstoredCount: () => 0,
    commandCount: () => 0,
  })
  const port = await startHealthServer({
    host: '127.0.0.1',
    port: 0,
    apiKeys: [],
    metrics: metrics.text,
    storeReady: async () => {},
    isStopping: () => false,
    lacksKey: () => false,
    log: pino({ level: 'silent' }),
    ...changes,
  })
  open.push(port)
  return port
}

/** Sends these bytes and returns the response, up to the end of the connection. */
async function raw(port: HealthServer, text: string): Promise<string> {
  const socket = connect(Number(new URL(port.url).port), '127.0.0.1')
  let answer = ''
  socket.on('data', (chunk) => {
    answer += chunk.toString()
  })
  socket.write(text)
  await once(socket, 'close')
  return answer
}

describe('the port of a worker', () => {
  it('shows that the process lives and the store responds', async () => {
    const { url } = await start()
    const live = await fetch(`${url}/health/live`)
    expect([live.status, await live.json()]).toEqual([200, { status: 'ok' }])
    const ready = await fetch(`${url}/health/ready`)
    expect([ready.status, await ready.json()]).toEqual([
      200,
      { status: 'ok', checks: { store: 'ok', worker: 'ok' } },
    ])
  })

  it('names what is not ready, and lives on', async () => {
    const { url } = await start({
      storeReady: () => Promise.reject(new Error('away')),
      isStopping: () => true,
    })
    const ready = await fetch(`${url}/health/ready`)
    expect(ready.status).toBe(503)
    expect(ready.headers.get('retry-after')).toBe('1')
    expect(await ready.json()).toEqual({
      status: 'unavailable',
      checks: { store: 'did not respond in time', worker: 'is stopping' },
    })
    expect((await fetch(`${url}/health/live`)).status).toBe(200)
  })

  it('asks the store once, however many ask for its health', async () => {
    let asked = 0
    const answered = Promise.withResolvers<void>()
    const { url } = await start({
      storeReady: () => {
        asked++
        return answered.promise
      },
    })
    const probes = Array.from({ length: 20 }, () => fetch(`${url}/health/ready`))
    const live = await fetch(`${url}/health/live`)
    expect(live.status).toBe(200)
    answered.resolve()
    for (const { status } of await Promise.all(probes)) expect(status).toBe(200)
    expect(asked).toBeLessThan(20)
  })

  it('gives its metrics to Prometheus', async () => {
    const { url } = await start()
    const answer = await fetch(`${url}/metrics`)
    expect(answer.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/)
    expect(await answer.text()).toContain('posthorn_worker_concurrency{process="worker"} 1')
  })

  it('asks for a key once there is one, but never for its health', async () => {
    const { url } = await start({ apiKeys: [KEY] })
    for (const authorization of [undefined, 'Bearer', `Bearer ${KEY}x`, `Basic ${KEY}`]) {
      const headers = authorization === undefined ? {} : { authorization }
      const answer = await fetch(`${url}/metrics`, { headers })
      expect(answer.status).toBe(401)
      expect(answer.headers.get('www-authenticate')).toBe('Bearer')
      expect(await answer.json()).toMatchObject({ code: 'unauthorized' })
    }
    const headers = { authorization: `Bearer ${KEY}` }
    expect((await fetch(`${url}/metrics`, { headers })).status).toBe(200)
    expect((await fetch(`${url}/health/ready`)).status).toBe(200)
  })

  it('keeps its metrics to itself where others can reach it and no key is set', async () => {
    const port = await start({ host: '0.0.0.0' })
    const url = port.url.replace('0.0.0.0', '127.0.0.1')
    expect((await fetch(`${url}/metrics`)).status).toBe(403)
    expect((await fetch(`${url}/health/ready`)).status).toBe(200)
  })

  it('is deaf to a web page that has bound its own name to this machine', async () => {
    const port = await start()
    const answer = await raw(
      port,
      'GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n',
    )
    expect(answer).toMatch(/^HTTP\/1\.1 403 /)
  })

  it('refuses a request that a web page of another site sends', async () => {
    const port = await start()
    for (const header of ['Origin: https://evil.example', 'Sec-Fetch-Site: cross-site']) {
      const request = `GET /metrics HTTP/1.1\r\nHost: localhost\r\n${header}\r\n`
      const answer = await raw(port, `${request}Connection: close\r\n\r\n`)
      expect(answer).toMatch(/^HTTP\/1\.1 403 /)
    }
  })

  it('responds with a problem to what is not HTTP', async () => {
    const answer = await raw(await start(), 'no HTTP\r\n\r\n')
    expect(answer).toMatch(/^HTTP\/1\.1 400 /)
    expect(answer).toContain('"code":"invalid_request"')
  })

  it('refuses other paths and methods in words', async () => {
    const { url } = await start()
    const unknown = await fetch(`${url}/jobs`)
    expect([unknown.status, unknown.headers.get('content-type')]).toEqual([
      404,
      expect.stringMatching(/^application\/problem\+json/),
    ])
    const posted = await fetch(`${url}/metrics`, { method: 'POST', body: 'x' })
    expect([posted.status, posted.headers.get('allow')]).toEqual([405, 'GET, HEAD'])
    const head = await fetch(`${url}/health/live?x=1`, { method: 'HEAD' })
    expect([head.status, await head.text()]).toEqual([200, ''])
  })

  it('reads no body, and closes on who sends one', async () => {
    const port = await start()
    const answer = await raw(
      port,
      'POST /health/live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nabc',
    )
    expect(answer).toMatch(/^HTTP\/1\.1 405 /)
    expect(answer.toLowerCase()).toContain('connection: close')
  })

  it('cannot listen where another does, and says so', async () => {
    const { url } = await start()
    await expect(start({ port: Number(new URL(url).port) })).rejects.toThrow('EADDRINUSE')
  })

  it('shows no error of its own to a client', async () => {
    const { url } = await start({ metrics: () => Promise.reject(new Error('a secret')) })
    const answer = await fetch(`${url}/metrics`)
    expect(answer.status).toBe(500)
    expect(await answer.text()).not.toContain('a secret')
  })
})
