// How calls are sent, retried, given up and reported, against a server with prepared responses.

import dns from 'node:dns'
import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import { afterEach, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { type ClientOptions, Posthorn } from '../../src/client/client.ts'
import { startFarReceiver } from '../support/far-receiver.ts'
import { type Receiver, type Reply, startReceiver } from '../support/receiver.ts'
import { errorOf, OK, problem, UNAVAILABLE } from './answering.ts'

let server: Receiver
let posthorn: Posthorn
beforeEach(async () => {
  server = await startReceiver(OK)
  posthorn = client()
})
afterEach(() => server.close())

const client = (options: Partial<ClientOptions> = {}) =>
  new Posthorn({ url: server.url, key: 'a-key-of-24-characters-00', ...options })

/** A port on which nothing listens. */
async function closedPort(): Promise<number> {
  const listening = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => listening.once('listening', resolve))
  const { port } = listening.address() as AddressInfo
  await new Promise((resolve) => listening.close(resolve))
  return port
}

describe('a server a second away, with an IPv6 address too', () => {
  it('is reached where there is no IPv6', async () => {
    const far = await startFarReceiver()
    const { lookup } = dns
    // The address that responds comes first. The time limit of an address applies to it, because
    // another address follows.
    const both = [
      { address: '127.0.0.1', family: 4 },
      { address: '::1', family: 6 },
    ]
    dns.lookup = ((_name: string, _options: object, done: (...given: unknown[]) => void) =>
      setImmediate(done, null, both)) as unknown as typeof lookup
    try {
      const one = client({ url: `http://jobs.example.com:${far.port}`, maxTries: 1 })
      expect((await errorOf(one.stats())).detail).toContain('{"far":true}')
    } finally {
      dns.lookup = lookup
      await far.close()
    }
  })
})

describe('a request', () => {
  it('carries the key and JSON', async () => {
    await posthorn.enqueue({ endpoint: 'invoice-pdf', payload: { invoice: 42 }, delay: '5s' })
    const [request] = server.requests
    expect(request).toMatchObject({ method: 'POST', path: '/jobs' })
    expect(request?.headers).toMatchObject({
      authorization: 'Bearer a-key-of-24-characters-00',
      'content-type': 'application/json',
      'idempotency-key': expect.stringMatching(/^[0-9a-f-]{36}$/),
    })
    expect(JSON.parse(String(request?.body))).toEqual({
      endpoint: 'invoice-pdf',
      delay: '5s',
      payload: { invoice: 42 },
    })
  })

  it('goes below the path of the url, and carries no key when there is none', async () => {
    await client({ url: `${server.url}/posthorn/`, key: undefined }).get('job_1')
    expect(server.requests[0]).toMatchObject({ path: '/posthorn/jobs/job_1' })
    expect(server.requests[0]?.headers.authorization).toBeUndefined()
  })

  it('cannot be led to another path by an id', async () => {
    await posthorn.get('../endpoints/x?y#z')
    expect(server.requests[0]?.path).toBe('/jobs/..%2Fendpoints%2Fx%3Fy%23z')
    for (const id of ['', '.', '..']) {
      await expect(posthorn.get(id)).rejects.toThrow(TypeError)
      await expect(posthorn.endpoints.pause(id)).rejects.toThrow(TypeError)
    }
  })

  it('goes through the fetch that is given', async () => {
    const urls: string[] = []
    const own: typeof fetch = (url, init) => {
      urls.push(String(url))
      return fetch(url, init)
    }
    await client({ fetch: own }).get('job_1')
    expect(urls).toEqual([`${server.url}/jobs/job_1`])
  })

  it('is never made with options that cannot work, and a key is not printed', () => {
    const wrong: Partial<ClientOptions>[] = [
      { url: 'jobs.example.com' },
      { url: 'ftp://jobs.example.com' },
      { url: 'https://user:secret@jobs.example.com' },
      { url: 'https://jobs.example.com/?tenant=a' },
      { url: 'https://jobs.example.com/#' },
      { key: '' },
      { key: 'secret with spaces' },
      { timeoutMs: 0 },
      { timeoutMs: Number.NaN },
      { maxTries: 0 },
    ]
    for (const options of wrong) {
      expect(() => client(options)).toThrow(TypeError)
      expect(() => client(options)).not.toThrow(/secret/)
    }
  })
})

