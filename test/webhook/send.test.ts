// One attempt against a correct HTTP receiver: responses, reuse, deadlines, permission.
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { createAddressPolicy } from '../../src/webhook/address-policy.ts'
import type { WebhookRequest } from '../../src/webhook/request.ts'
import { createSender, type Sender } from '../../src/webhook/send.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'

const LOCAL = createAddressPolicy({ allowedTargets: [], allowLoopback: true })
const STRICT = createAddressPolicy({ allowedTargets: [], allowLoopback: false })
const DEADLINE_MS = 5_000
/**
 * Machines are noisy. The tests show that an attempt does not keep its slot long after its
 * deadline.
 */
const TOLERANCE_MS = 500

let receiver: Receiver
let sender: Sender
let policy = LOCAL

beforeEach(async () => {
  policy = LOCAL
  receiver = await startReceiver()
  sender = createSender({ connections: 10, policy: () => policy, extraCaCerts: null })
})
afterEach(async () => {
  await sender.close()
  await receiver.close()
})

const request = (url = `${receiver.url}/hook?x=1`, body = '{"a":1.0}'): WebhookRequest => ({
  url,
  headers: ['content-type', 'application/json', 'webhook-id', 'job_1'],
  body: new TextEncoder().encode(body),
})
const send = (url?: string, timeoutMs = DEADLINE_MS) => sender.send(request(url), timeoutMs).ended

describe('an attempt with a response', () => {
  it('has reached the receiver byte for byte, by POST', async () => {
    const body = '{"n": 12345678901234567890, "s":"grüße"}'
    await sender.send(request(undefined, body), DEADLINE_MS).ended
    expect(receiver.requests).toHaveLength(1)
    expect(receiver.requests[0]).toMatchObject({ method: 'POST', path: '/hook?x=1' })
    expect(receiver.requests[0]?.body.toString()).toBe(body)
    expect(receiver.requests[0]?.headers).toMatchObject({
      host: receiver.url.slice('http://'.length),
      'content-type': 'application/json',
      'webhook-id': 'job_1',
      'content-length': String(Buffer.byteLength(body)),
    })
  })

  it('succeeds with the response as its result', async () => {
    receiver.answerWith({ status: 201, body: '{"pages": 3, "id": 12345678901234567890}' })
    const end = await send()
    expect(end).toMatchObject({
      outcome: 'succeeded',
      statusCode: 201,
      errorCode: null,
      message: 'the endpoint responded with 201',
      responseBody: '{"pages": 3, "id": 12345678901234567890}',
      result: '{"pages": 3, "id": 12345678901234567890}',
      resultTruncated: false,
      retryAfterMs: null,
    })
    expect(end.durationMs).toBeGreaterThan(0)
    expect(end.durationMs).toBeLessThan(DEADLINE_MS)
  })

  it('succeeds without a result when the response is empty', async () => {
    receiver.answerWith(204)
    expect(await send()).toMatchObject({ outcome: 'succeeded', statusCode: 204, result: null })
  })

  it('keeps a failing response to look at, but no result', async () => {
    receiver.answerWith({ status: 500, body: '{"error":"disk full"}' })
    expect(await send()).toMatchObject({
      outcome: 'http_error',
      statusCode: 500,
      responseBody: '{"error":"disk full"}',
      result: null,
    })
  })

  it('says how long a throttled endpoint wants to rest', async () => {
    receiver.answerWith({ status: 503, headers: { 'retry-after': '7' } })
    expect(await send()).toMatchObject({ outcome: 'throttled', retryAfterMs: 7_000 })
    const date = new Date(Date.now() + 60_000).toUTCString()
    receiver.answerWith({ status: 429, headers: { 'retry-after': date } })
    const { retryAfterMs } = await send()
    expect(retryAfterMs).toBeGreaterThan(50_000)
    expect(retryAfterMs).toBeLessThanOrEqual(60_000)
  })

  it('never follows a redirect', async () => {
    receiver.answerWith({ status: 307, headers: { location: `${receiver.url}/elsewhere` } })
    expect(await send()).toMatchObject({ outcome: 'http_error', statusCode: 307 })
    expect(receiver.requests).toHaveLength(1)
  })
})

describe('connections', () => {
  it('are reused one request after the other', async () => {
    for (let i = 0; i < 20; i++) expect((await send()).outcome).toBe('succeeded')
    expect(receiver.connectionCount()).toBe(1)
  })

  it('are as many as there are attempts at once, and none waits for another', async () => {
    receiver.answerWith('hang')
    const attempts = Array.from({ length: 30 }, () => sender.send(request(), DEADLINE_MS))
    await receiver.waitFor((requests) => requests.length === 30)
    receiver.answerWith(200)
    expect((await send()).outcome).toBe('succeeded')
    for (const attempt of attempts) attempt.abort('interrupted')
    const ends = await Promise.all(attempts.map(({ ended }) => ended))
    expect(ends.map(({ outcome }) => outcome)).toEqual(Array(30).fill('interrupted'))
  })

  it('that the receiver closes after each response cost no attempt', async () => {
    receiver.answerWith({ status: 200, headers: { connection: 'close' } })
    for (let i = 0; i < 20; i++) expect((await send()).outcome).toBe('succeeded')
    expect(receiver.requests).toHaveLength(20)
  })

  it('that were left idle are closed within seconds', async () => {
    await send()
    expect(receiver.openConnectionCount()).toBe(1)
    await until(() => receiver.openConnectionCount() === 0, 4_000)
    expect((await send()).outcome).toBe('succeeded')
    expect(receiver.connectionCount()).toBe(2)
  })

  it('are kept for reuse only up to the limit', async () => {
    receiver.answerWith({ delayMs: 100 })
    await Promise.all(Array.from({ length: 30 }, () => send()))
    await until(() => receiver.openConnectionCount() <= 10, 900)
  })

  it('opened under a wider policy send nothing under a narrower one', async () => {
    await send()
    policy = STRICT
    expect(await send()).toMatchObject({ outcome: 'blocked', errorCode: 'ADDRESS_REFUSED' })
    expect(receiver.requests).toHaveLength(1)
    expect(receiver.connectionCount()).toBe(1)
    await until(() => receiver.openConnectionCount() === 0)
  })

  it('go on under another policy that allows them too', async () => {
    await send()
    policy = createAddressPolicy({ allowedTargets: ['127.0.0.0/8'], allowLoopback: false })
    expect((await send()).outcome).toBe('succeeded')
    expect(receiver.connectionCount()).toBe(1)
  })
})

