// An API without a worker, which is enough for pulled endpoints: the API does the upkeep. Of
// several APIs only one does it, and none does while a worker is live.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { ENGINES } from '../support/engines.ts'
import type { Process } from '../support/process.ts'
import { until } from '../support/until.ts'

const SWEEP_MS = 100
/** The time that a machine at full load may add, while clients send claims again and again. */
const NOISE_MS = 1_000
/** Limit for another process to take over the upkeep of a dead one. */
const TAKEN_OVER_MS = 3_000

/** The engines run side by side, the tests of each in order. */
const IN_ORDER = { concurrent: false }

describe.each(ENGINES)('on %s', { concurrent: true }, (engine) => {
  let posthorn: Deployment
  let apis: Process[]

  const begins = () => apis.flatMap(({ log }) => log.filter(({ msg }) => msg === 'upkeep.begun'))

  beforeAll(async () => {
    posthorn = deploy(engine, { SWEEP_INTERVAL: `${SWEEP_MS}ms`, RETENTION: '1s' })
    apis = [await posthorn.startApi(), await posthorn.startApi()]
    await until(() => begins().length > 0)
    await posthorn.request('PUT', '/endpoints/render', { url: null })
  })
  afterAll(() => posthorn.close())

  const post = (path: string, body: object) => posthorn.request('POST', path, body)
  const claim = async (more: object = {}) =>
    (await post('/endpoints/render/claim', { limit: 10, ...more })).body.jobs
  const enqueue = async (more: object = {}) =>
    (await post('/jobs', { endpoint: 'render', payload: 1, ...more })).body.id as string

  it('hands out again a job whose lease has expired, in time', IN_ORDER, async () => {
    const id = await enqueue()
    const [first] = await claim({ lease: '1s' })
    const [second] = await claim({ wait: '20s', lease: '1m' })
    const lateMs = Date.now() - Date.parse(first.leaseExpiresAt)
    expect(second).toMatchObject({ id, attemptCount: 2, attempts: [{ outcome: 'lost' }] })
    expect(lateMs).toBeLessThan(SWEEP_MS + 1_000 + NOISE_MS)
    await post(`/jobs/${id}/complete?token=${second.token}`, { result: 1 })
  })

  it('ends jobs that expire, removes old ones, and ticks schedules', IN_ORDER, async () => {
    const id = await enqueue({ expiresIn: '1s' })
    const old = await enqueue({ delay: '1h' })
    await post(`/jobs/${old}/cancel`, {})
    await until(async () => (await posthorn.request('GET', `/jobs/${old}`)).status === 404)
    const expired = await posthorn.job(id, 'dead')
    expect(expired.failure.reason).toBe('expired')
    await posthorn.request('PUT', '/schedules/each-second', {
      ...{ every: '1s', endpoint: 'render', payload: 'tick' },
    })
    const jobs: { scheduleName: string; payload: string }[] = []
    await until(async () => jobs.push(...(await claim({ lease: '1m' }))) >= 2)
    expect(jobs[0]).toMatchObject({ scheduleName: 'each-second', payload: 'tick' })
    await posthorn.request('DELETE', '/schedules/each-second')
    expect(begins()).toHaveLength(1)
  })

  it('leaves all of it to a worker, and does it again when the last one has died', {
    ...IN_ORDER,
    timeout: 60_000,
  }, async () => {
    const worker = await posthorn.startWorker()
    await until(() => apis.some(({ log }) => log.some(({ msg }) => msg === 'upkeep.ended')))
    const before = sweptBy(apis)
    const id = await enqueue({ expiresIn: '1s' })
    await posthorn.job(id, 'dead')
    await until(() => worker.log.some(({ msg, expired }) => msg === 'sweep.found' && expired === 1))
    expect(sweptBy(apis)).toEqual(before)
    expect(begins()).toHaveLength(1)
    const killedAtMs = performance.now()
    await worker.stop('SIGKILL')
    await until(() => begins().length > 1, 10 * TAKEN_OVER_MS)
    expect(performance.now() - killedAtMs).toBeLessThan(TAKEN_OVER_MS + NOISE_MS)
    await posthorn.job(await enqueue({ expiresIn: '1s' }), 'dead')
    expect(begins()).toHaveLength(2)
    for (const api of apis) expect(await api.stop()).toBe(0)
  })
})

/** How many sweeps of each API have found something. */
function sweptBy(apis: Process[]): number[] {
  return apis.map(({ log }) => log.filter(({ msg }) => msg === 'sweep.found').length)
}
