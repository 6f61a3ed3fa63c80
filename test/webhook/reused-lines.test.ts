// Connections that are used again: no request gets the response of another, and a request is sent
// again only if that is safe.
import type { Socket } from 'node:net'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createAddressPolicy } from '../../src/webhook/address-policy.ts'
import { createSender, type Sender } from '../../src/webhook/send.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'
import { type RawServer, startRawServer } from './raw-server.ts'

const POLICY = createAddressPolicy({ allowedTargets: [], allowLoopback: true })
const PATIENT_MS = 10_000

let sender: Sender
let server: RawServer | Receiver | null

beforeEach(() => {
  server = null
  sender = createSender({ connections: 10, policy: () => POLICY, extraCaCerts: null })
})
afterEach(async () => {
  await sender.close()
  await server?.close()
})

const send = (url: string, body: string | Buffer = '1', timeoutMs = PATIENT_MS) =>
  sender.send({ url, headers: [], body: Buffer.from(body) }, timeoutMs).ended

const answer = (body: string, more = '') =>
  `HTTP/1.1 200 OK\r\n${more}content-length: ${body.length}\r\n\r\n${body}`

/** A receiver that responds to each request on a connection with its number, from 1. */
async function startByNumber(
  reply: (socket: Socket, request: number, connection: number) => void,
): Promise<RawServer> {
  let connections = 0
  const raw = await startRawServer((socket) => {
    const connection = ++connections
    let request = 1
    reply(socket, request, connection)
    socket.on('data', (bytes) => bytes.includes('POST ') && reply(socket, ++request, connection))
  })
  server = raw
  return raw
}

describe('endpoints of one origin', () => {
  it('each get their own responses, though some come late, too late or cut off', async () => {
    const receiver = await startReceiver(async ({ path, body }) => {
      const delayMs = Number(path.slice('/delay-'.length))
      const isCut = body.toString().endsWith('0')
      const headers: Record<string, string> = isCut ? { connection: 'close' } : {}
      return { headers, body: JSON.stringify(`${path} ${body}`), delayMs }
    })
    server = receiver
    const late: string[] = []
    async function lane(delayMs: number, timeoutMs: number): Promise<void> {
      for (let i = 0; i < 12; i++) {
        const path = `/delay-${delayMs}`
        const end = await send(receiver.url + path, String(i), timeoutMs)
        if (end.outcome === 'timeout') late.push(path)
        else expect(end.result).toBe(JSON.stringify(`${path} ${i}`))
      }
    }
    // The senders of the last two give up before their response comes, or at the same time.
    await Promise.all([
      ...[0, 0, 1, 2, 5, 10].map((delayMs) => lane(delayMs, PATIENT_MS)),
      lane(1_000, 20),
      lane(20, 20),
    ])
    expect(late.filter((path) => path === '/delay-1000')).toHaveLength(12)
    expect(late).not.toContain('/delay-10')
    expect(receiver.connectionCount()).toBeLessThan(8 * 12)
  })

  it.each(['timeout', 'cancelled', 'interrupted', 'lost'] as const)(
    'are not sent an attempt again that ended on a kept connection as %s',
    async (outcome) => {
      const receiver = await startReceiver((_, index) => (index === 1 ? 'hang' : 200))
      server = receiver
      await send(receiver.url)
      const isTimeout = outcome === 'timeout'
      const sending = sender.send(
        { url: receiver.url, headers: [], body: Buffer.from('the one') },
        isTimeout ? 200 : PATIENT_MS,
      )
      await receiver.waitFor((requests) => requests.length === 2)
      if (!isTimeout) sending.abort(outcome)
      expect(await sending.ended).toMatchObject({ outcome, isResent: false })
      // Everything that a second request would need is there: the connection was kept, and is
      // closed by now.
      await until(() => receiver.openConnectionCount() === 0)
      expect((await send(receiver.url, 'another')).outcome).toBe('succeeded')
      expect(receiver.connectionCount()).toBe(2)
      expect(receiver.requests.map(({ body }) => body.toString())).toEqual([
        '1',
        'the one',
        'another',
      ])
    },
  )

  it('are not given a response that came before anything was asked', async () => {
    const raw = await startByNumber((socket, request, connection) => {
      socket.write(answer(`${connection}.${request}`))
      // Sends a response that was not requested, after the connection was released.
      setTimeout(() => socket.write(answer('"poison"')), 20)
    })
    expect((await send(`${raw.url}a`)).result).toBe('1.1')
    await until(() => raw.openCount() === 0)
    expect((await send(`${raw.url}b`)).result).toBe('2.1')
  })
})

