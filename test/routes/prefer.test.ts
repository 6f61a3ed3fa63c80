// Prefer: return=minimal (RFC 7240) on POST /jobs and POST /jobs/batch.
import { request as httpRequest } from 'node:http'
import { describe, expect, it } from 'vitest'
import { type Body, expectProblem, useApi } from '../support/api-fixture.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'
import type { Answer } from '../support/request.ts'

const MINIMAL = { prefer: 'return=minimal' }

/** Header values, and the preference that must be applied; null: none. */
const VALUES: [value: string, applied: 'minimal' | 'representation' | null][] = [
  ['return=minimal', 'minimal'],
  ['Return=Minimal', 'minimal'],
  ['return="minimal"', 'minimal'],
  ['return="\\minimal"', 'minimal'],
  ['return = minimal', 'minimal'],
  ['\treturn\t=\tminimal\t', 'minimal'],
  ['return=minimal; foo=bar; baz', 'minimal'],
  ['return=minimal;', 'minimal'],
  [',, return=minimal ,,', 'minimal'],
  ['respond-async, wait=10, return=minimal', 'minimal'],
  ['x="a, return=representation", return=minimal', 'minimal'],
  ['handling=lenient; return=representation, return=minimal', 'minimal'],
  ['return=minimal, return=minimal', 'minimal'],
  ['return=minimal, return=other', 'minimal'],
  ['return=representation', 'representation'],
  ['RETURN=REPRESENTATION', 'representation'],
  // Both were asked for, so neither counts; of others, the first counts.
  ['return=minimal, return=representation', null],
  ['return=representation, return=minimal', null],
  ['return=other, return=minimal', null],
  ['return, return=minimal', null],
  ['', null],
  ['minimal', null],
  ['return', null],
  ['return=', null],
  ['return=""', null],
  ['return=minimally', null],
  ['return=minimal=minimal', null],
  ['return minimal', null],
  ['"return"=minimal', null],
  ['return "=" minimal', null],
  ['x-return=minimal', null],
  ['foo; return=minimal', null],
  ['x="return=minimal', null],
  ['return=minimal, "', null],
  ['return=minimal, (', null],
  ['return=minimal, \u00e9', null],
  ['return=minimal\\', null],
  ['__proto__=minimal, constructor=minimal', null],
  [`${'a,'.repeat(2_000)}return=minimal`, 'minimal'],
  [`return=minimal${';'.repeat(4_000)}`, 'minimal'],
  [`return=minimal ${' ;'.repeat(3_000)} (`, null],
  [`"${'\\"'.repeat(3_000)}`, null],
]

