// An endpoint that throttles gets no request for at least the back-off of Posthorn, whatever its
// Retry-After says. Then one attempt is sent, and the others follow in growing numbers.
import { describe, expect, it } from 'vitest'
import { type Body, soon, type TestEndpoint, useApi } from '../support/api-fixture.ts'
import type { Answer, ReceivedRequest } from '../support/receiver.ts'

const JOBS = 100
/**
 * At most one burst, then one request after 1 s and one after 2 s more. The rest is room for a busy
 * machine.
 */
const MOST_REQUESTS = JOBS + 4
const OBSERVED_MS = 4_000
/** Long enough that requests which run side by side are seen to do so. */
const WORK_MS = 100
/** One job at a time would take longer. Seven rounds take 1 s on a quiet machine. */
const DRAIN_MS = JOBS * WORK_MS
const PAST = 'Fri, 31 Dec 1999 23:59:59 GMT'

describe.each([
  ['sqlite', '503 with a date that is past', 503, PAST],
  ['mongo', '429 with Retry-After: 0', 429, '0'],
] as const)('on %s', { timeout: 60_000 }, (engine, what, status, named) => {
  const fixture = useApi(engine, {}, 2)
  let plainMs = 0

  it('an endpoint that takes what it is sent is not slowed', async () => {
    const seen = watchInFlight()
    const endpoint = await fixture.endpoint(seen.script)
    await enqueueMany(endpoint)
    await soon(() => expect(seen.requests).toHaveLength(JOBS), 30_000)
    plainMs = seen.lastAtMs() - seen.firstAtMs()
    expect(Math.max(...seen.inFlightAt)).toBeGreaterThan(JOBS / 10)
  })

  it(`${what} is no invitation to come back at once, and costs no attempt`, async () => {
    const answer = { status, headers: { 'retry-after': named } }
    const endpoint = await fixture.endpoint(answer, { retry: { maxAttempts: 3 }, timeout: '5s' })
    await enqueueMany(endpoint)
    await endpoint.receiver.waitFor((requests) => requests.length > 0)
    await passedSince(endpoint.receiver.requests[0], OBSERVED_MS)
    expect(endpoint.receiver.requests.length).toBeLessThanOrEqual(MOST_REQUESTS)
    await soon(async () =>
      expect((await endpoint.read()).counts).toEqual({ queued: JOBS, running: 0 }),
    )

    // The endpoint recovers: the backlog drains quickly, but not all at once.
    const seen = watchInFlight()
    endpoint.receiver.answerWith(seen.script)
    await soon(
      async () => expect((await endpoint.read()).counts).toEqual({ queued: 0, running: 0 }),
      40_000,
    )
    expect(seen.requests).toHaveLength(JOBS)
    const drainMs = seen.lastAtMs() - seen.firstAtMs()
    expect(drainMs).toBeLessThan(DRAIN_MS + plainMs)
    // Each round at most doubles the number of attempts in flight: 1, 2, 4, …
    expect(seen.inFlightAt.slice(0, 3)).toEqual([1, expect.toBeOneOf([1, 2]), expect.anything()])
    seen.inFlightAt.forEach((inFlight, i) => {
      expect(inFlight).toBeLessThanOrEqual((seen.answeredAt[i] as number) + 1)
    })
  })

  async function enqueueMany({ name }: TestEndpoint): Promise<void> {
    const jobs = Array.from({ length: JOBS }, () => ({ endpoint: name, payload: 1 }))
    const answer = await fixture.posthorn.request('POST', '/jobs/batch', { jobs })
    expect(answer.body.items.filter((item: Body) => item.status === 201)).toHaveLength(JOBS)
  }
})

/**
 * Responds with 200 after WORK_MS, and records at each request how many are in flight, including
 * itself.
 */
function watchInFlight() {
  const requests: ReceivedRequest[] = []
  const inFlightAt: number[] = []
  /** How many requests had a response at that time. */
  const answeredAt: number[] = []
  let answered = 0
  async function script(request: ReceivedRequest): Promise<Answer> {
    requests.push(request)
    inFlightAt.push(requests.length - answered)
    answeredAt.push(answered)
    await new Promise((resolve) => setTimeout(resolve, WORK_MS))
    answered += 1
    return { status: 200 }
  }
  return {
    requests,
    inFlightAt,
    answeredAt,
    script,
    firstAtMs: () => (requests[0] as ReceivedRequest).atMs,
    lastAtMs: () => (requests.at(-1) as ReceivedRequest).atMs,
  }
}

async function passedSince(request: ReceivedRequest | undefined, ms: number): Promise<void> {
  const untilMs = (request?.atMs ?? 0) + ms
  await soon(() => expect(performance.now()).toBeGreaterThan(untilMs), 2 * ms)
}
