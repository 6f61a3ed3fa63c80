// The promise of fairness: an endpoint that hangs does not delay the others.
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { ENGINES } from '../support/engines.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'

const HANGING_JOBS = 60
const SLOTS = 20
/**
 * An endpoint that hangs gets 16 of 20 slots: it may start attempts while it holds fewer than 4 ×
 * the free slots.
 */
const HELD_SLOTS = 16
const OTHERS = 30
/**
 * A third of the timeout of the endpoints that hang. The fault suite measures the promised bound.
 */
const LATE_MS = 5_000

describe.each(ENGINES)('on %s', (engine) => {
  let posthorn: Deployment
  const receivers: Receiver[] = []
  const receiver = async (script: Parameters<typeof startReceiver>[0]) => {
    const one = await startReceiver(script)
    receivers.push(one)
    return one
  }
  beforeEach(async () => {
    posthorn = deploy(engine, { WORKER_CONCURRENCY: String(SLOTS), SHUTDOWN_GRACE: '0s' })
    await posthorn.startApi()
  })
  afterEach(async () => {
    await posthorn.close()
    await Promise.all(receivers.splice(0).map((one) => one.close()))
  })
  const post = (endpoint: string) => posthorn.request('POST', '/jobs', { endpoint, payload: {} })

  it('one that hangs, with many due jobs, leaves slots to the others', async () => {
    const hanging = await receiver('hang')
    const quick = await receiver(200)
    await posthorn.endpoint('hanging', hanging.url)
    for (let i = 0; i < OTHERS; i++) await posthorn.endpoint(`quick-${i}`, quick.url)
    await Promise.all(Array.from({ length: HANGING_JOBS }, () => post('hanging')))
    await posthorn.startWorker()
    await hanging.waitFor((requests) => requests.length >= HELD_SLOTS)
    const posted = await Promise.all(Array.from({ length: OTHERS }, (_, i) => post(`quick-${i}`)))
    const jobs = await Promise.all(posted.map(({ body }) => posthorn.job(body.id, 'succeeded')))
    const latest = Math.max(...jobs.map((job) => Date.parse(job.startedAt) - Date.parse(job.runAt)))
    expect(latest).toBeLessThan(LATE_MS)
    expect(hanging.requests).toHaveLength(HELD_SLOTS)
  })

  it('one that is replaced is delivered to at its new address, by every worker', async () => {
    const [before, after] = [await receiver(200), await receiver(200)]
    await posthorn.endpoint('moving', before.url)
    await posthorn.startWorker()
    await posthorn.startWorker()
    await post('moving')
    await before.waitFor((requests) => requests.length === 1)
    await posthorn.endpoint('moving', after.url)
    const changedAtMs = performance.now()
    await until(async () => {
      await post('moving')
      return performance.now() - changedAtMs > 1_000
    })
    const lateCount = before.requests.filter(({ atMs }) => atMs > changedAtMs + 1_000).length
    const { length } = after.requests
    await post('moving')
    await after.waitFor((requests) => requests.length > length)
    expect(lateCount).toBe(0)
  })

  it('one that is deleted by force is gone, and its jobs are dead', async () => {
    const hanging = await receiver('hang')
    await posthorn.endpoint('old', hanging.url)
    await posthorn.startWorker({ SWEEP_INTERVAL: '50ms' })
    const { body: running } = await post('old')
    await hanging.waitFor((requests) => requests.length === 1)
    const { body: queued } = await posthorn.request('POST', '/jobs', {
      endpoint: 'old',
      payload: {},
      delay: '1h',
    })
    const deleted = await posthorn.request('DELETE', '/endpoints/old?force=true')
    expect(deleted).toMatchObject({ status: 202, body: { state: 'deleting' } })
    const failure = { reason: 'endpoint_gone' }
    expect(await posthorn.job(queued.id, 'dead')).toMatchObject({ failure, attempts: [] })
    expect(await posthorn.job(running.id, 'dead')).toMatchObject({
      failure,
      attempts: [{ outcome: 'cancelled' }],
    })
    await until(async () => (await posthorn.request('GET', '/endpoints/old')).status === 404)
    expect((await posthorn.endpoint('old', hanging.url)).status).toBe(201)
  })
})
