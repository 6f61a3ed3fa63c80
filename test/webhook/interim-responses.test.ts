// Interim responses that were not requested are read and ignored, in any form.
import { once } from 'node:events'
import { createServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { createAddressPolicy } from '../../src/webhook/address-policy.ts'
import { createSender } from '../../src/webhook/send.ts'
import { until } from '../support/until.ts'
import { openCertificateRoom } from './certificates.ts'
import { type RawServer, startRawServer } from './raw-server.ts'

const POLICY = createAddressPolicy({ allowedTargets: [], allowLoopback: true })
const PATIENT_MS = 10_000
const ATTEMPTS = 30
const CONTINUE = 'HTTP/1.1 100 Continue\r\n\r\n'
const ANSWER = 'HTTP/1.1 201 Created\r\ncontent-length: 1\r\n\r\n7'

function newSender(extraCaCerts: string | null = null) {
  const sender = createSender({ connections: 10, policy: () => POLICY, extraCaCerts })
  onTestFinished(() => sender.close())
  return (url: string) =>
    sender.send({ url, headers: [], body: Buffer.from('1') }, PATIENT_MS).ended
}

/** Starts a server that responds in this way to each request on each connection. */
async function startServer(reply: (socket: Socket) => void): Promise<RawServer> {
  const server = await startRawServer((socket) => {
    reply(socket)
    socket.on('data', (bytes) => bytes.includes('POST ') && reply(socket))
  })
  onTestFinished(() => server.close())
  return server
}

async function expectAnswered(server: RawServer, result = '7'): Promise<void> {
  const send = newSender()
  for (let i = 0; i < ATTEMPTS; i++) {
    expect(await send(server.url)).toMatchObject({ outcome: 'succeeded', statusCode: 201, result })
  }
  expect(server.connectionCount()).toBe(1)
}

describe('an interim response', () => {
  it.each([
    ['100 Continue', CONTINUE],
    ['100 without a reason', 'HTTP/1.1 100 \r\n\r\n'],
    ['100 with headers', 'HTTP/1.1 100 Continue\r\nx-empty:\r\nserver: x\r\n\r\n'],
    ['102 Processing', 'HTTP/1.1 102 Processing\r\n\r\n'],
    ['103 Early Hints', 'HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n'],
    ['several', `${CONTINUE}HTTP/1.1 103 Hints\r\nlink: </x>\r\n\r\n${CONTINUE}${CONTINUE}`],
  ])(
    '%s before the response costs nothing, on a used connection neither',
    async (_what, interim) => {
      await expectAnswered(await startServer((socket) => socket.write(interim + ANSWER)))
    },
  )

  it('is ignored wherever its bytes are cut', async () => {
    const bytes = Buffer.from(CONTINUE + CONTINUE + ANSWER)
    for (let cut = 1; cut < bytes.length; cut++) {
      const server = await startServer(async (socket) => {
        socket.setNoDelay(true)
        socket.write(bytes.subarray(0, cut))
        setImmediate(() => setImmediate(() => socket.write(bytes.subarray(cut))))
      })
      const end = await newSender()(server.url)
      expect(end, `cut at ${cut}`).toMatchObject({ outcome: 'succeeded', statusCode: 201 })
    }
  })

  it('is ignored over TLS', async () => {
    const room = openCertificateRoom()
    onTestFinished(() => room.remove())
    const certificate = room.selfSigned({ names: 'IP:127.0.0.1' })
    const server = createServer(certificate, (_request, response) => {
      response.writeContinue()
      response.writeProcessing()
      response.end('{}')
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    onTestFinished(() => server.closeAllConnections())
    const send = newSender(certificate.cert)
    for (let i = 0; i < ATTEMPTS; i++) {
      const end = await send(`https://127.0.0.1:${(server.address() as AddressInfo).port}/`)
      expect(end).toMatchObject({ outcome: 'succeeded', statusCode: 200, result: '{}' })
    }
  })

  it('in the body of a response stays as it is', async () => {
    const body = JSON.stringify({ text: CONTINUE.repeat(3) })
    const raw = `"\r\n\r\n${CONTINUE}"`
    for (const text of [body, raw, CONTINUE]) {
      const head = `HTTP/1.1 201 Created\r\ncontent-length: ${text.length}\r\n\r\n`
      const server = await startServer((socket) => socket.write(CONTINUE + head + text))
      const { result, responseBody } = await newSender()(server.url)
      expect(responseBody).toBe(text)
      expect(JSON.parse(result as string)).toEqual(text === body ? JSON.parse(body) : { text })
    }
  })

  it('without end is a protocol_error at once', async () => {
    const server = await startServer((socket) => {
      const pour = () => {
        while (!socket.destroyed && socket.write(CONTINUE.repeat(2_000)));
      }
      socket.on('drain', pour)
      pour()
    })
    const end = await newSender()(server.url)
    expect(end).toMatchObject({
      ...{ outcome: 'protocol_error', errorCode: 'INTERIM_ANSWERS_OVERFLOW', statusCode: null },
    })
    await until(() => server.openCount() === 0)
  })

  it('is no final response: a connection that ends after it is a connect_error', async () => {
    const server = await startServer((socket) => socket.end(CONTINUE))
    expect(await newSender()(server.url)).toMatchObject({ outcome: 'connect_error' })
  })
})
