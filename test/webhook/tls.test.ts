// TLS is always verified: against the default roots, the additional ones, and the name.
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import { createAddressPolicy } from '../../src/webhook/address-policy.ts'
import { createSender, type Sender } from '../../src/webhook/send.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { type Certificate, openCertificateRoom } from './certificates.ts'

const POLICY = createAddressPolicy({ allowedTargets: [], allowLoopback: true })
const TIMEOUT_MS = 5_000

const room = openCertificateRoom()
const good = room.selfSigned({ names: 'DNS:localhost,IP:127.0.0.1' })
const otherName = room.selfSigned({ names: 'DNS:other.example' })
const expired = room.selfSigned({ names: 'DNS:localhost', validDays: [-9, -1] })
const toClose: (() => Promise<void>)[] = []

afterAll(() => room.remove())
afterEach(async () => {
  for (const close of toClose.splice(0)) await close()
})

describe('an https endpoint', () => {
  it('with a certificate of no known issuer is refused, and nothing is sent to it', async () => {
    const server = await startTls(good)
    expect(await send(newSender(null), `https://localhost:${server.port}/`)).toMatchObject({
      outcome: 'tls_error',
      statusCode: null,
      errorCode: 'DEPTH_ZERO_SELF_SIGNED_CERT',
      message: expect.stringMatching(/^no TLS connection could be made: /),
    })
    expect(server.bodies).toEqual([])
  })

  it('is delivered to when its issuer was added, by name and by address', async () => {
    const server = await startTls(good)
    const sender = newSender(good.cert)
    for (const host of ['localhost', '127.0.0.1']) {
      const end = await send(sender, `https://${host}:${server.port}/`)
      expect(end).toMatchObject({ outcome: 'succeeded', result: '"over TLS"' })
    }
    expect(server.bodies).toEqual(['1', '1'])
  })

  it('is refused when its certificate is for another name', async () => {
    const server = await startTls(otherName)
    const end = await send(newSender(otherName.cert), `https://localhost:${server.port}/`)
    expect(end).toMatchObject({
      outcome: 'tls_error',
      errorCode: 'ERR_TLS_CERT_ALTNAME_INVALID',
    })
    expect(server.bodies).toEqual([])
  })

  it('is refused when its certificate has expired', async () => {
    const server = await startTls(expired)
    const end = await send(newSender(expired.cert), `https://localhost:${server.port}/`)
    expect(end).toMatchObject({ outcome: 'tls_error', errorCode: 'CERT_HAS_EXPIRED' })
  })

  it('is used with a resumed session where possible, else verified again', async () => {
    const server = await startTls(good, { connection: 'close' })
    const sender = newSender(good.cert)
    const url = `https://localhost:${server.port}/`
    for (let i = 0; i < 3; i++) expect((await send(sender, url)).outcome).toBe('succeeded')
    expect(server.resumed).toEqual([false, true, true])
    server.presents(otherName)
    expect((await send(sender, url)).outcome).toBe('tls_error')
    expect(server.bodies).toHaveLength(3)
  })

  it('that speaks plain HTTP is a tls_error', async () => {
    const plain: Receiver = await startReceiver()
    toClose.push(plain.close)
    const end = await send(newSender(null), plain.url.replace('http:', 'https:'))
    expect(end).toMatchObject({ outcome: 'tls_error' })
    expect(plain.requests).toEqual([])
  })
})

describe('an http endpoint', () => {
  it('that speaks TLS is a protocol_error or closes the connection', async () => {
    const server = await startTls(good)
    const end = await send(newSender(null), `http://localhost:${server.port}/`)
    expect(['protocol_error', 'connect_error']).toContain(end.outcome)
  })
})

describe('EXTRA_CA_CERTS', () => {
  it.each([
    '',
    'not a certificate',
    '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n',
  ])('%j is refused at the start, in a sentence', (pem) => {
    expect(() => createSender({ connections: 1, policy: () => POLICY, extraCaCerts: pem })).toThrow(
      /^EXTRA_CA_CERTS must contain complete certificates in PEM form/,
    )
  })

  it('with a certificate that is cut off, or of another kind, is refused as a whole', () => {
    const cutOff = otherName.cert.split('\n').slice(0, -3).join('\n')
    const trusted = otherName.cert.replaceAll(' CERTIFICATE', ' TRUSTED CERTIFICATE')
    for (const pem of [`${cutOff}\n${good.cert}`, `${good.cert}${cutOff}`, trusted + good.cert]) {
      expect(() => newSender(pem)).toThrow(
        /^EXTRA_CA_CERTS must contain complete certificates in PEM form/,
      )
    }
  })

  it('may hold several certificates', async () => {
    const server = await startTls(good)
    const sender = newSender(`${otherName.cert}\n${good.cert}`)
    expect((await send(sender, `https://localhost:${server.port}/`)).outcome).toBe('succeeded')
  })
})

function newSender(extraCaCerts: string | null): Sender {
  const sender = createSender({ connections: 10, policy: () => POLICY, extraCaCerts })
  toClose.unshift(sender.close)
  return sender
}

function send(sender: Sender, url: string) {
  return sender.send({ url, headers: [], body: Buffer.from('1') }, TIMEOUT_MS).ended
}

async function startTls(certificate: Certificate, headers: Record<string, string> = {}) {
  const bodies: string[] = []
  const resumed: boolean[] = []
  const server = createServer(certificate, async (request, response) => {
    let body = ''
    for await (const chunk of request) body += chunk
    bodies.push(body)
    resumed.push((request.socket as TLSSocket).isSessionReused())
    response.writeHead(200, headers).end('"over TLS"')
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  toClose.push(async () => {
    const closed = new Promise((resolve) => server.close(resolve))
    server.closeAllConnections()
    await closed
  })
  return {
    port: (server.address() as AddressInfo).port,
    bodies,
    resumed,
    presents: (other: Certificate) => server.setSecureContext(other),
  }
}
