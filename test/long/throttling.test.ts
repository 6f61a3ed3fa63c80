// A receiver that throttles every request gets at most one burst, and then requests at the back-off
// of Posthorn.
import { describe, expect, it } from 'vitest'
import { soon, useApi } from '../support/api-fixture.ts'
import { ENGINES } from '../support/engines.ts'

describe.each(ENGINES)('on %s', { timeout: 60_000 }, (engine) => {
  const fixture = useApi(engine)

  it.for([
    ['0', 100, 10_000, 115],
    ['Fri, 31 Dec 1999 23:59:59 GMT', 100, 10_000, 115],
    ['1', 300, 20_000, 120],
  ] as const)('429 with Retry-After: %s, %s jobs, %s ms: at most %s requests', async (row) => {
    const [named, jobCount, observedMs, most] = row
    const answer = { status: 429, headers: { 'retry-after': named } }
    const endpoint = await fixture.endpoint(answer, { retry: { maxAttempts: 3 } })
    const jobs = Array.from({ length: jobCount }, () => ({ endpoint: endpoint.name, payload: 1 }))
    const { body } = await fixture.posthorn.request('POST', '/jobs/batch', { jobs })
    expect(body.items).toHaveLength(jobCount)
    await endpoint.receiver.waitFor((requests) => requests.length > 0)
    const endsAtMs = (endpoint.receiver.requests[0]?.atMs ?? 0) + observedMs
    await soon(() => expect(performance.now()).toBeGreaterThan(endsAtMs), 2 * observedMs)
    console.log(`${engine}: ${endpoint.receiver.requests.length} requests of ${most} at most`)
    expect(endpoint.receiver.requests.length).toBeLessThanOrEqual(most)
    await soon(async () =>
      expect((await endpoint.read()).counts).toEqual({ queued: jobCount, running: 0 }),
    )
  })
})
