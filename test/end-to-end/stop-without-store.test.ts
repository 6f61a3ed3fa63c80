// A worker must stop while the store accepts no writes. It ends in time, its log states what was
// not stored, and the jobs are sent again.
import { DatabaseSync } from 'node:sqlite'
import { describe, expect, it, type TestContext } from 'vitest'
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

interface Fixture {
  posthorn: Deployment
  receiver: Receiver
  store: Lock
}

// Most of their time, these tests wait for a process that gives up: they wait at the same time.
describe.each(ENGINES)('on %s', { timeout: 60_000 }, (engine) => {
  async function setUp({ onTestFinished }: TestContext): Promise<Fixture> {
    const posthorn = deploy(engine, { SHUTDOWN_GRACE: `${GRACE_MS}ms`, LEASE_DURATION: '2s' })
    onTestFinished(() => posthorn.close())
    const receiver = await startReceiver()
    onTestFinished(() => receiver.close())
    const store = await lockOf(posthorn.env.STORE_URL as string)
    onTestFinished(() => store.unlock())
    await posthorn.startApi()
    await posthorn.endpoint('work', receiver.url)
    return { posthorn, receiver, store }
  }

  it.concurrent.for([
    { title: 'an attempt in flight', first: 'hang' as const, awaited: 'worker.stopping' },
    { title: 'an attempt that has ended', first: { delayMs: 300 }, awaited: 'settle.failed' },
  ])(
    '$title: it ends in time with 1, and its job is sent again',
    async ({ first, awaited }, context) => {
      const { posthorn, receiver, store } = await setUp(context)
      receiver.answerWith([first, 200])
      const worker = await posthorn.startWorker({ STORE_URL: store.url })
      const job = (await posthorn.request('POST', '/jobs', { endpoint: 'work', payload: 1 })).body
      await receiver.waitFor((requests) => requests.length === 1)
      store.lock()
      if (awaited !== 'worker.stopping') await worker.logged(awaited)
      const askedAtMs = performance.now()
      expect(await worker.stop()).toBe(1)
      expect(performance.now() - askedAtMs).toBeLessThan(GRACE_MS + OVERRUN_MS + LATE_MS)
      // A report that fails meanwhile may be logged after it.
      const line = worker.log.find(({ msg }) => msg === 'stop.timed_out')
      expect(line).toMatchObject({ level: 'error', outcomes: 1 })
      expect(line?.detail).toContain('sent again')
      expect(worker.stderr()).toBe('')

      await store.unlock()
      await posthorn.startWorker()
      await posthorn.job(job.id, 'succeeded')
      expect(receiver.requests).toHaveLength(2)
    },
  )

  it.concurrent('no attempt in flight: it ends within the same time', async (context) => {
    const { posthorn, store } = await setUp(context)
    const worker = await posthorn.startWorker({ STORE_URL: store.url })
    store.lock()
    const askedAtMs = performance.now()
    await worker.stop()
    expect(performance.now() - askedAtMs).toBeLessThan(GRACE_MS + OVERRUN_MS + LATE_MS)
    expect(worker.stderr()).toBe('')
  })

  it.concurrent('an API that cannot store its last counts logs how many were lost', async (context) => {
    const { posthorn, store } = await setUp(context)
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
