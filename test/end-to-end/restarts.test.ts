// The promise of durability: whichever process stops and starts, jobs wait, and are done in time.
import { connect } from 'node:net'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { ENGINES } from '../support/engines.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'

const JOBS = 50
const DELAY_MS = 2_500
/** The time that a busy machine may add. */
const LATE_MS = 10_000

describe.each(ENGINES)('on %s', (engine) => {
  let posthorn: Deployment
  let receiver: Receiver
  beforeEach(async () => {
    posthorn = deploy(engine, { SHUTDOWN_GRACE: '2s' })
    receiver = await startReceiver()
  })
  afterEach(async () => {
    await posthorn.close()
    await receiver.close()
  })
  const post = (fields: object = {}) =>
    posthorn.request('POST', '/jobs', { endpoint: 'work', payload: 1, ...fields })

  it('API and worker stopped and started again: nothing is lost, delayed jobs are on time', async () => {
    const api = await posthorn.startApi()
    await posthorn.endpoint('work', receiver.url)
    const waiting = await Promise.all(Array.from({ length: JOBS }, () => post()))
    const delayed = await Promise.all(
      Array.from({ length: JOBS }, () => post({ delay: `${DELAY_MS}ms` })),
    )
    expect(await api.stop()).toBe(0)
    await posthorn.startApi()
    const worker = await posthorn.startWorker()
    await receiver.waitFor((requests) => requests.length >= JOBS)
    expect(await worker.stop()).toBe(0)
    await posthorn.startWorker()
    const readyAt = Date.now()

    const ids = [...waiting, ...delayed].map(({ body }) => body.id as string)
    const jobs = await Promise.all(ids.map((id) => posthorn.job(id, 'succeeded')))
    const delivered = receiver.requests.map(({ headers }) => headers['webhook-id'])
    expect([...delivered].sort()).toEqual([...ids].sort())
    for (const job of jobs.slice(JOBS)) {
      const [runAt, startedAt] = [Date.parse(job.runAt), Date.parse(job.startedAt)]
      expect(startedAt).toBeGreaterThanOrEqual(runAt)
      expect(startedAt - Math.max(runAt, readyAt)).toBeLessThan(LATE_MS)
    }
  })

  it('a worker asked to stop lets its attempts finish, claims no more, and exits 0', async () => {
    await posthorn.startApi()
    await posthorn.endpoint('work', receiver.url)
    receiver.answerWith({ delayMs: 700 })
    const worker = await posthorn.startWorker()
    const { body: first } = await post()
    await receiver.waitFor((requests) => requests.length === 1)
    const stopped = worker.stop()
    await worker.logged('worker.stopping')
    const { body: second } = await post()
    expect(await stopped).toBe(0)
    expect((await posthorn.request('GET', `/jobs/${first.id}`)).body.state).toBe('succeeded')
    expect((await posthorn.request('GET', `/jobs/${second.id}`)).body.state).toBe('queued')
  })

  it('what does not finish within the grace is given back, and costs no attempt', async () => {
    await posthorn.startApi()
    await posthorn.endpoint('work', receiver.url, { retry: { maxAttempts: 1 } })
    receiver.answerWith(['hang', 200])
    const worker = await posthorn.startWorker({ SHUTDOWN_GRACE: '100ms' })
    const { body: posted } = await post()
    await receiver.waitFor((requests) => requests.length === 1)
    expect(await worker.stop()).toBe(0)
    const given = (await posthorn.request('GET', `/jobs/${posted.id}`)).body
    expect(given).toMatchObject({ state: 'queued', attempts: [{ outcome: 'interrupted' }] })
    await posthorn.startWorker()
    expect(await posthorn.job(posted.id, 'succeeded')).toMatchObject({ attemptCount: 2, fence: 2 })
  })

  it('a waiting client gets its response when the API stops', async () => {
    const api = await posthorn.startApi()
    await posthorn.endpoint('work', receiver.url)
    const { body: posted } = await post({ delay: '1h' })
    const waiting = posthorn.request('GET', `/jobs/${posted.id}?wait=60s`)
    await until(async () => (await posthorn.request('GET', '/health/live')).status === 200)
    expect(await api.stop()).toBe(0)
    expect((await waiting).body.state).toBe('queued')
    expect(api.log.map(({ msg }) => msg)).not.toContain('api.closing_connections')
  })

  it('a request that comes on an open connection while the API stops is served', async () => {
    const api = await posthorn.startApi()
    // The API serves the requests of a connection side by side: the job must not need the PUT.
    await posthorn.endpoint('work', receiver.url)
    const { hostname, port } = new URL(posthorn.url())
    const isListening = () =>
      new Promise<boolean>((resolve) => {
        const probe = connect(Number(port), hostname)
        probe.once('error', () => resolve(false))
        probe.once('connect', () => {
          probe.destroy()
          resolve(true)
        })
      })
    const request = (method: string, path: string, body: string) =>
      `${method} ${path} HTTP/1.1\r\nhost: ${hostname}:${port}\r\n` +
      `content-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`
    const first = request('PUT', '/endpoints/work', JSON.stringify({ url: receiver.url }))
    const second = request('POST', '/jobs', '{"endpoint":"work","payload":1}')

    // A request whose body is not complete keeps the connection open.
    const socket = connect(Number(port), hostname)
    let responses = ''
    socket.on('data', (chunk) => {
      responses += chunk
    })
    socket.write(`${request('GET', '/health/live', '')}${first.slice(0, -1)}`)
    await until(() => responses.includes('200 OK'))
    const stopped = api.stop()
    await until(async () => !(await isListening()))
    socket.write(first.slice(-1) + second)
    expect(await stopped).toBe(0)
    expect(responses.match(/HTTP\/1\.1 \d+/g)).toEqual([
      'HTTP/1.1 200',
      'HTTP/1.1 200',
      'HTTP/1.1 201',
    ])
    expect(responses).toMatch(/connection: close/i)
  })
})