describe('a payload', () => {
  const sent = () => String(server.requests[0]?.body)

  it('that is raw goes out as it stands, as text or as bytes', async () => {
    const raw = '{"n": 12345678901234567890, "total": 1.0, "who": "Zoë 🐎"}'
    await posthorn.enqueue({ endpoint: 'a', rawPayload: raw })
    expect(sent()).toBe(`{"endpoint":"a","payload":${raw}}`)
    await posthorn.enqueue({ endpoint: 'a', rawPayload: Buffer.from(raw) })
    expect(String(server.requests[1]?.body)).toBe(sent())
  })

  it('that is raw can add no field', async () => {
    const wrong = ['1,"priority":9', '1}', '', '{"a":1', '\ufeff1', '"\ud800"', 'undefined']
    const bytes = [Buffer.from([0x22, 0xff, 0x22]), Buffer.from('\ufeff1')]
    for (const rawPayload of [...wrong, ...bytes]) {
      await expect(posthorn.enqueue({ endpoint: 'a', rawPayload })).rejects.toThrow(TypeError)
    }
    expect(server.requests).toHaveLength(0)
  })

  it('must be there, once, as JSON', async () => {
    // biome-ignore lint/suspicious/noExplicitAny: what a caller without types may give
    const wrong: any[] = [{}, { payload: undefined }, { payload: () => 1 }, { payload: 1n }]
    for (const one of [...wrong, { payload: 1, rawPayload: '1' }]) {
      await expect(posthorn.enqueue({ endpoint: 'a', ...one })).rejects.toThrow(TypeError)
    }
    await posthorn.enqueue({ endpoint: 'a', payload: null })
    expect(sent()).toBe('{"endpoint":"a","payload":null}')
  })
})

describe('a refusal', () => {
  it('is thrown with all that the response says', async () => {
    const errors = [{ path: '/priority', message: 'too big' }]
    server.answerWith(problem(400, 'invalid_request', { errors }))
    const error = await errorOf(posthorn.enqueue({ endpoint: 'a', payload: 1 }))
    expect(error).toMatchObject({
      name: 'PosthornError',
      code: 'invalid_request',
      status: 400,
      detail: 'it is invalid_request',
      requestId: 'r-1',
      errors,
    })
    expect(error.message).toBe('invalid_request: it is invalid_request\n  /priority: too big')
    expect(server.requests).toHaveLength(1)
  })

  it('by something that is not Posthorn says so', async () => {
    const strange: Reply[] = [
      { status: 200, body: '<html>Log in</html>' },
      { status: 302, headers: { location: '/login' }, body: '' },
      { status: 404, body: 'no such page' },
      { status: 400, body: '{"error":"x"}' },
    ]
    for (const reply of strange) {
      server.answerWith(reply)
      const error = await errorOf(posthorn.get('job_1'))
      expect(error.code).toBe('unexpected_answer')
      expect(error.message).toContain('GET /jobs/job_1 got a ')
    }
    expect(server.requests).toHaveLength(strange.length)
  })
})

describe('a call that does no harm twice', () => {
  it('is repeated after 503 with the same key, and no sooner than was asked', async () => {
    const busy = problem(503, 'overloaded', {}, { 'retry-after': '1' })
    server.answerWith([busy, UNAVAILABLE, OK])
    const { id } = await posthorn.enqueue({ endpoint: 'a', payload: 1 })
    expect(id).toBe('job_1')
    const [first, second, third] = server.requests
    expect(new Set(server.requests.map((one) => one.headers['idempotency-key'])).size).toBe(1)
    expect((second?.atMs ?? 0) - (first?.atMs ?? 0)).toBeGreaterThanOrEqual(1_000)
    // UNAVAILABLE has Retry-After: 0. The second pause is 200 to 400 ms nevertheless.
    expect((third?.atMs ?? 0) - (second?.atMs ?? 0)).toBeGreaterThanOrEqual(195)
    expect(third?.body).toEqual(first?.body)
  })

  it('is given up after so many tries, with the last response', async () => {
    server.answerWith(UNAVAILABLE)
    const error = await errorOf(client({ maxTries: 2 }).get('job_1'))
    expect(error).toMatchObject({ code: 'store_unavailable', status: 503 })
    expect(server.requests).toHaveLength(2)
  })

  it('is not repeated when more patience is asked for than a caller has', async () => {
    server.answerWith(problem(503, 'overloaded', {}, { 'retry-after': '3600' }))
    const error = await errorOf(posthorn.get('job_1'))
    expect(error.retryAfterMs).toBe(3_600_000)
    expect(server.requests).toHaveLength(1)
  })

  it('understands a Retry-After that is a date', async () => {
    const date = new Date(Date.now() + 3_600_000).toUTCString()
    server.answerWith(problem(503, 'overloaded', {}, { 'retry-after': date }))
    const { retryAfterMs } = await errorOf(posthorn.get('job_1'))
    expect(retryAfterMs).toBeGreaterThan(3_500_000)
  })

  it('is repeated when no response comes, or something before Posthorn says 502 or 504', async () => {
    server.answerWith(['hang', 502, 504, OK])
    const patient = client({ timeoutMs: 300 })
    expect(await patient.get('job_1')).toMatchObject({ id: 'job_1' })
    expect(server.requests).toHaveLength(4)
  })

  it('is repeated when the connection fails, and says why at last', async () => {
    const port = await closedPort()
    const error = await errorOf(client({ url: `http://127.0.0.1:${port}` }).get('job_1'))
    expect(error).toMatchObject({ code: 'connection_failed', status: null, requestId: null })
    expect(error.message).toMatch(/GET \/jobs\/job_1 could not be sent: .*ECONNREFUSED/)
  })

  it.each([
    ['closes the connection', ''],
    ['sends half a body', 'HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"id":'],
    ['sends what is not HTTP', 'SSH-2.0-OpenSSH_9.6\r\n'],
  ])('got no complete response from a server that reads it and %s', async (_, answer) => {
    let count = 0
    const cutting = createServer((socket) => {
      socket.on('error', () => {})
      socket.once('data', () => {
        count++
        socket.end(answer)
      })
    }).listen(0, '127.0.0.1')
    onTestFinished(() => void cutting.close())
    await new Promise((resolve) => cutting.once('listening', resolve))
    const url = `http://127.0.0.1:${(cutting.address() as AddressInfo).port}`
    const error = await errorOf(client({ url, maxTries: 2 }).get('job_1'))
    expect([error.code, error.status, count]).toEqual(['connection_failed', null, 2])
    expect(error.message).toMatch(/GET \/jobs\/job_1 got no complete response: ./)
    expect(error.message).not.toContain('could not be sent')
  })

  it('removes what an earlier try may have removed', async () => {
    server.answerWith([UNAVAILABLE, problem(404, 'job_not_found')])
    await posthorn.remove('job_1')
    server.answerWith(problem(404, 'job_not_found'))
    expect((await errorOf(posthorn.remove('job_1'))).code).toBe('job_not_found')
  })
})

