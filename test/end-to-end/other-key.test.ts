// A worker was started with another ENCRYPTION_KEY, while no stored secret could show the
// difference. It is alive and claims nothing, and every place that shows the worker states the
// reason.
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openShell, type Shell } from '../cli/command-line.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'
import type { Process } from '../support/process.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { requestTo, type SendRequest } from '../support/request.ts'
import { until } from '../support/until.ts'

const OTHER_KEY = randomBytes(32).toString('base64')

describe.each(SQLITE_UNLESS_LONG)('on %s', { timeout: 60_000 }, (engine) => {
  let posthorn: Deployment
  let receiver: Receiver
  let api: Process
  let worker: Process
  let shell: Shell

  beforeAll(async () => {
    posthorn = deploy(engine, { POLL_INTERVAL: '20ms' })
    receiver = await startReceiver()
    api = await posthorn.startApi()
    worker = await posthorn.startWorker({
      ...{ ENCRYPTION_KEY: OTHER_KEY, WORKER_ID: 'worker-of-others', WORKER_PORT: '0' },
    })
    shell = openShell({ POSTHORN_URL: posthorn.url() })
  })
  afterAll(async () => {
    await shell.close()
    await posthorn.close()
    await receiver.close()
  })

  const read = async (path: string) => (await posthorn.request('GET', path)).body

  it('explain, the list of workers and the command line name it, and another one delivers', async () => {
    await posthorn.endpoint('invoice-pdf', receiver.url)
    const job = { endpoint: 'invoice-pdf', payload: 1 }
    const { id } = (await posthorn.request('POST', '/jobs', job)).body
    await until(async () => (await read('/workers')).items.length === 1)
    expect((await read('/workers')).items).toMatchObject([
      { id: 'worker-of-others', isLive: true, hasEncryptionKey: false },
    ])
    const { reason, detail } = await read(`/jobs/${id}/explain`)
    expect([reason, detail]).toEqual([
      'no_live_worker',
      'worker worker-of-others is live but cannot read the secret of the endpoint: its ENCRYPTION_KEY does not contain the key of the API',
    ])
    const listed = await shell.run(['workers'])
    expect(listed.stdout).toMatch(/^worker-of-others +live, lacks the encryption key /m)
    expect((await shell.run(['explain', id])).stdout).toContain(detail)

    // It does not count as a live worker, and one log line states the reason.
    await until(async () => (await read('/stats')).liveWorkers === 0)
    expect(await read('/metrics')).toMatch(/^posthorn_live_workers(\{.*\})? 0$/m)
    expect((await shell.run(['stats'])).stdout).toContain('0 live workers')
    expect((await worker.logged('worker.key_missing')).endpoint).toBe('invoice-pdf')
    const { url } = await worker.logged('worker_port.listening')
    const ready = await fetch(`${url}/health/ready`)
    expect([ready.status, await ready.json()]).toEqual([
      503,
      {
        status: 'unavailable',
        checks: { store: 'ok', worker: 'lacks the encryption key of the API' },
      },
    ])
    await api.logged('upkeep.begun')
    const named = worker.log.map(({ msg }) => msg)
    expect(named.filter((msg) => msg === 'worker.key_missing')).toHaveLength(1)
    expect(named).not.toContain('claim.failed')

    // A worker that has both keys, in either order, decrypts what the API has encrypted. It does
    // not encrypt it again, so the API can still read its endpoints.
    const both = `${OTHER_KEY},${posthorn.env.ENCRYPTION_KEY}`
    expect((await read(`/jobs/${id}`)).state).toBe('queued')
    await posthorn.startWorker({ ENCRYPTION_KEY: both, WORKER_ID: 'worker-with-both' })
    await posthorn.job(id, 'succeeded')
    await until(async () => (await read('/workers')).items.length === 2)
    const { items } = await read('/workers')
    expect(items.map((one: Record<string, unknown>) => [one.id, one.hasEncryptionKey])).toEqual([
      ['worker-of-others', false],
      ['worker-with-both', true],
    ])
    await until(async () => (await read('/stats')).liveWorkers === 1)
    await api.logged('upkeep.ended')
    expect((await posthorn.request('GET', '/endpoints/invoice-pdf')).status).toBe(200)
  })
})

/**
 * An API was started with a newer key, which encrypts, while the other processes still lack that
 * key.
 */
