// Every reason why the MongoDB store cannot open has a name. Its sentence states what to change.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { type AddressInfo, createServer as createTcpServer, type Server } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import {
  MongoAPIError,
  MongoClient,
  MongoNetworkError,
  MongoNetworkTimeoutError,
  MongoServerError,
  MongoServerSelectionError,
  type TopologyDescription,
} from 'mongodb'
import { afterAll, beforeAll, describe, expect, inject, it, onTestFinished } from 'vitest'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { startError } from '../../src/store/mongo/errors.ts'
import { openMongoStore } from '../../src/store/mongo/store.ts'
import { examineStore, migrateStore } from '../../src/store/open-store.ts'
import type { StoreSettings } from '../../src/store/store.ts'
import { StoreUnavailable, StoreUnusable } from '../../src/store/store-errors.ts'
import { openShell } from '../cli/command-line.ts'
import { databaseUrl, type RunningMongo, startOwnMongo } from '../support/mongo.ts'
import { openCertificateRoom } from '../webhook/certificates.ts'

const SETTINGS: StoreSettings = {
  retentionMs: 1_000,
  retentionDeadMs: 1_000,
  encryptionKeys: [randomBytes(32)],
  warn: () => {},
}
/** Each process needs some seconds on a busy machine. */
const LONG = { timeout: 60_000 }
const PASSWORD = 'planted/p@ssword'
const URL_WITH_USER = `mongodb://app:${encodeURIComponent(PASSWORD)}@db.example:27017/shop`

const serverError = (code: number, codeName: string, errmsg: string) =>
  new MongoServerError({ ok: 0, code, codeName, errmsg, message: errmsg })

const networkError = (code: string, message: string) =>
  new MongoNetworkError(message, { cause: Object.assign(new Error(message), { code }) })

function notSelected(
  type: string,
  setName: string | null,
  servers: { address: string; type: string; error: Error | null }[],
): MongoServerSelectionError {
  const byAddress = new Map(servers.map((server) => [server.address, server]))
  const reason = { type, setName, servers: byAddress } as unknown as TopologyDescription
  return new MongoServerSelectionError('Server selection timed out after 2700 ms', reason)
}

const unknown = (error: Error | null) => ({ address: 'db.example:27017', type: 'Unknown', error })

