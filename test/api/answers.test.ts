// The meanings of responses: each kind of response, its outcome, and what follows from it.

import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import { afterAll, describe, expect, it } from 'vitest'
import { type Body, CONCURRENT, soon, useApi } from '../support/api-fixture.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'

const ONCE = { retry: { maxAttempts: 1 } }

describe.each(SQLITE_UNLESS_LONG)('on %s', CONCURRENT, (engine) => {
  const fixture = useApi(engine, { LEASE_DURATION: '1500ms', SHUTDOWN_GRACE: '100ms' })
  const closing: (() => void)[] = []
  afterAll(() => {
    for (const close of closing) close()
  })
  const { request, readJob } = fixture

  /** Enqueues a job with one attempt for an endpoint with this URL, and waits until it is dead. */
  async function deadAt(url: string, fields: object = {}): Promise<Body> {
    const endpoint = await fixture.endpoint()
    const put = await fixture.posthorn.endpoint(endpoint.name, url, { ...ONCE, timeout: '2s' })
    expect(put.status).toBe(200)
    return fixture.job(await endpoint.enqueue(fields), 'dead')
  }

  it('2xx: succeeded, and the body is the result', async () => {
    for (const status of [200, 201, 202, 204, 299]) {
      const body = status === 204 ? undefined : '{"ok":true}'
      const endpoint = await fixture.endpoint({ status, ...(body === undefined ? {} : { body }) })
      const job = await fixture.job(await endpoint.enqueue(), 'succeeded')
      expect(job.result).toEqual(status === 204 ? null : { ok: true })
      expect(job.attempts).toMatchObject([{ outcome: 'succeeded', statusCode: status }])
    }
  })

  it('2xx: once its status line has come the attempt succeeded, whatever happens to the body', async () => {
    const server = createServer((socket) => {
      socket.on('error', () => {})
      socket.once('data', () => {
        socket.write('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"half":')
        socket.end()
      })
    })
    const url = await listening(server)
    const endpoint = await fixture.endpoint()
    await fixture.posthorn.endpoint(endpoint.name, url, ONCE)
    const job = await fixture.job(await endpoint.enqueue(), 'succeeded')
    expect(job).toMatchObject({ result: null, attempts: [{ outcome: 'succeeded' }] })
  })

  it('202 on an async endpoint: accepted; running, and it awaits completion', async () => {
    const endpoint = await fixture.endpoint(202, { completion: 'async' })
    const id = await endpoint.enqueue()
    await soon(async () =>
      expect(await readJob(id)).toMatchObject({
        state: 'running',
        phase: 'awaiting_completion',
        attempts: [],
      }),
    )
    const { log } = fixture.workers[0] as (typeof fixture.workers)[number]
    await soon(() =>
      expect(
        log.find((line) => line.msg === 'attempt.accepted' && line.jobId === id),
      ).toMatchObject({
        attempt: 1,
        statusCode: 202,
      }),
    )
  })

  it('3xx: http_error, never followed, retried', async () => {
    const elsewhere = await fixture.receive()
    const moved = { status: 307, headers: { location: elsewhere.url } }
    const endpoint = await fixture.endpoint([moved, 200])
    const job = await fixture.job(await endpoint.enqueue(), 'succeeded')
    expect(job.attempts).toMatchObject([{ outcome: 'http_error', statusCode: 307 }, {}])
    expect(elsewhere.requests).toHaveLength(0)
  })

  it('400, 413, 414, 415, 422: rejected, dead at once', async () => {
    for (const status of [400, 413, 414, 415, 422]) {
      const endpoint = await fixture.endpoint({ status, body: 'why' })
      const job = await fixture.job(await endpoint.enqueue(), 'dead')
      expect(job).toMatchObject({ attemptCount: 1, failure: { reason: 'rejected' } })
      expect(job.attempts).toMatchObject([
        { outcome: 'rejected', statusCode: status, responseBody: 'why' },
      ])
    }
  })

  it('posthorn-no-retry: rejected on any status from 300, beats 410 and 429, means nothing on 2xx', async () => {
    const headers = { 'posthorn-no-retry': 'true', 'retry-after': '60' }
    for (const status of [302, 410, 429, 500, 503]) {
      const endpoint = await fixture.endpoint({ status, headers })
      const job = await fixture.job(await endpoint.enqueue(), 'dead')
      expect(job).toMatchObject({ attemptCount: 1, failure: { reason: 'rejected' } })
      expect(job.attempts).toMatchObject([{ outcome: 'rejected', statusCode: status }])
      // The endpoint is neither disabled nor resting: the next job is sent.
      endpoint.receiver.answerWith(200)
      await fixture.job(await endpoint.enqueue(), 'succeeded')
      expect((await endpoint.read()).state).toBe('active')
    }
    const fine = await fixture.endpoint({ status: 200, headers })
    await fixture.job(await fine.enqueue(), 'succeeded')
    const other = { 'posthorn-no-retry': 'false' }
    const endpoint = await fixture.endpoint([{ status: 500, headers: other }, 200])
    await fixture.job(await endpoint.enqueue(), 'succeeded')
  })

  it('any other status: http_error, retried; Retry-After counts when it is longer', async () => {
    for (const status of [401, 404, 408, 409, 500, 503]) {
      const endpoint = await fixture.endpoint([status, 200])
      const job = await fixture.job(await endpoint.enqueue(), 'succeeded')
      expect(job.attempts).toMatchObject([{ outcome: 'http_error', statusCode: status }, {}])
    }
    const endpoint = await fixture.endpoint([{ status: 500, headers: { 'retry-after': '1' } }, 200])
    await fixture.job(await endpoint.enqueue(), 'succeeded')
    const [one, two] = endpoint.receiver.requests.map(({ atMs }) => atMs) as [number, number]
    expect(two - one).toBeGreaterThan(950)
    expect((await endpoint.read()).state).toBe('active')
  })

  it('no connection: connect_error, with its code', async () => {
    const receiver = await fixture.receive()
    await receiver.close()
    const refused = await deadAt(receiver.url)
    expect(refused.attempts).toMatchObject([
      { outcome: 'connect_error', statusCode: null, errorCode: 'ECONNREFUSED' },
    ])
    const server = createServer((socket) => {
      socket.on('error', () => {})
      socket.once('data', () => socket.resetAndDestroy())
    })
    const reset = await deadAt(await listening(server))
    expect(reset.attempts).toMatchObject([{ outcome: 'connect_error' }])
  })

  it('name does not resolve: dns_error', async () => {
    const job = await deadAt('http://no-such-host.invalid/')
    expect(job.attempts).toMatchObject([{ outcome: 'dns_error', statusCode: null }])
  })

  it('TLS: tls_error when the other side speaks it wrong or not at all', async () => {
    const plain = await fixture.receive()
    const spoken = await deadAt(plain.url.replace('http:', 'https:'))
    expect(spoken.attempts).toMatchObject([{ outcome: 'tls_error' }])
    const server = createTlsServer({}, () => {})
    server.on('tlsClientError', () => {})
    const job = await deadAt((await listening(server)).replace('http:', 'https:'))
    expect(job.attempts).toMatchObject([{ outcome: 'tls_error', statusCode: null }])
  })

  it('total deadline passed: timeout, also while headers drip; a body that drips is cut off', async () => {
    const dripping = (start: string) =>
      createServer((socket) => {
        socket.on('error', () => {})
        socket.once('data', () => {
          socket.write(start)
          const drip = setInterval(() => socket.writable && socket.write('x'), 20)
          socket.on('close', () => clearInterval(drip))
        })
      })
    const headers = await listening(dripping('HTTP/1.1 200 OK\r\nA: '))
    const late = await deadAt(headers, { timeout: '300ms' })
    expect(late.attempts).toMatchObject([{ outcome: 'timeout', statusCode: null }])
    const body = await listening(dripping('HTTP/1.1 500 No\r\nContent-Length: 9999\r\n\r\n'))
    // The first row of the table that matches applies: the status had arrived in time.
    const cut = await deadAt(body, { timeout: '300ms' })
    expect(cut.attempts).toMatchObject([{ outcome: 'http_error', statusCode: 500 }])
    for (const { attempts } of [late, cut]) expect(attempts[0].durationMs).toBeLessThan(2_000)
  })

  it('address policy: blocked, dead at once, and the refusal names what would allow it', async () => {
    // The API allows more than the worker here: the worker itself checks each address that it
    // dials.
    await fixture.posthorn.startApi({ ALLOWED_TARGETS: '10.0.0.0/8' })
    const job = await deadAt('http://10.0.0.1/', { retry: { maxAttempts: 5 } })
    expect(job).toMatchObject({ attemptCount: 1, failure: { reason: 'rejected' } })
    expect(job.attempts).toMatchObject([
      { outcome: 'blocked', message: expect.stringMatching(/10\.0\.0\.1.*ALLOWED_TARGETS/) },
    ])
  })

  it('answer is not HTTP, or headers over 16 KiB: protocol_error', async () => {
    const answers = [
      'hello, who is there?\r\n\r\n',
      `HTTP/1.1 200 OK\r\nA: ${'x'.repeat(20_000)}\r\n\r\n`,
    ]
    for (const answer of answers) {
      const server = createServer((socket) => {
        socket.on('error', () => {})
        socket.once('data', () => socket.end(answer))
      })
      const job = await deadAt(await listening(server))
      expect(job.attempts).toMatchObject([{ outcome: 'protocol_error' }])
    }
  })

  // This test ends the workers that the other tests need, so it runs alone.
  it('lost, interrupted, cancelled: say that the response is unknown, or that it is discarded', {
    concurrent: false,
  }, async () => {
    const endpoint = await fixture.endpoint('hang', { timeout: '1m' })
    const cancelled = await endpoint.enqueue()
    await fixture.job(cancelled, 'running')
    await request('POST', `/jobs/${cancelled}/cancel`)
    expect((await readJob(cancelled)).attempts).toMatchObject([{ outcome: 'cancelled' }])

    const interrupted = await endpoint.enqueue()
    await fixture.job(interrupted, 'running')
    const [first] = fixture.workers
    const second = await fixture.posthorn.startWorker()
    expect(await first?.stop()).toBe(0)
    await soon(async () =>
      expect(await readJob(interrupted)).toMatchObject({ attempts: [{ outcome: 'interrupted' }] }),
    )
    await fixture.job(interrupted, 'running')
    await second.stop('SIGKILL')
    fixture.workers = [await fixture.posthorn.startWorker()]
    await soon(async () =>
      expect((await readJob(interrupted)).attempts).toMatchObject([
        { outcome: 'interrupted' },
        { outcome: 'lost' },
      ]),
    )
  })

  async function listening(server: ReturnType<typeof createServer>): Promise<string> {
    await new Promise<void>((resolve) => {
      server.listen(0, '127.0.0.1', resolve)
    })
    closing.push(() => server.close())
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }
})