describe.each(SQLITE_UNLESS_LONG)('on %s', (engine) => {
  const fixture = useApi(engine)
  const { request } = fixture

  function expectApplied({ headers }: Answer, applied: string | null): void {
    expect(headers.get('preference-applied')).toBe(applied && `return=${applied}`)
    expect(headers.get('vary')).toBe('Prefer')
  }

  it('a new job: 201 with its id and state alone, and where all of it is', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const fields = { payload: { a: 1 }, tags: ['t'], delay: '1h' }
    const answer = await endpoint.post(fields, MINIMAL)
    const { id } = answer.body
    expect([answer.status, answer.body]).toEqual([201, { id, state: 'queued' }])
    expectApplied(answer, 'minimal')
    expect(answer.headers.get('location')).toBe(`/jobs/${id}`)
    expect(answer.headers.get('content-type')).toBe('application/json; charset=utf-8')
    const whole = await request('GET', `/jobs/${id}`)
    expect(whole.body).toMatchObject({ id, payload: { a: 1 }, tags: ['t'], state: 'queued' })
    expect(answer.headers.get('etag')).toBe(whole.headers.get('etag'))
  })

  it('without the header: all of the job, and nothing was applied', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const answer = await endpoint.post()
    expectApplied(answer, null)
    expect(answer.body).toEqual(await fixture.readJob(answer.body.id))
  })

  it('a repeat gets the job, whatever it and the first request prefer', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const key = { 'idempotency-key': 'k' }
    const first = await endpoint.post({}, { ...key, ...MINIMAL })
    const { id } = first.body
    expect(first.status).toBe(201)
    const again = await endpoint.post({}, { ...key, ...MINIMAL })
    const minimal = { id, state: 'queued', deduplicated: true }
    expect([again.status, again.body]).toEqual([200, minimal])
    expectApplied(again, 'minimal')
    const whole = await endpoint.post({}, { ...key, prefer: 'return=representation' })
    expect([whole.status, whole.body]).toEqual([
      200,
      { ...(await fixture.readJob(id)), deduplicated: true },
    ])
    expectApplied(whole, 'representation')
    await request('POST', `/jobs/${id}/cancel`).expect(200)
    const late = await endpoint.post({}, { ...key, ...MINIMAL })
    expect([late.status, late.body]).toEqual([200, { ...minimal, state: 'cancelled' }])
    const { etag } = Object.fromEntries(late.headers)
    expect(etag).toBe((await request('GET', `/jobs/${id}`)).headers.get('etag'))
  })

  it('a dedupe key, an ordering key and a dependency: the state that the job has', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const dedupe = { key: 'd', mode: 'keep' }
    const { body: kept } = await endpoint.post({ dedupe }, MINIMAL)
    const again = await endpoint.post({ dedupe }, MINIMAL)
    expect(again.body).toEqual({ ...kept, deduplicated: true })
    const replaced = await endpoint.post({ dedupe: { key: 'd', mode: 'replace' } }, MINIMAL)
    expect([replaced.status, replaced.body]).toEqual([200, { ...kept, deduplicated: true }])
    for (const fields of [{ orderingKey: 'o' }, { orderingKey: 'o' }, { dependsOn: [kept.id] }]) {
      const { status, body } = await endpoint.post(fields, MINIMAL)
      expect([status, body]).toEqual([201, { id: expect.any(String), state: 'queued' }])
    }
  })

  it('an error is the same as without the header', async () => {
    const endpoint = await fixture.pulledEndpoint()
    await endpoint.post({ dedupe: { key: 'd', mode: 'keep' } })
    const reject = { dedupe: { key: 'd', mode: 'reject' } }
    const answers = [
      [409, 'dedupe_conflict', await endpoint.post(reject, MINIMAL)],
      [400, 'invalid_request', await endpoint.post({ colour: 'red' }, MINIMAL)],
      [422, 'endpoint_not_found', await endpoint.post({ endpoint: 'nobody' }, MINIMAL)],
    ] as const
    for (const [status, code, answer] of answers) {
      expectProblem(answer, status, code)
      expect(answer.headers.get('preference-applied')).toBeNull()
    }
    expect((await endpoint.read()).counts.queued).toBe(1)
  })

  it('requests at the same time get what each of them prefers', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const answers = await Promise.all(
      Array.from({ length: 40 }, (_, i) =>
        endpoint.post(
          { payload: i },
          { ...(i % 2 === 0 ? MINIMAL : {}), 'idempotency-key': `${i % 20}` },
        ),
      ),
    )
    for (const [i, { status, body }] of answers.entries()) {
      // The second half repeats keys of the first one with another payload.
      if (status === 422) continue
      expect(status).toBe(201)
      expect('payload' in body).toBe(i % 2 !== 0)
      expect((await fixture.readJob(body.id)).payload).toBe(i)
    }
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(20)
  })

  it('a batch: each stored item has its state too; errors and other preferences change nothing', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const job = { endpoint: endpoint.name, payload: 1 }
    const keyed = { ...job, idempotencyKey: 'k' }
    const jobs = [keyed, keyed, { ...job, colour: 'red' }, { ...job, dependsOn: ['#0'] }]
    const post = (headers: object) => request('POST', '/jobs/batch', { jobs }, headers)
    const answer = await post(MINIMAL)
    expect(answer.status).toBe(200)
    expectApplied(answer, 'minimal')
    const [first, again, refused, dependent] = answer.body.items as Body[]
    expect(first).toEqual({ status: 201, id: first.id, state: 'queued' })
    expect(again).toEqual({ status: 200, id: first.id, state: 'queued', deduplicated: true })
    expect(refused).toMatchObject({ status: 400, error: { code: 'invalid_request' } })
    expect(refused).not.toHaveProperty('state')
    expect(dependent).toEqual({ status: 201, id: expect.any(String), state: 'queued' })
    expect((await fixture.readJob(dependent.id)).dependsOn).toEqual([first.id])
    await request('POST', `/jobs/${first.id}/cancel`).expect(200)
    const late = await post(MINIMAL)
    expect(late.body.items[0]).toMatchObject({ status: 200, id: first.id, state: 'cancelled' })
    for (const headers of [{}, { prefer: 'return=representation' }]) {
      const usual = await post(headers)
      expectApplied(usual, null)
      expect(usual.body.items[0]).toEqual({ status: 200, id: first.id, deduplicated: true })
    }
    expectProblem(
      await request('POST', '/jobs/batch', { jobs: [] }, MINIMAL),
      400,
      'invalid_request',
    )
  })

  const values = VALUES.map(([value, applied]) => ({ title: value.slice(0, 60), value, applied }))
  it.each(values)('Prefer: $title', async ({ value, applied }) => {
    const endpoint = await fixture.pulledEndpoint()
    // fetch sends no empty line of a header and trims spaces, as HTTP itself does.
    const answer = await endpoint.post({}, { prefer: value })
    expect(answer.status).toBe(201)
    expectApplied(answer, applied)
    expect('payload' in answer.body).toBe(applied !== 'minimal')
    const batch = { jobs: [{ endpoint: endpoint.name, payload: 1 }] }
    const { headers, body } = await request('POST', '/jobs/batch', batch, { prefer: value })
    expect(headers.get('preference-applied')).toBe(applied === 'minimal' ? 'return=minimal' : null)
    expect('state' in body.items[0]).toBe(applied === 'minimal')
  })

  it.each([
    [['respond-async', 'return=minimal'], 'return=minimal'],
    [['return=minimal', 'return=minimal'], 'return=minimal'],
    [['return=minimal', 'return=representation'], undefined],
    [['x="', 'return=minimal'], undefined],
  ])('several Prefer headers count as one: %j', async (prefer, applied) => {
    const endpoint = await fixture.pulledEndpoint()
    const body = JSON.stringify({ endpoint: endpoint.name, payload: 1 })
    const headers = { 'content-type': 'application/json', prefer }
    const found = await new Promise((resolve, reject) => {
      const sent = httpRequest(
        `${fixture.posthorn.url()}/jobs`,
        { method: 'POST', headers },
        (answer) => {
          answer.resume()
          resolve(answer.headers['preference-applied'])
        },
      )
      sent.on('error', reject)
      sent.end(body)
    })
    expect(found).toBe(applied)
  })
})
