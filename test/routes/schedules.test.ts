import { beforeAll, describe, expect, it } from 'vitest'
import { useServedApp } from '../support/served-app.ts'

const served = useServedApp()
const { request } = served
const put = (name: string, fields: object = {}, headers: object = {}) =>
  request('PUT', `/schedules/${name}`, { endpoint: 'work', payload: {}, ...fields }, headers)
const read = async (name: string) => (await request('GET', `/schedules/${name}`).expect(200)).body

const HOUR_MS = 3_600_000
const soon = () => new Date(served.store.clock.now() + HOUR_MS).toISOString()

beforeAll(async () => {
  await request('PUT', '/endpoints/work', { url: 'https://example.com/hook' }).expect(201)
})

describe('a schedule', () => {
  it('is made with defaults, and reads back all that it is', async () => {
    const made = await put('nightly', { cron: '0 2 * * *' }).expect(201)
    expect(made.body).toMatchObject({
      name: 'nightly',
      endpoint: 'work',
      cron: '0 2 * * *',
      every: null,
      timezone: 'UTC',
      paused: false,
      overlap: 'allow',
      misfire: 'once',
      startAt: null,
      endAt: null,
      lastJobId: null,
      lastError: null,
      priority: 5,
      timeout: null,
      retry: null,
      expiresIn: null,
      orderingKey: null,
      fairnessKey: null,
      cost: 1,
      tags: [],
      metadata: {},
      headers: {},
      payload: {},
      version: 1,
    })
    expect(made.body.nextRuns).toHaveLength(5)
    expect(made.body.nextRuns[0]).toBe(made.body.nextRunAt)
    expect(made.body.nextRunAt).toMatch(/T02:00:00\.000Z$/)
    expect(made.headers.get('etag')).toBe('"1"')
    expect(await read('nightly')).toEqual(made.body)
  })

  it('takes a cron line with blanks around it, and joins its days as other crons do', async () => {
    const startAt = '2030-01-01T00:00:00Z'
    const made = await put('trimmed', { cron: ' 0 0 1-7 * */7\n', startAt }).expect(201)
    expect(made.body.cron).toBe('0 0 1-7 * */7')
    expect(made.body.nextRuns.slice(0, 3)).toEqual([
      '2030-01-06T00:00:00.000Z',
      '2030-02-03T00:00:00.000Z',
      '2030-03-03T00:00:00.000Z',
    ])
  })

  it('reads back every field of a job that it was given, durations in canonical form', async () => {
    const fields = {
      every: '90m',
      startAt: '2030-01-01T05:30:00+05:30',
      endAt: '2030-01-02T00:00:00.000Z',
      overlap: 'skip',
      misfire: 'skip',
      priority: 9,
      timeout: '90s',
      retry: { maxAttempts: 2, backoff: { type: 'schedule', delays: ['60s'], jitter: 0 } },
      expiresIn: '24h',
      orderingKey: 'one',
      fairnessKey: 'tenant-7',
      cost: 3,
      tags: ['a', 'b'],
      metadata: { k: 'v' },
      headers: { 'x-key': 'very-secret-9876' },
      onFinish: { endpoint: 'work', states: ['dead'] },
    }
    const made = await put('full', fields).expect(201)
    expect(made.body).toMatchObject({
      ...fields,
      every: '1h30m',
      startAt: '2030-01-01T00:00:00.000Z',
      timeout: '1m30s',
      retry: { maxAttempts: 2, backoff: { type: 'schedule', delays: ['1m'], jitter: 0 } },
      expiresIn: '1d',
      headers: { 'x-key': '***9876' },
      nextRunAt: '2030-01-01T00:00:00.000Z',
    })
    expect(made.body.nextRuns[1]).toBe('2030-01-01T01:30:00.000Z')
    expect(await read('full')).toEqual(made.body)
    const { body } = await request('POST', '/schedules/full/run').expect(201)
    expect(body).toMatchObject({ orderingKey: 'one', fairnessKey: 'tenant-7', cost: 3 })
  })

  it('names an onFinish that exists, and runs after that one is gone', async () => {
    const onFinish = { endpoint: 'told', states: ['dead'] }
    const refused = await put('telling', { every: '1h', onFinish }).expect(422)
    expect(refused.body).toMatchObject({
      code: 'endpoint_not_found',
      errors: [{ path: '/onFinish' }],
    })
    await request('PUT', '/endpoints/told', { url: null }).expect(201)
    await put('telling', { every: '1h', onFinish }).expect(201)
    await request('DELETE', '/endpoints/told').expect(204)
    const { body } = await request('POST', '/schedules/telling/run').expect(201)
    expect(body.onFinish).toEqual(onFinish)
  })

  it('keeps its payload byte for byte', async () => {
    const payload = '{"b": 1.0,  "a":12345678901234567890}'
    const made = await request(
      'PUT',
      '/schedules/raw',
      `{"endpoint":"work","every":"1h","payload": ${payload}}`,
    ).expect(201)
    expect(made.text.endsWith(`"payload":${payload}}`)).toBe(true)
    const job = await request('POST', '/schedules/raw/run').expect(201)
    const bytes = await request('GET', `/jobs/${job.body.id}/payload`).expect(200)
    expect(bytes.text).toBe(payload)
  })

  it('keeps its version over a PUT that differs in the order of states and the case of names', async () => {
    const onFinish = { endpoint: 'work', states: ['dead', 'cancelled'] }
    const fields = { every: '1h', headers: { 'x-key': 'a' }, onFinish }
    const made = await put('reordered', fields).expect(201)
    const states = ['cancelled', 'dead']
    await put('reordered', {
      ...fields,
      headers: { 'X-Key': 'a' },
      onFinish: { ...onFinish, states },
    })
    expect(await read('reordered')).toEqual(made.body)
  })

  it('keeps its next tick over a PUT that changes nothing about when, also with an interval', async () => {
    const made = await put('steady', { every: '1h' }).expect(201)
    const again = await put('steady', { every: '60m', payload: { n: 2 } }).expect(200)
    expect(again.body).toMatchObject({ nextRunAt: made.body.nextRunAt, version: 2 })
    const slower = await put('steady', { every: '2h' }).expect(200)
    const apartMs = Date.parse(slower.body.nextRunAt) - Date.parse(made.body.nextRunAt)
    expect(apartMs).toBe(HOUR_MS)
  })

  it('after endAt has no tick any more, and can still be put', async () => {
    const made = await put('over', { cron: '* * * * *', endAt: '2020-01-01T00:00:00Z' }).expect(201)
    expect(made.body).toMatchObject({ nextRunAt: null, nextRuns: [] })
  })

  it.each([
    '0000-01-01T00:00:00Z',
    '0001-01-01T00:00:00Z',
    '0049-12-31T23:59:59Z',
    '0099-01-01T00:00:00Z',
    '1969-07-20T20:17:40Z',
  ])('with a startAt of %s ticks from now on', async (startAt) => {
    const now = served.store.clock.now()
    const cron = { cron: '0 0 * * *', startAt }
    for (const [timezone, time] of [
      ['UTC', 'T00:00:00.000Z'],
      ['Asia/Kolkata', 'T18:30:00.000Z'],
    ]) {
      const { body: daily } = await put('long-ago', { ...cron, timezone })
      expect(daily).toMatchObject({ startAt: startAt.replace('Z', '.000Z'), timezone })
      expect(daily.nextRunAt.slice(10)).toBe(time)
      expect(Date.parse(daily.nextRunAt)).toBeGreaterThan(now)
      expect(daily.nextRuns).toHaveLength(5)
    }
    const { body: often } = await put('long-ago', { every: '7s', startAt })
    expect(Date.parse(often.nextRunAt)).toBeGreaterThan(now)
    expect((Date.parse(often.nextRunAt) - Date.parse(startAt)) % 7_000).toBe(0)
    const ended = await put('long-ago', { ...cron, startAt: null, endAt: startAt }).expect(200)
    expect(ended.body).toMatchObject({ nextRunAt: null, nextRuns: [] })
    await put('long-ago', { ...cron, endAt: startAt }).expect(400)
  })

  it('shows no tick of a cron line after the year 2999', async () => {
    const last = { cron: '0 0 1 1,7 *', startAt: '2999-06-01T00:00:00Z' }
    const { body } = await put('last', last).expect(201)
    expect(body.nextRuns).toEqual(['2999-07-01T00:00:00.000Z'])
  })

  it('shows its ticks in the local time of its zone over the change to summer', async () => {
    const made = await put('berlin', {
      cron: '30 2 * * *',
      timezone: 'Europe/Berlin',
      startAt: '2027-03-27T00:00:00Z',
    }).expect(201)
    expect(made.body.nextRuns.slice(0, 3)).toEqual([
      '2027-03-27T01:30:00.000Z',
      '2027-03-28T01:00:00.000Z',
      '2027-03-29T00:30:00.000Z',
    ])
  })

  it('is only written and removed at the version that If-Match names', async () => {
    const made = await put('careful', { every: '1h' }).expect(201)
    const etag = made.headers.get('etag') as string
    await put('careful', { every: '2h' }, { 'if-match': etag }).expect(200)
    const stale = await put('careful', { every: '2h' }, { 'if-match': etag }).expect(412)
    expect(stale.body).toMatchObject({ code: 'precondition_failed' })
    await request('DELETE', '/schedules/careful', undefined, { 'if-match': etag }).expect(412)
    await put('nowhere', { every: '1h' }, { 'if-match': '"1"' }).expect(412)
    // A request that could never succeed is refused before the precondition is checked.
    const backwards = {
      every: '1h',
      startAt: '2026-02-01T00:00:00Z',
      endAt: '2026-01-01T00:00:00Z',
    }
    const refused = await put('nowhere', backwards, { 'if-match': '"1"' }).expect(400)
    expect(refused.body.detail).toBe('/endAt: expected an instant after startAt')
    await request('GET', '/schedules/nowhere').expect(404)
    await request('DELETE', '/schedules/careful', undefined, { 'if-match': '"2"' }).expect(204)
    await request('DELETE', '/schedules/careful').expect(404)
  })

  it('that is put as it is stays at its version, however often', async () => {
    const fields = { every: '60m', metadata: { a: 'b', c: 'd' }, headers: { 'x-one': 'two' } }
    const made = await put('same', { ...fields, payload: { n: 1 } }).expect(201)
    for (const one of [
      { ...fields, payload: { n: 1 } },
      { ...fields, every: '1h', metadata: { c: 'd', a: 'b' }, payload: { n: 1 } },
    ]) {
      const again = await put('same', one, { 'if-match': '"1"' }).expect(200)
      expect(again.body).toEqual(made.body)
    }
    for (const [i, one] of [
      { ...fields, payload: { n: 2 } },
      { ...fields, payload: { n: 2 }, paused: true },
      { ...fields, payload: { n: 2 }, metadata: {} },
    ].entries()) {
      expect((await put('same', one).expect(200)).body.version).toBe(i + 2)
    }
  })

  it('is only created where If-None-Match asks for that, once of many', async () => {
    const create = () => put('only-new', { every: '1h' }, { 'if-none-match': '*' })
    const answers = await Promise.all(Array.from({ length: 10 }, create))
    const statuses = answers.map(({ status }) => status).toSorted()
    expect(statuses).toEqual([201, ...Array(9).fill(412)])
    expect((await create().expect(412)).body.code).toBe('precondition_failed')
    expect((await request('GET', '/schedules/only-new').expect(200)).body.version).toBe(1)
  })

  it('is one when many put it at once', async () => {
    const answers = await Promise.all(
      Array.from({ length: 5 }, (_, i) => put('rushed', { every: `${i + 1}h` })),
    )
    expect(answers.every(({ status }) => status === 201 || status === 200)).toBe(true)
    expect((await read('rushed')).version).toBe(5)
  })

  it('is listed by name, page by page, without its payload', async () => {
    for (const name of ['z.1', 'z.2', 'z.3']) await put(name, { every: '1h' })
    const names: string[] = []
    let cursor: string | null = null
    do {
      const query: string = cursor === null ? '' : `&cursor=${cursor}`
      const page = (await request('GET', `/schedules?limit=2${query}`).expect(200)).body
      names.push(...page.items.map((one: { name: string }) => one.name))
      expect(page.items[0]).not.toHaveProperty('payload')
      cursor = page.nextCursor
    } while (cursor !== null)
    expect(names).toEqual([...new Set(names)].sort())
    expect(names).toEqual(expect.arrayContaining(['z.1', 'z.2', 'z.3']))
  })
})

