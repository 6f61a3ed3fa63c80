// Receivers that behave as badly as possible, on raw sockets. Each leads to an outcome in time, and
// no connection stays open.
import { randomBytes } from 'node:crypto'
import type { Socket } from 'node:net'
import { brotliCompressSync, deflateSync, gzipSync } from 'node:zlib'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createAddressPolicy } from '../../src/webhook/address-policy.ts'
import { type AttemptEnd, createSender, type Sender } from '../../src/webhook/send.ts'
import { until } from '../support/until.ts'
import { type RawServer, startRawServer, writeForEver } from './raw-server.ts'

const POLICY = createAddressPolicy({ allowedTargets: [], allowLoopback: true })
const TIMEOUT_MS = 400
/**
 * An attempt that kept its slot for longer than this after its deadline would take the slot from
 * others.
 */
const TOLERANCE_MS = 500
const PATIENT_MS = 10_000
const REQUEST_HEADERS = ['content-type', 'application/json']

let sender: Sender
let server: RawServer | null

beforeEach(() => {
  server = null
  sender = createSender({ connections: 10, policy: () => POLICY, extraCaCerts: null })
})
afterEach(async () => {
  await sender.close()
  await server?.close()
})

/** Makes one attempt against a server that behaves in this way. */
async function attempt(
  behave: (socket: Socket) => void,
  timeoutMs = PATIENT_MS,
): Promise<AttemptEnd> {
  server ??= await startRawServer(behave)
  return sender.send(
    { url: server.url, headers: REQUEST_HEADERS, body: Buffer.from('1') },
    timeoutMs,
  ).ended
}

async function expectInTime(end: AttemptEnd): Promise<void> {
  expect(end.durationMs).toBeGreaterThan(TIMEOUT_MS - 10)
  expect(end.durationMs).toBeLessThan(TIMEOUT_MS + TOLERANCE_MS)
  await until(() => server?.openCount() === 0)
}

describe('the deadline ends', () => {
  it.each<[string, (socket: Socket) => void]>([
    ['silence', () => {}],
    ['a status line that drips', (socket) => writeForEver(socket, '\r\n', 10)],
    [
      'headers that drip',
      (socket) => {
        socket.write('HTTP/1.1 200 OK\r\nx-drip: ')
        writeForEver(socket, 'x', 10)
      },
    ],
    [
      'interim responses without end',
      (socket) => writeForEver(socket, 'HTTP/1.1 102 Processing\r\n\r\n', 1),
    ],
    [
      'early hints without end',
      (socket) => writeForEver(socket, 'HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n', 1),
    ],
  ])('%s', async (_name, behave) => {
    const end = await attempt(behave, TIMEOUT_MS)
    expect(end).toMatchObject({ outcome: 'timeout', statusCode: null, result: null })
    expect(end.message).toBe('no response within 400ms')
    await expectInTime(end)
  })

  it.each([
    [200, 'succeeded'],
    [422, 'rejected'],
    [500, 'http_error'],
  ])('a body that drips after a %i: what arrived is %s', async (status, outcome) => {
    const end = await attempt((socket) => {
      socket.write(`HTTP/1.1 ${status} Any\r\ncontent-length: 100000\r\n\r\n`)
      writeForEver(socket, 'x', 10)
    }, TIMEOUT_MS)
    expect(end).toMatchObject({ outcome, statusCode: status, result: null })
    expect(end.resultTruncated).toBe(outcome === 'succeeded')
    expect(end.responseBody).toMatch(/^x+$/)
    await expectInTime(end)
  })

  it('a TLS handshake that never comes, and nothing is sent afterwards', async () => {
    server = await startRawServer(() => {})
    const url = `https://127.0.0.1:${server.port}/`
    const end = await sender.send({ url, headers: [], body: Buffer.from('1') }, TIMEOUT_MS).ended
    expect(end).toMatchObject({ outcome: 'timeout', message: 'no connection within 400ms' })
    await expectInTime(end)
    expect(server.connectionCount()).toBe(1)
  })

  it('all of a hundred hanging attempts at once', async () => {
    await startSilentServer()
    const ends = await Promise.all(Array.from({ length: 100 }, () => attempt(() => {}, TIMEOUT_MS)))
    for (const end of ends) {
      expect(end.outcome).toBe('timeout')
      expect(end.durationMs).toBeLessThan(TIMEOUT_MS + TOLERANCE_MS)
    }
    await until(() => server?.openCount() === 0)
  })
})

