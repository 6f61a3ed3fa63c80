import { request as httpRequest } from 'node:http'
import { createConnection } from 'node:net'
import { text } from 'node:stream/consumers'
import { beforeAll, describe, expect, it } from 'vitest'
import { ERRORS, type ErrorCode } from '../../src/errors.ts'
import { operationsOf } from '../hostile/operations.ts'
import type { Answer, SendRequest } from '../support/request.ts'
import { useServedApp } from '../support/served-app.ts'

const served = useServedApp({ maxBodyBytes: 4_096 })
const { request } = served
beforeAll(async () => {
  await request('PUT', '/endpoints/known', { url: 'https://example.com/hook' }).expect(201)
})

const job = { endpoint: 'known', payload: {} }
const NO_JOB = 'job_00000000000000000000000000'

/** Fields that replace those of a valid job, each with the path that the error names. */
const WRONG_FIELDS: [what: string, fields: object, at: string][] = [
  ['no payload', { payload: undefined }, '/payload'],
  ['no endpoint', { endpoint: undefined }, '/endpoint'],
  ['an unknown field', { colour: 'red' }, '/colour'],
  ['an unknown field in retry', { retry: { max: 1 } }, '/retry/max'],
  ['a number as text', { priority: '5' }, '/priority'],
  ['a priority out of range', { priority: 10 }, '/priority'],
  ['an operator for a name', { endpoint: { $gt: '' } }, '/endpoint'],
  ['a wrong name', { endpoint: 'No Such' }, '/endpoint'],
  ['a duration in words', { delay: 'soon' }, '/delay'],
  ['a fraction of a second', { timeout: '1.5s' }, '/timeout'],
  ['an instant with a space', { runAt: '2026-11-24 08:30:00Z' }, '/runAt'],
  ['an instant without zone', { runAt: '2026-11-24T08:30:00' }, '/runAt'],
  ['an instant years ahead', { runAt: '2099-01-01T00:00:00Z' }, '/runAt'],
  ['runAt and delay', { runAt: '2026-11-24T08:30:00Z', delay: '1s' }, '/delay'],
  ['eleven tags', { tags: Array(11).fill('t') }, '/tags'],
  ['NUL in a tag', { tags: ['a\0'] }, '/tags/0'],
  ['half a surrogate in metadata', { metadata: { a: '\ud800' } }, '/metadata/a'],
  ['a header of ours', { headers: { 'Posthorn-Fence': '1' } }, '/headers/Posthorn-Fence'],
  ['a line break in a header', { headers: { a: 'b\r\nc: d' } }, '/headers/a'],
]

/** Settings that replace those of a valid endpoint. */
const WRONG_SETTINGS: typeof WRONG_FIELDS = [
  ['no url', { url: undefined }, '/url'],
  ['a URL that is none', { url: 'example' }, '/url'],
  ['another scheme', { url: 'ftp://example.com' }, '/url'],
  ['a private address', { url: 'http://10.0.0.1/' }, '/url'],
  ['a secret that is none', { secret: 'x' }, '/secret'],
  ['a backoff of no kind', { retry: { backoff: { type: 'slow' } } }, '/retry/backoff/type'],
]

/** Bodies of POST /jobs, as text. */
const WRONG_BODIES: [what: string, body: string, code: ErrorCode, at?: string][] = [
  ['no JSON', '{', 'invalid_json'],
  ['a duplicate key', '{"endpoint":"a","endpoint":"b"}', 'invalid_json'],
  ['nested too deep', `{"payload":${'['.repeat(200)}`, 'invalid_json'],
  ['nothing', '', 'invalid_request'],
  ['an array', '[{}]', 'invalid_request'],
  ['too much', `{"payload":"${'x'.repeat(4_096)}"}`, 'payload_too_large'],
  [
    'a prototype',
    '{"endpoint":"known","payload":1,"__proto__":{}}',
    'invalid_request',
    '/__proto__',
  ],
  ['a huge number', '{"priority":1e400}', 'invalid_request', '/priority'],
]

