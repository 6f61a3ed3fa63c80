// The client against the API itself: every method does what its description says.
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { Posthorn, PosthornError, verify } from '../../src/client/client.ts'
import { type ReceivedRequest, type Receiver, startReceiver } from '../support/receiver.ts'
import { type ServedApp, serveApp } from '../support/served-app.ts'

const KEY = 'a-key-of-the-client-tests'
const LATER = { delay: '1h' }

let api: ServedApp
let receiver: Receiver
let posthorn: Posthorn
let endpointCount = 0
let endpoint: string
beforeAll(async () => {
  receiver = await startReceiver()
  api = await serveApp({ apiKeys: [KEY] })
  posthorn = new Posthorn({ url: api.url, key: KEY })
})
afterAll(async () => {
  await api.close()
  await receiver.close()
})
beforeEach(async () => {
  endpoint = `endpoint-${++endpointCount}`
  await posthorn.endpoints.put(endpoint, { url: receiver.url })
})

const codeOf = (promise: Promise<unknown>) =>
  promise.then(
    () => 'no error',
    (error) => (error instanceof PosthornError ? error.code : error),
  )

describe('jobs', () => {
  it('a job is enqueued once for its key, and read as it was given', async () => {
    const job = {
      endpoint,
      payload: { invoice: 42 },
      runAt: new Date(Date.now() + 3_600_000),
      tags: ['monthly'],
      metadata: { customer: 'c-7' },
      idempotencyKey: 'invoice-42',
    }
    const first = await posthorn.enqueue(job)
    const again = await posthorn.enqueue(job)
    expect(first.deduplicated).toBe(false)
    expect(again).toMatchObject({ id: first.id, deduplicated: true })
    const { id, payload, ...read } = await posthorn.get<{ invoice: number }>(first.id)
    expect(payload.invoice).toBe(42)
    expect(read).toMatchObject({
      state: 'queued',
      runAt: job.runAt.toISOString(),
      tags: ['monthly'],
      metadata: { customer: 'c-7' },
      idempotencyKey: 'invoice-42',
    })
    expect(id).toBe(first.id)
  })

  it('return: minimal gives id, state and deduplicated alone', async () => {
    const job = { endpoint, payload: { invoice: 42 }, idempotencyKey: 'invoice-42', ...LATER }
    const first = await posthorn.enqueue(job, { return: 'minimal' })
    const { id } = first
    expect(first).toEqual({ id, state: 'queued', deduplicated: false })
    const again = await posthorn.enqueue(job, { return: 'minimal' })
    expect(again).toEqual({ id, state: 'queued', deduplicated: true })
    const whole = await posthorn.enqueue(job, { return: 'representation' })
    expect(whole).toMatchObject({ id, payload: { invoice: 42 }, deduplicated: true })
    const [item] = await posthorn.enqueueBatch([job], { return: 'minimal' })
    const found = { status: 200, id, state: 'queued', deduplicated: true }
    expect(item).toEqual({ ...found, idempotencyKey: 'invoice-42' })
    const wrong = { return: 'nothing' as 'minimal' }
    await expect(posthorn.enqueue(job, wrong)).rejects.toThrow(TypeError)
    await expect(posthorn.enqueueBatch([job], wrong)).rejects.toThrow(TypeError)
  })

  it('two jobs without a key are two', async () => {
    const [one, other] = [
      { endpoint, payload: 1 },
      { endpoint, payload: 1 },
    ]
    expect((await posthorn.enqueue(one)).id).not.toBe((await posthorn.enqueue(other)).id)
  })

  it('a raw payload is kept to the byte', async () => {
    const rawPayload = '{"n": 12345678901234567890, "total": 1.0, "who": "Zoë 🐎"}'
    const { id } = await posthorn.enqueue({ endpoint, rawPayload, ...LATER })
    expect(Buffer.from(await posthorn.payload(id)).toString()).toBe(rawPayload)
  })

  it('a batch has the outcome of each job, and its repeat finds the same', async () => {
    const jobs = [
      { endpoint, payload: 1, ...LATER },
      { endpoint, rawPayload: '{"n":1.0}', ...LATER, idempotencyKey: 'second' },
      { endpoint: 'unheard-of', payload: 3 },
      { endpoint, payload: 4, priority: 10 },
      { endpoint, payload: 5, dependsOn: ['#0'] },
    ]
    const items = await posthorn.enqueueBatch(jobs)
    expect(items).toMatchObject([
      { status: 201, id: expect.any(String), deduplicated: false },
      { status: 201, id: expect.any(String), idempotencyKey: 'second' },
      { status: 422, error: { code: 'endpoint_not_found' } },
      { status: 400, error: { code: 'invalid_request', errors: [{ path: expect.any(String) }] } },
      { status: 201 },
    ])
    const [first] = items
    const repeated = { ...(jobs[0] as { endpoint: string; payload: number }) }
    const idempotencyKey = first?.idempotencyKey
    expect(await posthorn.enqueueBatch([{ ...repeated, idempotencyKey }])).toEqual([
      { status: 200, id: first?.id, deduplicated: true, idempotencyKey },
    ])
  })

  it('get the results that they need, and their bytes can be read', async () => {
    const pulled = `${endpoint}-pulled`
    await posthorn.endpoints.put(pulled, { url: null })
    const { id } = await posthorn.enqueue({ endpoint: pulled, payload: 1 })
    const items = await posthorn.enqueueBatch([
      { endpoint, payload: 2, ...LATER, needs: { whole: id, n: { job: id, pointer: '/n' } } },
      { endpoint, payload: 3, ...LATER, needs: { two: '#0' } },
    ])
    const [first = '', second = ''] = items.map((item) => item.id)
    expect((await posthorn.get(second)).needs).toEqual({
      two: { job: first, pointer: '', ifFailed: 'fail' },
    })
    await expect(posthorn.inputs(first)).rejects.toMatchObject({ code: 'job_state_conflict' })
    const [rejected] = await posthorn.claim(pulled)
    if (rejected === undefined) throw new Error('nothing was claimed')
    await posthorn.fail(rejected, { message: 'no', retryable: false })
    expect((await posthorn.get(second)).failure).toMatchObject({ jobId: first })
    const again = await posthorn.retry(id, { withDependents: true })
    expect(again).toMatchObject({ dependentsRetried: 2, left: [] })
    const [claimed] = await posthorn.claim(pulled)
    if (claimed === undefined) throw new Error('nothing was claimed')
    await posthorn.complete(claimed, { n: 5 })
    const inputs = Buffer.from(await posthorn.inputs(first)).toString()
    expect(inputs).toBe('{"inputs":{"whole":{"n":5},"n":5}}')
  })

  it('are listed page after page, newest first', async () => {
    const payloads = Array.from({ length: 7 }, (_, i) => ({ endpoint, payload: i, ...LATER }))
    const items = await posthorn.enqueueBatch(payloads)
    const listed: string[] = []
    for await (const { id } of posthorn.list({ endpoint, state: 'queued', limit: 3 })) {
      listed.push(id)
    }
    expect(listed).toEqual(items.map(({ id }) => id).reverse())
    const page = await posthorn.page({ endpoint, limit: 2 })
    const { items: next } = await posthorn.page({ endpoint, cursor: page.nextCursor ?? '' })
    expect([...page.items, ...next].map(({ id }) => id)).toEqual(listed)
  })

  it('keys that differ by quotes are two, and one with spaces at its ends is refused', async () => {
    const payload = 1
    const ids = new Set<string>()
    for (const idempotencyKey of ['q', '"q"', 'q', '"q"', '\\q']) {
      const job = await posthorn.enqueue({ endpoint, payload, idempotencyKey })
      expect(job.idempotencyKey).toBe(idempotencyKey)
      ids.add(job.id)
    }
    expect(ids.size).toBe(3)
    for (const idempotencyKey of [' q', 'q ', '']) {
      expect(await codeOf(posthorn.enqueue({ endpoint, payload, idempotencyKey }))).toBe(
        'invalid_request',
      )
      const [item] = await posthorn.enqueueBatch([{ endpoint, payload, idempotencyKey }])
      expect(item).toMatchObject({ status: 400, error: { code: 'invalid_request' } })
    }
  })

  it('are cancelled, queued again, copied and removed', async () => {
    const { id } = await posthorn.enqueue({ endpoint, payload: 'p', ...LATER })
    expect((await posthorn.cancel(id)).state).toBe('cancelled')
    expect((await posthorn.wait(id)).state).toBe('cancelled')
    expect((await posthorn.retry(id)).state).toBe('queued')
    expect(await codeOf(posthorn.retry(id))).toBe('job_state_conflict')
    const copy = await posthorn.copy<string>(id)
    expect(copy.id).not.toBe(id)
    expect(copy.payload).toBe('p')
    expect(await codeOf(posthorn.remove(id))).toBe('job_state_conflict')
    await posthorn.cancel(id)
    await posthorn.remove(id)
    expect(await codeOf(posthorn.get(id))).toBe('job_not_found')
  })

  it('are edited while they are queued, only as they were read if asked', async () => {
    const { id, version } = await posthorn.enqueue({ endpoint, payload: 1, ...LATER })
    const edited = await posthorn.edit(
      id,
      { priority: 9, rawPayload: '2.0' },
      { ifVersion: version },
    )
    expect(edited).toMatchObject({ priority: 9, payload: 2, payloadBytes: 3 })
    expect(await codeOf(posthorn.edit(id, { priority: 1 }, { ifVersion: version }))).toBe(
      'precondition_failed',
    )
    await posthorn.cancel(id)
    expect(await codeOf(posthorn.edit(id, { priority: 1 }))).toBe('job_state_conflict')
  })

  it('say why they do not run', async () => {
    const { id } = await posthorn.enqueue({ endpoint, payload: 1, ...LATER })
    expect(await posthorn.explain(id)).toMatchObject({ state: 'queued', reason: 'not_due' })
  })

  it('are cancelled and queued again by a filter, counted first', async () => {
    await posthorn.enqueueBatch([1, 2, 3].map((payload) => ({ endpoint, payload, ...LATER })))
    const filter = { endpoint, state: 'queued' as const }
    expect(await posthorn.cancelMany(filter, { dryRun: true })).toMatchObject({ matched: 3 })
    expect(await posthorn.cancelMany(filter, { limit: 2 })).toMatchObject({ affected: 2 })
    expect(await posthorn.retryMany({ endpoint, state: 'cancelled' })).toMatchObject({
      affected: 2,
    })
    expect(await codeOf(posthorn.cancelMany({}))).toBe('invalid_request')
  })
})

