// The promise of the address policy as tables. A target is refused at registration, and again when
// a worker that is stricter than the API dials it. Whatever the spelling, nothing connects.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { type RawServer, startRawServer } from '../webhook/raw-server.ts'

const KEY = 'a-key-of-twenty-four-characters'
const authorization = { authorization: `Bearer ${KEY}` }

/**
 * Hosts that no delivery may reach, and the word in the refusal. All of them lead to this machine.
 */
const OURS: [host: string, kind: string][] = [
  ...[
    ...['127.0.0.1', '127.1', '0x7f.1', '0x7F000001', '2130706433', '017700000001', '0177.0.0.1'],
    ...['127.0.0.1.', '127%2e0%2e0%2e1', '127。0。0。1', '１２７.0.0.1', '①②⑦.⓪.⓪.①'],
    ...['127.255.255.254', '[::1]', '[0:0:0:0:0:0:0:1]', '[::ffff:127.0.0.1]', '[::ffff:7f00:1]'],
  ].map((host): [string, string] => [host, 'a loopback address']),
  ...['localhost', 'LOCALHOST'].map((host): [string, string] => [host, 'loopback']),
  ...['0.0.0.0', '0', '0x0', '[::]', '[::0.0.0.0]'].map((host): [string, string] => [
    host,
    'an unspecified address',
  ]),
]

const OTHERS: [host: string, kind: string][] = [
  ['[::127.0.0.1]', 'a loopback address'],
  ['[::ffff:0:127.0.0.1]', 'an IPv4-translated address'],
  ['[64:ff9b::7f00:1]', 'a loopback address'],
  ['[64:ff9b::10.0.0.1]', 'a private address'],
  ['[64:ff9b:1::a00:1]', 'a NAT64 address'],
  ['[2002:7f00:1::]', 'a loopback address'],
  ['[2001:0:4136:e378:8000:63bf:80ff:fffe]', 'a Teredo address'],
  ['0.1.2.3', 'an unspecified address'],
  ['10.0.0.1', 'a private address'],
  ['0xa.1', 'a private address'],
  ['172.31.255.255', 'a private address'],
  ['192.168.1.1', 'a private address'],
  ['[::ffff:192.168.1.1]', 'a private address'],
  ['100.64.0.1', 'a carrier-grade NAT address'],
  ['169.254.1.1', 'a link-local address'],
  ['[fe80::1]', 'a link-local address'],
  ['[fd00::1]', 'a unique-local address'],
  ['255.255.255.255', 'a broadcast address'],
  ['224.0.0.1', 'a multicast address'],
  ['[ff02::1]', 'a multicast address'],
  ['198.51.100.7', 'a documentation address'],
]

/** No setting allows these hosts. */
const METADATA = [
  ...['169.254.169.254', '0xa9fea9fe', '2852039166', '[::ffff:169.254.169.254]'],
  ...['[fd00:ec2::254]', '100.100.100.200', '[64:ff9b::a9fe:a9fe]', '[2002:a9fe:a9fe::1]'],
]

/** URLs that cannot be registered even if every target is allowed. */
const NEVER: [url: string, reason: RegExp][] = [
  ['http://user@hooks.example.com/', /user name or a password/],
  ['http://127.0.0.1@hooks.example.com/', /user name or a password/],
  ['http://hooks.example.com:pw@127.0.0.1/', /user name or a password/],
  ['ftp://hooks.example.com/', /neither http nor https/],
  ['file:///etc/passwd', /neither http nor https/],
  ['gopher://127.0.0.1:6379/_FLUSHALL', /neither http nor https/],
  ['http://[fe80::1%25eth0]/', /not an absolute URL/],
  ['http://[fe80::1%eth0]/', /not an absolute URL/],
  ['http://1.2.3.4.5/', /not an absolute URL/],
  ['http://256.1.1.1/', /not an absolute URL/],
  ['http://0x100000000/', /not an absolute URL/],
  ['//127.0.0.1/', /not an absolute URL/],
]

/** Names and ports that are refused whatever the address is. */
const NAMES: [url: string, reason: RegExp][] = [
  ['http://localhost./', /name of the loopback address/],
  ['http://app.localhost/', /name of the loopback address/],
  ['http://ip6-loopback/', /name of the loopback address/],
  ['http://metadata.google.internal/', /a cloud metadata name/],
  ['http://METADATA.google.internal./', /a cloud metadata name/],
  ['http://instance-data/latest/', /a cloud metadata name/],
  ['http://hooks.example.com:22/', /port 22 belongs to another protocol/],
  ['https://8.8.8.8:25/', /port 25 belongs to another protocol/],
]

