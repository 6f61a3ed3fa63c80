// The promise of the lease: another worker does the job of a dead worker, and the result of a
// frozen worker has no effect.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'
import type { Process } from '../support/process.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'

const LEASE_MS = 1_500
const SWEEP_MS = 200
/** The promise: lease + sweep interval + 1 s, and the time that a machine at full load may add. */
const TAKEN_AGAIN_MS = LEASE_MS + SWEEP_MS + 1_000
const NOISE_MS = 1_000

const SETTINGS = { LEASE_DURATION: `${LEASE_MS}ms`, SWEEP_INTERVAL: `${SWEEP_MS}ms` }

describe.each(SQLITE_UNLESS_LONG)('on %s', (engine) => {
  let posthorn: Deployment
  let receiver: Receiver
  let endpoint: string
  const workers: Process[] = []
  beforeAll(async () => {
    posthorn = deploy(engine, SETTINGS)
    await posthorn.startApi()
  })
  afterAll(() => posthorn.close())
  beforeEach(async ({ task }) => {
    receiver = await startReceiver()
    endpoint = `work-${task.id.replaceAll(/[^a-z0-9]/g, '-')}`
    await posthorn.endpoint(endpoint, receiver.url, { timeout: '1m' })
  })
  afterEach(async () => {
    await Promise.all(workers.splice(0).map((worker) => worker.stop('SIGKILL')))
    await receiver.close()
  })

  async function startWorker(settings: Record<string, string> = {}): Promise<Process> {
    const worker = await posthorn.startWorker(settings)
    workers.push(worker)
    return worker
  }

  async function postJob() {
    const { body } = await posthorn.request('POST', '/jobs', { endpoint, payload: {} })
    await receiver.waitFor((requests) => requests.length === 1)
    return body.id as string
  }

  it('killed with the request in flight: another attempt, fence + 1, in time', async () => {
    receiver.answerWith(['hang', 200])
    const first = await startWorker()
    const id = await postJob()
    await startWorker({ WORKER_ID: 'second' })
    const killedAtMs = performance.now()
    first.kill('SIGKILL')
    await receiver.waitFor((requests) => requests.length === 2, 2 * TAKEN_AGAIN_MS)
    const takenMs = (receiver.requests[1]?.atMs ?? 0) - killedAtMs
    expect(takenMs).toBeLessThan(TAKEN_AGAIN_MS + NOISE_MS)

    const job = await posthorn.job(id, 'succeeded')
    expect(job).toMatchObject({ attemptCount: 2, fence: 2 })
    expect(job.attempts).toMatchObject([
      { number: 1, outcome: 'lost', statusCode: null },
      { number: 2, outcome: 'succeeded', workerId: 'second' },
    ])
    const fences = receiver.requests.map(({ headers }) => headers['posthorn-fence'])
    expect(fences).toEqual(['1', '2'])
  })

  it('frozen with a response on its way: the other’s result stays, the late one is refused', async () => {
    const held = Promise.withResolvers<number>()
    receiver.answerWith((_, index) => (index === 0 ? held.promise : { body: '"second"' }))
    const frozen = await startWorker()
    const id = await postJob()
    frozen.kill('SIGSTOP')
    await startWorker({ WORKER_ID: 'second' })
    const done = await posthorn.job(id, 'succeeded')
    expect(done).toMatchObject({ fence: 2, result: 'second' })
    held.resolve(500)
    frozen.kill('SIGCONT')
    await until(() => frozen.log.some(({ msg, jobId }) => msg === 'attempt.stale' && jobId === id))
    const later = await posthorn.request('GET', `/jobs/${id}`)
    expect(later.body).toEqual(done)
    expect(receiver.requests).toHaveLength(2)
  })

  it('a lease is renewed for as long as the request takes', async () => {
    receiver.answerWith({ delayMs: 3 * LEASE_MS })
    await startWorker()
    await startWorker()
    const id = await postJob()
    const job = await posthorn.job(id, 'succeeded')
    expect(job).toMatchObject({ attemptCount: 1, fence: 1 })
    expect(receiver.requests).toHaveLength(1)
  })

  it('a job that was cancelled meanwhile stays cancelled, and its request is broken off', async () => {
    receiver.answerWith('hang')
    const worker = await startWorker()
    const id = await postJob()
    const cancelled = await posthorn.request('POST', `/jobs/${id}/cancel`)
    expect(cancelled.body).toMatchObject({
      state: 'cancelled',
      attempts: [{ outcome: 'cancelled' }],
    })
    const stale = () => worker.log.find(({ msg }) => msg === 'attempt.stale')
    await until(() => stale() !== undefined, 15_000)
    expect(stale()).toMatchObject({ jobId: id, reason: 'cancelled' })
    expect(worker.log.some(({ msg }) => msg === 'attempt.finished')).toBe(false)
    const later = await posthorn.request('GET', `/jobs/${id}`)
    expect(later.body).toEqual(cancelled.body)
  })

  it('an attempt whose endpoint was deleted by force counts as cancelled, not as a lost lease', async () => {
    receiver.answerWith('hang')
    const worker = await startWorker()
    const id = await postJob()
    await posthorn.request('DELETE', `/endpoints/${endpoint}?force=true`)
    const stale = () => worker.log.find(({ msg }) => msg === 'attempt.stale')
    await until(() => stale() !== undefined, 15_000)
    const detail = 'the endpoint was deleted: its request was aborted'
    expect(stale()).toMatchObject({ jobId: id, reason: 'cancelled', detail })
  })

  it('a late report counts as a lost lease only where the lease was lost', async () => {
    const pull = async () => {
      await posthorn.request('PUT', `/endpoints/${endpoint}`, { url: null })
      await posthorn.request('POST', '/jobs', { endpoint, payload: {} })
      const claim = { limit: 1, lease: '10m', wait: '10s' }
      const { body } = await posthorn.request('POST', `/endpoints/${endpoint}/claim`, claim)
      return body.jobs[0] as { id: string; token: string }
    }
    const report = ({ id, token }: { id: string; token: string }, verb: string, said: object) =>
      posthorn.request('POST', `/jobs/${id}/${verb}?token=${token}`, said)
    const counts = async () => {
      const { body } = await posthorn.request('GET', '/metrics')
      const found = (body as string).matchAll(
        /^posthorn_stale_results_total\{.*reason="(\w+)".*\} (\d+)$/gm,
      )
      return Object.fromEntries([...found].map(([, reason, count]) => [reason, Number(count)]))
    }
    const reported = await pull()
    expect((await report(reported, 'complete', {})).status).toBe(200)
    expect((await report(reported, 'fail', { message: 'no' })).status).toBe(409)
    expect(await counts()).toEqual({})

    const evicted = await pull()
    await posthorn.request('DELETE', `/endpoints/${endpoint}?force=true`)
    await posthorn.job(evicted.id, 'dead')
    expect((await report(evicted, 'heartbeat', {})).status).toBe(409)
    expect((await report(evicted, 'complete', {})).status).toBe(409)
    expect(await counts()).toEqual({ cancelled: 1 })
  })
})
