// Clients without a key: the cost that they can cause is small, whatever they send to any route.
import { connect, type Socket } from 'node:net'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { CONNECTION_LIMITS } from '../../routes/http/connections.ts'
import { type ServedApp, serveApp } from '../support/served-app.ts'
import { until } from '../support/until.ts'
import { type Fixture, openFixture } from './fixture.ts'
import { answersIn, exchange } from './raw-http.ts'
import {
  BODIES,
  cpuMs,
  JUNK,
  MEGABYTE,
  pipelined,
  sendAlone,
  sendForEver,
  sendThenRead,
} from './strangers.ts'

const KEY = 'a-key-of-twenty-four-characters'
/** Open routes that are not part of the description of the API. */
const PAGES = ['/dashboard', '/dashboard/main.js', '/docs', '/docs/main.js', '/openapi.json'].map(
  (path) => `GET ${path}`,
)
const WRONG_KEY = ['Authorization: Bearer wrong']
/** Limit of the CPU time for a megabyte, on a quiet machine; times four for a busy one. */
const QUIET_MS = 5
const MOST_MS = 4 * QUIET_MS
const MAX_TIMES = 10

let fixture: Fixture
beforeAll(async () => {
  fixture = await openFixture('sqlite', { API_KEYS: KEY })
})
afterAll(() => fixture.posthorn.close())

/**
 * The CPU time that the most expensive of `requests` costs the API, in ms. A request that costs too
 * much is sent again, and the least value counts: the others include a garbage collection.
 */
async function costOf(requests: Buffer[]): Promise<number> {
  const costs: number[] = []
  for (const bytes of requests) {
    let least = await costOnce(bytes)
    for (let i = 1; i < MAX_TIMES && least > QUIET_MS; i++) {
      least = Math.min(least, await costOnce(bytes))
    }
    costs.push(least)
  }
  return Math.max(...costs)
}

async function costOnce(bytes: Buffer): Promise<number> {
  const pid = fixture.api.child.pid as number
  const before = cpuMs(pid)
  await sendAlone(fixture.posthorn.url(), bytes)
  // This response comes after those to all earlier requests.
  await fixture.ask('GET', '/health/live')
  return cpuMs(pid) - before
}

describe('a megabyte without a key', { timeout: 120_000 }, () => {
  /** The values of the table in docs/THREATS.md. */
  const table: [what: string, ms: number][] = []
  afterAll(() => {
    console.log(table.map(([what, ms]) => `| ${what} | ${ms.toFixed(1)} ms |`).join('\n'))
  })
  const note = (what: string, ms: number) => {
    table.push([what, ms])
    expect([what, ms < MOST_MS ? 'little' : ms]).toEqual([what, 'little'])
  }
  const lines = (isWanted: (isOpen: boolean) => boolean) => [
    ...new Set(
      fixture.operations
        .filter(({ isOpen }) => isWanted(isOpen))
        .map(({ method, path }) => `${method} ${path.replaceAll(/\{\w+\}/g, 'main.js')}`),
    ),
  ]

  it.each(Object.keys(BODIES))(
    'as a body, %s, costs next to nothing at any route',
    async (body) => {
      const build = BODIES[body] as (line: string, fields?: string[]) => Buffer
      await costOf([build('GET /')])
      const open = [...lines((isOpen) => isOpen), ...PAGES]
      expect(open.length).toBeGreaterThan(10)
      note(`body: ${body}, open routes`, await costOf(open.map((line) => build(line))))
      const others = [...lines((isOpen) => !isOpen), 'GET /nothing', 'POST /%ff', 'OPTIONS *']
      note(`body: ${body}, a wrong key`, await costOf(others.map((line) => build(line, WRONG_KEY))))
    },
  )

  it('as requests whose responses are not read costs no more than the first few of them', async () => {
    const paths = ['/', '/health/live', '/health/ready', '/docs', '/nothing', '/jobs?a=%20']
    note('pipelined requests', await costOf(paths.map((path) => pipelined(`GET ${path}`))))
    note('pipelined, a wrong key', await costOf([pipelined('GET /jobs', WRONG_KEY)]))
    note('pipelined, GET /openapi.json', await costOf([pipelined('GET /openapi.json')]))
  })

  it.each(Object.keys(JUNK))('as %s costs next to nothing', async (what) => {
    note(what, await costOf([JUNK[what] as Buffer]))
  })
})

describe('a refused key', () => {
  it('is logged with its id or the address, a few times, and never itself', async () => {
    const made = await fixture.ask('POST', '/keys', '{"name":"small","scope":"work"}')
    const { id, key } = JSON.parse(made.text)
    const use = (bearer: string) =>
      fixture.ask('GET', '/endpoints', undefined, { authorization: `Bearer ${bearer}` })
    expect((await use(key)).status).toBe(403)
    for (let i = 0; i < 40; i++) expect((await use(`wrong-${i}`)).status).toBe(401)
    const refused = () => fixture.api.log.filter(({ msg }) => msg === 'request.refused')
    await until(() => refused().length > 0)
    expect(refused().length).toBeLessThan(40)
    const text = JSON.stringify(fixture.api.log)
    expect(text).not.toContain(key)
    expect(text).not.toContain('wrong-')
    for (const line of refused()) {
      expect(line).toMatchObject({ level: 'warn', address: '127.0.0.1' })
      expect([401, 403]).toContain(line.status)
    }
    const known = refused().find(({ keyId }) => keyId === id)
    // Earlier tests may have used up the log lines of this window.
    if (known !== undefined) expect(known).toMatchObject({ status: 403, route: '/endpoints' })
  })
})

