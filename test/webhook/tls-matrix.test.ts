// Every TLS failure leads to a tls_error with its code, and no byte of the request is sent.
import type { LookupAddress } from 'node:dns'
import type { AddressInfo } from 'node:net'
import { createServer, type TLSSocket, type TlsOptions } from 'node:tls'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import { createAddressPolicy } from '../../src/webhook/address-policy.ts'
import { createSender, type Sender } from '../../src/webhook/send.ts'
import { type Issued, openCertificateRoom } from './certificates.ts'

const POLICY = createAddressPolicy({ allowedTargets: [], allowLoopback: true })
const TIMEOUT_MS = 5_000
const HOST = 'hooks.example.com'
const NAMES = `DNS:${HOST},IP:127.0.0.1`
const ANSWER = 'HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n7'
/** Lets the server use what OpenSSL would refuse, so that the sender has to decide. */
const WEAK = '@SECLEVEL=0'

const room = openCertificateRoom()
const root = room.selfSigned()
const stranger = room.selfSigned()
const good = root.issue({ names: NAMES })
const toClose: (() => Promise<void>)[] = []

afterEach(async () => {
  for (const close of toClose.splice(0).reverse()) await close()
})
afterAll(() => room.remove())

type Row = [what: string, code: RegExp, present: () => TlsOptions, host?: string]

const chained = (leaf: Issued, ...issuers: Issued[]): TlsOptions => ({
  key: leaf.key,
  cert: [leaf, ...issuers].map(({ cert }) => cert).join(''),
})

const WRONG_CERTIFICATES: Row[] = [
  [
    'that has expired',
    /^CERT_HAS_EXPIRED$/,
    () => root.issue({ names: NAMES, validDays: [-9, -1] }),
  ],
  [
    'that is not valid yet',
    /^CERT_NOT_YET_VALID$/,
    () => root.issue({ names: NAMES, validDays: [2, 9] }),
  ],
  ['signed by itself', /^DEPTH_ZERO_SELF_SIGNED_CERT$/, () => room.selfSigned({ names: NAMES })],
  [
    'of an unknown issuer',
    /^UNABLE_TO_VERIFY_LEAF_SIGNATURE$/,
    () => stranger.issue({ names: NAMES }),
  ],
  [
    'that brings its unknown issuer with it',
    /^SELF_SIGNED_CERT_IN_CHAIN$/,
    () => chained(stranger.issue({ names: NAMES }), stranger),
  ],
  [
    'of an issuer that has expired',
    /^CERT_HAS_EXPIRED$/,
    () => {
      const old = root.issue({ extensions: ['basicConstraints=CA:true'], validDays: [-9, -1] })
      return chained(old.issue({ names: NAMES }), old)
    },
  ],
  [
    'of an issuer that is no authority, only a good certificate',
    /^INVALID_(CA|PURPOSE)$/,
    () => chained(good.issue({ names: NAMES }), good),
  ],
  [
    'for clients only',
    /^INVALID_PURPOSE$/,
    () => root.issue({ names: NAMES, extensions: ['extendedKeyUsage=clientAuth'] }),
  ],
  [
    'with a key that is too short',
    /^(UNSPECIFIED|EE_KEY_TOO_SMALL)$/,
    () => ({ ...root.issue({ names: NAMES, key: 'rsa:1024' }), ciphers: `ALL:${WEAK}` }),
  ],
  [
    'signed over SHA-1',
    /^(UNSPECIFIED|CA_MD_TOO_WEAK)$/,
    () => ({ ...root.issue({ names: NAMES, digest: 'sha1' }), ciphers: `ALL:${WEAK}` }),
  ],
]

const NAME_CODE = /^ERR_TLS_CERT_ALTNAME_INVALID$/

const WRONG_NAMES: Row[] = [
  ['another host', NAME_CODE, () => root.issue({ names: 'DNS:other.example.com' })],
  ['no host at all', NAME_CODE, () => root.issue()],
  ['a subdomain of the host', NAME_CODE, () => root.issue({ names: `DNS:a.${HOST}` })],
  ['the domain above the host', NAME_CODE, () => root.issue({ names: 'DNS:example.com' })],
  ['all hosts of the domain above', NAME_CODE, () => root.issue({ names: 'DNS:*.com' })],
  ['hosts one level below', NAME_CODE, () => root.issue({ names: `DNS:*.${HOST}` })],
  ['the address that the host has', NAME_CODE, () => root.issue({ names: 'IP:127.0.0.1' })],
  ['another address', NAME_CODE, () => root.issue({ names: 'IP:127.0.0.2' }), '127.0.0.1'],
  ['a host, to an address', NAME_CODE, () => root.issue({ names: `DNS:${HOST}` }), '127.0.0.1'],
  ['an address as a host', NAME_CODE, () => root.issue({ names: 'DNS:127.0.0.1' }), '127.0.0.1'],
  [
    'two levels, by one star',
    NAME_CODE,
    () => root.issue({ names: 'DNS:*.example.com' }),
    `a.${HOST}`,
  ],
]