describe('endpoints', () => {
  it('are only created if that is asked for', async () => {
    const again = posthorn.endpoints.put(endpoint, { url: null }, { ifAbsent: true })
    expect(await codeOf(again)).toBe('precondition_failed')
    expect((await posthorn.endpoints.get(endpoint)).version).toBe(1)
    const name = `new-${endpoint}`
    const made = await posthorn.endpoints.put(name, { url: null }, { ifAbsent: true })
    expect(made.version).toBe(1)
  })

  it('are made, replaced only as they were read if asked, listed and removed', async () => {
    const name = `${endpoint}-made`
    const made = await posthorn.endpoints.put(name, { url: receiver.url, timeout: '90s' })
    expect(made).toMatchObject({ name, timeout: '1m30s', state: 'active', counts: { queued: 0 } })
    expect(made.secret).toMatch(/^whsec_/)
    const { version } = made
    const replaced = await posthorn.endpoints.put(
      name,
      { url: receiver.url },
      { ifVersion: version },
    )
    expect(replaced.secret).toBeUndefined()
    const stale = posthorn.endpoints.put(name, { url: receiver.url }, { ifVersion: version })
    expect(await codeOf(stale)).toBe('precondition_failed')
    const edited = await posthorn.endpoints.edit(name, { timeout: '7s', concurrency: 2 })
    expect(edited).toMatchObject({ timeout: '7s', concurrency: 2, url: `${receiver.url}` })
    const late = posthorn.endpoints.edit(name, { timeout: null }, { ifVersion: replaced.version })
    expect(await codeOf(late)).toBe('precondition_failed')
    const names: string[] = []
    for await (const one of posthorn.endpoints.list({ limit: 1 })) names.push(one.name)
    expect(names).toContain(name)
    expect(names).toEqual([...names].sort())
    for (const fairnessKey of ['b', 'a/7', 'c']) {
      await posthorn.enqueue({ endpoint: name, payload: 1, fairnessKey, ...LATER })
    }
    const fair: string[] = []
    for await (const one of posthorn.endpoints.fairnessKeys(name, { limit: 2 })) fair.push(one.key)
    expect(fair).toEqual(['a/7', 'b', 'c'])
    const page = await posthorn.endpoints.fairnessKeysPage(name, { limit: 1 })
    const byWait = await posthorn.endpoints.fairnessKeysPage(name, { order: 'wait' })
    expect(byWait).toEqual({ items: [], nextCursor: null })
    expect(page.items).toMatchObject([{ key: 'a/7', queued: 1, due: 0, running: 0, weight: 1 }])
    const { endpoints } = posthorn
    const settings = { weight: 3, rateLimit: { count: 1, per: '1s' } }
    const stored = await endpoints.putFairnessKey(name, 'a/7', settings, { ifAbsent: true })
    expect(stored).toMatchObject({ key: 'a/7', ...settings, paused: false, version: 1 })
    const taken = endpoints.putFairnessKey(name, 'a/7', {}, { ifVersion: 9 })
    expect(await codeOf(taken)).toBe('precondition_failed')
    expect(await endpoints.fairnessKey(name, 'a/7')).toEqual(stored)
    await endpoints.resetFairnessKey(name, 'a/7', { ifVersion: 1 })
    expect(await endpoints.fairnessKey(name, 'a/7')).toMatchObject({ weight: 1, version: 0 })
    await posthorn.endpoints.remove(name, { force: true })
  })

  it('have jobs in groups', async () => {
    const { groups } = posthorn
    await posthorn.endpoints.put('grouped', { url: null })
    const asked = { name: 'client', idempotencyKey: 'group-1', closeAfter: null }
    const group = await groups.create(asked)
    expect(group).toMatchObject({ name: 'client', state: 'open', deduplicated: false })
    expect(await groups.create(asked)).toMatchObject({ id: group.id, deduplicated: true })
    const job = await posthorn.enqueue({ endpoint: 'grouped', payload: 1, group: group.id })
    const copy = await posthorn.copy(job.id, { group: group.id })
    expect([job.group, copy.group]).toEqual([group.id, group.id])
    const ids: string[] = []
    for await (const { id } of posthorn.list({ group: group.id })) ids.push(id)
    expect(ids).toEqual([copy.id, job.id])
    expect((await groups.close(group.id)).state).toBe('closed')
    const late = posthorn.enqueue({ endpoint: 'grouped', payload: 1, group: group.id })
    expect(await codeOf(late)).toBe('group_closed')
    const soon = groups.wait(group.id, { timeoutMs: 10 })
    expect(await codeOf(soon)).toBe('wait_timeout')
    for (const { id } of [job, copy]) await posthorn.cancel(id)
    const final = await groups.wait(group.id)
    expect(final).toMatchObject({ state: 'failed', counts: { cancelled: 2 } })
    const names: (string | null)[] = []
    for await (const { name } of groups.list({ name: 'client', state: 'failed' })) names.push(name)
    expect(names).toEqual(['client'])
    expect((await groups.page({ limit: 1 })).items).toHaveLength(1)
    // No process sweeps here: the marks stay.
    expect((await groups.retry(group.id)).state).toBe('retrying')
    expect((await groups.cancel(group.id)).state).toBe('cancelling')
    expect(await codeOf(groups.remove(group.id))).toBe('group_state_conflict')
    const empty = await groups.create()
    await groups.close(empty.id)
    await groups.remove(empty.id)
    expect(await codeOf(groups.get(empty.id))).toBe('group_not_found')
    await posthorn.endpoints.remove('grouped', { force: true })
  })

  it('share limits', async () => {
    const { limits } = posthorn
    const settings = { concurrency: 3, rateLimit: { count: 5, per: '1m' } }
    const made = await limits.put('shared-a', settings, { ifAbsent: true })
    expect(made).toMatchObject({ name: 'shared-a', ...settings, tokens: 5, endpoints: [] })
    const changed = await limits.put('shared-a', { concurrency: 4 }, { ifVersion: made.version })
    expect(changed).toMatchObject({ concurrency: 4, rateLimit: null, tokens: null })
    const stale = limits.put('shared-a', {}, { ifVersion: made.version })
    expect(await codeOf(stale)).toBe('precondition_failed')
    await limits.put('shared-b', {})
    await posthorn.endpoints.put('sharing', { url: null, limits: ['shared-b', 'shared-a'] })
    const read = await limits.get('shared-a')
    expect(read).toMatchObject({ endpoints: ['sharing'], running: 0, waiting: [] })
    const names: string[] = []
    for await (const one of limits.list({ limit: 1 })) names.push(one.name)
    expect(names).toEqual(['shared-a', 'shared-b'])
    expect((await limits.page({ limit: 1 })).nextCursor).not.toBeNull()
    expect(await codeOf(limits.remove('shared-a'))).toBe('limit_in_use')
    await posthorn.endpoints.remove('sharing')
    await limits.remove('shared-a', { ifVersion: changed.version })
    expect(await codeOf(limits.get('shared-a'))).toBe('limit_not_found')
  })

  it('without jobs are removed at once', async () => {
    const name = 'removed'
    await posthorn.endpoints.put(name, { url: null })
    await posthorn.endpoints.remove(name)
    expect(await codeOf(posthorn.endpoints.get(name))).toBe('endpoint_not_found')
  })

  it('are removed with their jobs by force only', async () => {
    await posthorn.enqueue({ endpoint, payload: 1, ...LATER })
    expect(await codeOf(posthorn.endpoints.remove(endpoint))).toBe('endpoint_in_use')
    await posthorn.endpoints.remove(endpoint, { force: true })
    expect((await posthorn.endpoints.get(endpoint)).state).toBe('deleting')
  })

  it('are paused and resumed, get a new secret, and are pinged', async () => {
    expect((await posthorn.endpoints.pause(endpoint)).state).toBe('paused')
    expect((await posthorn.endpoints.resume(endpoint)).state).toBe('active')
    const { secret } = await posthorn.endpoints.rotateSecret(endpoint, { overlap: '1h' })
    expect(secret).toMatch(/^whsec_/)
    expect(await posthorn.endpoints.test(endpoint)).toMatchObject({ outcome: 'succeeded' })
    const ping = receiver.requests.at(-1)
    const { isTest, payload } = await verify(ping as ReceivedRequest, secret)
    expect({ isTest, payload }).toEqual({ isTest: true, payload: { type: 'posthorn.test' } })
  })
})

