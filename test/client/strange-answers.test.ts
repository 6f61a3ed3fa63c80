// For every call: responses that are not from Posthorn, and wrong arguments of the caller. Each
// leads to an error that states the problem, and nothing is sent twice.
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { outboxDocument, Posthorn, type PosthornError, verify } from '../../src/client/client.ts'
import { type Receiver, type Reply, startReceiver } from '../support/receiver.ts'
import { errorOf, JOB, OK, problem, UNAVAILABLE } from './answering.ts'
import { newSecret, signedHeaders } from './signed.ts'

let server: Receiver
let posthorn: Posthorn
beforeAll(async () => {
  server = await startReceiver()
  posthorn = new Posthorn({ url: server.url })
})
afterAll(() => server.close())
beforeEach(() => {
  server.requests.length = 0
})

const ATTEMPT = { jobId: 'job_1', token: 't' }
const first = (items: AsyncGenerator<unknown>) => items.next()
const CALLS: Record<string, () => Promise<unknown>> = {
  enqueue: () => posthorn.enqueue({ endpoint: 'a', payload: 1 }),
  enqueueBatch: () => posthorn.enqueueBatch([{ endpoint: 'a', payload: 1 }]),
  get: () => posthorn.get('job_1'),
  wait: () => posthorn.wait('job_1'),
  page: () => posthorn.page(),
  list: () => first(posthorn.list()),
  explain: () => posthorn.explain('job_1'),
  cancel: () => posthorn.cancel('job_1'),
  retry: () => posthorn.retry('job_1'),
  cancelMany: () => posthorn.cancelMany({ endpoint: 'a' }),
  retryMany: () => posthorn.retryMany({ endpoint: 'a' }),
  edit: () => posthorn.edit('job_1', { priority: 9 }),
  copy: () => posthorn.copy('job_1'),
  remove: () => posthorn.remove('job_1'),
  claim: () => posthorn.claim('a'),
  complete: () => posthorn.complete(ATTEMPT),
  fail: () => posthorn.fail(ATTEMPT, { message: 'no paper' }),
  heartbeat: () => posthorn.heartbeat(ATTEMPT),
  stats: () => posthorn.stats(),
  workers: () => posthorn.workers(),
  'endpoints.put': () => posthorn.endpoints.put('a', { url: null }),
  'endpoints.edit': () => posthorn.endpoints.edit('a', { timeout: '5s' }),
  'endpoints.get': () => posthorn.endpoints.get('a'),
  'endpoints.list': () => first(posthorn.endpoints.list()),
  'endpoints.fairnessKeys': () => first(posthorn.endpoints.fairnessKeys('a')),
  'endpoints.pause': () => posthorn.endpoints.pause('a'),
  'endpoints.resume': () => posthorn.endpoints.resume('a'),
  'endpoints.remove': () => posthorn.endpoints.remove('a'),
  'endpoints.rotateSecret': () => posthorn.endpoints.rotateSecret('a'),
  'endpoints.test': () => posthorn.endpoints.test('a'),
  'schedules.put': () => posthorn.schedules.put('a', { every: '1h', endpoint: 'a', payload: 1 }),
  'schedules.get': () => posthorn.schedules.get('a'),
  'schedules.list': () => first(posthorn.schedules.list()),
  'schedules.pause': () => posthorn.schedules.pause('a'),
  'schedules.resume': () => posthorn.schedules.resume('a'),
  'schedules.run': () => posthorn.schedules.run('a'),
  'schedules.remove': () => posthorn.schedules.remove('a'),
  'keys.create': () => posthorn.keys.create({ name: 'a', scope: 'work' }),
  'keys.list': () => posthorn.keys.list(),
  'keys.remove': () => posthorn.keys.remove('a'),
}
const REMOVALS = Object.keys(CALLS).filter((name) => name.endsWith('remove'))

const html = { 'content-type': 'text/html' }
const STRANGE: Record<string, Reply> = {
  'an empty object': { body: '{}' },
  'an empty list': { body: '[]' },
  null: { body: 'null' },
  'its own fields': { body: '{"id":1,"items":[{}],"jobs":[1],"matched":"2","applied":null}' },
  'a page': { body: '<html>Log in</html>', headers: html },
  'no content': 204,
  'an empty body': { body: '' },
  'a redirect': { status: 302, headers: { location: '/login' } },
  'bytes that are no UTF-8': { body: Buffer.from([0x22, 0xff, 0x22]) },
}

