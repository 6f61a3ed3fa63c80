// The worker dials exactly the address that was checked: names with several addresses, and names
// whose addresses change.
import type { LookupAddress } from 'node:dns'
import type { Socket } from 'node:net'
import { afterEach, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { createAddressPolicy } from '../../src/webhook/address-policy.ts'
import { createDial, createResolver, type Resolve } from '../../src/webhook/dial.ts'
import { createSender } from '../../src/webhook/send.ts'
import { startFarReceiver } from '../support/far-receiver.ts'
import { until } from '../support/until.ts'
import { type RawServer, startRawServer } from './raw-server.ts'

const LOCAL = createAddressPolicy({ allowedTargets: [], allowLoopback: true })
const NAME = 'hooks.example.com'

let server: RawServer
let socket: Socket | null

beforeEach(async () => {
  socket = null
  server = await startRawServer(() => {})
})
afterEach(async () => {
  socket?.destroy()
  await server.close()
})

/** A name service that gives these addresses, one list for each query. */
function nameService(...answers: string[][]): { resolve: Resolve; questions: string[] } {
  const questions: string[] = []
  const resolve: Resolve = (hostname, done) => {
    const addresses = answers[Math.min(questions.length, answers.length - 1)] ?? []
    questions.push(hostname)
    const all: LookupAddress[] = addresses.map((address) => ({
      address,
      family: address.includes(':') ? 6 : 4,
    }))
    setImmediate(done, null, all)
  }
  return { resolve, questions }
}

/** Resolves with the error, or with null if the connection is open. */
function dial(resolve: Resolve, hostname = NAME): Promise<Error | null> {
  const connect = createDial(() => LOCAL, undefined, resolve)
  return new Promise((done) => {
    connect({ hostname, port: server.port, isTls: false }, (error, connected) => {
      socket = connected
      done(error)
    })
  })
}

describe('a name', () => {
  it('is dialled at the address that was checked, and resolved only once', async () => {
    const { resolve, questions } = nameService(['127.0.0.1'], ['10.0.0.1'])
    expect(await dial(resolve)).toBeNull()
    expect(socket?.remoteAddress).toBe('127.0.0.1')
    expect(questions).toEqual([NAME])
  })

  it.each([
    [['127.0.0.1', '10.0.0.1']],
    [['10.0.0.1', '127.0.0.1']],
    [['127.0.0.1', '127.0.0.2', '169.254.169.254']],
    [['127.0.0.1', '::ffff:10.0.0.1']],
    [['127.0.0.1', 'fd00:ec2::254']],
  ])('with one refused address among %j is not dialled at all', async (addresses) => {
    const error = await dial(nameService(addresses).resolve)
    expect(error).toMatchObject({ code: 'ADDRESS_REFUSED' })
    expect(error?.message).toMatch(/^hooks\.example\.com resolves to /)
    expect(server.connectionCount()).toBe(0)
  })

  it('falls back to its next address when one does not respond', async () => {
    expect(await dial(nameService(['::1', '127.0.0.1']).resolve)).toBeNull()
    expect(socket?.remoteAddress).toBe('127.0.0.1')
  })

  it.each([
    ['an address with no way to it comes second', ['127.0.0.1', '::1']],
    ['it comes first', ['::1', '127.0.0.1']],
  ])('is reached although a connection takes a second: %s', async (_order, addresses) => {
    const far = await startFarReceiver()
    onTestFinished(() => far.close())
    const { resolve } = nameService(addresses)
    const policy = () => LOCAL
    const sender = createSender({ connections: 1, policy, extraCaCerts: null, resolve })
    onTestFinished(() => sender.close())
    const request = { url: `http://${NAME}:${far.port}/`, headers: [], body: Buffer.from('1') }
    const end = await sender.send(request, 10_000).ended
    expect(end).toMatchObject({ outcome: 'succeeded', statusCode: 200 })
    expect(end.durationMs).toBeGreaterThan(400)
  })

  it('is no more patient than the deadline', async () => {
    const far = await startFarReceiver()
    onTestFinished(() => far.close())
    const { resolve } = nameService(['127.0.0.1', '127.0.0.1'])
    const policy = () => LOCAL
    const sender = createSender({ connections: 1, policy, extraCaCerts: null, resolve })
    onTestFinished(() => sender.close())
    const request = { url: `http://${NAME}:${far.port}/`, headers: [], body: Buffer.from('1') }
    const end = await sender.send(request, 400).ended
    expect(end).toMatchObject({ outcome: 'timeout', message: 'no connection within 400ms' })
  })

  it('whose addresses all fail is reported by the most telling error', async () => {
    const closedPort = server.port
    await server.close()
    for (const addresses of [
      ['::1', '127.0.0.1'],
      ['127.0.0.1', '::1'],
    ]) {
      const connect = createDial(() => LOCAL, undefined, nameService(addresses).resolve)
      const error = await new Promise<Error | null>((done) => {
        connect({ hostname: NAME, port: closedPort, isTls: false }, (...[failed]) => done(failed))
      })
      expect(error).toMatchObject({ code: 'ECONNREFUSED' })
    }
    server = await startRawServer(() => {})
  })

  it('that has no address is an error, not a wait', async () => {
    expect(await dial(nameService([]).resolve)).toBeInstanceOf(Error)
  })
})

describe('a literal address', () => {
  it('is checked without a lookup, and refused without a connection', async () => {
    const { resolve, questions } = nameService(['127.0.0.1'])
    expect(await dial(resolve, '10.0.0.1')).toMatchObject({ code: 'ADDRESS_REFUSED' })
    expect(questions).toEqual([])
  })
})

describe('a connection that is given up while it is made', () => {
  it.each(['asks for the name', 'connects'])('never calls back: it %s', async (moment) => {
    const calls: (Error | null)[] = []
    let giveUp = () => {}
    const resolve: Resolve = (_hostname, done) =>
      setImmediate(() => {
        if (moment === 'asks for the name') giveUp()
        done(null, [{ address: '127.0.0.1', family: 4 }])
        giveUp()
      })
    const connect = createDial(() => LOCAL, undefined, resolve)
    giveUp = connect({ hostname: NAME, port: server.port, isTls: false }, (...[error]) => {
      calls.push(error)
    })
    // A connection that began later is open by now, so the first one would be open, too.
    expect(await dial(nameService(['127.0.0.1']).resolve)).toBeNull()
    await until(() => server.openCount() <= 1)
    expect(calls).toEqual([])
  })
})

describe('the resolver', () => {
  it('looks a name up once for all that want it at the same time, and again afterwards', async () => {
    const { resolve, questions } = nameService(['127.0.0.1'], ['127.0.0.2'])
    const shared = createResolver(resolve)
    const ask = (name: string) =>
      new Promise<string | undefined>((done) => {
        shared(name, (_error, addresses) => done(addresses[0]?.address))
      })
    const first = await Promise.all([ask('a'), ask('a'), ask('a')])
    expect(first).toEqual(['127.0.0.1', '127.0.0.1', '127.0.0.1'])
    expect(await ask('a')).toBe('127.0.0.2')
    expect(questions).toEqual(['a', 'a'])
  })
})