describe('a body that is refused', { timeout: 120_000 }, () => {
  /** Larger than the buffers of both sides, and than any route accepts. */
  const LARGE = 20 * MEGABYTE
  const start = (...fields: string[]) =>
    ['POST /jobs HTTP/1.1', 'Host: localhost', 'Content-Type: application/json', ...fields]
      .map((line) => `${line}\r\n`)
      .join('')
  const byLength = (field: string) =>
    Buffer.concat([
      Buffer.from(`${start(field, `Content-Length: ${LARGE}`)}\r\n`),
      Buffer.alloc(LARGE, ' '),
    ])
  const inChunks = (field: string) => {
    const chunk = `10000\r\n${' '.repeat(0x10000)}\r\n`
    const chunks = chunk.repeat(LARGE / 0x10000)
    return Buffer.from(`${start(field, 'Transfer-Encoding: chunked')}\r\n${chunks}0\r\n\r\n`)
  }

  it.each([
    ['for its size, by its length', byLength(`Authorization: Bearer ${KEY}`), 413],
    ['for its size, in chunks', inChunks(`Authorization: Bearer ${KEY}`), 413],
    ['for its key, by its length', byLength(WRONG_KEY[0] as string), 401],
    ['for its key, in chunks', inChunks(WRONG_KEY[0] as string), 401],
    ['for no key', byLength('X: y'), 401],
  ])('%s: a client that sends all before it reads gets the response', async (_, bytes, status) => {
    for (let i = 0; i < 3; i++) {
      const [answer] = answersIn(Buffer.from(await sendThenRead(fixture.posthorn.url(), bytes)))
      expect(answer).toMatchObject({ status, headers: { connection: 'close' } })
    }
  })

  it('is read on within bounds: a client that sends for ever is cut off', async () => {
    const head = Buffer.from(`${start(WRONG_KEY[0] as string, 'Content-Length: 99999999999')}\r\n`)
    const sent = await sendForEver(fixture.posthorn.url(), head, Buffer.alloc(MEGABYTE))
    expect(sent).toBeGreaterThan(LARGE)
    expect(sent).toBeLessThan(64 * MEGABYTE)
  })
})

describe('on one connection', () => {
  let served: ServedApp | null = null
  const sockets: Socket[] = []
  afterEach(async () => {
    for (const socket of sockets.splice(0)) socket.destroy()
    await served?.close()
    served = null
  })
  const get = (path: string, ...fields: string[]) =>
    `${[`GET ${path} HTTP/1.1`, 'Host: localhost', ...fields].join('\r\n')}\r\n\r\n`
  const authorized = `Authorization: Bearer ${KEY}`

  it.each([
    ['without a key', '/health/live', 'X: y', CONNECTION_LIMITS.pendingUnauthenticated],
    ['with a key', '/jobs', authorized, CONNECTION_LIMITS.pending],
  ])('%s so many requests are handled at once; one more ends it', async (_, path, field, most) => {
    served = await serveApp({ apiKeys: [KEY] })
    const all = get(path, field).repeat(most - 1) + get(path, field, 'Connection: close')
    const answered = answersIn(await exchange(served.url, all))
    expect(answered.map(({ status }) => status)).toEqual(Array(most).fill(200))
    const answers = answersIn(await exchange(served.url, get(path, field).repeat(most * 10)))
    expect(answers.slice(0, -1).every(({ status }) => status === 200)).toBe(true)
    expect(answers.length).toBeLessThan(most * 10)
    expect(answers.at(-1)).toMatchObject({ status: 503 })
    expect(answers.at(-1)?.headers).toMatchObject({ connection: 'close', 'retry-after': '1' })
    expect(JSON.parse(answers.at(-1)?.body ?? '')).toMatchObject({ code: 'overloaded' })
  })

  it('beyond so many without a key the oldest is closed; one with a key stays', async () => {
    served = await serveApp({
      apiKeys: [KEY],
      limits: { unauthenticated: 10, unauthenticatedOfAddress: 10 },
    })
    const known = await open(get('/jobs', authorized))
    const first = await open(get('/health/live'))
    for (let i = 0; i < 10; i++) await open(get('/health/live'))
    await until(() => first.destroyed)
    for (let i = 0; i < 30; i++) await open(get('/health/live'))
    expect(sockets.filter((socket) => !socket.destroyed).length).toBeLessThanOrEqual(12)
    expect(known.destroyed).toBe(false)
    expect((await fetch(`${served.url}/health/live`)).status).toBe(200)
  })

  /** Resolves once the request has its response. */
  function open(bytes: string): Promise<Socket> {
    const socket = connect(Number(new URL(served?.url ?? '').port), '127.0.0.1')
    sockets.push(socket)
    socket.on('error', () => {})
    socket.write(bytes)
    return new Promise((resolve) => socket.once('data', () => resolve(socket)))
  }
})