let posthorn: Deployment
beforeAll(() => {
  posthorn = deploy('sqlite', { API_KEYS: KEY })
})
afterAll(() => posthorn.close())

const put = (name: string, url: string) =>
  posthorn.request('PUT', `/endpoints/${name}`, { url }, authorization)

describe('at registration', () => {
  beforeAll(() => posthorn.startApi())

  async function expectRefused(url: string, reason: string | RegExp): Promise<void> {
    const { status, body } = await put('refused', url)
    expect(status).toBe(400)
    expect(body).toMatchObject({ code: 'invalid_request', errors: [{ path: '/url' }] })
    const [{ message }] = body.errors
    if (typeof reason === 'string') expect(message).toContain(reason)
    else expect(message).toMatch(reason)
  }

  it.each([...OURS, ...OTHERS])('the host %s is refused as %s', async (host, kind) => {
    await expectRefused(`http://${host}/hook`, kind)
    await expectRefused(`https://${host}:8443/hook`, /ALLOWED_TARGETS=\S+ would allow it$/)
  })

  it.each(METADATA)('the host %s is refused as a cloud metadata address', async (host) => {
    await expectRefused(`http://${host}/`, /a cloud metadata address; no setting allows it$/)
  })

  it.each([...NEVER, ...NAMES])('%s is refused', expectRefused)

  it('nothing of it was stored', async () => {
    const { status } = await posthorn.request('GET', '/endpoints/refused', undefined, authorization)
    expect(status).toBe(404)
  })
})

describe('at a worker that is stricter than the API', () => {
  const OPEN = ['0.0.0.0/0', '::/0']
  let listener: RawServer
  const jobIds = new Map<string, string>()

  beforeAll(async () => {
    // The listener uses all addresses of this machine.
    listener = await startRawServer((socket) => socket.end('HTTP/1.1 200 OK\r\n\r\n'), { host: '' })
    const opened = [...OPEN, '8.8.8.8:25']
    await posthorn.startApi({ ALLOWED_TARGETS: opened.join(',') })
    await posthorn.startWorker()
    const urls = [...OURS, ...OTHERS].map(([host]) => [host, `http://${host}:${listener.port}/`])
    urls.push(['a port', 'https://8.8.8.8:25/'])
    for (const [i, [host, url]] of urls.entries()) {
      expect(await put(`target-${i}`, url as string), host).toMatchObject({ status: 201 })
    }
    const jobs = urls.map((_, i) => ({ endpoint: `target-${i}`, payload: 1 }))
    const { body } = await posthorn.request('POST', '/jobs/batch', { jobs }, authorization)
    for (const [i, [host]] of urls.entries()) jobIds.set(host as string, body.items[i].id)
  })
  afterAll(() => listener.close())

  it.each(METADATA)('%s cannot be registered there either', async (host) => {
    const { status, body } = await put('refused', `http://${host}:${listener.port}/`)
    expect(status).toBe(400)
    expect(body.errors[0].message).toContain('a cloud metadata address; no setting allows it')
  })

  it.each([...OURS, ...OTHERS, ['a port', 'port 25'] as const])(
    'a job for %s is dead at once: it is %s',
    async (host, kind) => {
      const path = `/jobs/${jobIds.get(host)}?wait=20s`
      const { body: job } = await posthorn.request('GET', path, undefined, authorization)
      const reason = { outcome: 'blocked', errorCode: 'ADDRESS_REFUSED', statusCode: null }
      expect(job).toMatchObject({ state: 'dead', failure: { reason: 'rejected' } })
      expect(job.attempts).toMatchObject([{ ...reason, message: expect.stringContaining(kind) }])
    },
  )

  it('nothing has connected, though something listened', async () => {
    expect(listener.connectionCount()).toBe(0)
    for (const host of ['127.0.0.1', 'localhost', '0.0.0.0']) {
      expect((await fetch(`http://${host}:${listener.port}/`)).status).toBe(200)
    }
    expect(listener.connectionCount()).toBe(3)
  })
})