describe('a response that is not from Posthorn', () => {
  it.each(Object.keys(STRANGE))('is an unexpected_answer of every call: %s', async (kind) => {
    server.answerWith(STRANGE[kind] as Reply)
    for (const [name, call] of Object.entries(CALLS)) {
      const sent = server.requests.length
      const error: PosthornError = await errorOf(call())
      expect([name, error.code]).toEqual([name, 'unexpected_answer'])
      expect(error.message).toMatch(/got a \d+ response that is not from Posthorn: ./)
      expect([name, server.requests.length]).toEqual([name, sent + 1])
    }
  })

  it('to a payload is one unless it is JSON', async () => {
    server.answerWith({ body: '<html>', headers: { 'x-request-id': 'r-1' } })
    expect((await errorOf(posthorn.payload('job_1'))).code).toBe('unexpected_answer')
  })

  it('to a payload is one without the header that Posthorn always sends', async () => {
    const body = '{"status":"ok"}'
    server.answerWith({ body })
    const error = await errorOf(posthorn.payload('job_1'))
    expect([error.code, error.status]).toEqual(['unexpected_answer', 200])
    expect(error.message).toContain('X-Request-Id is missing: {"status":"ok"}')
    server.answerWith({ body, headers: { 'x-request-id': 'r-1' } })
    expect(Buffer.from(await posthorn.payload('job_1')).toString()).toBe(body)
  })

  it('to a batch is one that has another number of items', async () => {
    server.answerWith({ body: '{"items":[{"status":201,"id":"job_1"}]}' })
    const job = { endpoint: 'a', payload: 1 }
    expect((await errorOf(posthorn.enqueueBatch([job, job]))).code).toBe('unexpected_answer')
  })

  it('is one whose fields for wrong fields are no list of them', async () => {
    for (const errors of ['x', {}, [null], [{ path: 1, message: 'm' }], 7]) {
      server.answerWith(problem(400, 'invalid_request', { errors }))
      const error = await errorOf(posthorn.get('job_1'))
      expect([error.code, error.status]).toEqual(['unexpected_answer', 400])
    }
    expect(server.requests).toHaveLength(5)
  })

  it('does not make a removal done: a page of a proxy after a lost response', async () => {
    for (const name of REMOVALS) {
      server.answerWith([UNAVAILABLE, { status: 404, body: '<html>' }])
      const error = await errorOf((CALLS[name] as () => Promise<unknown>)())
      expect([name, error.code, error.status]).toEqual([name, 'unexpected_answer', 404])
    }
  })
})

describe('a removal whose first response was lost', () => {
  const GONE: Record<string, string> = {
    remove: 'job_not_found',
    'endpoints.remove': 'endpoint_not_found',
    'schedules.remove': 'schedule_not_found',
    'keys.remove': 'not_found',
  }

  it('is done when what it removes is not found, and not for any other 404', async () => {
    expect(Object.keys(GONE)).toEqual(REMOVALS)
    for (const [name, gone] of Object.entries(GONE)) {
      const call = CALLS[name] as () => Promise<unknown>
      server.answerWith([UNAVAILABLE, problem(404, gone)])
      await call()
      for (const code of Object.values(GONE).filter((one) => one !== gone)) {
        server.answerWith([UNAVAILABLE, problem(404, code)])
        const error = await errorOf(call())
        expect([name, error.code, error.status]).toEqual([name, code, 404])
      }
    }
  })
})

describe('a list that never ends is given up', () => {
  const page = (nextCursor: string, items: unknown[] = []): Reply => ({
    body: JSON.stringify({ items, nextCursor }),
  })
  const all = async () => {
    let count = 0
    for await (const _ of posthorn.list()) count++
    return count
  }

  it('where a cursor comes again', async () => {
    server.answerWith([page('c1', [JOB]), page('c2', [JOB]), page('c1', [JOB])])
    const error = await errorOf(all())
    expect([error.code, server.requests.length]).toEqual(['unexpected_answer', 3])
    expect(error.message).toContain('the cursor "c1" came twice')
  })

  it('where no cursor comes, which is no end either', async () => {
    server.answerWith({ body: '{"items":[]}' })
    const lists = ['page', 'list', 'endpoints.list', 'endpoints.fairnessKeys', 'schedules.list']
    for (const name of lists) {
      const error = await errorOf((CALLS[name] as () => Promise<unknown>)())
      expect(error.message).toContain('the field /nextCursor is missing')
    }
    expect(server.requests).toHaveLength(lists.length)
  })

  it('where pages stay empty', async () => {
    let count = 0
    const fetch = async () => Response.json({ items: [], nextCursor: `c${count++}` })
    const items = new Posthorn({ url: server.url, fetch }).list()
    expect((await errorOf(items.next())).message).toContain('1000 pages were empty')
    expect(count).toBe(1_001)
  })
})