describe('a 2xx stands', () => {
  it.each([
    ['is cut off', 'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{"a"'],
    [
      'is cut off between chunks',
      'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\n{"a"\r\n',
    ],
    ['breaks its chunks', 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\n{"a"zzz\r\n'],
  ])('when its body %s, with no result', async (_name, answer) => {
    const end = await attempt((socket) => socket.end(answer))
    expect(end).toMatchObject({ outcome: 'succeeded', statusCode: 200, result: null })
    expect(end.responseBody).toMatch(/^\{"a"/)
  })

  it('when the connection is reset in the middle of its body', async () => {
    const end = await attempt((socket) => {
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{"a"')
      setTimeout(() => socket.resetAndDestroy(), 50)
    })
    expect(end).toMatchObject({ outcome: 'succeeded', statusCode: 200, result: null })
  })

  it.each([
    ['interrupted', 'succeeded', 200],
    ['cancelled', 'cancelled', null],
    ['lost', 'lost', null],
  ] as const)('when it is %s during its body: %s', async (reason, outcome, statusCode) => {
    let isFirst = true
    server = await startRawServer((socket) => {
      socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${isFirst ? 10 : 4}\r\n\r\n{"a"`)
      isFirst = false
    })
    const request = { url: server.url, headers: REQUEST_HEADERS, body: Buffer.from('1') }
    const first = sender.send(request, PATIENT_MS)
    await until(() => server?.received().includes('POST') === true)
    // The response to the second request came after that to the first, so the status of the first
    // has arrived, too.
    await sender.send(request, PATIENT_MS).ended
    first.abort(reason)
    expect(await first.ended).toMatchObject({ outcome, statusCode, result: null })
  })
})

describe('no response at all', () => {
  it.each<[string, (socket: Socket) => void]>([
    ['closed at once', (socket) => socket.end()],
    ['reset at once', (socket) => socket.resetAndDestroy()],
    ['closed in the middle of the headers', (socket) => socket.end('HTTP/1.1 200 OK\r\nx: ')],
  ])('is a connect_error: %s', async (_name, behave) => {
    const end = await attempt(behave)
    expect(end).toMatchObject({ outcome: 'connect_error', statusCode: null })
    expect(end.errorCode).toMatch(/^(ECONNRESET|UND_ERR_SOCKET)$/)
    expect(end.message).toContain('closed the connection before it responded')
  })

  it.each<[string, string]>([
    ['garbage', 'hello, I am not HTTP\r\n'],
    ['another protocol', 'SSH-2.0-OpenSSH_9.6\r\n'],
    ['binary', '\x16\x03\x01\x00\x00'],
    ['a status that is no number', 'HTTP/1.1 abc OK\r\n\r\n'],
    ['a header without a colon', 'HTTP/1.1 200 OK\r\nnonsense\r\n\r\n'],
    ['two lengths', 'HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab'],
    [
      'length and chunks',
      'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n',
    ],
    [
      'an upgrade that was not requested',
      'HTTP/1.1 101 Switch\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n',
    ],
    ['a switch that names no protocol', 'HTTP/1.1 101 X\r\n\r\n'],
    [
      'a switch that names no protocol, before a response',
      'HTTP/1.1 101 X\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n',
    ],
    ['a status below 100', 'HTTP/1.1 099 No\r\ncontent-length: 0\r\n\r\n'],
    ['a status of 000', 'HTTP/1.1 000 No\r\n\r\n'],
    ['headers over 16 KiB', `HTTP/1.1 200 OK\r\nx: ${'x'.repeat(17 * 1_024)}\r\n\r\n`],
    ['many headers over 16 KiB', `HTTP/1.1 200 OK\r\n${'a: bcdefgh\r\n'.repeat(2_500)}\r\n`],
  ])('but bytes that are not HTTP is a protocol_error: %s', async (_name, bytes) => {
    const end = await attempt((socket) => socket.write(bytes, 'latin1'))
    expect(end).toMatchObject({ outcome: 'protocol_error', statusCode: null, result: null })
    expect(end.errorCode).not.toBeNull()
    await until(() => server?.openCount() === 0)
  })

  it('but headers without end is a protocol_error, long before the deadline', async () => {
    const end = await attempt((socket) => {
      socket.write('HTTP/1.1 200 OK\r\n')
      writeForEver(socket, `x: ${'x'.repeat(1_000)}\r\n`, 1)
    })
    expect(end).toMatchObject({ outcome: 'protocol_error', errorCode: 'UND_ERR_HEADERS_OVERFLOW' })
  })
})

describe('an odd response is still a response', () => {
  it('when it has no end: 64 KiB are read, then the connection is dropped', async () => {
    let sentBytes = 0
    const end = await attempt((socket) => {
      const chunk = Buffer.alloc(16 * 1_024, 'x')
      socket.write('HTTP/1.1 200 OK\r\n\r\n')
      function pour(): void {
        while (!socket.destroyed && socket.write(chunk)) sentBytes += chunk.length
      }
      socket.on('drain', pour)
      pour()
    })
    expect(end).toMatchObject({ outcome: 'succeeded', result: null, resultTruncated: true })
    expect(end.responseBody).toBe('x'.repeat(4_096))
    await until(() => server?.openCount() === 0)
    // The limit is the size of the buffers of the system, not of the response.
    expect(sentBytes).toBeLessThan(32 * 1_048_576)
  })

  it('when it announces a gigabyte', async () => {
    const end = await attempt((socket) => {
      socket.write('HTTP/1.1 500 No\r\ncontent-length: 1073741824\r\n\r\n')
      writeForEver(socket, 'x'.repeat(10_000), 1)
    })
    expect(end).toMatchObject({ outcome: 'http_error', statusCode: 500, resultTruncated: false })
    await until(() => server?.openCount() === 0)
  })

  it.each([
    ['gzip', gzipSync],
    ['x-gzip', gzipSync],
    ['GZIP', gzipSync],
    ['deflate', deflateSync],
    ['br', brotliCompressSync],
  ])('when it is compressed, which was not asked for: %s', async (encoding, compress) => {
    const text = JSON.stringify({ text: 'grüße '.repeat(5_000) })
    const end = await attempt((socket) => answerWith(socket, encoding, compress(text)))
    expect(end).toMatchObject({ outcome: 'succeeded', result: text, resultTruncated: false })
    expect(end.responseBody).toBe(text.slice(0, end.responseBody?.length))
  })

  it.each([
    ['gzip', gzipSync],
    ['br', brotliCompressSync],
  ])('when it is a bomb of %s: no more is unpacked than is kept', async (encoding, compress) => {
    const bomb = compress('x'.repeat(30_000_000))
    const end = await attempt((socket) => answerWith(socket, encoding, bomb))
    expect(end).toMatchObject({ outcome: 'succeeded', result: null, resultTruncated: true })
    expect(end.responseBody ?? '').toMatch(/^x*$/)
  })

  it('when it is not compressed as it says: it is taken as it came', async () => {
    for (const encoding of ['gzip', 'br', 'deflate', 'zstd', 'gzip, gzip', '__proto__']) {
      const end = await attempt((socket) => answerWith(socket, encoding, Buffer.from('{"a":1}')))
      expect(end, encoding).toMatchObject({ outcome: 'succeeded', result: '{"a":1}' })
      await server?.close()
      server = null
    }
  })

  it.each([
    ['gzip', gzipSync],
    ['deflate', deflateSync],
    ['br', brotliCompressSync],
  ])('when its stream of %s has no end, though its length is right', async (encoding, compress) => {
    const whole = compress(`{"a":"${'x'.repeat(300)}${randomBytes(300).toString('hex')}"}`)
    for (const missing of [1, 12, 300]) {
      const cut = whole.subarray(0, whole.length - missing)
      const end = await attempt((socket) => answerWith(socket, encoding, cut))
      const wanted = { outcome: 'succeeded', result: null, resultTruncated: true }
      expect(end, `${missing} bytes`).toMatchObject(wanted)
      expect(end.responseBody, `${missing} bytes`).toMatch(/^\{"a":"x{250}/)
      await server?.close()
      server = null
    }
  })

  it('when its compressed body is cut off: what came of it is shown', async () => {
    const zipped = gzipSync('x'.repeat(10_000) + randomBytes(10_000).toString('hex'))
    const end = await attempt((socket) => {
      answerWith(socket, 'gzip', zipped, zipped.length / 2)
      socket.end()
    })
    expect(end).toMatchObject({ outcome: 'succeeded', result: null, resultTruncated: true })
    expect(end.responseBody).toBe('x'.repeat(4_096))
  })

  it.each([
    ['UTF-8', Buffer.from('\ufeff{"a":"ü"}')],
    ['UTF-16, little end first', Buffer.from('\ufeff{"a":"ü"}', 'utf16le')],
    ['UTF-16, big end first', Buffer.from('\ufeff{"a":"ü"}', 'utf16le').swap16()],
    ['UTF-8, compressed', gzipSync('\ufeff{"a":"ü"}')],
  ])('when it begins with a byte order mark: %s', async (name, bytes) => {
    const encoding = name.includes('compressed') ? 'gzip' : 'identity'
    const end = await attempt((socket) => answerWith(socket, encoding, bytes))
    expect(end).toMatchObject({ result: '{"a":"ü"}', responseBody: '{"a":"ü"}' })
  })

  it('when interim responses come before it', async () => {
    const end = await attempt((socket) => {
      socket.write('HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n')
      socket.write('HTTP/1.1 201 Created\r\ncontent-length: 1\r\n\r\n7')
    })
    expect(end).toMatchObject({ outcome: 'succeeded', statusCode: 201, result: '7' })
  })

  it('when it ends with the connection, as in HTTP/1.0', async () => {
    const end = await attempt((socket) => socket.end('HTTP/1.0 200 OK\r\n\r\n{"a":1}'))
    expect(end).toMatchObject({ outcome: 'succeeded', result: '{"a":1}' })
  })

  it('when it comes before the request was read, and the connection is closed', async () => {
    server = await startRawServer((socket) => socket.end('HTTP/1.1 413 Too Large\r\n\r\n'))
    const body = Buffer.alloc(1_000)
    const { ended } = sender.send({ url: server.url, headers: [], body }, PATIENT_MS)
    expect(await ended).toMatchObject({ outcome: 'rejected', statusCode: 413 })
  })

  it('when a second one follows unasked: it is never taken for another’s', async () => {
    const answer = (text: string) => `HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n${text}`
    expect((await attempt((socket) => socket.write(answer('1') + answer('2')))).result).toBe('1')
    expect((await attempt(() => {})).result).toBe('1')
    expect(server?.connectionCount()).toBe(2)
  })
})

function answerWith(socket: Socket, encoding: string, body: Buffer, sent = body.length): void {
  const length = `content-length: ${body.length}`
  socket.write(`HTTP/1.1 200 OK\r\ncontent-encoding: ${encoding}\r\n${length}\r\n\r\n`)
  socket.write(body.subarray(0, sent))
}

async function startSilentServer(): Promise<void> {
  server = await startRawServer(() => {})
}
