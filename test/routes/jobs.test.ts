import { beforeAll, describe, expect, it } from 'vitest'
import { parseEnvelope, REQUEST_LIMITS } from '../../src/wire/envelope.ts'
import { jobBody, newJobFrom } from '../../src/wire/jobs.ts'
import { serveApp, useServedApp } from '../support/served-app.ts'

const served = useServedApp()
const { request } = served
const enqueue = (fields: object = {}, headers: object = {}) =>
  request('POST', '/jobs', { endpoint: 'pdf', payload: { a: 1 }, ...fields }, headers)

beforeAll(async () => {
  const body = { url: 'https://example.com/pdf', retry: { maxAttempts: 4 } }
  await request('PUT', '/endpoints/pdf', body).expect(201)
})

describe('a job that was enqueued', () => {
  it('is below the path of PUBLIC_URL', async () => {
    const publicUrl = 'https://jobs.example.com/queue/'
    const below = await serveApp({ publicUrl })
    const url = 'https://example.com/pdf'
    await below.request('PUT', '/endpoints/pdf', { url }).expect(201)
    const body = { endpoint: 'pdf', payload: 1, dedupe: { key: 'one', mode: 'keep' } }
    for (const status of [201, 200]) {
      const answer = await below.request('POST', '/jobs', body).expect(status)
      expect(answer.headers.get('location')).toBe(`/queue/jobs/${answer.body.id}`)
    }
    await below.close()
  })

  it('gets 201, the location of the job, and all of it', async () => {
    const before = Date.now()
    const answer = await enqueue({ delay: '1h', tags: ['x'], metadata: { order: '7' } }).expect(201)
    const { id } = answer.body
    expect(id).toMatch(/^job_[0-9a-z]{26}$/)
    expect(answer.headers.get('location')).toBe(`/jobs/${id}`)
    expect(answer.body).toMatchObject({
      endpoint: 'pdf',
      state: 'queued',
      phase: null,
      priority: 5,
      startedAt: null,
      finishedAt: null,
      expiresAt: null,
      attemptCount: 0,
      maxAttempts: 4,
      fence: 0,
      lease: null,
      progress: null,
      result: null,
      failure: null,
      attempts: [],
      payload: { a: 1 },
      payloadBytes: 7,
      tags: ['x'],
      metadata: { order: '7' },
      dedupeKey: null,
      orderingKey: null,
      fairnessKey: null,
      cost: 1,
      scheduleName: null,
      dependsOn: [],
      needs: {},
      timeout: null,
      retry: null,
      headers: {},
      onFinish: null,
      idempotencyKey: null,
      resultTruncated: false,
      version: 1,
    })
    const delayMs = Date.parse(answer.body.runAt) - Date.parse(answer.body.createdAt)
    expect(delayMs).toBe(3_600_000)
    expect(Date.parse(answer.body.createdAt)).toBeGreaterThanOrEqual(before)
    const read = await request('GET', `/jobs/${id}`).expect(200)
    expect(read.body).toEqual(answer.body)
  })

  it('shows its own policy in canonical form, and masks its headers', async () => {
    const answer = await enqueue({
      delay: '1h',
      timeout: '90s',
      retry: {
        maxAttempts: 2,
        backoff: { type: 'schedule', delays: ['60s', '24h'] },
        maxAge: '48h',
      },
      headers: { 'X-Token': 'very-secret-1234', 'X-Short': 'abc' },
      expiresIn: '120m',
    }).expect(201)
    expect(answer.body).toMatchObject({
      maxAttempts: 2,
      timeout: '1m30s',
      retry: {
        maxAttempts: 2,
        backoff: { type: 'schedule', delays: ['1m', '1d'], jitter: 0.2 },
        maxAge: '2d',
      },
      headers: { 'X-Token': '***1234', 'X-Short': '***' },
    })
    expect(Date.parse(answer.body.expiresAt) - Date.parse(answer.body.runAt)).toBe(7_200_000)
  })

  it('with a runAt in the past is due now; an offset is understood', async () => {
    const past = await enqueue({ runAt: '2020-01-01T00:00:00Z' }).expect(201)
    expect(past.body.runAt).toBe(past.body.createdAt)
    const tomorrow = new Date(Date.now() + 86_400_000).toISOString().slice(0, 10)
    const ahead = await enqueue({ runAt: `${tomorrow}T12:00:00+05:30` }).expect(201)
    expect(ahead.body.runAt).toBe(`${tomorrow}T06:30:00.000Z`)
  })

  it.each([
    '12345678901234567890.10',
    '{"b":1.0,"a":1,"b":2}',
    '"\\u0000\\ud800🐎"',
    ' [ 1 , -0 ] ',
    '1e400',
  ])('has its payload %s byte for byte', async (payload) => {
    const answer = await request(
      'POST',
      '/jobs',
      `{"endpoint":"pdf","delay":"1h","payload":${payload}}`,
    ).expect(201)
    const bytes = payload.trim()
    expect(answer.text).toContain(`"payload":${bytes}}`)
    const read = await request('GET', `/jobs/${answer.body.id}/payload`)
    expect(read.text).toBe(bytes)
    expect(answer.body.payloadBytes).toBe(Buffer.byteLength(bytes))
  })
})

