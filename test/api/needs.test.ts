// `needs` as a client uses it: what is refused, what is shown, and what the commands do with it.
import { describe, expect, it } from 'vitest'
import { type Body, NO_JOB, soon, useApi } from '../support/api-fixture.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'

const BIG = '18446744073709551615'

describe.each(SQLITE_UNLESS_LONG)('on %s', (engine) => {
  const fixture = useApi(engine)
  const { request, readJob, expectJobRefused: expectRefused } = fixture

  /** Claims a job, which becomes final with this result; null: it fails. */
  async function end({ name }: { name: string }, result: string | null): Promise<Body> {
    const { body } = await request('POST', `/endpoints/${name}/claim`, { limit: 1 })
    const [job] = body.jobs
    const [verb, report] =
      result === null
        ? ['fail', '{"message":"no","retryable":false}']
        : ['complete', `{"result":${result}}`]
    await request('POST', `/jobs/${job.id}/${verb}?token=${job.token}`, report)
    return job
  }

  async function textAt(path: string): Promise<string> {
    const answer = await fetch(`${fixture.posthorn.url()}${path}`)
    return answer.text()
  }

  it('needs: refuses names, jobs, pointers and policies that are not right', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const id = await endpoint.enqueue()
    await expectRefused('/needs', { needs: {} }, { needs: null }, { needs: [id] }, { needs: 'a' })
    for (const name of ['', 'A', '1a', 'a-b', 'a b', 'ä', 'x'.repeat(65)]) {
      await expectRefused(`/needs/${name}`, { needs: { [name]: id } })
    }
    await expectRefused(
      '/needs/a',
      ...['#0', 'x', '', `${id}/irn`, `${id}/results`, `${id}/result~`, `${id}/result/~2`].map(
        (text) => ({ needs: { a: text } }),
      ),
      { needs: { a: 7 } },
      { needs: { a: {} } },
      { needs: { a: { job: '#0' } } },
      { needs: { a: { job: id, pointer: 'irn' } } },
      { needs: { a: { job: id, pointer: `/${'x'.repeat(1_000)}` } } },
      { needs: { a: { job: id, ifFailed: 'wait' } } },
      { needs: { a: NO_JOB } },
      { needs: { a: id }, dependsOn: [id] },
    )
    await expectRefused('/needs/a/name', { needs: { a: { job: id, name: 'b' } } })
    const names = Array.from({ length: 51 }, (_, i) => `n${i}`)
    await expectRefused('/needs', { needs: Object.fromEntries(names.map((name) => [name, id])) })
    const most = Object.fromEntries(names.slice(1).map((name) => [name, id]))
    expect((await endpoint.post({ needs: most })).status).toBe(201)
    const other = (await endpoint.enqueue()).replace(/.$/, '0')
    await expectRefused('/needs', {
      needs: { a: id },
      dependsOn: Array.from({ length: 50 }, (_, i) => other.slice(0, -2) + String(10 + i)),
    })
  })

  it('needs: a schedule and a change of a job cannot have it', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const id = await endpoint.enqueue()
    const needs = { a: id }
    const schedule = { endpoint: endpoint.name, every: '1h', payload: 1, needs }
    const put = await request('PUT', '/schedules/with-needs', schedule)
    expect(put).toMatchObject({ status: 400, body: { errors: [{ path: '/needs' }] } })
    const patch = await request('PATCH', `/jobs/${id}`, { needs })
    expect([patch.status, patch.body.errors[0].path]).toEqual([400, '/needs'])
  })

  it('needs: is shown in one form, and gives the inputs to a pull claim and to /inputs', async () => {
    const [source, sink] = [await fixture.pulledEndpoint(), await fixture.pulledEndpoint()]
    const first = await source.enqueue()
    const needs = {
      whole: first,
      irn: `${first}/result/irn`,
      same: `${first}/result`,
      maybe: { job: first, pointer: '/none', ifFailed: 'continue' },
    }
    const { body: waiting } = await sink.post({ needs, payload: { n: 1 } })
    const shown = { job: first, pointer: '', ifFailed: 'fail' }
    expect(waiting).toMatchObject({
      dependsOn: [],
      needs: {
        whole: shown,
        irn: { ...shown, pointer: '/irn' },
        same: shown,
        maybe: { job: first, pointer: '/none', ifFailed: 'continue' },
      },
    })
    const early = await request('GET', `/jobs/${waiting.id}/inputs`)
    expect(early).toMatchObject({ status: 409, body: { code: 'job_state_conflict' } })
    expect((await request('GET', `/jobs/${waiting.id}/explain`)).body).toMatchObject({
      reason: 'waiting_for_dependencies',
      detail: `it waits for ${first}`,
    })

    const result = `{"irn":${BIG},"z":1.0}`
    await end(source, result)
    await soon(async () => expect((await readJob(waiting.id)).dueAt).not.toBeNull())
    const inputs = `"inputs":{"whole":${result},"irn":${BIG},"same":${result},"maybe":null}`
    const expected = `${inputs},"failedInputs":["maybe"]}`
    expect(await textAt(`/jobs/${waiting.id}/inputs`)).toBe(`{${expected}`)
    expect(await textAt(`/jobs/${waiting.id}/payload`)).toBe('{"n":1}')
    const claim = await fetch(`${fixture.posthorn.url()}/endpoints/${sink.name}/claim`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{}',
    })
    expect(await claim.text()).toContain(`"payload":{"n":1},${expected}`)
  })

  it('needs: in a batch, "#0" names an earlier item. An item that was refused cannot be named', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const job = { endpoint: endpoint.name, payload: 1 }
    const keyed = { ...job, idempotencyKey: 'known' }
    const { body } = await request('POST', '/jobs/batch', {
      jobs: [
        keyed,
        { ...job, needs: { a: '#0/result/irn', b: { job: '#0', ifFailed: 'continue' } } },
        { ...job, needs: { a: '#2' } },
        { ...job, needs: { a: '#7' } },
        { ...job, colour: 'red' },
        { ...job, needs: { a: '#4' } },
        { ...job, needs: { a: '#0' }, dependsOn: ['#0'] },
        { ...keyed },
        { ...job, needs: { a: '#7' }, dependsOn: ['#1'] },
      ],
    })
    const { items } = body
    expect(items.map(({ status }: Body) => status)).toEqual([
      201, 201, 400, 400, 400, 400, 400, 200, 201,
    ])
    for (const at of [2, 3, 5]) {
      expect(items[at].error.errors).toMatchObject([{ path: '/needs/a' }])
    }
    expect(items[5].error.detail).toBe('/needs/a: #4: expected earlier items that were stored')
    expect((await readJob(items[1].id)).needs).toEqual({
      a: { job: items[0].id, pointer: '/irn', ifFailed: 'fail' },
      b: { job: items[0].id, pointer: '', ifFailed: 'continue' },
    })
    expect(await readJob(items[8].id)).toMatchObject({
      needs: { a: { job: items[0].id } },
      dependsOn: [items[1].id],
    })
  })

  it('needs: a repeat with the same needs is the same request, with others it is another', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const first = await endpoint.enqueue()
    const key = { 'idempotency-key': 'needs' }
    const needs = { a: first }
    expect((await endpoint.post({ needs }, key)).status).toBe(201)
    expect((await endpoint.post({ needs: { a: { job: first } } }, key)).status).toBe(200)
    for (const other of [{ b: first }, { a: `${first}/result/x` }, { a: first, b: first }]) {
      expect((await endpoint.post({ needs: other }, key)).status).toBe(422)
    }
    expect((await endpoint.post({}, key)).status).toBe(422)
  })

  it('needs: while a job waits for its result, a job cannot be deleted', async () => {
    const [source, sink] = [await fixture.pulledEndpoint(), await fixture.pulledEndpoint()]
    const [first, open] = [await source.enqueue(), await sink.enqueue({ delay: '1h' })]
    const waiting = await sink.enqueue({ needs: { a: first, b: open } })
    await end(source, '1')
    const refused = await request('DELETE', `/jobs/${first}`)
    expect(refused).toMatchObject({ status: 409, body: { code: 'job_state_conflict' } })
    expect(refused.body.detail).toContain(waiting)
    await request('POST', `/jobs/${waiting}/cancel`)
    expect((await request('DELETE', `/jobs/${first}`)).status).toBe(204)
  })

  it('needs: a retry without what it needs is refused, by id and in bulk; with it, it goes on', async () => {
    const [source, sink] = [await fixture.pulledEndpoint(), await fixture.pulledEndpoint()]
    const first = await source.enqueue({ tags: ['flow'] })
    const second = await sink.enqueue({ needs: { a: first }, tags: ['flow'] })
    await end(source, null)
    const dead = await fixture.job(second, 'dead')
    expect(dead.failure).toMatchObject({ reason: 'dependency_failed', jobId: first })
    const refused = await request('POST', `/jobs/${second}/retry`)
    expect(refused).toMatchObject({ status: 409, body: { code: 'job_state_conflict' } })
    expect(refused.body.detail).toContain(`retry ${first} first, or with it`)
    const alone = { filter: { endpoint: sink.name } }
    expect((await request('POST', '/jobs/retry', alone)).body).toMatchObject({
      affected: 0,
      dependencyFailed: 1,
    })
    const both = { filter: { tag: 'flow' } }
    expect((await request('POST', '/jobs/retry', both)).body).toMatchObject({ affected: 2 })
    await end(source, '7')
    await soon(async () => {
      expect(await textAt(`/jobs/${second}/inputs`)).toBe('{"inputs":{"a":7}}')
    })
    expect((await readJob(second)).failure).toBeNull()
  })

  it('needs: a copy keeps the inputs and needs nothing; before they are made it needs the same', async () => {
    const [source, sink] = [await fixture.pulledEndpoint(), await fixture.pulledEndpoint()]
    const first = await source.enqueue()
    const second = await sink.enqueue({ needs: { a: first } })
    const waits = await request('POST', `/jobs/${second}/copy`)
    expect(waits).toMatchObject({ status: 201, body: { needs: { a: { job: first } } } })
    await end(source, '1.0')
    await soon(async () => expect((await readJob(second)).dueAt).not.toBeNull())
    await request('DELETE', `/jobs/${first}`)
    const copy = await request('POST', `/jobs/${second}/copy`)
    expect(copy).toMatchObject({ status: 201, body: { needs: {}, dependsOn: [] } })
    expect(await textAt(`/jobs/${copy.body.id}/inputs`)).toBe('{"inputs":{"a":1.0}}')

    const dead = await source.enqueue()
    const never = await sink.enqueue({ needs: { a: dead } })
    await end(source, null)
    await fixture.job(never, 'dead')
    const refused = await request('POST', `/jobs/${never}/copy`)
    expect(refused).toMatchObject({ status: 409, body: { code: 'job_state_conflict' } })
  })
})
