// HTTP that no library would send gets a problem as its response, and is never treated as another
// request.
import { connect } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { expectNothingFromInside, type Fixture, openFixture } from './fixture.ts'
import { answersIn, exchange, type RawAnswer } from './raw-http.ts'

let fixture: Fixture
beforeAll(async () => {
  fixture = await openFixture('sqlite')
})
afterAll(() => fixture.posthorn.close())

const send = async (bytes: string | Buffer) =>
  answersIn(await exchange(fixture.posthorn.url(), bytes))
const head = (line: string, ...fields: string[]) =>
  [line, 'Host: localhost', ...fields, '', ''].join('\r\n')
const closing = (line: string, ...fields: string[]) => head(line, ...fields, 'Connection: close')
const JOB = '{"endpoint":"known","payload":1}'
const JSON_BODY = 'Content-Type: application/json'
const jobCount = async () =>
  JSON.parse((await fixture.ask('GET', '/jobs?limit=100')).text).items.length

function sendAndReset(bytes: string): Promise<void> {
  const { hostname, port } = new URL(fixture.posthorn.url())
  return new Promise((resolve) => {
    const socket = connect(Number(port), hostname, () => {
      socket.write(bytes, () => socket.resetAndDestroy())
    })
    socket.on('error', () => {})
    socket.on('close', () => resolve())
  })
}

function expectProblem(answer: RawAnswer | undefined, status: number, code: string): void {
  expect(answer?.headers['content-type']).toMatch(/^application\/problem\+json/)
  expect(answer?.headers['x-request-id']).toMatch(/^[A-Za-z0-9._-]{1,64}$/)
  expect(JSON.parse(answer?.body ?? '')).toMatchObject({
    type: `urn:posthorn:error:${code}`,
    status,
    code,
    requestId: answer?.headers['x-request-id'],
  })
  expect(answer?.status).toBe(status)
  expectNothingFromInside(answer?.body ?? '', 'a problem')
}