describe('pause and resume', () => {
  it('leave no tick while paused, and go on with one that is still to come', async () => {
    await put('pausing', { every: '1h' }).expect(201)
    const paused = await request('POST', '/schedules/pausing/pause').expect(200)
    expect(paused.body).toMatchObject({ paused: true, nextRunAt: null, nextRuns: [] })
    expect((await request('POST', '/schedules/pausing/pause').expect(200)).body.version).toBe(2)
    const resumed = await request('POST', '/schedules/pausing/resume').expect(200)
    expect(resumed.body).toMatchObject({ paused: false, version: 3 })
    expect(Date.parse(resumed.body.nextRunAt)).toBeGreaterThan(served.store.clock.now())
  })

  it('stay as they are over a PUT that does not speak of them', async () => {
    await put('held', { every: '1h', paused: true }).expect(201)
    const again = await put('held', { every: '1h' }).expect(200)
    expect(again.body).toMatchObject({ paused: true, nextRunAt: null })
    const freed = await put('held', { every: '1h', paused: false }).expect(200)
    expect(freed.body.nextRunAt).not.toBeNull()
  })

  it('are 404 for a schedule that is not there', async () => {
    for (const verb of ['pause', 'resume', 'run']) {
      const gone = await request('POST', `/schedules/nobody/${verb}`).expect(404)
      expect(gone.body).toMatchObject({ code: 'schedule_not_found' })
    }
  })
})