describe('an idempotency key', () => {
  const enqueueWith = (key: string, fields: object = {}) =>
    enqueue({ delay: '1h', ...fields }, { 'idempotency-key': key })

  it('finds the same job again, plain or quoted, whatever the order of the fields', async () => {
    const first = await enqueueWith('order-1', { metadata: { a: '1', b: '2' } }).expect(201)
    const again = await enqueueWith('"order-1"', { metadata: { b: '2', a: '1' } }).expect(200)
    expect(again.body).toEqual({ ...first.body, deduplicated: true })
    expect(first.body).toMatchObject({ idempotencyKey: 'order-1' })
    expect(first.body).not.toHaveProperty('deduplicated')
  })

  it('is stored with the hash of a time without fairnessKey and cost, unless they are set', () => {
    const hashOf = (fields: string): string | undefined => {
      const text = `{"endpoint":"work","payload":{"a":1}${fields}}`
      const body = jobBody.parse(parseEnvelope(Buffer.from(text), REQUEST_LIMITS))
      return newJobFrom(body, 'k', { trace: null, hops: 0 }, 0).idempotency?.requestHash
    }
    const old = 'GlONo5t8o5DkDFoHsvC6dmjJBdpEpCtx2zfhmYrfoFI='
    for (const fields of ['', ',"cost":1', ',"fairnessKey":null,"cost":1']) {
      expect([fields, hashOf(fields)]).toEqual([fields, old])
    }
    const full = ',"priority":7,"tags":["t"],"orderingKey":null,"delay":"1s"'
    expect(hashOf(full)).toBe('h8kUacly6gSeF52jaPqvnKXF8023RALjCG4833GExhs=')
    const others = [',"cost":2', ',"fairnessKey":"2"', ',"fairnessKey":"2","cost":2'].map(hashOf)
    expect(new Set([old, ...others]).size).toBe(4)
  })

  it('is refused with another payload or another field', async () => {
    const first = await enqueueWith('order-2').expect(201)
    for (const fields of [{ payload: { a: 2 } }, { priority: 6 }, { delay: '60m1s' }]) {
      const answer = await enqueueWith('order-2', fields).expect(422)
      expect(answer.body).toMatchObject({ code: 'idempotency_key_reused' })
      expect(answer.body.detail).toContain(first.body.id)
    }
  })

  it('sent 50 times at once makes one job', async () => {
    const answers = await Promise.all(Array.from({ length: 50 }, () => enqueueWith('order-3')))
    expect(new Set(answers.map(({ body }) => body.id)).size).toBe(1)
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(1)
  })
})

describe('commands', () => {
  it('cancel ends a queued job, and again gets the same response; retry queues it again', async () => {
    const { id } = (await enqueue({ delay: '1h' })).body
    const cancelled = await request('POST', `/jobs/${id}/cancel`).expect(200)
    expect(cancelled.body).toMatchObject({ id, state: 'cancelled', attempts: [] })
    expect(cancelled.body.finishedAt).not.toBeNull()
    const again = await request('POST', `/jobs/${id}/cancel`, {}).expect(200)
    expect(again.body).toEqual(cancelled.body)
    const retried = await request('POST', `/jobs/${id}/retry`).expect(200)
    expect(retried.body).toMatchObject({ state: 'queued', finishedAt: null, attemptCount: 0 })
    const conflict = await request('POST', `/jobs/${id}/retry`).expect(409)
    expect(conflict.body).toMatchObject({ code: 'job_state_conflict' })
    expect(conflict.body.detail).toContain('queued')
  })
})

describe('a list', () => {
  it('goes through all jobs once, newest first, while new ones come', async () => {
    const ids: string[] = []
    for (let i = 0; i < 7; i++) {
      ids.push((await enqueue({ delay: '1h', tags: ['paged'] })).body.id)
    }
    const seen: string[] = []
    let cursor: string | null = ''
    while (cursor !== null) {
      const query: string = `limit=2&tag=paged${cursor === '' ? '' : `&cursor=${cursor}`}`
      const page: { items: { id: string }[]; nextCursor: string | null } = (
        await request('GET', `/jobs?${query}`).expect(200)
      ).body
      expect(page.items.length).toBeLessThanOrEqual(2)
      seen.push(...page.items.map((one: { id: string }) => one.id))
      cursor = page.nextCursor
      await enqueue({ delay: '1h', tags: ['paged'] })
    }
    expect(seen.slice().sort()).toEqual(ids.slice().sort())
    expect(seen).toEqual(seen.slice().sort().reverse())
  })

  it('shows no payload, result or attempts, and filters by state', async () => {
    const { id } = (await enqueue({ delay: '1h', tags: ['one'] })).body
    await request('POST', `/jobs/${id}/cancel`)
    const path = '/jobs?tag=one&state=cancelled&state=dead&endpoint=pdf'
    const { items } = (await request('GET', path).expect(200)).body
    expect(items).toHaveLength(1)
    expect(items[0]).toMatchObject({ id, state: 'cancelled', payloadBytes: 7 })
    for (const field of ['payload', 'result', 'attempts'])
      expect(items[0]).not.toHaveProperty(field)
    const none = (await request('GET', '/jobs?tag=one&state=queued').expect(200)).body
    expect(none).toEqual({ items: [], nextCursor: null })
  })
})

describe('a wait', () => {
  it('ends as soon as the job is final', async () => {
    const { id } = (await enqueue({ delay: '1h' })).body
    const waiting = request('GET', `/jobs/${id}?wait=30s`)
    await request('POST', `/jobs/${id}/cancel`)
    const startedAtMs = performance.now()
    expect((await waiting).body.state).toBe('cancelled')
    expect(performance.now() - startedAtMs).toBeLessThan(10_000)
  })

  it('ends with the job as it stands when the time is over', async () => {
    const { id } = (await enqueue({ delay: '1h' })).body
    const answer = await request('GET', `/jobs/${id}?wait=50ms`).expect(200)
    expect(answer.body.state).toBe('queued')
  })
})