describe.each(SQLITE_UNLESS_LONG)('beside a newer key on %s', { timeout: 60_000 }, (engine) => {
  let posthorn: Deployment
  let receiver: Receiver
  let worker: Process
  /** Sends requests to the API that lacks the newer key. */
  let older: SendRequest

  beforeAll(async () => {
    posthorn = deploy(engine, { POLL_INTERVAL: '20ms' })
    receiver = await startReceiver()
    await posthorn.startApi()
    const olderUrl = posthorn.url()
    older = requestTo(() => olderUrl)
    worker = await posthorn.startWorker({ WORKER_ID: 'worker-of-before', WORKER_PORT: '0' })
    await posthorn.startApi({ ENCRYPTION_KEY: `${OTHER_KEY},${posthorn.env.ENCRYPTION_KEY}` })
    await older('PUT', '/endpoints/well', { url: receiver.url })
    await posthorn.endpoint('lost', receiver.url)
    await posthorn.request('PUT', '/endpoints/lost-pulled', { url: null })
  })
  afterAll(async () => {
    await posthorn.close()
    await receiver.close()
  })

  async function enqueue(endpoint: string, fields: object = {}): Promise<string> {
    const { status, body } = await posthorn.request('POST', '/jobs', {
      ...{ endpoint, payload: 1, ...fields },
    })
    expect(status).toBe(201)
    return body.id
  }

  it('its endpoint alone waits, and each place says why', async () => {
    const waiting = await enqueue('lost')
    const { url } = await worker.logged('worker_port.listening')
    await until(async () => (await fetch(`${url}/health/ready`)).status === 503)
    await posthorn.job(await enqueue('well'), 'succeeded')
    expect((await worker.logged('worker.key_missing')).endpoint).toBe('lost')
    for (const ask of [older, posthorn.request]) {
      const { body } = await ask('GET', `/jobs/${waiting}/explain`)
      expect([body.state, body.reason]).toEqual(['queued', 'no_live_worker'])
      expect(body.detail).toContain('worker worker-of-before is live but cannot read the secret')
    }
    for (const path of ['/workers', '/stats', '/metrics', '/schedules', '/stats?endpoint=lost']) {
      expect([path, (await older('GET', path)).status]).toEqual([path, 200])
    }
    expect((await older('GET', '/health/ready')).body).toEqual({
      status: 'unavailable',
      checks: { store: 'holds secrets that no key of this process decrypts' },
    })
    expect((await posthorn.request('GET', '/health/ready')).status).toBe(200)
  })

  it('what needs its secrets is refused with its name, and nothing is written', async () => {
    const before = (await posthorn.request('GET', '/endpoints/lost')).body
    const refused = [
      await older('GET', '/endpoints/lost'),
      await older('PUT', '/endpoints/lost', { url: receiver.url, description: 'new' }),
      await older('PATCH', '/endpoints/lost', { description: 'new' }),
      ...(await Promise.all(
        ['pause', 'resume', 'rotate-secret', 'test'].map((verb) =>
          older('POST', `/endpoints/lost/${verb}`),
        ),
      )),
    ]
    for (const { status, body } of refused) {
      expect([status, body.code]).toEqual([503, 'store_unavailable'])
      expect(body.detail).toMatch(/"lost(-pulled)?".*ENCRYPTION_KEY/)
    }
    const { body } = await posthorn.request('GET', '/endpoints/lost')
    expect({ ...body, counts: null }).toEqual({ ...before, counts: null })
  })

  it('it is in the list beside the others, without its secrets', async () => {
    const { status, body } = await older('GET', '/endpoints')
    expect(status).toBe(200)
    const shown = (await posthorn.request('GET', '/endpoints')).body.items
    expect(shown.map(({ name }: { name: string }) => name)).toEqual(['lost', 'lost-pulled', 'well'])
    const expected = shown.map((one: { name: string }) => ({
      ...one,
      ...(one.name === 'well' ? {} : { headers: null, secretHint: null }),
    }))
    expect(body.items).toEqual(expected)
  })

  it('its pulled jobs are claimed, which needs no secret', async () => {
    const id = await enqueue('lost-pulled')
    const { status, body } = await older('POST', '/endpoints/lost-pulled/claim')
    expect([status, body.jobs.map((job: { id: string }) => job.id)]).toEqual([200, [id]])
  })

  it('headers of a job that cannot be read are not shown as none, and not lost in a copy', async () => {
    const id = await enqueue('well', { headers: { 'x-token': 'green-green' }, delay: '1h' })
    expect((await older('GET', `/jobs/${id}`)).body).toMatchObject({ id, headers: null })
    const { status, body } = await older('POST', `/jobs/${id}/copy`)
    expect([status, body.code]).toEqual([503, 'store_unavailable'])
    expect(body.detail).toContain('ENCRYPTION_KEY')
    const copy = await posthorn.request('POST', `/jobs/${id}/copy`)
    expect([copy.status, copy.body.headers]).toEqual([201, { 'x-token': '***reen' }])
    // The copy is due at once, so it may have left the state queued.
    const { items } = (await older('GET', '/jobs?endpoint=well')).body
    const ids = items.map((job: { id: string }) => job.id)
    expect(ids).toEqual(expect.arrayContaining([id, copy.body.id]))
  })
})