describe('run', () => {
  it('makes a job that is due now, and uses up no tick', async () => {
    const made = await put('by-hand', {
      cron: '0 0 1 1 *',
      tags: ['yearly'],
      priority: 7,
      expiresIn: '1h',
      payload: { year: true },
    }).expect(201)
    const ran = await request('POST', '/schedules/by-hand/run').expect(201)
    expect(ran.headers.get('location')).toBe(`/jobs/${ran.body.id}`)
    expect(ran.body).toMatchObject({
      state: 'queued',
      endpoint: 'work',
      scheduleName: 'by-hand',
      tags: ['yearly'],
      priority: 7,
      payload: { year: true },
    })
    expect(Date.parse(ran.body.expiresAt) - Date.parse(ran.body.runAt)).toBe(HOUR_MS)
    expect(Date.parse(ran.body.runAt)).toBeLessThanOrEqual(served.store.clock.now())
    expect(await read('by-hand')).toEqual(made.body)
    const other = await request('POST', '/schedules/by-hand/run').expect(201)
    expect(other.body.id).not.toBe(ran.body.id)
  })

  it('is refused once the endpoint is gone', async () => {
    await request('PUT', '/endpoints/leaving', { url: 'https://example.com/hook' }).expect(201)
    await put('orphan', { endpoint: 'leaving', every: '1h' }).expect(201)
    const inUse = await request('DELETE', '/endpoints/leaving').expect(409)
    expect(inUse.body).toMatchObject({ code: 'endpoint_in_use' })
    await request('DELETE', '/endpoints/leaving?force=true').expect(202)
    const refused = await request('POST', '/schedules/orphan/run').expect(422)
    expect(refused.body).toMatchObject({ code: 'endpoint_not_found' })
  })
})

