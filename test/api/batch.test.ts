// POST /jobs/batch: each item gets the result that a single request would get.
import { describe, expect, it } from 'vitest'
import { type Body, NO_JOB, useApi } from '../support/api-fixture.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'

const MAX_BODY_BYTES = 4_096

describe.each(SQLITE_UNLESS_LONG)('on %s', (engine) => {
  const fixture = useApi(engine, { MAX_BODY_BYTES: String(MAX_BODY_BYTES) })
  const { request } = fixture
  const batch = (jobs: unknown[]) => request('POST', '/jobs/batch', { jobs })
  const items = async (jobs: unknown[]): Promise<Body[]> => {
    const answer = await batch(jobs)
    expect(answer.status).toBe(200)
    expect(answer.body.items).toHaveLength(jobs.length)
    return answer.body.items
  }

  it('items: get their results in order, 201, 200 or an error, and a bad one harms no other', async () => {
    const endpoint = await fixture.endpoint()
    const job = { endpoint: endpoint.name, payload: 1 }
    const dedupe = { key: 'k', mode: 'keep' }
    const rejecting = { ...job, dedupe: { key: 'k', mode: 'reject' } }
    const delayed = { ...job, dedupe, delay: '1h' }
    const found = await items([
      job,
      { ...job, colour: 'red' },
      delayed,
      { ...job, endpoint: 'unknown' },
      delayed,
      rejecting,
      null,
      { ...job, runAt: '2099-01-01T00:00:00Z' },
      { ...job, payload: 'x'.repeat(MAX_BODY_BYTES) },
      { ...job, onFinish: 'unknown' },
      { ...job, dependsOn: [NO_JOB] },
      { ...job, fairnessKey: '..', cost: 0 },
      { ...job, payload: JSON.parse(`${'['.repeat(64)}${']'.repeat(64)}`) },
      { ...job, fairnessKey: 'tenant-7', cost: 3 },
    ])
    expect(found.map(({ status, error }) => [status, error?.code])).toEqual([
      [201, undefined],
      [400, 'invalid_request'],
      [201, undefined],
      [422, 'endpoint_not_found'],
      [200, undefined],
      [409, 'dedupe_conflict'],
      [400, 'invalid_request'],
      [400, 'invalid_request'],
      [413, 'payload_too_large'],
      [422, 'endpoint_not_found'],
      [400, 'invalid_request'],
      [400, 'invalid_request'],
      [400, 'invalid_json'],
      [201, undefined],
    ])
    expect(found[1].error.errors).toMatchObject([{ path: '/colour' }])
    expect(found[4]).toEqual({ status: 200, id: found[2].id, deduplicated: true })
    expect(found[11].error.errors).toMatchObject([{ path: '/fairnessKey' }, { path: '/cost' }])
    expect(await fixture.job(found[0].id, 'succeeded')).toMatchObject({
      fairnessKey: null,
      cost: 1,
    })
    const last = await fixture.job(found[13].id, 'succeeded')
    expect(last).toMatchObject({ fairnessKey: 'tenant-7', cost: 3 })
  })

  it('idempotencyKey: is shared with single requests, and works within one batch', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const job = { endpoint: endpoint.name, payload: { n: 1 } }
    const keyed = { ...job, idempotencyKey: 'k' }
    const [first, again, reused] = await items([keyed, keyed, { ...keyed, payload: 2 }])
    expect(first.status).toBe(201)
    expect(again).toEqual({ status: 200, id: first.id, deduplicated: true })
    expect(reused).toMatchObject({ status: 422, error: { code: 'idempotency_key_reused' } })
    const single = await request('POST', '/jobs', job, { 'idempotency-key': 'k' })
    expect(single).toMatchObject({ status: 200, body: { id: first.id } })
    const [wrong] = await items([{ ...job, idempotencyKey: 'a b' }])
    expect(wrong.error.errors).toMatchObject([{ path: '/idempotencyKey' }])
    expect((await endpoint.read()).counts.queued).toBe(1)
  })

  it('payload: of each item is kept byte for byte', async () => {
    const endpoint = await fixture.endpoint()
    const texts = ['1.0', '{"b":1, "a":12345678901234567890}', '" \\u0041"']
    const jobs = texts.map((text) => `{"payload": ${text} ,"endpoint":"${endpoint.name}"}`)
    const { body } = await request('POST', '/jobs/batch', `{"jobs":[${jobs.join(',')}]}`)
    for (const [i, { id }] of body.items.entries()) {
      await fixture.job(id, 'succeeded')
      const raw = await fetch(`${fixture.posthorn.url()}/jobs/${id}/payload`)
      expect(await raw.text()).toBe(texts[i])
    }
  })

  it('dependsOn: "#0" names an earlier item, also one that was known; any other is 400', async () => {
    const endpoint = await fixture.endpoint()
    const job = { endpoint: endpoint.name, payload: 1 }
    const known = { ...job, idempotencyKey: 'known', delay: '100ms' }
    const found = await items([
      known,
      { ...job, dependsOn: ['#0'] },
      known,
      { ...job, dependsOn: ['#2', '#1'] },
      { ...job, dependsOn: ['#5'] },
      { ...job, dependsOn: ['#5'] },
      { ...job, priority: 10 },
      { ...job, dependsOn: ['#6'] },
      { ...job, dependsOn: ['#999'] },
    ])
    expect(found.map(({ status }) => status)).toEqual([201, 201, 200, 201, 400, 400, 400, 400, 400])
    expect(found[7].error.errors).toMatchObject([{ path: '/dependsOn' }])
    expect((await fixture.get(`/jobs/${found[3].id}`)).dependsOn).toEqual([
      found[0].id,
      found[1].id,
    ])
    await fixture.job(found[3].id, 'succeeded')
  })

  it('dependsOn: "#0" of an item that was refused is 400, in the words of the request', async () => {
    const endpoint = await fixture.endpoint()
    const refused = { endpoint: 'nobody', payload: 1 }
    const [, second] = await items([
      refused,
      { endpoint: endpoint.name, payload: 1, dependsOn: ['#0'] },
    ])
    expect(second).toMatchObject({
      status: 400,
      error: { detail: '/dependsOn: #0: expected earlier items that were stored' },
    })
  })

  it('1–1,000 jobs: the whole batch fails only for bad JSON, a wrong envelope, 0 or too many items, or its size', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const job = { endpoint: endpoint.name, payload: 1 }
    const refused: [body: unknown, status: number, code: string][] = [
      ['{"jobs":[', 400, 'invalid_json'],
      [{}, 400, 'invalid_request'],
      [[], 400, 'invalid_request'],
      [{ jobs: [] }, 400, 'invalid_request'],
      [{ jobs: job }, 400, 'invalid_request'],
      [{ jobs: [job], more: 1 }, 400, 'invalid_request'],
      [{ jobs: Array(1_001).fill(1) }, 400, 'invalid_request'],
      [{ jobs: [{ ...job, payload: 'x'.repeat(16 * MAX_BODY_BYTES) }] }, 413, 'payload_too_large'],
      ['{"jobs":[{"endpoint":"a","endpoint":"b","payload":1}]}', 400, 'invalid_json'],
    ]
    for (const [body, status, code] of refused) {
      expect(await request('POST', '/jobs/batch', body)).toMatchObject({ status, body: { code } })
    }
    expect((await endpoint.read()).counts.queued).toBe(0)
    const found = await items(Array(1_000).fill(job))
    expect(found.every(({ status }) => status === 201)).toBe(true)
    expect(new Set(found.map(({ id }) => id)).size).toBe(1_000)
    expect((await endpoint.read()).counts.queued).toBe(1_000)
  })

  it('dedupe: within one batch as if each item came by itself, in order', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const replace = { endpoint: endpoint.name, dedupe: { key: 'r', mode: 'replace' } }
    const [first, second, third] = await items([
      { ...replace, payload: 1 },
      { ...replace, payload: 2 },
      { ...replace, payload: 3, dedupe: { key: 'r', mode: 'keep' } },
    ])
    expect(first.status).toBe(201)
    expect(second).toEqual({ status: 200, id: first.id, deduplicated: true })
    expect(third).toEqual({ status: 200, id: first.id, deduplicated: true })
    expect((await fixture.get(`/jobs/${first.id}`)).payload).toBe(2)
  })
})