/** Each case is one wrong request. The connection is closed after it. */
const MALFORMED: [what: string, bytes: string | Buffer, status: number][] = [
  ['no request line', '\r\n\r\n\r\nx\r\n\r\n', 400],
  ['a version that is none', 'GET / HTTP/9.9\r\nHost: localhost\r\n\r\n', 400],
  ['a method that is none', 'JUMP / HTTP/1.1\r\nHost: localhost\r\n\r\n', 400],
  ['a method in lower case', 'get / HTTP/1.1\r\nHost: localhost\r\n\r\n', 400],
  ['a space in the path', 'GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n', 400],
  ['the preface of HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 400],
  ['a TLS hello', Buffer.from('16030100c8010000c40303', 'hex'), 400],
  ['a URL of 20,000 letters', head(`GET /${'a'.repeat(20_000)} HTTP/1.1`), 431],
  ['a header of 20,000 letters', head('GET / HTTP/1.1', `A: ${'a'.repeat(20_000)}`), 431],
  ['a header without a colon', head('GET / HTTP/1.1', 'colourless'), 400],
  ['a space before the colon', head('GET / HTTP/1.1', 'Content-Length : 1'), 400],
  ['a header with an empty name', head('GET / HTTP/1.1', ': a'), 400],
  ['NUL in a header', head('GET / HTTP/1.1', 'A: b\0c'), 400],
  ['a folded header', head('GET / HTTP/1.1', 'A: b\r\n c'), 400],
  ['a negative length', head('POST /jobs HTTP/1.1', 'Content-Length: -1'), 400],
  ['a length with a sign', head('POST /jobs HTTP/1.1', 'Content-Length: +5'), 400],
  [
    'a length beyond all bounds',
    head('POST /jobs HTTP/1.1', `Content-Length: ${'9'.repeat(30)}`),
    400,
  ],
  ['two lengths', head('POST /jobs HTTP/1.1', 'Content-Length: 5', 'Content-Length: 6'), 400],
  [
    'a length and chunks',
    `${head('POST /jobs HTTP/1.1', 'Content-Length: 5', 'Transfer-Encoding: chunked')}0\r\n\r\n`,
    400,
  ],
  [
    'chunks under another name',
    `${head('POST /jobs HTTP/1.1', 'Transfer-Encoding: xchunked')}0\r\n\r\n`,
    400,
  ],
  [
    'chunks that are not the last coding',
    `${head('POST /jobs HTTP/1.1', 'Transfer-Encoding: chunked, identity')}0\r\n\r\n`,
    400,
  ],
  [
    'a chunk of no size',
    `${head('POST /jobs HTTP/1.1', JSON_BODY, 'Transfer-Encoding: chunked')}z\r\n`,
    400,
  ],
  [
    'a chunk longer than it says',
    `${head('POST /jobs HTTP/1.1', JSON_BODY, 'Transfer-Encoding: chunked')}1\r\nab\r\n`,
    400,
  ],
  [
    'a chunk with endless extensions',
    `${head('POST /jobs HTTP/1.1', JSON_BODY, 'Transfer-Encoding: chunked')}1;${'a'.repeat(40000)}`,
    400,
  ],
]

describe('what is not HTTP', () => {
  it.each(MALFORMED)('%s gets one problem, and the connection closes', async (_, bytes, status) => {
    const answers = await send(bytes)
    expect(answers).toHaveLength(1)
    expectProblem(answers[0], status, 'invalid_request')
    expect(answers[0]?.headers.connection).toBe('close')
  })

  it('nothing behind a wrong request is taken for a request', async () => {
    const before = await jobCount()
    const smuggled = head('POST /jobs HTTP/1.1', JSON_BODY, `Content-Length: ${JOB.length}`) + JOB
    for (const fields of [
      ['Content-Length: 5', 'Transfer-Encoding: chunked'],
      ['Transfer-Encoding: chunked', 'Transfer-Encoding: identity'],
      ['Content-Length: 0', `Content-Length: ${smuggled.length}`],
      ['Content-Length : 0'],
      ['X: a\r\n Content-Length: 0', 'Content-Length: 1'],
    ]) {
      const answers = await send(`${head('POST /jobs HTTP/1.1', ...fields)}0\r\n\r\n${smuggled}`)
      expect(answers.map(({ status }) => status)).toEqual([400])
    }
    expect(await jobCount()).toBe(before)
  })

  it('a good request before a wrong one still has its own response, first', async () => {
    const before = await jobCount()
    const good = `${head('POST /jobs HTTP/1.1', JSON_BODY, `Content-Length: ${JOB.length}`)}${JOB}`
    const answers = await send(`${good}no such thing\r\n\r\n`)
    expect(answers.map(({ status }) => status)).toEqual([201, 400])
    expectProblem(answers[1], 400, 'invalid_request')
    expect(await jobCount()).toBe(before + 1)
  })
})

describe('what is HTTP, but unusual', () => {
  it.each([
    ['TRACE', 405],
    ['PROPFIND', 405],
    ['M-SEARCH', 405],
    ['QUERY', 405],
    ['OPTIONS', 405],
  ])('the method %s is refused by a problem', async (method, status) => {
    const [answer] = await send(closing(`${method} /jobs HTTP/1.1`))
    expectProblem(answer, status, 'method_not_allowed')
    expect(answer?.headers.allow).toBe('GET, HEAD, POST')
  })

  it('OPTIONS * is refused by a problem', async () => {
    const [answer] = await send(closing('OPTIONS * HTTP/1.1'))
    expect(answer?.headers['content-type']).toMatch(/^application\/problem\+json/)
    expect([400, 404, 405]).toContain(answer?.status)
  })

  it('CONNECT is refused by a problem, after the responses to what came before it', async () => {
    const connectLine = head('CONNECT example.com:443 HTTP/1.1')
    expectProblem((await send(connectLine))[0], 405, 'method_not_allowed')
    const answers = await send(head('GET /health/ready HTTP/1.1') + connectLine)
    expect(answers.map(({ status }) => status)).toEqual([200, 405])
  })

  it('a client that resets the connection right after CONNECT ends nothing but that', async () => {
    for (let i = 0; i < 20; i++) await sendAndReset(head('CONNECT example.com:443 HTTP/1.1'))
    expect((await fixture.ask('GET', '/health/live')).status).toBe(200)
    expect(fixture.api.stderr()).toBe('')
  })

  it('an upgrade is not taken up: the request is handled as any other', async () => {
    const fields = ['Upgrade: websocket', 'Connection: upgrade, close']
    const [answer] = await send(head('GET /health/live HTTP/1.1', ...fields))
    expect(answer?.status).toBe(200)
    const [h2c] = await send(
      head(
        'GET /health/live HTTP/1.1',
        'Upgrade: h2c',
        'HTTP2-Settings: AAMAAABkAAQAAP__',
        fields[1] as string,
      ),
    )
    expect(h2c?.status).toBe(200)
  })

  it('HEAD responds as GET does, without a body', async () => {
    const path = '/health/live'
    const bytes = await exchange(fixture.posthorn.url(), closing(`HEAD ${path} HTTP/1.1`))
    expect(bytes.toString()).toMatch(/^HTTP\/1\.1 200 [\s\S]*\r\n\r\n$/)
    const missing = await exchange(fixture.posthorn.url(), closing('HEAD /nothing HTTP/1.1'))
    expect(missing.toString()).toMatch(/^HTTP\/1\.1 404 [\s\S]*problem\+json[\s\S]*\r\n\r\n$/)
  })

  it('the absolute form of a URL means its path', async () => {
    const [answer] = await send(closing('GET http://localhost/health/live HTTP/1.1'))
    expect(answer?.status).toBe(200)
    const [none] = await send(closing('GET http://localhost/nothing?a=b HTTP/1.1'))
    expectProblem(none, 404, 'not_found')
  })

  it('HTTP/0.9 has no Host, without which local mode refuses everything', async () => {
    expectProblem((await send('GET /\r\n\r\n'))[0], 403, 'forbidden')
  })

  it('HTTP/1.0 gets a response, and the connection closes', async () => {
    const [answer] = await send('GET /health/live HTTP/1.0\r\nHost: localhost\r\n\r\n')
    expect(answer?.status).toBe(200)
  })

  it('a client that waits for 100-continue gets it, or is refused', async () => {
    const fields = [JSON_BODY, 'Expect: 100-continue', 'Connection: close']
    const good = head('POST /jobs HTTP/1.1', ...fields, `Content-Length: ${JOB.length}`) + JOB
    const bytes = await exchange(fixture.posthorn.url(), good)
    expect(bytes.toString()).toMatch(/^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 201 /)
    const large = head('POST /jobs HTTP/1.1', ...fields, 'Content-Length: 99999999999')
    expectProblem((await send(large)).at(-1), 413, 'payload_too_large')
  })

  it('a body that is too large is refused before it has come, however it is sent', async () => {
    const [byLength] = await send(
      head('POST /jobs HTTP/1.1', JSON_BODY, 'Content-Length: 99999999999'),
    )
    expectProblem(byLength, 413, 'payload_too_large')
    const chunk = `100000\r\n${' '.repeat(0x100000)}\r\n`
    const start = head('POST /jobs HTTP/1.1', JSON_BODY, 'Transfer-Encoding: chunked')
    const [byChunks] = await send(start + chunk + chunk)
    expectProblem(byChunks, 413, 'payload_too_large')
  })

  it('pipelined requests get their responses in order', async () => {
    const paths = ['/jobs?limit=1', '/nothing', '/health/live', '/jobs/x']
    const all = paths.map((path) => head(`GET ${path} HTTP/1.1`)).join('')
    const answers = await send(all + closing('GET / HTTP/1.1'))
    expect(answers.map(({ status }) => status)).toEqual([200, 404, 200, 404, 200])
  })

  it('no header is dropped without a word, however many there are', async () => {
    for (const [count, status] of [
      [50, 201],
      [2_050, 431],
      [4_000, 431],
    ] as const) {
      const many = Array.from({ length: count }, () => 'a: b')
      const own = ['Idempotency-Key: last', `Content-Length: ${JOB.length}`, JSON_BODY]
      const [answer] = await send(closing('POST /jobs HTTP/1.1', ...many, ...own) + JOB)
      expect([count, answer?.status]).toEqual([count, status])
      if (status === 431) expectProblem(answer, 431, 'invalid_request')
      else expect(JSON.parse(answer?.body ?? '')).toMatchObject({ idempotencyKey: 'last' })
    }
  })

  it('a duplicate header is refused where one is meant', async () => {
    const twice = (name: string, line = 'POST /jobs HTTP/1.1') =>
      send(
        closing(line, `${name}: a`, `${name}: b`, JSON_BODY, `Content-Length: ${JOB.length}`) + JOB,
      )
    expectProblem((await twice('Idempotency-Key'))[0], 400, 'invalid_request')
    expectProblem((await twice('If-Match', 'PATCH /jobs/x HTTP/1.1'))[0], 400, 'invalid_request')
    const [host] = await send(
      `GET /jobs HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n`,
    )
    expectProblem(host, 400, 'invalid_request')
  })

  it('bytes beyond ASCII in the request line are refused', async () => {
    const [query] = await send(Buffer.from(closing('GET /jobs?tag=ä HTTP/1.1')))
    expectProblem(query, 400, 'invalid_request')
  })

  it('a client that goes away in the middle of anything leaves the API well', async () => {
    const whole = `${head('POST /jobs HTTP/1.1', JSON_BODY, `Content-Length: ${JOB.length}`)}${JOB}`
    const cuts = Array.from({ length: whole.length }, (_, i) => whole.slice(0, i + 1))
    await Promise.all(cuts.map(sendAndReset))
    expect((await fixture.ask('GET', '/health/ready')).status).toBe(200)
    expect(fixture.api.log.filter(({ msg }) => msg === 'request.failed')).toEqual([])
    expect(fixture.api.stderr()).toBe('')
  })
})
