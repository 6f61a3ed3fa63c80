// A receiver that throttles one customer alone (posthorn-throttle-scope: key): the jobs of this
// customer wait, as at a throttled endpoint, and those of the others go on.
import { describe, expect, it } from 'vitest'
import {
  type Body,
  changeIsKnown,
  soon,
  type TestEndpoint,
  useApi,
} from '../support/api-fixture.ts'
import { ENGINES } from '../support/engines.ts'
import type { Answer, ReceivedRequest } from '../support/receiver.ts'

/** A delivery can begin this much early by the clock of the test. */
const TOLERANCE_MS = 100

const KEY_ALONE = { 'posthorn-throttle-scope': 'key' }
const FOR_A_MINUTE = { 'retry-after': '60' }

describe.each(ENGINES)('on %s', { timeout: 60_000 }, (engine) => {
  const fixture = useApi(engine, {}, 2)
  const { request } = fixture

  /** Each job has its key in its payload, and the response to a throttled key is 429. */
  async function endpointWith(headers: Record<string, string>, throttled: unknown[]) {
    const isThrottled = new Set(throttled)
    const script = (received: ReceivedRequest): Answer =>
      isThrottled.has(customerOf(received)) ? { status: 429, headers } : { status: 200 }
    const endpoint = await fixture.endpoint(script, { retry: { maxAttempts: 2 } })
    const requestsOf = (key: string | null) =>
      endpoint.receiver.requests.filter((received) => customerOf(received) === key)
    return { ...endpoint, isThrottled, requestsOf }
  }

  it('a customer without quota rests alone, twice as long each time, and recovers', async () => {
    const endpoint = await endpointWith(KEY_ALONE, ['full'])
    const first = await enqueueOne(endpoint, 'full')
    await soon(() => expect(endpoint.requestsOf('full')).toHaveLength(1))
    // Then both workers know that keys of the endpoint may rest.
    await changeIsKnown()
    await enqueueMany(endpoint, 'full', 20)
    for (const key of ['b', 'c', null]) await enqueueMany(endpoint, key, 20)
    for (const key of ['b', 'c', null]) {
      await soon(() => expect(endpoint.requestsOf(key)).toHaveLength(20))
    }
    await soon(() => expect(endpoint.requestsOf('full').length).toBeGreaterThanOrEqual(4), 20_000)
    const [, second, third, fourth] = endpoint.requestsOf('full').map(({ atMs }) => atMs) as [
      ...[number, number, number, number],
    ]
    expect(third - second).toBeGreaterThan(2_000 - TOLERANCE_MS)
    expect(fourth - third).toBeGreaterThan(4_000 - TOLERANCE_MS)
    const path = `/endpoints/${endpoint.name}/keys`
    await soon(async () => {
      const { items } = await fixture.get(path)
      expect(items).toMatchObject([{ key: 'full', running: 0, restingUntil: expect.any(String) }])
    })
    const { restingUntil } = await fixture.get(`${path}/full`)
    expect(Date.parse(restingUntil)).toBeGreaterThan(Date.now())
    expect(await endpoint.read()).toMatchObject({ state: 'active', restingUntil: null })

    endpoint.isThrottled.clear()
    await soon(
      async () => expect((await endpoint.read()).counts).toEqual({ queued: 0, running: 0 }),
      40_000,
    )
    // The attempts were throttled, and used up none of the two of the job.
    const { attempts, state } = await fixture.readJob(first)
    expect(state).toBe('succeeded')
    expect(attempts[0]).toMatchObject({ outcome: 'throttled', statusCode: 429 })
    expect(endpoint.requestsOf('full').length).toBeGreaterThanOrEqual(24)
  })

  it('the resume of the endpoint ends the rest of a key', async () => {
    const endpoint = await endpointWith({ ...KEY_ALONE, ...FOR_A_MINUTE }, ['full'])
    await enqueueOne(endpoint, 'full')
    const path = `/endpoints/${endpoint.name}/keys/full`
    await soon(async () => expect((await fixture.get(path)).restingUntil).not.toBeNull())
    await changeIsKnown()
    const later = await enqueueOne(endpoint, 'full')
    await fixture.job(await enqueueOne(endpoint, 'b'), 'succeeded')
    expect(endpoint.requestsOf('full')).toHaveLength(1)
    endpoint.isThrottled.clear()
    expect((await request('POST', `/endpoints/${endpoint.name}/resume`)).status).toBe(200)
    await fixture.job(later, 'succeeded')
    expect((await fixture.get(path)).restingUntil).toBeNull()
  })

  it.each([
    ['of a job without a key', KEY_ALONE, null],
    ['with another value', { 'posthorn-throttle-scope': 'customer' }, 'full'],
  ])('the header on the response %s rests the endpoint', async (_, header, key) => {
    const endpoint = await endpointWith({ ...header, ...FOR_A_MINUTE }, [key])
    await enqueueOne(endpoint, key)
    await soon(async () => expect((await endpoint.read()).state).toBe('resting'))
    await changeIsKnown()
    const waiting = await enqueueOne(endpoint, 'b')
    expect(await fixture.get(`/jobs/${waiting}/explain`)).toMatchObject({
      reason: 'endpoint_resting',
    })
    await request('POST', `/endpoints/${endpoint.name}/resume`)
    await fixture.job(waiting, 'succeeded')
  })

  function enqueueOne(endpoint: TestEndpoint, key: string | null): Promise<string> {
    return endpoint.enqueue(jobOf(endpoint, key))
  }

  async function enqueueMany(endpoint: TestEndpoint, key: string | null, count: number) {
    const jobs = Array.from({ length: count }, () => jobOf(endpoint, key))
    const answer = await fixture.posthorn.request('POST', '/jobs/batch', { jobs })
    expect(answer.body.items.filter((item: Body) => item.status === 201)).toHaveLength(count)
  }
})

function jobOf({ name }: TestEndpoint, key: string | null) {
  return { endpoint: name, payload: { customer: key }, fairnessKey: key }
}

function customerOf({ body }: ReceivedRequest): unknown {
  return JSON.parse(body.toString()).customer
}