const WRONG_PROTOCOLS: Row[] = [
  ['TLS 1.1 and no more', /_ALERT_PROTOCOL_VERSION$/, () => old('TLSv1.1')],
  ['TLS 1.0 and no more', /_ALERT_PROTOCOL_VERSION$/, () => old('TLSv1')],
  [
    'no encryption',
    /_ALERT_HANDSHAKE_FAILURE$/,
    () => ({ ...good, maxVersion: 'TLSv1.2', ciphers: `eNULL:${WEAK}` }),
  ],
  [
    'no certificate',
    /_ALERT_HANDSHAKE_FAILURE$/,
    () => ({ maxVersion: 'TLSv1.2', ciphers: `aNULL:${WEAK}` }),
  ],
  [
    'HTTP/2 and no more',
    /_ALERT_NO_APPLICATION_PROTOCOL$/,
    () => ({ ...good, ALPNProtocols: ['h2'] }),
  ],
  [
    'no client without a certificate',
    /_ALERT_CERTIFICATE_REQUIRED$/,
    () => ({ ...good, ...asksForCertificate() }),
  ],
  [
    'no client without a certificate, over TLS 1.2',
    /_ALERT_HANDSHAKE_FAILURE$/,
    () => ({ ...good, ...asksForCertificate(), maxVersion: 'TLSv1.2' }),
  ],
]

describe('a certificate', () => {
  it.each(WRONG_CERTIFICATES)('%s is refused', expectRefused)
})
describe('a certificate for', () => {
  it.each(WRONG_NAMES)('%s is refused', expectRefused)
})
describe('a server that speaks', () => {
  it.each(WRONG_PROTOCOLS)('%s is refused', expectRefused)
})

describe('a certificate is accepted', () => {
  it.each<[string, string, string]>([
    ['its own host', `DNS:${HOST}`, HOST],
    ['its host in other letters', `DNS:${HOST.toUpperCase()}`, HOST],
    ['its host with the dot at the end', `DNS:${HOST}`, `${HOST}.`],
    ['one of several hosts', `DNS:a.example.com,DNS:${HOST}`, HOST],
    ['a host of its domain', 'DNS:*.example.com', HOST],
    ['its address', 'IP:127.0.0.1', '127.0.0.1'],
  ])('for %s', async (_what, names, host) => {
    const server = await startTls(root.issue({ names }))
    expect(await send(newSender(), server, host)).toMatchObject({ outcome: 'succeeded' })
    expect(server.received()).toMatch(/^POST \/ HTTP\/1\.1\r\n/)
  })

  it('when its authority is one below the known one, and comes with it', async () => {
    const below = root.issue({ extensions: ['basicConstraints=CA:true'] })
    const server = await startTls(chained(below.issue({ names: NAMES }), below))
    expect(await send(newSender(), server)).toMatchObject({ outcome: 'succeeded' })
  })
})

it.each(['TLSv1.2', 'TLSv1.3'] as const)(
  'a server refused over %s is refused again: no session is resumed that was not verified',
  async (version) => {
    const other = root.issue({ names: 'DNS:other.example.com' })
    const server = await startTls({ ...other, minVersion: version, maxVersion: version })
    const sender = newSender()
    for (let i = 0; i < 3; i++) {
      expect((await send(sender, server)).outcome).toBe('tls_error')
    }
    expect(server.received()).toBe('')
  },
)

async function expectRefused(
  _what: string,
  code: RegExp,
  present: () => TlsOptions,
  host = HOST,
): Promise<void> {
  const server = await startTls(present())
  const end = await send(newSender(), server, host)
  expect(end).toMatchObject({ outcome: 'tls_error', statusCode: null, responseBody: null })
  expect(end.errorCode).toMatch(code)
  // The message is for people: without OpenSSL's threads and source files, and without advice about
  // Node.
  expect(end.message).toMatch(/^no TLS connection could be made: /)
  expect(end.message).not.toMatch(/error:|deps|use-system-ca/)
  expect(server.received()).toBe('')
  expect(server.connectionCount()).toBe(1)
}

function old(version: 'TLSv1' | 'TLSv1.1'): TlsOptions {
  return { ...good, minVersion: 'TLSv1', maxVersion: version, ciphers: `ALL:${WEAK}` }
}

function asksForCertificate(): TlsOptions {
  return { requestCert: true, rejectUnauthorized: true, ca: root.cert }
}

/** Resolves every name to this machine. */
function newSender(): Sender {
  const here: LookupAddress[] = [{ address: '127.0.0.1', family: 4 }]
  const sender = createSender({
    connections: 10,
    policy: () => POLICY,
    extraCaCerts: root.cert,
    resolve: (_name, done) => void setImmediate(done, null, here),
  })
  toClose.push(sender.close)
  return sender
}

interface TlsServer {
  port: number
  connectionCount(): number
  /** The data that was received after the TLS handshake. */
  received(): string
}

function send(sender: Sender, server: TlsServer, host = HOST) {
  const url = `https://${host}:${server.port}/`
  return sender.send({ url, headers: [], body: Buffer.from('1') }, TIMEOUT_MS).ended
}

async function startTls(options: TlsOptions): Promise<TlsServer> {
  const sockets = new Set<TLSSocket>()
  let connectionCount = 0
  let received = ''
  const server = createServer(options, (socket) => {
    sockets.add(socket)
    // The other side aborts in these tests, so an error is expected.
    socket.on('error', () => {})
    socket.on('data', (chunk) => {
      received += chunk.toString('latin1')
      socket.write(ANSWER)
    })
  })
  server.on('connection', () => {
    connectionCount += 1
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  toClose.push(async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => server.close(resolve))
  })
  return {
    port: (server.address() as AddressInfo).port,
    connectionCount: () => connectionCount,
    received: () => received,
  }
}
