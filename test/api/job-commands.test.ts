// The table of job routes, continued: those that change jobs.
import { describe, expect, it } from 'vitest'
import { at, type Body, CONCURRENT, heldReplies, soon, useApi } from '../support/api-fixture.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'
import type { Reply } from '../support/receiver.ts'

const LONG = { timeout: 240_000 }
/** The delay that a busy machine can add. */
const SLOW_MS = 110_000

describe.each(SQLITE_UNLESS_LONG)('on %s', CONCURRENT, (engine) => {
  const fixture = useApi(engine)
  const { request, readJob } = fixture
  const conflict = { status: 409, body: { code: 'job_state_conflict' } }

  it('POST /jobs/:id/cancel: queued or running at once, again is 200, final is 409', async () => {
    const held = heldReplies()
    const endpoint = await fixture.endpoint(held.script)
    const queued = await endpoint.enqueue({ delay: '1h' })
    for (let i = 0; i < 2; i++) {
      const answer = await request('POST', `/jobs/${queued}/cancel`)
      expect(answer).toMatchObject({ status: 200, body: { state: 'cancelled', attempts: [] } })
    }
    const running = await endpoint.enqueue()
    await fixture.job(running, 'running')
    const cancelled = await request('POST', `/jobs/${running}/cancel`)
    expect(cancelled).toMatchObject({ status: 200, body: { state: 'cancelled', lease: null } })
    held.release({ status: 200, body: '"too late"' })
    const other = await fixture.endpoint()
    const done = await other.enqueue()
    await fixture.job(done, 'succeeded')
    expect(await request('POST', `/jobs/${done}/cancel`)).toMatchObject(conflict)
    expect(await readJob(running)).toMatchObject({ state: 'cancelled', result: null })
  })

  it('POST /jobs/:id/cancel: frees slot and order at once, though its handler is at work', async () => {
    const held = heldReplies()
    const endpoint = await fixture.endpoint(held.script, { concurrency: 1 })
    const ordered = { orderingKey: 'account-7' }
    const first = await endpoint.enqueue(ordered)
    const second = await endpoint.enqueue(ordered)
    await endpoint.receiver.waitFor(({ length }) => length === 1)
    expect(await request('POST', `/jobs/${first}/cancel`)).toMatchObject({ status: 200 })
    // The first request has no response yet.
    await fixture.job(second, 'running')
    await endpoint.receiver.waitFor(({ length }) => length === 2)
    held.release(200)
    await fixture.job(second, 'succeeded')
    expect((await readJob(first)).state).toBe('cancelled')
  })

  it('POST /jobs/:id/retry: dead or cancelled to queued with a fresh budget, else 409', async () => {
    const endpoint = await fixture.endpoint([500, 500, 200], {
      retry: { maxAttempts: 2, backoff: FAST },
    })
    const id = await endpoint.enqueue({ expiresIn: '1h' })
    await fixture.job(id, 'dead')
    const retried = await request('POST', `/jobs/${id}/retry`)
    expect(retried).toMatchObject({
      status: 200,
      body: { state: 'queued', failure: null, finishedAt: null, expiresAt: null, attemptCount: 2 },
    })
    const done = await fixture.job(id, 'succeeded')
    expect(done).toMatchObject({ attemptCount: 3, maxAttempts: 2, fence: 3 })
    expect(await request('POST', `/jobs/${id}/retry`)).toMatchObject(conflict)
    const queued = await endpoint.enqueue({ delay: '1h' })
    expect(await request('POST', `/jobs/${queued}/retry`)).toMatchObject(conflict)
  })

  it('POST /jobs/:id/retry: 409 dedupe_conflict when another job holds its dedupe key by now', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const dedupe = { key: 'k', mode: 'keep' }
    const first = await endpoint.enqueue({ dedupe })
    await request('POST', `/jobs/${first}/cancel`)
    const second = await endpoint.enqueue({ dedupe })
    const refused = await request('POST', `/jobs/${first}/retry`)
    expect(refused).toMatchObject({ status: 409, body: { code: 'dedupe_conflict' } })
    expect(refused.body.detail).toContain(second)
    await request('POST', `/jobs/${second}/cancel`)
    expect((await request('POST', `/jobs/${first}/retry`)).status).toBe(200)
  })

  it('PATCH /jobs/:id: while queued each field it names, and nothing else', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const fields = { fairnessKey: 'f', cost: 7 }
    const id = await endpoint.enqueue({ expiresIn: '1h', ...fields })
    const change = { priority: 9, tags: ['t'], metadata: { m: '1' }, payload: { n: 2 } }
    const edited = await request('PATCH', `/jobs/${id}`, { ...change, delay: '2h' })
    expect(edited).toMatchObject({ status: 200, body: change })
    // The first runAt was moved, and expiresIn counts from it.
    expect(at(edited.body.expiresAt) - at(edited.body.runAt)).toBe(3_600_000)
    const expiring = await request('PATCH', `/jobs/${id}`, { expiresIn: '90m' })
    expect(at(expiring.body.expiresAt) - at(expiring.body.runAt)).toBe(5_400_000)
    const instant = new Date(Date.now() + 3_600_000).toISOString()
    expect((await request('PATCH', `/jobs/${id}`, { runAt: instant })).body.runAt).toBe(instant)
    const twice = { delay: '1s', runAt: instant }
    const wrong = [{}, { endpoint: endpoint.name }, twice, { retry: {} }, fields, { cost: 7 }]
    for (const body of wrong) expect((await request('PATCH', `/jobs/${id}`, body)).status).toBe(400)
    expect(await readJob(id)).toMatchObject({ ...change, ...fields, runAt: instant })
    await request('PATCH', `/jobs/${id}`, { delay: '0s' })
    const { body } = await request('POST', `/endpoints/${endpoint.name}/claim`)
    expect(body.jobs[0]).toMatchObject({ id, payload: { n: 2 } })
    expect(await request('PATCH', `/jobs/${id}`, { priority: 1 })).toMatchObject(conflict)
  })

  it('PATCH /jobs/:id: one that changes nothing leaves the version', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const fields = {
      ...{ payload: { n: 1 }, priority: 3, tags: ['a'], metadata: { b: 'c' } },
      ...{ runAt: later(60_000), expiresIn: '1h' },
    }
    const path = `/jobs/${await endpoint.enqueue(fields)}`
    const before = await fixture.get(path)
    for (const body of [fields, { priority: 3 }, { runAt: before.runAt }, { expiresIn: '1h' }]) {
      const answer = await request('PATCH', path, body, { 'if-match': `"${before.version}"` })
      expect(answer).toMatchObject({ status: 200, body: before })
    }
    let { version } = before
    for (const body of [
      { payload: { n: 2 } },
      { priority: 4 },
      { tags: [] },
      { metadata: {} },
      { expiresIn: '2h' },
      { expiresIn: null },
      { runAt: later(120_000) },
    ]) {
      const answer = await request('PATCH', path, body, { 'if-match': `"${version}"` })
      expect(answer.body.version).toBe(++version)
    }
  })

  it('PATCH /jobs/:id: the payload only as long as nothing was sent', async () => {
    const retry = { maxAttempts: 2, backoff: { ...FAST, delay: '1h' } }
    const endpoint = await fixture.endpoint(500, { retry })
    const id = await endpoint.enqueue()
    await soon(async () => expect((await readJob(id)).attempts).toHaveLength(1))
    expect(await request('PATCH', `/jobs/${id}`, { payload: 2 })).toMatchObject(conflict)
    expect((await request('PATCH', `/jobs/${id}`, { priority: 1 })).status).toBe(200)
    expect((await readJob(id)).payload).toEqual({})
  })

  it('POST /jobs/cancel: all that a filter finds, up to a limit, or only their number', async () => {
    const endpoint = await fixture.pulledEndpoint()
    for (let i = 0; i < 5; i++) await endpoint.enqueue({ tags: i < 3 ? ['some'] : [] })
    const cancel = (body: object) => request('POST', '/jobs/cancel', body)
    const filter = { endpoint: endpoint.name }
    const dry = await cancel({ filter, dryRun: true })
    expect(dry).toMatchObject({ status: 200, body: { matched: 5, affected: 0 } })
    expect((await endpoint.read()).counts.queued).toBe(5)
    expect((await cancel({ filter: { ...filter, tag: 'some' }, limit: 2 })).body).toEqual({
      matched: 2,
      affected: 2,
      more: true,
    })
    expect((await cancel({ filter: { ...filter, state: 'running' } })).body).toEqual({
      matched: 0,
      affected: 0,
    })
    expect((await cancel({ filter })).body).toEqual({ matched: 3, affected: 3 })
    expect((await cancel({ filter })).body).toEqual({ matched: 0, affected: 0 })
    const wrong = [{}, { filter: {} }, { filter, limit: 0 }, { filter, limit: 10_001 }]
    for (const body of wrong) expect((await cancel(body)).status).toBe(400)
    expect((await cancel({ filter: { colour: 'red' } })).status).toBe(400)
  })

  it('POST /jobs/retry: dead and cancelled ones, also by their failure reason', async () => {
    const endpoint = await fixture.endpoint(422)
    const dead = await endpoint.enqueue()
    await fixture.job(dead, 'dead')
    const cancelled = await endpoint.enqueue({ delay: '1h' })
    await request('POST', `/jobs/${cancelled}/cancel`)
    const retry = (filter: object) =>
      request('POST', '/jobs/retry', { filter: { endpoint: endpoint.name, ...filter } })
    expect((await retry({ failureReason: 'expired' })).body).toEqual({ matched: 0, affected: 0 })
    endpoint.receiver.answerWith(200)
    expect((await retry({ failureReason: 'rejected' })).body).toEqual({ matched: 1, affected: 1 })
    await fixture.job(dead, 'succeeded')
    const before = new Date(Date.now() - 3_600_000).toISOString()
    expect((await retry({ createdBefore: before })).body.matched).toBe(0)
    expect((await retry({ createdAfter: before })).body).toEqual({ matched: 1, affected: 1 })
    await fixture.job(cancelled, 'succeeded')
  })

  /** Repeats the request: on a busy store it ends early, and the same request continues. */
  async function untilNoneIsLeft(verb: 'cancel' | 'retry', filter: object): Promise<void> {
    await soon(async () => {
      const { status, body } = await request('POST', `/jobs/${verb}`, { filter })
      expect({ status, more: body.more }).toEqual({ status: 200, more: undefined })
    }, SLOW_MS)
  }

  // More jobs than one write of a bulk command. test/long/bulk-order.test.ts has the full number.
  it('POST /jobs/retry: an ordering key runs again from its first job on', LONG, async () => {
    const count = engine === 'sqlite' ? 220 : 110
    const endpoint = await fixture.endpoint()
    await request('POST', `/endpoints/${endpoint.name}/pause`)
    const jobs = Array.from({ length: count }, (_, payload) => {
      return { endpoint: endpoint.name, payload, orderingKey: 'account-7' }
    })
    expect((await request('POST', '/jobs/batch', { jobs })).status).toBe(200)
    const filter = { endpoint: endpoint.name }
    await untilNoneIsLeft('cancel', filter)
    await request('POST', `/endpoints/${endpoint.name}/resume`)
    await untilNoneIsLeft('retry', filter)
    await endpoint.receiver.waitFor(({ length }) => length === count, SLOW_MS)
    const order = endpoint.receiver.requests.map(({ body }) => Number(body))
    expect(order).toEqual(jobs.map(({ payload }) => payload))
  })

  it(
    'POST /jobs/cancel: of an ordering key no job starts while it is cancelled',
    LONG,
    async () => {
      const held = heldReplies()
      const endpoint = await fixture.endpoint(held.script)
      const job = { endpoint: endpoint.name, payload: 1, orderingKey: 'account-7' }
      await request('POST', '/jobs/batch', { jobs: Array(110).fill(job) })
      await endpoint.receiver.waitFor(({ length }) => length === 1)
      const filter = { endpoint: endpoint.name }
      await untilNoneIsLeft('cancel', filter)
      held.release(200)
      expect((await endpoint.read()).counts).toEqual({ queued: 0, running: 0 })
      expect(endpoint.receiver.requests).toHaveLength(1)
    },
  )

  /** A chain of jobs, each of which depends on the one before. The first one is rejected. */
  async function deadChain() {
    const delivered: string[] = []
    const replies: { first: Reply | Promise<Reply> } = { first: 422 }
    const receiver = await fixture.receive(({ body }) => {
      const name = JSON.parse(body.toString()) as string
      delivered.push(name)
      return name === 'first' ? replies.first : 200
    })
    const endpoint = await fixture.endpoint(() => 200)
    await fixture.posthorn.endpoint(endpoint.name, receiver.url)
    const chain = ['first', 'second', 'third'].map((payload, i) => {
      return { endpoint: endpoint.name, payload, dependsOn: i === 0 ? [] : [`#${i - 1}`] }
    })
    const { body } = await request('POST', '/jobs/batch', { jobs: chain })
    const ids = body.items.map(({ id }: { id: string }) => id) as [string, string, string]
    const dead = () => Promise.all(ids.map((id) => fixture.job(id, 'dead')))
    await dead()
    return { ids, delivered, replies, dead, filter: { endpoint: endpoint.name } }
  }

  it('POST /jobs/retry: what depends on a job waits for it again, and dies with it again', async () => {
    const { ids, delivered, replies, dead, filter } = await deadChain()
    const all = { matched: 3, affected: 3 }
    expect((await request('POST', '/jobs/retry', { filter })).body).toEqual(all)
    await soon(() => expect(delivered).toEqual(['first', 'first']))
    const failures = (await dead()).map(({ failure }) => failure.reason)
    expect(failures).toEqual(['rejected', 'dependency_failed', 'dependency_failed'])
    replies.first = 200
    expect((await request('POST', '/jobs/retry', { filter })).body).toEqual(all)
    await fixture.job(ids[2], 'succeeded')
    expect(delivered).toEqual(['first', 'first', 'first', 'second', 'third'])
  })

  it('POST /jobs/retry: leaves a job whose dependency stays dead, and says how many', async () => {
    const { ids, delivered, filter } = await deadChain()
    const some = { ...filter, failureReason: 'dependency_failed' }
    expect((await request('POST', '/jobs/retry', { filter: some })).body).toEqual({
      matched: 2,
      affected: 0,
      dependencyFailed: 2,
    })
    expect(await readJob(ids[1])).toMatchObject({ state: 'dead', dependsOn: [ids[0]] })
    expect(delivered).toEqual(['first'])
  })

  it('POST /jobs/:id/retry: waives what stays dead, and says so; waits for the rest', async () => {
    const { ids, delivered } = await deadChain()
    const retried = await request('POST', `/jobs/${ids[1]}/retry`)
    expect(retried).toMatchObject({ status: 200, body: { dependenciesWaived: [ids[0]] } })
    const last = await request('POST', `/jobs/${ids[2]}/retry`)
    expect(last).toMatchObject({ status: 200, body: { dependenciesWaived: [] } })
    await fixture.job(ids[2], 'succeeded')
    expect(delivered).toEqual(['first', 'second', 'third'])
  })

  it('POST /jobs/:id/retry: withDependents retries what died with it, and may be repeated', async () => {
    const { ids, delivered, replies, filter } = await deadChain()
    const [first, second, third] = ids
    const other = await fixture.endpoint(422)
    const alone = await other.enqueue()
    await fixture.job(alone, 'dead')
    const { name: endpoint } = other
    const needs = { whole: third }
    const fourth = await request('POST', '/jobs', { ...filter, payload: 'fourth', needs })
    const both = await request('POST', '/jobs', { endpoint, payload: 1, dependsOn: [first, alone] })
    for (const { body } of [fourth, both]) await fixture.job(body.id, 'dead')
    const retry = () => request('POST', `/jobs/${first}/retry`, { withDependents: true })
    const all = { status: 200, body: { dependentsRetried: 3, left: [both.body.id] } }
    // It may not die again before its dependents are retried.
    const dying = heldReplies()
    replies.first = dying.script()
    expect(await retry()).toMatchObject(all)
    await soon(() => expect(delivered).toEqual(['first', 'first']))
    dying.release(422)
    for (const id of [...ids, fourth.body.id]) await fixture.job(id, 'dead')

    // One of the first attempt's dependents was retried and waits; those behind it are still dead.
    const held = heldReplies()
    replies.first = held.script()
    await request('POST', `/jobs/${first}/retry`)
    expect((await request('POST', `/jobs/${second}/retry`)).body.dependenciesWaived).toEqual([])
    const rest = await retry()
    expect(rest).toMatchObject({ status: 200, body: { dependentsRetried: 2 } })
    expect(await retry()).toMatchObject({ status: 200, body: { dependentsRetried: 0 } })
    held.release(200)
    await fixture.job(fourth.body.id, 'succeeded')
    const last = { payload: 'fourth', inputs: { whole: null } }
    expect(delivered.slice(2)).toEqual(['first', 'second', 'third', last])
    expect((await readJob(both.body.id)).state).toBe('dead')

    const refused = await request('POST', `/jobs/${first}/retry`, { withDependants: true })
    expect(refused).toMatchObject({ status: 400, body: { code: 'invalid_request' } })
    const plain = await request('POST', `/jobs/${both.body.id}/retry`, {})
    expect(plain.body).not.toHaveProperty('dependentsRetried')
  })

  it('POST /jobs/:id/copy: waives what is dead or gone, and says so; waits for the rest', async () => {
    const { ids, delivered, filter } = await deadChain()
    const second = await request('POST', `/jobs/${ids[1]}/copy`)
    const waived = { dependsOn: [], dependenciesWaived: [ids[0]] }
    expect(second).toMatchObject({ status: 201, body: waived })
    await fixture.job(second.body.id, 'succeeded')
    expect(delivered).toEqual(['first', 'second'])
    await request('DELETE', `/jobs/${ids[0]}`)
    const withoutParent = await request('POST', `/jobs/${ids[1]}/copy`)
    expect(withoutParent).toMatchObject({ status: 201, body: waived })

    const enqueue = async (payload: string, more: object) => {
      const { body } = await request('POST', '/jobs', { ...filter, payload, ...more })
      return body.id as string
    }
    const parent = await enqueue('parent', { delay: '1h' })
    const met = withoutParent.body.id
    await fixture.job(met, 'succeeded')
    const child = await enqueue('child', { dependsOn: [met, parent] })
    const copy = await request('POST', `/jobs/${child}/copy`)
    const waiting = { state: 'queued', dependsOn: [parent], dependenciesWaived: [] }
    expect(copy).toMatchObject({ status: 201, body: waiting })
    await request('PATCH', `/jobs/${parent}`, { delay: '0s' })
    await fixture.job(copy.body.id, 'succeeded')
    await fixture.job(child, 'succeeded')
    expect(delivered.slice(3)).toEqual(['parent', 'child', 'child'])
    // A dependency that has succeeded stays met, even if its job is deleted.
    for (const id of [met, parent]) await request('DELETE', `/jobs/${id}`)
    const last = await request('POST', `/jobs/${child}/copy`)
    expect(last.body).toMatchObject({ dependsOn: [], dependenciesWaived: [] })
  })

  it('DELETE /jobs/:id: a final job is gone with payload and result, another is 409', async () => {
    const endpoint = await fixture.endpoint()
    const queued = await endpoint.enqueue({ delay: '1h' })
    expect(await request('DELETE', `/jobs/${queued}`)).toMatchObject(conflict)
    const key = { 'idempotency-key': 'deleted' }
    const { body } = await endpoint.post({}, key)
    await fixture.job(body.id, 'succeeded')
    const removed = await request('DELETE', `/jobs/${body.id}`)
    expect(removed).toMatchObject({ status: 204, body: '' })
    expect((await request('GET', `/jobs/${body.id}`)).status).toBe(404)
    expect((await request('GET', `/jobs/${body.id}/payload`)).status).toBe(404)
    expect((await request('DELETE', `/jobs/${body.id}`)).status).toBe(404)
  })

  it('POST /jobs/:id/copy: a job that is delivered to its own copy route ends after ten copies', async () => {
    const endpoint = await fixture.endpoint()
    const first = await endpoint.enqueue({ delay: '1h', payload: {} })
    const url = `${fixture.posthorn.url()}/jobs/${first}/copy`
    await fixture.posthorn.endpoint(endpoint.name, url)
    await request('PATCH', `/jobs/${first}`, { delay: '0s' })
    const jobs = () => fixture.get(`/jobs?endpoint=${endpoint.name}`)
    await soon(async () => {
      const states = (await jobs()).items.map(({ state }: Body) => state)
      expect(states.filter((state: string) => state !== 'succeeded')).toEqual(['dead'])
    }, 15_000)
    const [last, ...others] = (await jobs()).items
    expect(others).toHaveLength(10)
    const { attempts } = await fixture.get(`/jobs/${last.id}`)
    expect(attempts).toMatchObject([{ outcome: 'rejected', statusCode: 400 }])
    expect(attempts[0].responseBody).toContain('posthorn-hops')
  })

  it('POST /jobs/:id/copy: a new job with the same payload and options, due now', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const options = {
      payload: { n: [1.5] },
      priority: 7,
      timeout: '1m',
      tags: ['t'],
      metadata: { a: 'b' },
      retry: { maxAttempts: 4 },
      onFinish: endpoint.name,
      orderingKey: 'o',
      fairnessKey: 'f',
      cost: 7,
    }
    const original = await endpoint.post(
      { ...options, delay: '1h', dedupe: { key: 'd', mode: 'reject' } },
      { 'idempotency-key': 'original' },
    )
    const copy = await request('POST', `/jobs/${original.body.id}/copy`)
    const { body } = copy
    expect(copy).toMatchObject({
      status: 201,
      body: { ...options, onFinish: original.body.onFinish, state: 'queued', attemptCount: 0 },
    })
    expect(body.id).not.toBe(original.body.id)
    expect(copy.headers.get('location')).toBe(`/jobs/${body.id}`)
    expect(body.runAt).toBe(body.createdAt)
    expect([body.idempotencyKey, body.dedupeKey]).toEqual([null, null])
  })

  it('POST /jobs/:id/copy: accepts a job whose onFinish names an endpoint that is gone', async () => {
    const [endpoint, notified] = [await fixture.pulledEndpoint(), await fixture.pulledEndpoint()]
    const original = await endpoint.post({ payload: 1, onFinish: notified.name })
    await request('DELETE', `/endpoints/${notified.name}`)
    const { status, body } = await request('POST', `/jobs/${original.body.id}/copy`)
    expect([status, body.onFinish]).toEqual([201, original.body.onFinish])
  })
})

const FAST = { type: 'fixed', delay: '20ms', jitter: 0 }

function later(ms: number): string {
  return new Date(Date.now() + ms).toISOString()
}