describe('a connection that the receiver closes silently', () => {
  it('while it is idle costs nothing: the next attempt has a new one', async () => {
    const raw = await startByNumber((socket, _request, connection) => {
      socket.write(answer(String(connection)))
      setTimeout(() => socket.end(), 10)
    })
    for (let i = 1; i <= 5; i++) {
      expect(await send(raw.url)).toMatchObject({ outcome: 'succeeded', result: String(i) })
      await until(() => raw.openCount() === 0)
    }
  })

  it.each([
    ['closed', (socket: Socket) => socket.end()],
    ['reset', (socket: Socket) => socket.resetAndDestroy()],
  ])('just when a request comes costs nothing: %s, it is sent once more', async (_how, hangUp) => {
    const raw = await startByNumber((socket, request) => {
      if (request === 1) socket.write(answer('1'))
      else hangUp(socket)
    })
    expect(await send(raw.url, 'first')).toMatchObject({ outcome: 'succeeded', isResent: false })
    expect(await send(raw.url, 'second')).toMatchObject({
      ...{ outcome: 'succeeded', statusCode: 200, isSent: true, isResent: true },
    })
    expect(raw.received().match(/second/g)).toHaveLength(2)
    expect(raw.connectionCount()).toBe(2)
  })

  it('again, also when it is new, is a connect_error: nothing is sent a third time', async () => {
    const raw = await startByNumber((socket, request, connection) => {
      if (connection === 1 && request === 1) socket.write(answer('1'))
      else socket.destroy()
    })
    expect((await send(raw.url, 'first')).outcome).toBe('succeeded')
    expect(await send(raw.url, 'second')).toMatchObject({
      ...{ outcome: 'connect_error', statusCode: null, isResent: true },
    })
    expect(raw.received().match(/second/g)).toHaveLength(2)
    expect(await send(raw.url, 'third')).toMatchObject({
      outcome: 'connect_error',
      isResent: false,
    })
    expect(raw.received().match(/third/g)).toHaveLength(1)
  })

  it.each([
    ['the first byte of an answer', 'H'],
    ['an interim response', 'HTTP/1.1 102 Processing\r\n\r\n'],
  ])('after %s is a connect_error: the request was seen', async (_what, bytes) => {
    const raw = await startByNumber((socket, request) => {
      if (request === 1) socket.write(answer('1'))
      else socket.end(bytes)
    })
    expect((await send(raw.url, 'first')).outcome).toBe('succeeded')
    expect(await send(raw.url, 'second')).toMatchObject({
      ...{ outcome: 'connect_error', isResent: false },
    })
    expect(raw.received().match(/second/g)).toHaveLength(1)
  })

  it('gives the second sending no more time than was left', async () => {
    const raw = await startByNumber((socket, request, connection) => {
      if (connection === 1 && request === 1) socket.write(answer('1'))
      else if (connection === 1) setTimeout(() => socket.destroy(), 900)
    })
    expect((await send(raw.url)).outcome).toBe('succeeded')
    const end = await send(raw.url, 'second', 1_000)
    expect(end).toMatchObject({ outcome: 'timeout', message: 'no response within 1s' })
    expect(raw.received().match(/second/g)).toHaveLength(2)
    expect(end.durationMs).toBeLessThan(1_800)
  })

  it('with a word about it, or naming no time at all, is not used again', async () => {
    for (const header of ['connection: close\r\n', 'keep-alive: timeout=0\r\n']) {
      await server?.close()
      const raw = await startByNumber((socket) => socket.write(answer('1', header)))
      for (let i = 1; i <= 3; i++) {
        expect((await send(raw.url)).outcome).toBe('succeeded')
        expect(raw.connectionCount()).toBe(i)
      }
    }
  })
})

describe('a response before the request had left', () => {
  it('stands, and the next attempt does not wait behind what was never read', async () => {
    const raw = await startRawServer((socket) => {
      // The buffers of the server, the sender and the system are full long before the end of the
      // request.
      socket.pause()
      socket.write(answer('7'))
    })
    server = raw
    const large = Buffer.alloc(8 * 1_048_576, 'x')
    for (let i = 1; i <= 3; i++) {
      expect(await send(raw.url, large)).toMatchObject({ outcome: 'succeeded', result: '7' })
      expect(raw.connectionCount()).toBe(i)
    }
  })

  it.each([413, 500])('and the end of the connection: the %i is heard', async (status) => {
    const raw = await startRawServer((socket) => {
      socket.write(`HTTP/1.1 ${status} No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`)
      // A reset, because of unread input, may overtake the response.
      setTimeout(() => socket.destroy(), 100)
      socket.pause()
    })
    server = raw
    const end = await send(raw.url, Buffer.alloc(1_000_000, 'x'))
    expect(end).toMatchObject({ statusCode: status })
  })
})