describe('schedules', () => {
  it('are made, replaced only as they were read if asked, listed, paused, run and removed', async () => {
    const settings = { cron: '0 9 * * 1-5', timezone: 'Asia/Kolkata', endpoint, rawPayload: '1.0' }
    const made = await posthorn.schedules.put(`${endpoint}-daily`, settings)
    expect(made).toMatchObject({ cron: settings.cron, paused: false, payload: 1 })
    expect(made.nextRuns).toHaveLength(5)
    const { name, version } = made
    await posthorn.schedules.put(
      name,
      { every: '15m', endpoint, payload: { all: true } },
      { ifVersion: version },
    )
    const stale = posthorn.schedules.put(name, settings, { ifVersion: version })
    expect(await codeOf(stale)).toBe('precondition_failed')
    expect(await posthorn.schedules.get(name)).toMatchObject({ every: '15m', cron: null })
    expect((await posthorn.schedules.pause(name)).paused).toBe(true)
    expect((await posthorn.schedules.resume(name)).paused).toBe(false)
    const job = await posthorn.schedules.run<{ all: boolean }>(name)
    expect(job).toMatchObject({ scheduleName: name, payload: { all: true } })
    const names: string[] = []
    for await (const one of posthorn.schedules.list({ limit: 1 })) names.push(one.name)
    expect(names).toContain(name)
    await posthorn.schedules.remove(name)
    expect(await codeOf(posthorn.schedules.get(name))).toBe('schedule_not_found')
  })
})

