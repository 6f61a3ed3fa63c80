// The cost of idle workers for a MongoDB server, in commands.
import { randomBytes } from 'node:crypto'
import { pino } from 'pino'
import { describe, expect, it, type TestContext } from 'vitest'
import { readConfig } from '../../src/config.ts'
import { openStore } from '../../src/store/open-store.ts'
import type { Store } from '../../src/store/store.ts'
import { createWorker, type Worker } from '../../workers/worker.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { until } from '../support/until.ts'

/** A worker is idle some seconds after its start, when its change stream has responded. */
const SETTLE_MS = 10_000
const COUNT_MS = 30_000
const MAX_PER_SECOND = { one: 4, twenty: 50 }

/** Commands a second, over COUNT_MS. */
async function rateOf(count: () => Promise<number>): Promise<number> {
  await passed(SETTLE_MS)
  const startedAtMs = performance.now()
  const before = await count()
  await passed(COUNT_MS)
  const commands = (await count()) - before
  return commands / ((performance.now() - startedAtMs) / 1_000)
}

function passed(ms: number): Promise<void> {
  const endsAtMs = performance.now() + ms
  return until(() => performance.now() >= endsAtMs, 2 * ms)
}

/** A place with an endpoint and nothing to do. */
async function deployIdle({ onTestFinished }: TestContext): Promise<Deployment> {
  const posthorn = deploy('mongo')
  onTestFinished(() => posthorn.close())
  const api = await posthorn.startApi()
  await posthorn.endpoint('nothing-to-do', 'http://127.0.0.1:9/')
  await api.stop()
  return posthorn
}

// Each test has a database of its own, so the two can count at the same time.
describe.concurrent('on mongo', { timeout: 120_000 }, () => {
  it('a worker that does the upkeep too sends at most 4 commands a second', async (context) => {
    const posthorn = await deployIdle(context)
    const worker = await posthorn.startWorker({ WORKER_PORT: '0' })
    const { url } = await worker.logged('worker_port.listening')
    await worker.logged('upkeep.begun')
    const rate = await rateOf(async () => {
      const text = await (await fetch(`${url}/metrics`)).text()
      return Number(/^posthorn_store_commands_total\S* (\d+)$/m.exec(text)?.[1])
    })
    expect(rate).toBeGreaterThan(1)
    expect(rate).toBeLessThanOrEqual(MAX_PER_SECOND.one)
    await worker.stop()
  })

  it('20 workers send at most 50 commands a second together', async (context) => {
    const posthorn = await deployIdle(context)
    const config = readConfig(posthorn.env)
    const log = pino({ level: 'silent' })
    const workers: Worker[] = []
    const stores: Store[] = []
    context.onTestFinished(async () => {
      await Promise.all(workers.map((worker) => worker.stop()))
      await Promise.all(stores.map((store) => store.close()))
    })
    for (let i = 0; i < 20; i++) {
      const store = await openStore(config.STORE_URL, {
        ...{ retentionMs: config.RETENTION, retentionDeadMs: config.RETENTION_DEAD },
        ...{ encryptionKeys: config.ENCRYPTION_KEY, mayCreate: false, warn: () => {} },
      })
      const workerId = `worker-${randomBytes(3).toString('hex')}`
      const worker = createWorker(config, store, { workerId, log })
      stores.push(store)
      workers.push(worker)
      worker.start()
    }
    const rate = await rateOf(async () =>
      stores.reduce((sum, { commandCount }) => sum + commandCount, 0),
    )
    expect(rate).toBeGreaterThan(20)
    expect(rate).toBeLessThanOrEqual(MAX_PER_SECOND.twenty)
  })
})
