import { describe, expect, it } from 'vitest'
import { useServedApp } from '../support/served-app.ts'

const served = useServedApp()
const { request } = served
const put = (name: string, fields: object = {}, headers: object = {}) =>
  request('PUT', `/endpoints/${name}`, { url: 'https://example.com/hook', ...fields }, headers)

describe('an endpoint', () => {
  it('is made with defaults and a secret, which is shown this once', async () => {
    const made = await put('mail').expect(201)
    expect(made.body).toMatchObject({
      name: 'mail',
      url: 'https://example.com/hook',
      description: '',
      headers: {},
      timeout: '15s',
      retry: {
        maxAttempts: 10,
        backoff: { type: 'exponential', delay: '5s', factor: 3, maxDelay: '12h', jitter: 0.2 },
        maxAge: null,
      },
      state: 'active',
      counts: { queued: 0, running: 0 },
      version: 1,
    })
    expect(made.body.secret).toMatch(/^whsec_/)
    expect(made.body.secretHint).toBe(made.body.secret.slice(-4))
    const read = await request('GET', '/endpoints/mail').expect(200)
    const { secret, ...shown } = made.body
    expect(read.body).toEqual(shown)
    expect(read.headers.get('etag')).toBe('"1"')
  })

  it('is replaced as a whole, but keeps its secret unless a new one is given', async () => {
    const first = await put('sms', { description: 'old', retry: { maxAttempts: 3 } }).expect(201)
    const second = await put('sms', { timeout: '1m' }).expect(200)
    expect(second.body).toMatchObject({ description: '', timeout: '1m', version: 2 })
    expect(second.body.retry.maxAttempts).toBe(10)
    expect(second.body.secretHint).toBe(first.body.secretHint)
    expect(second.body).not.toHaveProperty('secret')
    const secret = `whsec_${Buffer.alloc(24, 7).toString('base64')}`
    const third = await put('sms', { secret }).expect(200)
    expect(third.body.secret).toBe(secret)
  })

  it('masks the values of its headers', async () => {
    const made = await put('crm', { headers: { 'x-api-key': 'very-secret-9876' } }).expect(201)
    expect(made.body.headers).toEqual({ 'x-api-key': '***9876' })
  })

  it('is only written over the version that If-Match names', async () => {
    const made = await put('erp').expect(201)
    const etag = made.headers.get('etag') as string
    await put('erp', { description: 'two' }, { 'if-match': etag }).expect(200)
    await put('erp', { description: 'three' }, { 'if-match': etag }).expect(412)
    await put('nowhere', {}, { 'if-match': '"1"' }).expect(412)
    await request('GET', '/endpoints/nowhere').expect(404)
  })

  it('is only created where If-None-Match asks for that, once of many', async () => {
    const answers = await Promise.all(
      Array.from({ length: 10 }, () => put('only-new', {}, { 'if-none-match': '*' })),
    )
    const statuses = answers.map(({ status }) => status).toSorted()
    expect(statuses).toEqual([201, ...Array(9).fill(412)])
    const late = await put('only-new', {}, { 'if-none-match': '*' }).expect(412)
    expect(late.body.code).toBe('precondition_failed')
    expect(late.body.detail).toContain('If-None-Match requires that there is no such endpoint')
    const { body } = await request('GET', '/endpoints/only-new').expect(200)
    expect(body.version).toBe(1)
    await put('only-new', {}, { 'if-none-match': '"1"' }).expect(400)
    const both = put('only-new', {}, { 'if-none-match': '*', 'if-match': '"1"' })
    expect((await both.expect(400)).body.errors[0].path).toBe('header/if-none-match')
  })

  it('is listed by name, page by page', async () => {
    for (const name of ['z.1', 'z.2', 'z.3']) await put(name)
    const names: string[] = []
    let cursor: string | null = null
    do {
      const query: string = cursor === null ? '' : `&cursor=${cursor}`
      const page = (await request('GET', `/endpoints?limit=2${query}`).expect(200)).body
      names.push(...page.items.map((one: { name: string }) => one.name))
      cursor = page.nextCursor
    } while (cursor !== null)
    expect(names).toEqual([...names].sort())
    expect(names).toEqual(expect.arrayContaining(['z.1', 'z.2', 'z.3']))
    expect(new Set(names).size).toBe(names.length)
  })

  it('in use is not removed, unless by force: then its jobs are buried', async () => {
    await put('old').expect(201)
    const { id } = (await request('POST', '/jobs', { endpoint: 'old', payload: 1 })).body
    const refused = await request('DELETE', '/endpoints/old').expect(409)
    expect(refused.body).toMatchObject({ code: 'endpoint_in_use' })
    expect(refused.body.detail).toContain('1 queued')
    await request('DELETE', '/endpoints/old?force=true').expect(202)
    const late = await request('POST', '/jobs', { endpoint: 'old', payload: 1 }).expect(422)
    expect(late.body).toMatchObject({ code: 'endpoint_not_found' })
    await served.store.sweep({ limit: 100, reclaim: true })
    const buried = (await request('GET', `/jobs/${id}`)).body
    expect(buried).toMatchObject({ state: 'dead', failure: { reason: 'endpoint_gone' } })
    const gone = await request('POST', `/jobs/${id}/retry`).expect(422)
    expect(gone.body).toMatchObject({ code: 'endpoint_not_found' })
  })

  it('has five secrets at most: a rotation that would end one too soon is refused', async () => {
    await put('rotated').expect(201)
    const rotate = (overlap: string) =>
      request('POST', '/endpoints/rotated/rotate-secret', { overlap })
    for (let i = 0; i < 4; i++) await rotate('1h').expect(200)
    const refused = await rotate('1h').expect(409)
    expect(refused.body).toMatchObject({ code: 'endpoint_in_use' })
    expect(refused.body.detail).toMatch(/5 signing secrets.* until \d{4}-/)
    await rotate('0s').expect(200)
    await rotate('1h').expect(200)
  })

  it('without jobs is removed at once', async () => {
    await put('idle').expect(201)
    await request('DELETE', '/endpoints/idle').expect(204)
    await request('GET', '/endpoints/idle').expect(404)
  })
})