/** Paths for GET. */
const WRONG_PATHS: [what: string, path: string, code: ErrorCode, at?: string][] = [
  ['an id that is none', '/jobs/42', 'job_not_found'],
  ['an id of no job', `/jobs/${NO_JOB}`, 'job_not_found'],
  ['the payload of no job', `/jobs/${NO_JOB}/payload`, 'job_not_found'],
  ['a wait too long', `/jobs/${NO_JOB}?wait=2m`, 'invalid_request', 'query/wait'],
  ['a limit of 0', '/jobs?limit=0', 'invalid_request', 'query/limit'],
  ['a limit twice', '/jobs?limit=1&limit=2', 'invalid_request', 'query/limit'],
  ['a cursor of another program', '/jobs?cursor=abc', 'invalid_request', 'query/cursor'],
  ['an unknown state', '/jobs?state=waiting', 'invalid_request', 'query/state/0'],
  ['an operator', '/jobs?endpoint[$ne]=1', 'invalid_request', 'query/endpoint[$ne]'],
  ['an endpoint that is not there', '/endpoints/nowhere', 'endpoint_not_found'],
  ['a name that is none', '/endpoints/No', 'invalid_request', 'path/name'],
  ['a path that is not there', '/job', 'not_found'],
  ['a path that is no path', '/jobs/%zz', 'invalid_request'],
]

const WORDS_OF_ZOD = /^(Invalid|Too|Unrecognized) |, received | in record/

/** Settings that replace those of a valid endpoint, each with the sentence of the error. */
const SENTENCES: [settings: object, sentence: string][] = [
  [{ url: undefined }, '/url: is required'],
  [{ url: 3 }, '/url: expected a string; found a number'],
  [{ description: null }, '/description: expected a string; found null'],
  [{ headers: [] }, '/headers: expected an object; found an array'],
  [{ concurrency: 0 }, '/concurrency: expected at least 1'],
  [{ concurrency: 1.5 }, '/concurrency: expected an integer; found a number with a fraction'],
  [{ completion: 'no' }, '/completion: expected one of "sync", "async"'],
  [
    { rateLimit: { count: 1 } },
    '/rateLimit/per: expected a duration like 500ms, 15s or 1h30m, from 1ms to 7d',
  ],
  [
    { retry: { backoff: { type: 'slow' } } },
    '/retry/backoff/type: expected one of "exponential", "linear", "fixed", "schedule"',
  ],
  [
    { retry: { backoff: { type: 'schedule', delays: [] } } },
    '/retry/backoff/delays: expected at least 1 item',
  ],
  [{ statuses: { 200: 'final' } }, '/statuses/200: wrong name: expected a status from 300 to 599'],
  [
    { onFinish: {} },
    '/onFinish: expected the name of an endpoint, or an object with endpoint and states',
  ],
]

interface Expected {
  code: ErrorCode
  status?: number
  at?: string | undefined
}

/**
 * Sends the request with a request id of its own, and checks every part that a problem must have.
 */
async function expectProblem(
  { code, status, at }: Expected,
  ...[method, path, body, headers]: Parameters<SendRequest>
): Promise<Answer> {
  const withId = { 'x-request-id': 'asked-by-a-test', ...headers }
  const answer = await request(method, path, body, withId)
  expect(answer.status).toBe(status ?? ERRORS[code].status)
  expect(answer.headers.get('content-type')).toMatch(/^application\/problem\+json(;|$)/)
  expect(answer.headers.get('x-request-id')).toBe('asked-by-a-test')
  expect(answer.body).toMatchObject({
    type: `urn:posthorn:error:${code}`,
    title: ERRORS[code].title,
    status: answer.status,
    code,
    requestId: 'asked-by-a-test',
  })
  expect(answer.body.detail.length).toBeGreaterThan(10)
  for (const { message } of answer.body.errors ?? []) expect(message).not.toMatch(WORDS_OF_ZOD)
  if (at === undefined) return answer
  expect(answer.body.errors.map((one: { path: string }) => one.path)).toContain(at)
  return answer
}