describe('a call that may do harm twice is sent once', () => {
  const SCHEDULE = { every: '1h', endpoint: 'a', payload: 1 }
  const calls: Record<string, () => Promise<unknown>> = {
    retry: () => posthorn.retry('job_1'),
    retryMany: () => posthorn.retryMany({ endpoint: 'a' }),
    edit: () => posthorn.edit('job_1', { priority: 9 }),
    copy: () => posthorn.copy('job_1'),
    claim: () => posthorn.claim('a'),
    'endpoints.put of a version': () =>
      posthorn.endpoints.put('a', { url: null }, { ifVersion: 1 }),
    'endpoints.put of a new one': () =>
      posthorn.endpoints.put('a', { url: null }, { ifAbsent: true }),
    'schedules.put of a new one': () => posthorn.schedules.put('a', SCHEDULE, { ifAbsent: true }),
    'schedules.run': () => posthorn.schedules.run('a'),
    'endpoints.rotateSecret': () => posthorn.endpoints.rotateSecret('a'),
  }
  it.each(Object.keys(calls))('%s', async (name) => {
    server.answerWith(UNAVAILABLE)
    const error = await errorOf((calls[name] as () => Promise<unknown>)())
    expect(error.code).toBe('store_unavailable')
    expect(server.requests).toHaveLength(1)
  })
})

describe('an aborted signal', () => {
  it('ends a call at once, with its reason, and nothing is repeated', async () => {
    server.answerWith('hang')
    const abort = new AbortController()
    const reason = new Error('the user has left')
    const outcome = posthorn.enqueue({ endpoint: 'a', payload: 1 }, { signal: abort.signal })
    await server.waitFor((requests) => requests.length === 1)
    const once = posthorn.claim('a', { signal: abort.signal })
    await server.waitFor((requests) => requests.length === 2)
    abort.abort(reason)
    await expect(outcome).rejects.toBe(reason)
    await expect(once).rejects.toBe(reason)
    expect(server.requests).toHaveLength(2)
  })

  it('ends the pause before a repeat', async () => {
    server.answerWith(problem(503, 'overloaded', {}, { 'retry-after': '20' }))
    const abort = new AbortController()
    const outcome = posthorn.get('job_1', { signal: abort.signal })
    await server.waitFor((requests) => requests.length === 1)
    abort.abort()
    await expect(outcome).rejects.toMatchObject({ name: 'AbortError' })
  })

  it('that was aborted before sends nothing', async () => {
    const signal = AbortSignal.abort()
    await expect(posthorn.wait('job_1', { signal })).rejects.toMatchObject({ name: 'AbortError' })
    await expect(posthorn.list({}, { signal }).next()).rejects.toMatchObject({ name: 'AbortError' })
    expect(server.requests).toHaveLength(0)
  })
})
