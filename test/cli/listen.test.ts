// posthorn listen: jobs of a server that needs a key reach a handler on this machine in the same
// form as from a worker.
import { Webhook } from 'standardwebhooks'
import {
  afterAll,
  afterEach,
  beforeAll,
  beforeEach,
  describe,
  expect,
  it,
  onTestFinished,
} from 'vitest'
import { newSecret } from '../../src/endpoint/endpoint.ts'
import { startFaultyProxy } from '../client/faulty-proxy.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import type { Process } from '../support/process.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'
import { openShell, type Shell } from './command-line.ts'

const ADMIN_KEY = 'a-key-of-the-listen-tests-of-posthorn'
const bearer = { authorization: `Bearer ${ADMIN_KEY}` }
const DEADLINE = { timeout: 60_000 }

let posthorn: Deployment
let api: Process
let shell: Shell
let handler: Receiver
let name = ''
let count = 0

beforeAll(async () => {
  posthorn = deploy('sqlite', { API_KEYS: ADMIN_KEY })
  api = await posthorn.startApi()
  shell = openShell({ POSTHORN_URL: posthorn.url(), POSTHORN_KEY: ADMIN_KEY })
})
afterAll(async () => {
  await shell.close()
  await posthorn.close()
})
beforeEach(async () => {
  handler = await startReceiver()
  name = `render-${++count}`
  const retry = { maxAttempts: 5, backoff: { type: 'fixed', delay: '0s' } }
  await ask('PUT', `/endpoints/${name}`, { url: null, retry })
})
afterEach(() => handler.close())

const ask = (method: string, path: string, body?: unknown) =>
  posthorn.request(method, path, body, bearer)
const enqueue = async (payload: unknown = { scene: 7 }) =>
  (await ask('POST', '/jobs', { endpoint: name, payload })).body.id as string

async function jobIn(id: string, ...states: string[]) {
  await until(async () => states.includes((await ask('GET', `/jobs/${id}`)).body.state))
  return (await ask('GET', `/jobs/${id}`)).body
}

async function listening(words: string[] = [], env: Record<string, string> = {}) {
  const typed = shell.start(['listen', name, `${handler.url}/hook`, ...words], { env })
  await typed.printed('Ctrl-C ends this')
  return typed
}

