// The promise of a limit that endpoints share: two workers never exceed it together, and an
// endpoint with few jobs does not wait for the backlog of another.
import { describe, expect, it } from 'vitest'
import { soon, useApi } from '../support/api-fixture.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'
import { until } from '../support/until.ts'

const LIMIT = 4
const BACKLOG = 300
const FEW = 10
/** Ten turns of two endpoints, twice. */
const MOST_BEFORE = 40
const HANDLER_MS = 30
const DEADLINE_MS = 60_000

describe.each(SQLITE_UNLESS_LONG)('on %s', { timeout: 2 * DEADLINE_MS }, (engine) => {
  const fixture = useApi(engine, { WORKER_CONCURRENCY: '8' }, 2)
  const { request } = fixture

  it('two workers never exceed it, and few jobs are done beside a backlog', async () => {
    expect((await request('PUT', '/limits/seats', { concurrency: LIMIT })).status).toBe(201)
    const inFlight = { now: 0, most: 0 }
    const order: string[] = []
    const script = (name: string) => async () => {
      inFlight.now += 1
      inFlight.most = Math.max(inFlight.most, inFlight.now)
      order.push(name)
      const doneAtMs = performance.now() + HANDLER_MS
      await until(() => performance.now() >= doneAtMs)
      inFlight.now -= 1
      return 200
    }
    const busy = await fixture.endpoint(script('busy'), { limits: ['seats'] })
    const few = await fixture.endpoint(script('few'), { limits: ['seats'] })
    const enqueue = async (endpoint: string, count: number) => {
      const jobs = Array.from({ length: count }, () => ({ endpoint, payload: {} }))
      const { body } = await request('POST', '/jobs/batch', { jobs })
      for (const { status } of body.items) expect(status).toBe(201)
    }
    await enqueue(busy.name, BACKLOG)
    await until(() => inFlight.now === LIMIT, DEADLINE_MS)
    await enqueue(few.name, FEW)
    const before = order.length

    await soon(async () => {
      for (const { read } of [busy, few]) {
        expect((await read()).counts).toMatchObject({ queued: 0, running: 0 })
      }
    }, DEADLINE_MS)
    expect(order).toHaveLength(BACKLOG + FEW)
    expect(order.lastIndexOf('few') - before).toBeLessThan(MOST_BEFORE)
    expect(inFlight).toEqual({ now: 0, most: LIMIT })
  })
})