describe('a wrong request', () => {
  it.each(WRONG_FIELDS)('a job with %s is refused', async (_, fields, at) => {
    await expectProblem({ code: 'invalid_request', at }, 'POST', '/jobs', { ...job, ...fields })
  })

  it.each(WRONG_SETTINGS)('an endpoint with %s is refused', async (_, settings, at) => {
    const body = { url: 'https://example.com', ...settings }
    await expectProblem({ code: 'invalid_request', at }, 'PUT', '/endpoints/x', body)
  })

  it.each(SENTENCES)('an endpoint with %j is refused: %s', async (settings, sentence) => {
    const body = { url: 'https://example.com', ...settings }
    const answer = await request('PUT', '/endpoints/x', body).expect(400)
    expect(answer.body.detail).toBe(sentence)
  })

  it.each(WRONG_BODIES)('a body that is %s is refused', async (_, body, code, at) => {
    await expectProblem({ code, at }, 'POST', '/jobs', body)
  })

  it.each(WRONG_PATHS)('a read of %s is refused', async (_, path, code, at) => {
    await expectProblem({ code, at }, 'GET', path)
  })

  it.each(['text/plain', 'application/x-www-form-urlencoded', 'application/xml'])(
    'a body that says it is %s is refused',
    async (type) => {
      const expected = { code: 'unsupported_media_type' } as const
      await expectProblem(expected, 'POST', '/jobs', '{}', { 'content-type': type })
    },
  )

  it.each(['utf-16le', 'latin1'] as const)('a body in %s is refused', async (coding) => {
    const answer = await fetch(`${served.url}/jobs`, {
      method: 'POST',
      headers: { 'content-type': `application/json; charset=${coding}` },
      body: Buffer.from('{"endpoint":"known","payload":"\u00e9"}', coding),
    })
    expect(await answer.json()).toMatchObject({ status: 400, code: 'invalid_json' })
  })

  it('an unknown endpoint is refused, and the response says how to register it', async () => {
    const expected = { code: 'endpoint_not_found', status: 422 } as const
    const unknown = { ...job, endpoint: 'unknown' }
    const answer = await expectProblem(expected, 'POST', '/jobs', unknown)
    expect(answer.body.detail).toContain('PUT /endpoints/unknown')
  })

  it('an empty idempotency key is refused', async () => {
    const expected = { code: 'invalid_request', at: 'header/idempotency-key' } as const
    await expectProblem(expected, 'POST', '/jobs', job, { 'idempotency-key': '""' })
  })

  it('a request that more than ten deliveries led to enqueues nothing', async () => {
    await request('POST', '/jobs', job, { 'posthorn-hops': '10' }).expect(201)
    const expected = { code: 'invalid_request', at: 'header/posthorn-hops' } as const
    for (const hops of ['11', '999999999', '-1', 'x']) {
      for (const [path, body] of [
        ['/jobs', job],
        ['/jobs/batch', { jobs: [job] }],
      ] as const) {
        await expectProblem(expected, 'POST', path, body, { 'posthorn-hops': hops })
      }
    }
  })

  it('a query on an enqueue is refused', async () => {
    const expected = { code: 'invalid_request', at: 'query/wait' } as const
    await expectProblem(expected, 'POST', '/jobs?wait=1s', job)
  })

  it('a command on no job, and one with a field, is refused', async () => {
    await expectProblem({ code: 'job_not_found' }, 'POST', `/jobs/${NO_JOB}/cancel`)
    const expected = { code: 'invalid_request', at: '/now' } as const
    await expectProblem(expected, 'POST', `/jobs/${NO_JOB}/retry`, { now: true })
  })

  it('an old ETag is refused', async () => {
    const expected = { code: 'precondition_failed' } as const
    const path = '/endpoints/known'
    const old = { 'if-match': '"99"' }
    await expectProblem(expected, 'PUT', path, { url: 'https://example.com' }, old)
    await expectProblem(expected, 'DELETE', path, undefined, old)
  })

  it('an unknown method is refused, and the response says which are known', async () => {
    const answer = await expectProblem({ code: 'method_not_allowed' }, 'DELETE', '/jobs')
    expect(answer.headers.get('allow')).toBe('GET, HEAD, POST')
  })
})

