// POST /jobs is served twice: by the route, and in its usual form by routes/jobs/plain-enqueue.ts.
// A chunked body is not the usual form. So each request is sent in both forms, to one server each,
// and the responses must be the same.
import { channel } from 'node:diagnostics_channel'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { answersIn, exchange, type RawAnswer } from '../hostile/raw-http.ts'
import { useServedApp } from '../support/served-app.ts'

const API_KEYS = ['a-key-of-some-length']
const served = {
  usual: useServedApp({ apiKeys: API_KEYS }),
  routed: useServedApp({ apiKeys: API_KEYS }),
}
type Form = keyof typeof served
const FORMS: Form[] = ['usual', 'routed']
const AUTHORIZED = { authorization: `Bearer ${API_KEYS[0]}` }

let handledCount = 0
const noteHandled = () => void handledCount++
const handled = channel('tracing:fastify.request.handler:start')
beforeAll(async () => {
  handled.subscribe(noteHandled)
  for (const form of FORMS) {
    const put = (name: string, fields: object = {}) =>
      served[form]
        .request('PUT', `/endpoints/${name}`, { url: null, ...fields }, AUTHORIZED)
        .expect(201)
    await put('work')
    await put('notices')
    await put('noticed', { onFinish: 'notices', retry: { maxAttempts: 7 } })
  }
})
afterAll(() => handled.unsubscribe(noteHandled))

/** What differs between two requests whatever serves them. */
function masked({ status, headers, body }: RawAnswer): RawAnswer {
  const mask = (text: string) =>
    text
      .replaceAll(/job_[0-9a-z]{26}/g, 'job')
      .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, 'instant')
      .replaceAll(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, 'uuid')
  const { date, ...others } = headers
  const named = Object.entries(others).map(([name, value]) => [name, mask(value)])
  return { status, headers: { ...Object.fromEntries(named), date: date?.length }, body: mask(body) }
}

async function send(form: Form, body: string | Buffer, headers: object): Promise<RawAnswer> {
  const { url } = served[form]
  const bytes = Buffer.from(body)
  const size =
    form === 'usual' ? { 'content-length': bytes.length } : { 'transfer-encoding': 'chunked' }
  const fields = {
    ...{ host: new URL(url).host, connection: 'close', 'content-type': 'application/json' },
    ...{ ...AUTHORIZED, ...size, ...headers },
  }
  const lines = Object.entries(fields).map(([name, value]) => `${name}: ${value}\r\n`)
  const head = Buffer.from(`POST /jobs HTTP/1.1\r\n${lines.join('')}\r\n`)
  const chunked = [
    Buffer.from(`${bytes.length.toString(16)}\r\n`),
    bytes,
    Buffer.from('\r\n0\r\n\r\n'),
  ]
  const parts = form === 'usual' ? [head, bytes] : [head, ...chunked]
  const [answer] = answersIn(await exchange(url, Buffer.concat(parts)))
  return masked(answer as RawAnswer)
}

/** Sends it in both forms, and requires the same response. */
async function same(body: string | Buffer, headers: object = {}): Promise<RawAnswer> {
  const usual = await send('usual', body, headers)
  expect(usual).toEqual(await send('routed', body, headers))
  return usual
}

const job = (fields: object = {}) =>
  JSON.stringify({ endpoint: 'work', payload: { a: 1 }, ...fields })

const ACCEPTED: [what: string, body: string, headers?: object][] = [
  ['an endpoint and a payload', job()],
  ['a payload that is not ASCII', '{"endpoint":"work","payload":{"é":"😀"}}'],
  [
    'a payload that JSON.parse would change',
    '{"endpoint":"work","payload":[1.0,1e400,{"a":1,"a":2}]}',
  ],
  ['spaces everywhere', ' { "endpoint" : "work" ,\n "payload" : [ 1 , 2 ] } \n'],
  ['keys with escapes', '{"end\\u0070oint":"work","pay\\u006coad":1}'],
  ['an endpoint with an onFinish of its own', '{"endpoint":"noticed","payload":null}'],
  [
    'all options',
    job({
      delay: '1h',
      priority: 2,
      tags: ['ä'],
      metadata: { a: 'b' },
      headers: { 'x-a': 'b' },
      retry: { maxAttempts: 3 },
      timeout: '9s',
      orderingKey: 'k',
      fairnessKey: 'f',
      cost: 9,
      expiresIn: '2h',
      onFinish: 'notices',
    }),
  ],
  ['a fairness key', job({ fairnessKey: 'tenant-7' })],
  ['a cost', job({ cost: 1_000 })],
  ['no fairness key', job({ fairnessKey: null, cost: 1 })],
  ['a request id', job(), { 'x-request-id': 'mine-1' }],
  ['an idempotency key', job(), { 'idempotency-key': 'k1' }],
  ['a trace context', job(), { traceparent: `00-${'1'.repeat(32)}-${'2'.repeat(16)}-01` }],
  ['a minimal response', job(), { prefer: 'return=minimal' }],
  ['a whole response', job(), { prefer: 'return=representation' }],
]

