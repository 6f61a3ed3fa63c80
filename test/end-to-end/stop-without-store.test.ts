// A worker must stop while the store accepts no writes. It ends in time, its log states what was
// not stored, and the jobs are sent again.
import { DatabaseSync } from 'node:sqlite'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { ENGINES } from '../support/engines.ts'
import { startMongoProxy } from '../support/mongo-proxy.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'

const GRACE_MS = 1_000
/** How much longer than SHUTDOWN_GRACE the worker may take. */
const OVERRUN_MS = 4_000
const LOCKED_WITHIN_MS = 5_000
/** The time that a busy machine may add. */
const LATE_MS = 1_500

interface Lock {
  /** The STORE_URL of the worker. */
  url: string
  lock(): void
  unlock(): Promise<void>
}

async function lockOf(storeUrl: string): Promise<Lock> {
  if (storeUrl.startsWith('mongodb')) {
    const proxy = await startMongoProxy(storeUrl)
    return { url: proxy.url, lock: () => proxy.stall(), unlock: () => proxy.stop() }
  }
  let locked: DatabaseSync | null = null
  return {
    url: storeUrl,
    lock() {
      // A process may be in the middle of a write.
      locked = new DatabaseSync(storeUrl.replace('sqlite:', ''), { timeout: LOCKED_WITHIN_MS })
      locked.exec('begin immediate')
    },
    async unlock() {
      locked?.close()
      locked = null
    },
  }
}

describe.each(ENGINES)('on %s', { timeout: 60_000 }, (engine) => {
  let posthorn: Deployment
  let receiver: Receiver
  let store: Lock
  beforeEach(async () => {
    posthorn = deploy(engine, { SHUTDOWN_GRACE: `${GRACE_MS}ms`, LEASE_DURATION: '2s' })
    receiver = await startReceiver()
    store = await lockOf(posthorn.env.STORE_URL as string)
    await posthorn.startApi()
    await posthorn.endpoint('work', receiver.url)
  })
  afterEach(async () => {
    await store.unlock()
    await posthorn.close()
    await receiver.close()
  })

  it.each([
    { title: 'an attempt in flight', first: 'hang' as const, awaited: 'worker.stopping' },
    { title: 'an attempt that has ended', first: { delayMs: 300 }, awaited: 'settle.failed' },
  ])('$title: it ends in time with 1, and its job is sent again', async ({ first, awaited }) => {
    receiver.answerWith([first, 200])
    const worker = await posthorn.startWorker({ STORE_URL: store.url })
    const job = (await posthorn.request('POST', '/jobs', { endpoint: 'work', payload: 1 })).body
    await receiver.waitFor((requests) => requests.length === 1)
    store.lock()
    if (awaited !== 'worker.stopping') await worker.logged(awaited)
    const askedAtMs = performance.now()
    expect(await worker.stop()).toBe(1)
    expect(performance.now() - askedAtMs).toBeLessThan(GRACE_MS + OVERRUN_MS + LATE_MS)
    const last = worker.log.at(-1)
    expect(last).toMatchObject({ msg: 'stop.timed_out', level: 'error', outcomes: 1 })
    expect(last?.detail).toContain('sent again')
    expect(worker.stderr()).toBe('')

    await store.unlock()
    await posthorn.startWorker()
    await posthorn.job(job.id, 'succeeded')
    expect(receiver.requests).toHaveLength(2)
  })

  it('no attempt in flight: it ends within the same time', async () => {
    const worker = await posthorn.startWorker({ STORE_URL: store.url })
    store.lock()
    const askedAtMs = performance.now()
    await worker.stop()
    expect(performance.now() - askedAtMs).toBeLessThan(GRACE_MS + OVERRUN_MS + LATE_MS)
    expect(worker.stderr()).toBe('')
  })

  it('an API that cannot store its last counts logs how many were lost', async () => {
    const api = await posthorn.startApi({ STORE_URL: store.url })
    await posthorn.request('PUT', '/endpoints/pulled', { url: null })
    await posthorn.request('POST', '/jobs', { endpoint: 'pulled', payload: 1 })
    const claimed = await posthorn.request('POST', '/endpoints/pulled/claim')
    const [{ id, token }] = claimed.body.jobs
    const authorization = `Bearer ${token}`
    const done = await posthorn.request('POST', `/jobs/${id}/complete`, {}, { authorization })
    expect(done.status).toBe(200)
    store.lock()
    expect(await api.stop()).toBe(0)
    expect(api.log.filter(({ msg }) => msg === 'figures.lost')).toMatchObject([
      { level: 'warn', rows: 1 },
    ])
  })
})