describe('a job', () => {
  it('reaches the handler byte for byte, signed, and gets its response', DEADLINE, async () => {
    handler.answerWith({ body: '{"frames":240, "id": 12345678901234567890}' })
    const secret = newSecret()
    const typed = await listening(['--secret', secret])
    const payload = '{"scene": 12345678901234567890, "scale": 1.0 }'
    const text = `{"endpoint":"${name}","payload":${payload}}`
    const trace = {
      traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01',
      tracestate: 'vendor=one',
    }
    const origin = { ...bearer, ...trace, 'posthorn-hops': '3' }
    const { id } = (await posthorn.request('POST', '/jobs', text, origin)).body
    await jobIn(id, 'succeeded')
    const [request] = handler.requests
    expect(request?.path).toBe('/hook')
    expect(request?.body.toString()).toBe(payload)
    const headers = request?.headers as Record<string, string>
    expect(() => new Webhook(secret).verify(payload, headers)).not.toThrow()
    expect(() => new Webhook(newSecret()).verify(payload, headers)).toThrow()
    expect(headers).toMatchObject({
      'webhook-id': id,
      'idempotency-key': id,
      'posthorn-endpoint': name,
      'posthorn-attempt': '1',
      'posthorn-attempts-left': '4',
      'posthorn-fence': '1',
      'posthorn-hops': '4',
      ...trace,
    })
    const { url } = { url: `${posthorn.url()}/jobs/${id}` }
    const read = await (await fetch(url, { headers: bearer })).text()
    expect(read).toContain('{"frames":240, "id": 12345678901234567890}')
    await typed.printed(new RegExp(`${id} 1/5 succeeded 200 \\d+ ms`))
    typed.signal('SIGINT')
    expect(await typed.ended()).toBe(0)
  })

  it('has its inputs after its payload, byte for byte, signed as one', DEADLINE, async () => {
    const result = '{"id":12345678901234567890,"scale":1.0}'
    handler.answerWith({ body: result })
    const secret = newSecret()
    await listening(['--secret', secret])
    const first = await enqueue()
    const needs = {
      id: `${first}/result/id`,
      none: { job: first, pointer: '/none', ifFailed: 'continue' },
      whole: first,
    }
    const text = `{"endpoint":"${name}","payload":[1.0],"needs":${JSON.stringify(needs)}}`
    const { id } = (await posthorn.request('POST', '/jobs', text, bearer)).body
    await jobIn(id, 'succeeded')
    const request = handler.requests.find(({ headers }) => headers['webhook-id'] === id)
    const body = request?.body.toString() ?? ''
    const inputs = `{"id":12345678901234567890,"none":null,"whole":${result}}`
    expect(body).toBe(`{"payload":[1.0],"inputs":${inputs},"failedInputs":["none"]}`)
    const headers = request?.headers as Record<string, string>
    expect(() => new Webhook(secret).verify(body, headers)).not.toThrow()
  })

  it('without a secret is signed with one that is shown', DEADLINE, async () => {
    const typed = await listening()
    const [secret = ''] = /whsec_\S+(?=,)/.exec(typed.stderr()) ?? []
    await enqueue(1)
    await handler.waitFor((requests) => requests.length === 1, 15_000)
    const headers = handler.requests[0]?.headers as Record<string, string>
    expect(() => new Webhook(secret).verify('1', headers)).not.toThrow()
  })

  it('is tried again after a 500 and dead at once after a 400', DEADLINE, async () => {
    handler.answerWith([500, 200, 400])
    const typed = await listening()
    const first = await jobIn(await enqueue(), 'succeeded', 'dead')
    expect(first).toMatchObject({ state: 'succeeded', attemptCount: 2 })
    expect(first.attempts[0]).toMatchObject({
      outcome: 'failed',
      message: expect.stringContaining('500'),
    })
    const second = await jobIn(await enqueue(), 'succeeded', 'dead')
    expect(second).toMatchObject({ state: 'dead', attemptCount: 1 })
    expect(second.failure.message).toContain('400')
    await typed.printed(/1\/5 http_error 500/)
    await typed.printed(/1\/5 rejected 400/)
  })

  it('whose response is nested deeper than a result may be keeps it as text', async () => {
    const text = '['.repeat(100) + ']'.repeat(100)
    handler.answerWith({ body: text })
    const typed = await listening()
    const id = await enqueue()
    expect(await jobIn(id, 'succeeded')).toMatchObject({ attemptCount: 1, result: { text } })
    await typed.printed('succeeded 200')
  })

  it('whose response the server does not accept as JSON keeps it as text', async () => {
    // As deep as a result may be. The request that reports it is one level deeper, which is too
    // deep.
    const text = '['.repeat(64) + ']'.repeat(64)
    handler.answerWith({ body: text })
    const typed = await listening()
    const id = await enqueue()
    expect(await jobIn(id, 'succeeded')).toMatchObject({ attemptCount: 1, result: { text } })
    await typed.printed('succeeded 200 .*its result is stored as text')
  })

  it('whose handler is not there is tried again', DEADLINE, async () => {
    const gone = await startReceiver()
    await gone.close()
    const typed = shell.start(['listen', name, gone.url])
    const id = await enqueue()
    await typed.printed('5/5 connect_error .*ECONNREFUSED')
    expect(await jobIn(id, 'dead')).toMatchObject({ failure: { reason: 'attempts_exhausted' } })
  })

  it(
    'keeps its lease while the handler works, and leaves it when cancelled',
    DEADLINE,
    async () => {
      handler.answerWith('hang')
      const ids = [await enqueue(), await enqueue()] as const
      const typed = await listening(['--concurrency', '2'])
      const [{ lease }] = await Promise.all(ids.map((id) => jobIn(id, 'running')))
      await ask('POST', `/jobs/${ids[1]}/cancel`)
      await typed.printed(`${ids[1]} 1/5 cancelled`)
      await until(async () => {
        const now = (await ask('GET', `/jobs/${ids[0]}`)).body.lease
        return Date.parse(now.expiresAt) > Date.parse(lease.expiresAt)
      })
    },
  )
})

describe('Ctrl-C', () => {
  it('lets a handler respond that is nearly done', DEADLINE, async () => {
    let answer: (reply: number) => void = () => {}
    handler.answerWith(
      () =>
        new Promise((resolve) => {
          answer = resolve
        }),
    )
    const typed = await listening()
    const id = await enqueue()
    await handler.waitFor((requests) => requests.length === 1, 15_000)
    typed.signal('SIGINT')
    await typed.printed('attempts in progress: 1')
    answer(200)
    expect(await typed.ended()).toBe(0)
    expect((await ask('GET', `/jobs/${id}`)).body.state).toBe('succeeded')
  })

  it(
    'gives back the jobs that have no response from the handler, and takes nothing more',
    DEADLINE,
    async () => {
      handler.answerWith('hang')
      const typed = await listening()
      const [first, ...others] = [await enqueue(), await enqueue(), await enqueue()]
      await handler.waitFor((requests) => requests.length === 1, 15_000)
      typed.signal('SIGINT')
      expect(await typed.ended()).toBe(0)
      expect(handler.requests).toHaveLength(1)
      const { state, attempts } = (await ask('GET', `/jobs/${first}`)).body
      expect(state).toBe('queued')
      expect(attempts).toMatchObject([
        { outcome: 'failed', message: expect.stringContaining('was stopped before') },
      ])
      for (const id of others) {
        const untouched = (await ask('GET', `/jobs/${id}`)).body
        expect(untouched).toMatchObject({ state: 'queued', attemptCount: 0, fence: 0 })
      }
    },
  )
})