describe('what a caller gave', () => {
  const payload = 1
  // biome-ignore lint/suspicious/noExplicitAny: what a caller without types may give
  const none = null as any

  it('as null is refused before anything is sent, wherever it would become text', async () => {
    const wrong: (() => Promise<unknown>)[] = [
      () => posthorn.enqueue({ endpoint: 'a', payload, idempotencyKey: none }),
      () => posthorn.enqueueBatch([{ endpoint: 'a', payload, idempotencyKey: none }]),
      () => posthorn.enqueue({ endpoint: 'a', rawPayload: none }),
      () => posthorn.page({ endpoint: none }),
      () => posthorn.page({ state: [none] }),
      () => posthorn.page({ cursor: none }),
      () => first(posthorn.list({ tag: none })),
      () => first(posthorn.endpoints.list({ limit: none })),
      () => first(posthorn.endpoints.fairnessKeys('a', { limit: none })),
      () => first(posthorn.schedules.list({ limit: none })),
      () => posthorn.stats({ window: none }),
      () => posthorn.edit('job_1', { priority: 1 }, { ifVersion: none }),
      () => posthorn.endpoints.put('a', { url: null }, { ifVersion: none }),
      () => posthorn.endpoints.remove('a', { force: none }),
      () => posthorn.schedules.remove('a', { ifVersion: none }),
      () => posthorn.claim('a', { waitMs: none }),
      () => posthorn.claim('a', { leaseMs: none }),
      () => posthorn.wait('job_1', { timeoutMs: none }),
      () => posthorn.get('job_1', { signal: none }),
      () => posthorn.get(none),
      () => posthorn.complete({ jobId: 'job_1', token: none }),
    ]
    for (const [i, call] of wrong.entries()) {
      const error = (await call().catch((reason) => reason)) as Error
      expect([i, error]).toEqual([i, expect.any(TypeError)])
      expect(error.message).toMatch(/null|not an id|token/)
    }
    for (const option of ['url', 'key', 'timeoutMs', 'maxTries', 'fetch']) {
      const options = { url: server.url, [option]: none }
      expect(() => new Posthorn(options)).toThrow(new RegExp(`^${option} is null`))
    }
    const secret = newSecret()
    const request = { headers: signedHeaders(secret, '1'), body: '1' }
    await expect(verify(request, secret, { toleranceSeconds: none })).rejects.toThrow(TypeError)
    expect(server.requests).toHaveLength(0)
  })

  it('of another kind is refused in words of the caller, and not repeated', async () => {
    const attempt = { jobId: 'job_1', token: 't' }
    // biome-ignore lint/suspicious/noExplicitAny: what a caller without types may give
    const [one, Any] = [posthorn as any, Posthorn as any]
    const { url } = server
    const wrong: [() => unknown, RegExp][] = [
      [() => new Any(), /^options is undefined; expected an object$/],
      [() => new Any(url), /^options is string; expected an object$/],
      [() => new Any({ url, fetch: 'x' }), /^fetch is not a function$/],
      [
        () => new Any({ url, timeoutMs: 1e12 }),
        /^timeoutMs must be .* at most 2147483647, not 1e?/,
      ],
      [() => new Any({ url, timeoutMs: '5' }), /^timeoutMs must be .*, not a string$/],
      [() => new Any({ url, maxTries: '4' }), /^maxTries must be .*, not a string$/],
      [() => new Any({ url, key: 7 }), /^key must be a string/],
      [() => one.enqueue(), /^job is undefined; expected an object$/],
      [() => one.enqueue(null), /^job is null; expected an object$/],
      [() => one.enqueueBatch(), /^jobs is not a list$/],
      [() => one.enqueueBatch([{ endpoint: 'a', payload }, null]), /^jobs\[1\] is null/],
      [() => one.edit('job_1'), /^change is undefined/],
      [() => one.cancelMany(), /^filter is undefined/],
      [() => one.get('job_1', { signal: {} }), /^signal is not an AbortSignal$/],
      [
        () => one.complete(null),
        /^to complete an attempt, give its completeUrl, or the id and the token of the job/,
      ],
      [() => one.heartbeat(7), /^to heartbeat an attempt, give its heartbeatUrl/],
      [() => one.fail(attempt), /^failure is undefined/],
      [() => one.heartbeat(attempt, null), /^beat is null/],
      [() => one.endpoints.put('a'), /^settings is undefined/],
      [() => one.endpoints.edit('a', null), /^change is null/],
      [() => one.schedules.put('a'), /^settings is undefined/],
      [() => one.keys.create(), /^key is undefined/],
      [() => outboxDocument(none), /^job is null/],
    ]
    for (const [call, says] of wrong) {
      const error = (await (async () => call())().catch((reason) => reason)) as Error
      expect([String(call), error]).toEqual([String(call), expect.any(TypeError)])
      expect(error.message).toMatch(says)
    }
    expect(server.requests).toHaveLength(0)
  })

  it('as a date that is none, or as an object in a query, is refused', async () => {
    const noDate = new Date('tomorrow')
    const nightly = { every: '1h', endpoint: 'a', payload } as const
    const wrong: (() => Promise<unknown>)[] = [
      () => posthorn.enqueue({ endpoint: 'a', payload, runAt: noDate }),
      () => posthorn.edit('job_1', { runAt: noDate }),
      () => posthorn.schedules.put('a', { ...nightly, startAt: noDate }),
      () => posthorn.cancelMany({ tag: 'a', createdAfter: noDate }),
      () => posthorn.page({ createdAfter: noDate }),
      () => posthorn.page({ tag: { name: 'july' } as unknown as string }),
    ]
    for (const call of wrong) await expect(call()).rejects.toThrow(/invalid Date|must be a string/)
    expect(server.requests).toHaveLength(0)
  })

  it('as undefined is not given', async () => {
    server.answerWith(OK)
    const options = { key: undefined, timeoutMs: undefined, maxTries: undefined, fetch: undefined }
    const one = new Posthorn({ url: server.url, ...options })
    const job = { endpoint: 'a', payload, idempotencyKey: undefined, delay: undefined }
    await one.enqueue(job, { signal: undefined })
    const [request] = server.requests
    expect(request?.headers['idempotency-key']).toMatch(/^[0-9a-f-]{36}$/)
    expect(String(request?.body)).toBe('{"endpoint":"a","payload":1}')
    expect(request?.headers.authorization).toBeUndefined()
  })

  it('as a fraction of a millisecond is rounded up; what is no time is refused', async () => {
    server.answerWith({ body: '{"jobs":[]}' })
    await posthorn.claim('a', { waitMs: 0.5, leaseMs: 1_000.2 })
    expect(JSON.parse(String(server.requests[0]?.body))).toEqual({ wait: '1ms', lease: '1001ms' })
    server.answerWith(OK)
    const one = new Posthorn({ url: server.url, timeoutMs: 15_000.5 })
    expect((await one.wait('job_1', { timeoutMs: 1_500.5 })).id).toBe('job_1')
    expect(server.requests[1]?.path).toBe('/jobs/job_1?wait=1501ms')
    expect((await one.wait('job_1', { timeoutMs: Infinity })).id).toBe('job_1')
    for (const wrong of [Number.NaN, -1]) {
      await expect(posthorn.wait('job_1', { timeoutMs: wrong })).rejects.toThrow(/milliseconds/)
      await expect(posthorn.claim('a', { waitMs: wrong })).rejects.toThrow(/milliseconds/)
      await expect(posthorn.claim('a', { leaseMs: wrong })).rejects.toThrow(/milliseconds/)
    }
    expect(server.requests).toHaveLength(3)
  })

  it('as a key that a header would change goes quoted; one it cannot carry is refused', async () => {
    server.answerWith(OK)
    const keys = ['q', ' q', 'q ', '"q"', 'a"b', 'a\\b']
    for (const idempotencyKey of keys)
      await posthorn.enqueue({ endpoint: 'a', payload, idempotencyKey })
    expect(server.requests.map(({ headers }) => headers['idempotency-key'])).toEqual([
      ...['q', '" q"', '"q "', '"\\"q\\""', 'a"b', 'a\\b'],
    ])
    for (const idempotencyKey of ['q\n', '\tq', 'Zoë', 7 as unknown as string]) {
      const job = { endpoint: 'a', payload, idempotencyKey }
      await expect(posthorn.enqueue(job)).rejects.toThrow(/visible ASCII/)
    }
    expect(server.requests).toHaveLength(keys.length)
  })
})