describe('pull', () => {
  let name: string
  beforeEach(async () => {
    name = `${endpoint}-pulled`
    await posthorn.endpoints.put(name, { url: null })
  })

  it('a report whose message the API would refuse is made with one that it takes', async () => {
    const name = `pulled-${endpoint}`
    await posthorn.endpoints.put(name, { url: null })
    const { id } = await posthorn.enqueue({ endpoint: name, payload: 1 })
    const [job] = await posthorn.claim(name)
    if (job === undefined) throw new Error('no job was claimed')
    await posthorn.heartbeat(job, { message: `\0${'p'.repeat(600)}` })
    expect((await posthorn.get(id)).progress?.message).toBe(`\ufffd${'p'.repeat(498)}…`)
    await posthorn.fail(job, { message: `\0\ud800${'🐎'.repeat(1_500)}`, retryable: false })
    const { failure, attempts } = await posthorn.get(id)
    const message = `\ufffd\ufffd${'🐎'.repeat(998)}…`
    expect(attempts[0]?.message).toBe(message)
    expect(failure?.reason).toBe('failed_by_handler')
  })

  it('a job is claimed, kept alive and completed; a repeat of the report changes nothing', async () => {
    const { id } = await posthorn.enqueue({ endpoint: name, payload: { rows: 3 } })
    const [job] = await posthorn.claim<{ rows: number }>(name, { waitMs: 5_000, leaseMs: 60_000 })
    if (job === undefined) throw new Error('no job was claimed')
    expect(job).toMatchObject({ id, state: 'running', payload: { rows: 3 }, attemptCount: 1 })
    const beat = await posthorn.heartbeat(job, { progress: 50, message: 'half' })
    expect(beat.cancelRequested).toBe(false)
    expect((await posthorn.get(id)).progress).toMatchObject({ value: 50, message: 'half' })
    await posthorn.complete(job, { done: 3 })
    await posthorn.complete(job, { done: 3 })
    const final = await posthorn.wait<unknown, { done: number }>(id)
    expect(final).toMatchObject({ state: 'succeeded', result: { done: 3 } })
    expect(await codeOf(posthorn.fail(job, { message: 'late' }))).toBe('lease_lost')
  })

  it('a job that fails for good is dead, and one that was cancelled says so', async () => {
    const dead = await posthorn.enqueue({ endpoint: name, payload: 1 })
    const [first] = await posthorn.claim(name)
    if (first === undefined) throw new Error('no job was claimed')
    await posthorn.fail(first, { message: 'no paper', retryable: false })
    expect((await posthorn.wait(dead.id)).failure).toMatchObject({ reason: 'failed_by_handler' })

    const { id } = await posthorn.enqueue({ endpoint: name, payload: 2 })
    const [second] = await posthorn.claim(name)
    if (second === undefined) throw new Error('no job was claimed')
    await posthorn.cancel(id)
    expect(await posthorn.heartbeat(second)).toEqual({
      leaseExpiresAt: null,
      cancelRequested: true,
    })
  })

  it('a token that was never issued is refused', async () => {
    const { id } = await posthorn.enqueue({ endpoint: name, payload: 1 })
    expect(await codeOf(posthorn.complete({ jobId: id, token: '1.made.up' }))).toBe('unauthorized')
    expect(await posthorn.claim(endpoint).catch((error) => error.code)).toBe('job_state_conflict')
  })
})

it('without its key it gets no response from any route', async () => {
  expect(await codeOf(new Posthorn({ url: api.url }).page())).toBe('unauthorized')
  const other = new Posthorn({ url: api.url, key: 'another-key-of-24-characters' })
  expect(await codeOf(other.page())).toBe('unauthorized')
})