describe('refused with a sentence that names the field', () => {
  it.each([
    ['/cron', { cron: '60 * * * *' }, /minute.*60/],
    ['/cron', { cron: '0 0 9 * * 1' }, /five fields.*found 6/],
    ['/cron', { cron: '0 0 30 2 *' }, /never|no day/],
    ['/cron', {}, /one of cron and every/],
    ['/every', { cron: '* * * * *', every: '1h' }, /one of cron and every/],
    ['/every', { every: '999ms' }, /from 1s/],
    ['/every', { every: '1 hour' }, /duration/],
    ['/timezone', { cron: '* * * * *', timezone: 'Mars/Olympus' }, /IANA/],
    ['/timezone', { cron: '* * * * *', timezone: '+01:00' }, /IANA/],
    ['/timezone', { cron: '* * * * *', timezone: 'BST' }, /IANA/],
    ['/timezone', { every: '1h', timezone: 'UTC' }, /cron only/],
    ['/cron', { cron: '09:00 * * * *' }, /minute is wrong: "09:00"/],
    ['/cron', { cron: '0 0 * * MON#L' }, /day of week is wrong/],
    ['/startAt', { cron: '0 0 * * *', startAt: '3000-01-01T00:00:00Z' }, /before the year 3000/],
    ['/startAt', { cron: '0 0 1 1 *', startAt: '2999-06-01T00:00:00Z' }, /before the year 3000/],
    ['/overlap', { every: '1h', overlap: 'queue' }, /./],
    ['/misfire', { every: '1h', misfire: 'all' }, /./],
    ['/runAt', { every: '1h', runAt: '2030-01-01T00:00:00Z' }, /unknown/],
    ['/delay', { every: '1h', delay: '1s' }, /unknown/],
    ['/dedupe', { every: '1h', dedupe: { key: 'k', mode: 'keep' } }, /unknown/],
    ['/dependsOn', { every: '1h', dependsOn: [] }, /unknown/],
    ['/paused', { every: '1h', paused: 'yes' }, /./],
    ['/endAt', { every: '1h', startAt: soon, endAt: '2020-01-01T00:00:00Z' }, /after startAt/],
    ['/startAt', { every: '1h', startAt: 'tomorrow' }, /RFC 3339/],
    ['/priority', { every: '1h', priority: 10 }, /./],
  ])('%s of %j', async (path, fields, sentence) => {
    const filled = 'startAt' in fields && typeof fields.startAt === 'function'
    const given = filled ? { ...fields, startAt: soon() } : fields
    const { body } = await put('refused', given).expect(400)
    expect(body).toMatchObject({ code: 'invalid_request', errors: [{ path }] })
    expect(body.detail).toMatch(sentence)
  })

  it('a payload is needed, and an endpoint that exists', async () => {
    const none = await request('PUT', '/schedules/refused', { endpoint: 'work', every: '1h' })
    expect(none.body).toMatchObject({ status: 400, errors: [{ path: '/payload' }] })
    const unknown = await put('refused', { endpoint: 'nobody', every: '1h' }).expect(422)
    expect(unknown.body).toMatchObject({ code: 'endpoint_not_found' })
    await request('GET', '/schedules/refused').expect(404)
  })
})