describe('the server', () => {
  it('that is away is waited for', DEADLINE, async () => {
    const typed = await listening()
    await api.stop('SIGKILL')
    await typed.printed('trying again in 1 s')
    api = await posthorn.startApi({ PORT: new URL(posthorn.url()).port })
    const id = await enqueue()
    expect(await jobIn(id, 'succeeded')).toMatchObject({ attemptCount: 1 })
    await typed.printed('responds again')
  })

  it(
    'gets each report once, though a proxy has responded to the first tries',
    DEADLINE,
    async () => {
      const proxy = await startFaultyProxy(() => posthorn.url())
      onTestFinished(() => proxy.close())
      handler.answerWith([{ body: '{"frames":240}' }, 400])
      proxy.deal({
        complete: ['page_200', 'page_400', 'page_500'],
        fail: ['page_404'],
      })
      const typed = await listening([], { POSTHORN_URL: proxy.url })
      const first = await jobIn(await enqueue(), 'succeeded', 'dead')
      expect(first).toMatchObject({ attemptCount: 1, result: { frames: 240 } })
      const second = await jobIn(await enqueue(), 'succeeded', 'dead')
      expect(second).toMatchObject({ state: 'dead', attemptCount: 1 })
      expect(proxy.left()).toEqual([])
      await typed.printed(/1\/5 rejected 400/)
      expect(handler.requests).toHaveLength(2)
      expect(typed.stdout()).not.toMatch(/not reported|stored as text/)
      typed.signal('SIGINT')
      expect(await typed.ended()).toBe(0)
    },
  )

  it('needs no more than a key that may claim', DEADLINE, async () => {
    const { key } = (await ask('POST', '/keys', { name: 'laptop', scope: 'work' })).body
    await listening([], { POSTHORN_KEY: key })
    expect(await jobIn(await enqueue(), 'succeeded')).toMatchObject({ attemptCount: 1 })
  })

  it.each([
    ['an endpoint with a URL', [], {}, /has a URL/],
    ['an endpoint that is not there', [], {}, /--create/],
    ['a key that is wrong', [], { POSTHORN_KEY: 'no-key-of-this-server' }, /POSTHORN_KEY/],
  ])(
    'that refuses is named, and the command ends: %s',
    DEADLINE,
    async (what, words, env, says) => {
      if (what.includes('not there')) name = 'nowhere'
      else await ask('PUT', `/endpoints/${name}`, { url: 'https://example.com/' })
      const typed = shell.start(['listen', name, handler.url, ...words], { env })
      expect(await typed.ended()).toBe(1)
      expect(typed.stderr()).toMatch(says)
      expect(typed.stderr()).not.toMatch(/\n\s+at /)
      // A refused command does not announce anything before.
      expect(typed.stderr() + typed.stdout()).not.toMatch(/Signing with|Jobs of/)
    },
  )

  it('is asked before anything is announced, also with a key that may only claim', async () => {
    const { key } = (await ask('POST', '/keys', { name: 'laptop', scope: 'work' })).body
    await ask('PUT', `/endpoints/${name}`, { url: 'https://example.com/' })
    const env = { POSTHORN_KEY: key }
    const typed = shell.start(['listen', name, handler.url], { env })
    expect(await typed.ended()).toBe(1)
    expect(typed.stderr()).toMatch(/^Endpoint "\S+" has a URL/)
    expect(typed.stderr()).toContain(`posthorn endpoints set ${name} --pull`)
  })

  it('makes the endpoint with --create, once', DEADLINE, async () => {
    name = 'made-here'
    const typed = await listening(['--create'])
    expect(typed.stderr()).toContain('Created the endpoint')
    const again = await listening(['--create'])
    expect(again.stderr()).not.toContain('Created the endpoint')
    expect((await ask('GET', '/endpoints/made-here')).body).toMatchObject({ url: null, version: 1 })
  })
})