test.each(ACCEPTED)(
  'accepts alike, and in the usual form without Fastify: %s',
  async (_, body, headers) => {
    handledCount = 0
    expect((await same(body, headers)).status).toBe(201)
    // One of the two.
    expect(handledCount).toBe(1)
  },
)

const REFUSED: [what: string, status: number, body: string | Buffer, headers?: object][] = [
  ['an unknown endpoint', 422, job({ endpoint: 'unknown' })],
  ['an unknown field', 400, job({ unknown: 1 })],
  ['a field of Object.prototype', 400, job({ constructor: 1 })],
  ['the field __proto__', 400, '{"endpoint":"work","payload":1,"__proto__":1}'],
  ['no payload', 400, '{"endpoint":"work"}'],
  ['several wrong fields', 400, job({ endpoint: 'A B', priority: 1.5, delay: 'soon' })],
  ['a number out of range', 400, '{"endpoint":"work","payload":1,"priority":1e999}'],
  ['a wrong fairness key', 400, job({ fairnessKey: '..' })],
  ['a wrong cost', 400, job({ cost: 0 })],
  ['a runAt too far ahead', 400, job({ runAt: '2099-01-01T00:00:00Z' })],
  ['a duplicate key', 400, '{"endpoint":"work","endpoint":"work","payload":1}'],
  [
    'a duplicate key before a payload that is not JSON',
    400,
    '{"endpoint":"a","endpoint":"b","payload":}',
  ],
  ['a list', 400, '[]'],
  ['text after the body', 400, `${job()}x`],
  ['a comma at the end', 400, '{"endpoint":"work","payload":1,}'],
  ['a control character in a string', 400, '{"endpoint":"wo\trk","payload":1}'],
  ['a payload that is not JSON', 400, '{"endpoint":"work","payload":{"a":01}}'],
  [
    'a payload that is too deep',
    400,
    `{"endpoint":"work","payload":${'['.repeat(64)}${']'.repeat(64)}}`,
  ],
  ['bytes that are not UTF-8', 400, Buffer.from('{"endpoint":"work","payload":"\xff"}', 'latin1')],
  ['an idempotency key that is too long', 400, job(), { 'idempotency-key': 'k'.repeat(256) }],
  ['too many hops', 400, job(), { 'posthorn-hops': '999' }],
  ['a condition', 400, job(), { 'if-match': '"1"' }],
  ['a content coding', 415, job(), { 'content-encoding': 'gzip' }],
  ['another content type', 415, job(), { 'content-type': 'text/plain' }],
  ['a wrong key', 401, job(), { authorization: 'Bearer wrong' }],
]

test.each(REFUSED)('refuses alike: %s', async (_, status, body, headers) => {
  expect((await same(body, headers)).status).toBe(status)
})

test('answers a repeat alike: with the job that exists, or with the conflict', async () => {
  const key = { 'idempotency-key': 'twice' }
  expect((await same(job(), key)).status).toBe(201)
  expect((await same(job(), key)).status).toBe(200)
  expect((await same(job(), { ...key, prefer: 'return=minimal' })).status).toBe(200)
  expect((await same(job({ fairnessKey: null, cost: 1 }), key)).status).toBe(200)
  expect((await same(job({ priority: 1 }), key)).status).toBe(422)
  expect((await same(job({ cost: 2 }), key)).status).toBe(422)
})

// Both servers get it, because a later test compares their counts.
test.each(FORMS)('leaves the connection open when the store refuses the job: %s', async (form) => {
  const response = await fetch(`${served[form].url}/jobs`, {
    method: 'POST',
    headers: { ...AUTHORIZED, 'content-type': 'application/json' },
    body: job({ endpoint: 'unknown' }),
  })
  expect([response.status, response.headers.get('connection')]).toEqual([422, 'keep-alive'])
  await response.text()
})

test('counts its requests and jobs like the route', async () => {
  const lines = async (form: Form) => {
    const { text } = await served[form].request('GET', '/metrics', undefined, AUTHORIZED)
    return text
      .split('\n')
      .filter((line) => /^posthorn_(enqueued_jobs|http_requests)_total/.test(line))
  }
  await same(job())
  await same(job({ endpoint: 'unknown' }))
  const usual = await lines('usual')
  expect(usual.join()).toContain('route="/jobs"')
  expect(usual).toEqual(await lines('routed'))
})