describe('interim responses', () => {
  it('that fill the line are a protocol_error at once, and others do not wait for it', async () => {
    const flood = 'HTTP/1.1 102 Processing\r\n\r\n'.repeat(2_000)
    const raw = await startRawServer((socket) => {
      const pour = () => {
        while (!socket.destroyed && socket.write(flood));
      }
      socket.on('drain', pour)
      pour()
    })
    server = raw
    const ends = await Promise.all(Array.from({ length: 5 }, () => send(raw.url)))
    for (const end of ends) {
      expect(end).toMatchObject({
        outcome: 'protocol_error',
        errorCode: 'INTERIM_ANSWERS_OVERFLOW',
        statusCode: null,
      })
      expect(end.durationMs).toBeLessThan(PATIENT_MS / 2)
    }
    await until(() => raw.openCount() === 0)
  })

  it('as many as a patient handler may send are waited through, on a used line too', async () => {
    const long = JSON.stringify('x'.repeat(60_000))
    const hints = 'HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n'.repeat(500)
    const raw = await startByNumber((socket) => socket.write(hints + answer(long)))
    for (let i = 0; i < 5; i++) {
      expect(await send(raw.url)).toMatchObject({ outcome: 'succeeded', result: long })
    }
    expect(raw.connectionCount()).toBe(1)
  })
})

describe('a request whose lease has ended', () => {
  const startAnswering = () =>
    startByNumber((socket, request) => {
      if (request === 1) socket.write(answer('1'))
      else socket.destroy()
    })
  const request = (raw: RawServer, body: string) => ({
    ...{ url: raw.url, headers: [], body: Buffer.from(body) },
  })

  it('by the time its new connection is ready is not sent', async () => {
    const raw = await startAnswering()
    let looks = 0
    const { ended } = sender.send(request(raw, 'late'), PATIENT_MS, () => {
      looks += 1
      return false
    })
    expect(looks).toBe(0)
    expect(await ended).toMatchObject({
      ...{ outcome: 'lost', isSent: false, isResent: false, statusCode: null },
      message: 'the lease expired before the request could be sent',
    })
    await until(() => raw.openCount() === 0)
    expect(looks).toBe(1)
    expect(raw.received()).toBe('')
  })

  it('by the time its kept connection is ready is not sent', async () => {
    const raw = await startAnswering()
    expect((await send(raw.url, 'first')).outcome).toBe('succeeded')
    let mayLeave = true
    const { ended } = sender.send(request(raw, 'late'), PATIENT_MS, () => mayLeave)
    mayLeave = false
    expect(await ended).toMatchObject({ outcome: 'lost', isSent: false })
    await until(() => raw.openCount() === 0)
    expect(raw.connectionCount()).toBe(1)
    expect(raw.received()).not.toContain('late')
  })

  it('when its kept connection died is not sent once more', async () => {
    const raw = await startAnswering()
    expect((await send(raw.url, 'first')).outcome).toBe('succeeded')
    let looks = 0
    const { ended } = sender.send(request(raw, 'second'), PATIENT_MS, () => ++looks === 1)
    expect(await ended).toMatchObject({ outcome: 'lost', isSent: true, isResent: true })
    await until(() => raw.openCount() === 0)
    expect(raw.received().match(/second/g)).toHaveLength(1)
  })
})

describe('after the body', () => {
  it.each([
    ['trailers without end', '0\r\n', `x: ${'x'.repeat(1_000)}\r\n`],
    ['the extension of a chunk without end', '1;', 'x'.repeat(1_000)],
  ])('%s do not undo a 2xx, and cost no more than the deadline', async (_name, first, more) => {
    const raw = await startRawServer((socket) => {
      socket.write(`HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n7\r\n${first}`)
      const timer = setInterval(() => socket.write(more), 1)
      socket.on('close', () => clearInterval(timer))
    })
    server = raw
    const end = await send(raw.url, '1', 300)
    expect(end).toMatchObject({ outcome: 'succeeded', statusCode: 200, result: null })
    expect(end.responseBody).toBe('7')
    await until(() => raw.openCount() === 0)
  })
})
