// Names whose addresses change: each connection goes to the address that was checked for it.
import type { LookupAddress } from 'node:dns'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createAddressPolicy } from '../../src/webhook/address-policy.ts'
import type { Resolve } from '../../src/webhook/dial.ts'
import { createSender, type Sender } from '../../src/webhook/send.ts'
import { until } from '../support/until.ts'
import { type RawServer, startRawServer } from './raw-server.ts'

/**
 * 127.0.0.1 stands for the public internet. 127.0.0.2, on the same port, stands for a refused
 * address.
 */
const ALLOWED = createAddressPolicy({ allowedTargets: ['127.0.0.1/32'], allowLoopback: false })
const STRICT = createAddressPolicy({ allowedTargets: [], allowLoopback: false })
const LOCAL = createAddressPolicy({ allowedTargets: [], allowLoopback: true })
const PUBLIC = '127.0.0.1'
const PRIVATE = '127.0.0.2'
const HOST = 'hooks.example.com'
const TIMEOUT_MS = 5_000
const KEPT = 'HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n7'
const CLOSED = KEPT.replace('OK\r\n', 'OK\r\nconnection: close\r\n')

let policy = ALLOWED
let answer = CLOSED
let server: RawServer
let hidden: RawServer
let sender: Sender | null

beforeEach(async () => {
  policy = ALLOWED
  answer = CLOSED
  sender = null
  server = await startRawServer((socket) => {
    socket.write(answer)
    socket.on('data', () => socket.write(answer))
  })
  hidden = await startRawServer((socket) => socket.end(CLOSED), {
    host: PRIVATE,
    port: server.port,
  })
})
afterEach(async () => {
  await sender?.close()
  await server.close()
  await hidden.close()
})

function newSender(resolve: Resolve): Sender {
  sender = createSender({ connections: 10, policy: () => policy, extraCaCerts: null, resolve })
  return sender
}

function send(from: Sender, host = HOST, timeoutMs = TIMEOUT_MS) {
  const url = `http://${host}:${server.port}/`
  return from.send({ url, headers: [], body: Buffer.from('1') }, timeoutMs).ended
}

/** A name service that gives these addresses in turn, again and again. */
function inTurn(...answers: string[][]): { resolve: Resolve; questionCount(): number } {
  let count = 0
  const resolve: Resolve = (_name, done) => {
    const addresses = answers[count++ % answers.length] ?? []
    setImmediate(done, null, addresses.map(asLookedUp))
  }
  return { resolve, questionCount: () => count }
}

function asLookedUp(address: string): LookupAddress {
  return { address, family: address.includes(':') ? 6 : 4 }
}

describe('a name that leads elsewhere at the second look', () => {
  it('is blocked at the second connection, and the other address is never reached', async () => {
    const from = newSender(inTurn([PUBLIC], [PRIVATE]).resolve)
    expect(await send(from)).toMatchObject({ outcome: 'succeeded', result: '7' })
    expect(await send(from)).toMatchObject({
      outcome: 'blocked',
      errorCode: 'ADDRESS_REFUSED',
      message: expect.stringContaining(`${HOST} resolves to ${PRIVATE}, a loopback address`),
    })
    expect(hidden.connectionCount()).toBe(0)
  })

  it('is asked for once a connection, so that there is no second look within one', async () => {
    const { resolve, questionCount } = inTurn([PUBLIC], [PRIVATE], [PUBLIC, PRIVATE])
    const from = newSender(resolve)
    const outcomes: string[] = []
    for (let i = 0; i < 12; i++) outcomes.push((await send(from)).outcome)
    expect(outcomes).toEqual(Array(4).fill(['succeeded', 'blocked', 'blocked']).flat())
    expect(questionCount()).toBe(12)
    expect([server.connectionCount(), hidden.connectionCount()]).toEqual([4, 0])
  })

  it('does not matter on an open connection: it leads to the address that was checked', async () => {
    answer = KEPT
    const { resolve, questionCount } = inTurn([PUBLIC], [PRIVATE])
    const from = newSender(resolve)
    for (let i = 0; i < 5; i++) expect((await send(from)).outcome).toBe('succeeded')
    expect(questionCount()).toBe(1)
    expect([server.connectionCount(), hidden.connectionCount()]).toEqual([1, 0])
  })
})

describe('a name that resolves', () => {
  it.each([
    ...['127.0.0.1', '10.0.0.1', '172.16.0.1', '192.168.0.1', '100.64.0.1', '0.0.0.0', '0.1.2.3'],
    ...['169.254.169.254', '169.254.1.1', '100.100.100.200', '255.255.255.255', '224.0.0.1'],
    ...['::', '::1', '::127.0.0.1', '::7f00:1', '::ffff:127.0.0.1', '::ffff:7f00:1'],
    ...['::ffff:0:127.0.0.1', '64:ff9b::7f00:1', '64:ff9b::127.0.0.1', '64:ff9b:1::a00:1'],
    ...['2002:7f00:1::', '2001:0:4136:e378:8000:63bf:80ff:fffe', 'fd00:ec2::254', 'fd00::1'],
    ...['fe80::1', 'fe80::1%lo', '::1%lo', 'ff02::1', 'not an address', ''],
  ])('to "%s" is blocked', async (address) => {
    policy = STRICT
    const end = await send(newSender(inTurn([address]).resolve))
    expect(end).toMatchObject({ outcome: 'blocked', errorCode: 'ADDRESS_REFUSED' })
    expect([server.connectionCount(), hidden.connectionCount()]).toEqual([0, 0])
  })

  it.each([[[PUBLIC, PRIVATE]], [[PRIVATE, PUBLIC]], [[PUBLIC, PUBLIC, '::1']]])(
    'to %j is blocked: one bad address refuses all',
    async (addresses) => {
      const end = await send(newSender(inTurn(addresses).resolve))
      expect(end).toMatchObject({ outcome: 'blocked' })
      expect([server.connectionCount(), hidden.connectionCount()]).toEqual([0, 0])
    },
  )

  it.each(['metadata.google.internal', 'METADATA.google.internal.', 'instance-data'])(
    'well, but is %s, is blocked in local mode too',
    async (host) => {
      policy = LOCAL
      const end = await send(newSender(inTurn([PUBLIC]).resolve), host)
      expect(end).toMatchObject({ outcome: 'blocked' })
      expect(end.message).toContain('a cloud metadata name')
      expect(server.connectionCount()).toBe(0)
    },
  )

  it('to nothing is a dns_error', async () => {
    const end = await send(newSender(inTurn([]).resolve))
    expect(end).toMatchObject({ outcome: 'dns_error', errorCode: 'ENOTFOUND' })
  })
})

describe('a name service that hangs', () => {
  it('costs the attempt its deadline, and addresses that it returns then are not dialled', async () => {
    const asked: Parameters<Resolve>[1][] = []
    const from = newSender((_name, done) => void asked.push(done))
    const end = await send(from, HOST, 200)
    expect(end).toMatchObject({ outcome: 'timeout', message: 'no connection within 200ms' })
    for (const done of asked) done(null, [asLookedUp(PUBLIC)])
    const next = send(from)
    await until(() => asked.length === 2)
    asked.at(-1)?.(null, [asLookedUp(PUBLIC)])
    expect((await next).outcome).toBe('succeeded')
    expect(server.connectionCount()).toBe(1)
  })
})