describe('the address policy', () => {
  it('blocks a literal address without a connection', async () => {
    policy = STRICT
    expect(await send()).toMatchObject({
      outcome: 'blocked',
      statusCode: null,
      errorCode: 'ADDRESS_REFUSED',
      message: expect.stringContaining('127.0.0.1 is a loopback address (127.0.0.0/8)'),
    })
    expect(receiver.connectionCount()).toBe(0)
  })

  it('blocks a name that resolves to a refused address without a connection', async () => {
    policy = STRICT
    const { port } = new URL(receiver.url)
    for (const scheme of ['http', 'https']) {
      expect(await send(`${scheme}://localhost:${port}/`)).toMatchObject({
        outcome: 'blocked',
        message: expect.stringMatching(/^localhost resolves to \S+, a loopback address/),
      })
    }
    expect(receiver.connectionCount()).toBe(0)
    policy = LOCAL
    expect((await send(`http://localhost:${port}/`)).outcome).toBe('succeeded')
  })

  it('blocks a blocked port', async () => {
    expect(await send('http://127.0.0.1:25/')).toMatchObject({ outcome: 'blocked' })
  })

  it('is asked with the spelling a URL can hide an address in', async () => {
    policy = STRICT
    const { port } = new URL(receiver.url)
    for (const host of ['0x7f.1', '2130706433', '[::ffff:7f00:1]', '127.0.0.1.']) {
      expect((await send(`http://${host}:${port}/`)).outcome).toBe('blocked')
    }
    expect(receiver.connectionCount()).toBe(0)
  })
})

describe('no connection', () => {
  it('is a connect_error when the port is closed', async () => {
    await receiver.close()
    expect(await send()).toMatchObject({ outcome: 'connect_error', errorCode: 'ECONNREFUSED' })
    receiver = await startReceiver()
  })

  it('is a dns_error when the name does not exist', async () => {
    expect(await send('http://no-such-name.invalid/')).toMatchObject({ outcome: 'dns_error' })
  })

  it('is blocked when the URL is none, which no endpoint can have', async () => {
    expect(await send('nowhere')).toMatchObject({ outcome: 'blocked' })
  })
})

describe('ending early', () => {
  it('happens at the deadline, with the response missing', async () => {
    receiver.answerWith('hang')
    const end = await send(undefined, 300)
    expect(end).toMatchObject({
      outcome: 'timeout',
      statusCode: null,
      message: 'no response within 300ms',
    })
    expect(end.durationMs).toBeGreaterThan(290)
    expect(end.durationMs).toBeLessThan(300 + TOLERANCE_MS)
    await until(() => receiver.openConnectionCount() === 0)
  })

  it('does not happen to a response that came while this thread was busy', async () => {
    const server = createServer((_, answer) => {
      answer.end('{}')
      // The response is on its way by then. The deadline passes before the process can read it.
      setImmediate(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 600))
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    onTestFinished(() => void server.close())
    const { port } = server.address() as AddressInfo
    const end = await send(`http://127.0.0.1:${port}/`, 300)
    expect(end).toMatchObject({ outcome: 'succeeded', statusCode: 200 })
    expect(end.durationMs).toBeGreaterThan(300)
  })

  it.each(['interrupted', 'cancelled', 'lost'] as const)('%s ends it at once', async (outcome) => {
    receiver.answerWith('hang')
    const attempt = sender.send(request(), 60_000)
    await receiver.waitFor((requests) => requests.length === 1)
    attempt.abort(outcome)
    attempt.abort('lost')
    const end = await attempt.ended
    expect(end).toMatchObject({ outcome, statusCode: null, result: null })
    expect(end.durationMs).toBeLessThan(DEADLINE_MS)
    await until(() => receiver.openConnectionCount() === 0)
  })

  it('before anything was sent keeps it from being sent', async () => {
    const attempt = sender.send(request(), DEADLINE_MS)
    attempt.abort('cancelled')
    expect((await attempt.ended).outcome).toBe('cancelled')
    expect((await send()).outcome).toBe('succeeded')
    expect(receiver.requests).toHaveLength(1)
  })

  it('changes nothing once it has ended', async () => {
    const attempt = sender.send(request(), DEADLINE_MS)
    const end = await attempt.ended
    attempt.abort('lost')
    expect(await attempt.ended).toBe(end)
    expect(end.outcome).toBe('succeeded')
  })

  it('by closing the sender interrupts what is in flight and leaves no connection', async () => {
    receiver.answerWith('hang')
    const attempts = Array.from({ length: 5 }, () => sender.send(request(), 60_000))
    await receiver.waitFor((requests) => requests.length === 5)
    await sender.close()
    for (const { ended } of attempts) expect((await ended).outcome).toBe('interrupted')
    await until(() => receiver.openConnectionCount() === 0)
  })
})