describe('an empty body', () => {
  const EMPTY_BODIES: [what: string, headers: Record<string, string>][] = [
    ['a form', { 'content-length': '0', 'content-type': 'application/x-www-form-urlencoded' }],
    ['an empty content type', { 'content-length': '0', 'content-type': '' }],
    ['a malformed content type', { 'content-length': '0', 'content-type': 'json' }],
    ['JSON', { 'content-length': '0', 'content-type': 'application/json; charset=utf8' }],
    ['a form in chunks', { 'transfer-encoding': 'chunked', 'content-type': 'text/plain' }],
    ['chunks without a type', { 'transfer-encoding': 'chunked' }],
  ]

  /** The status of a request without a body, or with an empty one. */
  function statusOf(method: string, path: string, headers: Record<string, string>) {
    return new Promise<number>((resolve, reject) => {
      const sent = httpRequest(served.url + path, { method, headers }, (answer) => {
        answer.resume().on('end', () => resolve(answer.statusCode as number))
      })
      sent.on('error', reject).end()
    })
  }

  it.each(EMPTY_BODIES)('sent as %s is none, at every route', async (_, headers) => {
    const operations = operationsOf(served.app.swagger(), {}).filter(
      ({ method }) => method !== 'GET',
    )
    expect(operations.length).toBeGreaterThan(25)
    for (const { method, path } of operations) {
      const plainPath = path.replace('{id}', NO_JOB).replace('{name}', 'none')
      const without = await statusOf(method, plainPath, {})
      expect([method, path, await statusOf(method, plainPath, headers)]).toEqual([
        method,
        path,
        without,
      ])
      expect(without).not.toBe(415)
    }
    expect(await statusOf('POST', '/endpoints/known/pause', headers)).toBe(200)
    expect(await statusOf('POST', '/endpoints/known/resume', headers)).toBe(200)
  })

  it('of another type is none only as long as it is empty', async () => {
    for (const [path, status] of [
      ['/endpoints/known/resume', 415],
      ['/unknown', 404],
    ] as const) {
      const body = new ReadableStream({
        start(controller) {
          controller.enqueue(Buffer.from('a=1'))
          controller.close()
        },
      })
      const headers = { 'content-type': 'text/plain' }
      const init = { method: 'POST', headers, body, duplex: 'half' }
      expect((await fetch(served.url + path, init as RequestInit)).status).toBe(status)
    }
  })
})

describe('what is not even HTTP', () => {
  it.each([
    ['garbage', 'hello\r\n\r\n', 400],
    [
      'headers without end',
      `GET / HTTP/1.1\r\nHost: localhost\r\n${'a: b\r\n'.repeat(4_000)}\r\n`,
      431,
    ],
    ['a wrong length', 'POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n', 400],
  ])('%s gets a problem', async (_, bytes, status) => {
    const socket = createConnection(Number(new URL(served.url).port), '127.0.0.1')
    socket.write(bytes)
    const answer = await text(socket)
    expect(answer).toMatch(new RegExp(`^HTTP/1.1 ${status} `))
    expect(answer).toContain('application/problem+json')
    expect(JSON.parse(answer.slice(answer.indexOf('\r\n\r\n')))).toMatchObject({ status })
  })
})