describe.each<[string, unknown, typeof StoreUnusable | typeof StoreUnavailable, RegExp[]]>([
  [
    'a wrong password',
    serverError(18, 'AuthenticationFailed', 'Authentication failed.'),
    StoreUnusable,
    [/does not accept the user and password in STORE_URL/, /database shop;.*authSource=admin/],
  ],
  [
    'a wrong password on Atlas',
    serverError(8_000, 'AtlasError', 'bad auth : authentication failed'),
    StoreUnusable,
    [/^MongoDB Atlas refuses the user in STORE_URL/, /bad auth : authentication failed$/],
  ],
  [
    'a missing privilege',
    serverError(13, 'Unauthorized', `not authorized to execute { insert: "${PASSWORD}" }`),
    StoreUnusable,
    [/^The user in STORE_URL lacks a privilege: it needs the role readWrite/],
  ],
  [
    'a missing privilege, found by a command with a deadline',
    new StoreUnavailable('MongoDB did not execute a command', {
      cause: serverError(13, 'Unauthorized', 'not authorized'),
    }),
    StoreUnusable,
    [/lacks a privilege/],
  ],
  [
    'another refusal of the server',
    serverError(79, 'UnknownReplWriteConcern', 'No write concern mode named "two" found'),
    StoreUnavailable,
    [/refuses a command \(UnknownReplWriteConcern\): No write concern mode named "two"/],
  ],
  [
    'a server that is not there',
    notSelected('Unknown', null, [
      unknown(networkError('ECONNREFUSED', 'connect ECONNREFUSED 10.0.0.1:27017')),
    ]),
    StoreUnavailable,
    [/^MongoDB cannot be reached. db.example:27017: nothing listens there \(ECONNREFUSED\)$/],
  ],
  [
    'an unknown host',
    notSelected('Unknown', null, [
      unknown(networkError('ENOTFOUND', 'getaddrinfo ENOTFOUND db.example')),
    ]),
    StoreUnavailable,
    [/db.example:27017: the host name is unknown \(ENOTFOUND\)/],
  ],
  [
    'an unknown host of mongodb+srv',
    Object.assign(new Error('querySrv ENOTFOUND _mongodb._tcp.db.example'), {
      code: 'ENOTFOUND',
      syscall: 'querySrv',
    }),
    StoreUnavailable,
    [/^DNS has no server for the host in STORE_URL: querySrv ENOTFOUND/],
  ],
  [
    'a certificate that is not trusted',
    notSelected('Unknown', null, [
      unknown(networkError('SELF_SIGNED_CERT_IN_CHAIN', 'self-signed certificate in chain')),
    ]),
    StoreUnavailable,
    [/TLS failed: self-signed certificate in chain \(SELF_SIGNED_CERT_IN_CHAIN\)/],
  ],
  [
    'a connection that is closed at once',
    notSelected('Unknown', null, [unknown(new MongoNetworkError('connection 1 closed'))]),
    StoreUnavailable,
    [/connection 1 closed; does only one side use TLS \(tls=true\)\?/],
  ],
  [
    'another name of the replica set',
    notSelected('ReplicaSetNoPrimary', 'rs9', []),
    StoreUnusable,
    [/^No host in STORE_URL is a member of the replica set "rs9"/],
  ],
  [
    'a replica set without a primary',
    notSelected('ReplicaSetNoPrimary', 'rs0', [
      { address: 'a:1', type: 'RSSecondary', error: null },
      { address: 'b:1', type: 'Unknown', error: networkError('ETIMEDOUT', 'late') },
    ]),
    StoreUnavailable,
    [
      /a:1: a member of a replica set that has no primary now; b:1: it does not respond \(ETIMEDOUT/,
    ],
  ],
  [
    'a replica set that was not initiated',
    notSelected('Single', null, [{ address: 'a:1', type: 'RSGhost', error: null }]),
    StoreUnavailable,
    [/a:1: a replica set that was not initiated; run rs.initiate\(\) once/],
  ],
  [
    'a silent server',
    notSelected('Unknown', null, [unknown(null)]),
    StoreUnavailable,
    [/db.example:27017: it does not respond; does only one side use TLS \(tls=true\)\?$/],
  ],
  [
    'a connection that times out',
    notSelected('Unknown', null, [unknown(new MongoNetworkTimeoutError('timed out'))]),
    StoreUnavailable,
    [/db.example:27017: timed out; does only one side use TLS \(tls=true\)\?$/],
  ],
  [
    'whatever else the driver says',
    new MongoAPIError(`cannot use ${URL_WITH_USER}`),
    StoreUnavailable,
    [/^MongoDB cannot be used: cannot use mongodb:\/\/\*\*\*@db.example:27017\/shop$/],
  ],
])('the sentence for %s', (_, error, kind, shapes) => {
  it('says what it is, and no password', () => {
    const told = startError(URL_WITH_USER, error) as Error
    expect(told).toBeInstanceOf(kind)
    for (const shape of shapes) expect(told.message).toMatch(shape)
    expect(told.message).not.toMatch(/planted|ssword\b(?! in STORE_URL)/)
    expect(told.message).not.toMatch(/no primary$/)
  })
})

describe('the hint at authSource', () => {
  const wrong = serverError(18, 'AuthenticationFailed', 'Authentication failed.')
  it.each([
    ['mongodb://u:p@h/shop', true],
    ['mongodb+srv://u:p@h/shop?w=1', true],
    ['mongodb://u:p@h/shop?authSource=admin', false],
    // The driver uses the database admin if the URL names none.
    ['mongodb://u:p@h', false],
    ['mongodb://u:p@h/?replicaSet=a', false],
  ])('%s: %s', (url, isGiven) => {
    expect((startError(url, wrong) as Error).message.includes('authSource=admin')).toBe(isGiven)
  })

  it('asks for a user where STORE_URL has none', () => {
    const told = startError('mongodb://h/shop', serverError(13, 'Unauthorized', 'not authorized'))
    expect((told as Error).message).toMatch(/requires a user and a password: add them to STORE_URL/)
  })
})

async function refusalOf(url: string): Promise<Error> {
  const error = await openMongoStore(url, SETTINGS).then(
    async (store) => {
      await store.close()
      return new Error('it opened')
    },
    (cause: unknown) => cause as Error,
  )
  return error
}

async function listening(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  return (server.address() as AddressInfo).port
}

describe('a start that fails', () => {
  it('on the way to the server says where and why', async () => {
    const room = openCertificateRoom()
    onTestFinished(() => room.remove())
    const { key, cert } = room.selfSigned().issue({ names: 'IP:127.0.0.1' })
    const untrusted = await listening(createTlsServer({ key, cert }))
    const secure = await listening(createTlsServer({ key, cert }, (socket) => socket.resume()))
    const silent = await listening(createTcpServer(() => {}))
    const plain = await listening(
      createTcpServer((socket) => socket.end('HTTP/1.1 400 Bad\r\n\r\n')),
    )
    const closing = await listening(createTcpServer((socket) => socket.destroy()))
    const own = databaseUrl(inject('mongoUrl'), 'shop').replace(/\?.*/, '')
    const cases: [string, RegExp][] = [
      [`${own}?replicaSet=wrong`, /member of the replica set "wrong"/],
      [
        'mongodb://nowhere.invalid/shop',
        /nowhere.invalid:27017: the (host name is unk|name server)/,
      ],
      [`mongodb://127.0.0.1:${untrusted}/shop?tls=true`, /127.0.0.1:\d+: TLS failed: /],
      [`mongodb://127.0.0.1:${closing}/shop?tls=true`, /does only one side use TLS \(tls=true\)\?/],
      [`mongodb://127.0.0.1:${secure}/shop`, /does only one side use TLS \(tls=true\)\?/],
      [`mongodb://127.0.0.1:${plain}/shop?tls=true`, /; does only one side use TLS/],
      [`mongodb://127.0.0.1:${silent}/shop?tls=true`, /respond; does only one side use TLS/],
      [`mongodb://127.0.0.1:${silent}/shop`, /respond; does only one side use TLS/],
      ['mongodb+srv://nowhere.invalid/shop', /^DNS has no server for the host in STORE_URL/],
    ]
    // All run at the same time, because each of them fails only after the whole deadline.
    const refusals = await Promise.all(cases.map(([url]) => refusalOf(url)))
    for (const [i, [, shape]] of cases.entries()) expect(refusals[i]?.message).toMatch(shape)
  })

  it('for an index says which one stands in the way', async () => {
    const name = `test-${randomBytes(6).toString('hex')}`
    const client = await new MongoClient(inject('mongoUrl')).connect()
    onTestFinished(async () => {
      await client.db(name).dropDatabase()
      await client.close()
    })
    const keys = await client.db(name).createCollection(COLLECTIONS.keys)
    await keys.createIndex({ createdAt: 1, _id: 1 }, { name: 'of_another' })
    const { message } = await refusalOf(databaseUrl(inject('mongoUrl'), name))
    expect(message).toMatch(/^An index of posthorn_keys cannot be created: another index has its/)
    expect(message).toContain('of_another')
  })

  it('for documents that a unique index forbids, and does not quote them', async () => {
    const url = databaseUrl(inject('mongoUrl'), `test-${randomBytes(6).toString('hex')}`)
    await (await openMongoStore(url, SETTINGS)).close()
    const client = await new MongoClient(url).connect()
    onTestFinished(async () => {
      await client.db().dropDatabase()
      await client.close()
    })
    const keys = client.db().collection(COLLECTIONS.keys)
    await keys.dropIndex('hash')
    await keys.insertMany([{ hash: 'planted' }, { hash: 'planted' }])
    const { message } = await refusalOf(url)
    expect(message).toMatch(
      /^An index of posthorn_keys cannot be created: documents in it have the same hash, which/,
    )
    expect(message).not.toContain('planted')
  })
})

describe('a database of MongoDB itself', () => {
  const NEVER = new AbortController().signal
  const sentence = (name: string) =>
    new RegExp(`^STORE_URL names the database ${name}, which MongoDB keeps for itself: name`)

  it.each(['admin', 'local', 'config', 'Admin', '%61dmin'])(
    '%s is refused before a connection is made',
    async (name) => {
      // Nothing listens there, so a connection would fail with another sentence.
      const url = `mongodb://127.0.0.1:9/${name}`
      const shape = sentence(decodeURIComponent(name))
      const refusal = await refusalOf(url)
      expect(refusal).toBeInstanceOf(StoreUnusable)
      expect(refusal.message).toMatch(shape)
      await expect(migrateStore(url)).rejects.toThrow(shape)
      const { checks } = await examineStore(url, NEVER)
      expect(checks).toEqual([expect.objectContaining({ name: 'connection', verdict: 'failed' })])
      expect(checks[0]?.found).toMatch(shape)
    },
  )

  it('ends each process and command with the sentence and exit code 1', LONG, async () => {
    const url = databaseUrl(inject('mongoUrl'), 'admin')
    const shell = openShell({
      ...{ STORE_URL: url, PORT: '0', ENCRYPTION_KEY: randomBytes(32).toString('base64') },
    })
    onTestFinished(() => shell.close())
    const client = await new MongoClient(url).connect()
    onTestFinished(() => client.close())
    const collections = async () => (await client.db().listCollections().toArray()).length
    const before = await collections()
    const commands = [['start'], ['api'], ['worker'], ['migrate'], ['doctor', 'store']]
    const ended = await Promise.all(commands.map((words) => shell.run(words)))
    for (const { code, stdout, stderr } of ended) {
      expect(code).toBe(1)
      const text = stdout + stderr
      expect(text).toMatch(/STORE_URL names the database admin, which MongoDB keeps for itself/)
      expect(text).not.toContain('    at ')
    }
    expect(await collections()).toBe(before)
  })
})

describe('a server with users', () => {
  let server: RunningMongo
  const urlOf = (user: string, rest: string) => {
    const userinfo = `${user}:${encodeURIComponent(PASSWORD)}`
    return `mongodb://${userinfo}@${new URL(server.url).host}${rest}`
  }

  beforeAll(async () => {
    server = await startOwnMongo({ auth: true, inMemory: true })
    // While there are no users, the server lets any local client create the first one. That user
    // creates the others.
    const first = await new MongoClient(server.url).connect()
    const admin = { createUser: 'admin', pwd: PASSWORD, roles: [{ role: 'root', db: 'admin' }] }
    await first.db('admin').command(admin)
    await first.close()
    const client = await new MongoClient(urlOf('admin', '/?authSource=admin')).connect()
    await client.db('admin').command({
      createUser: 'app',
      pwd: PASSWORD,
      roles: [{ role: 'readWrite', db: 'shop' }],
    })
    await client.close()
  })
  afterAll(() => server.stop())

  it('lets in the user that it knows, and refuses others with a hint', async () => {
    await (await openMongoStore(urlOf('app', '/shop?authSource=admin'), SETTINGS)).close()
    const { message } = await refusalOf(urlOf('app', '/shop'))
    expect(message).toMatch(/does not accept the user and password.*add authSource=admin/)
    const wrong = await refusalOf(urlOf('nobody', '/shop?authSource=admin'))
    expect(wrong.message).toBe('MongoDB does not accept the user and password in STORE_URL.')
  })

  it('refuses a user without the privileges, and a URL without a user', async () => {
    const { message } = await refusalOf(urlOf('app', '/another?authSource=admin'))
    expect(message).toMatch(/lacks a privilege/)
    const nobody = await refusalOf(`${databaseUrl(server.url, 'shop')}`)
    expect(nobody.message).toMatch(/requires a user and a password/)
  })
})
