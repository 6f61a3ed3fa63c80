// The promise of limits and ordering keys: both hold exactly over all workers, even while some are
// killed and others start.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { ENGINES, type Engine, RUN_LONG } from '../support/engines.ts'
import type { Process } from '../support/process.ts'
import { type ReceivedRequest, type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'

/** npm run test:long tests the promised number. The stand-in for MongoDB needs 10 ms for a write. */
const JOBS: Record<Engine, number> = RUN_LONG
  ? { sqlite: 2_000, mongo: 2_000 }
  : { sqlite: 400, mongo: 100 }
const CONCURRENCY = 5
const ORDERING_KEYS = 20
const KILLS = 2
const LEASE_MS = 1_000
const WORKERS = 3
const DEADLINE_MS = 300_000

describe.each(ENGINES)('on %s', (engine) => {
  const jobCount = JOBS[engine]
  let posthorn: Deployment
  const receivers: Receiver[] = []
  beforeAll(async () => {
    posthorn = deploy(engine, {
      LEASE_DURATION: `${LEASE_MS}ms`,
      SWEEP_INTERVAL: '50ms',
      POLL_INTERVAL: '20ms',
      LOG_LEVEL: 'warn',
    })
    await posthorn.startApi({ LOG_LEVEL: 'info' })
  })
  afterAll(async () => {
    await posthorn.close()
    for (const receiver of receivers) await receiver.close()
  })

  async function receive(script: Parameters<typeof startReceiver>[0]): Promise<Receiver> {
    const receiver = await startReceiver(script)
    receivers.push(receiver)
    return receiver
  }

  async function enqueue(jobs: object[]): Promise<string[]> {
    const ids: string[] = []
    for (let i = 0; i < jobs.length; i += 500) {
      const { body } = await posthorn.request('POST', '/jobs/batch', {
        jobs: jobs.slice(i, i + 500),
      })
      for (const item of body.items) {
        expect(item.status).toBe(201)
        ids.push(item.id)
      }
    }
    return ids
  }

  /**
   * Runs workers until the condition holds. From time to time it kills one and starts another one.
   */
  async function withKills(isDone: () => Promise<boolean>, progress: () => number): Promise<void> {
    const workers: Process[] = []
    for (let i = 0; i < WORKERS; i++)
      workers.push(await posthorn.startWorker({ LOG_LEVEL: 'info' }))
    for (let kill = 1; kill <= KILLS; kill++) {
      const share = (jobCount * kill) / (KILLS + 1)
      await until(() => progress() >= share, DEADLINE_MS)
      const victim = workers.shift() as Process
      await victim.stop('SIGKILL')
      workers.push(await posthorn.startWorker({ LOG_LEVEL: 'info' }))
    }
    await until(isDone, DEADLINE_MS)
    await Promise.all(workers.map((worker) => worker.stop()))
  }

  async function isAllDone(endpoint: string): Promise<boolean> {
    const { body } = await posthorn.request('GET', `/endpoints/${endpoint}`)
    return body.counts.queued + body.counts.running === 0
  }

  it(
    'concurrency: never more attempts at the receiver than the limit, while workers are killed',
    async () => {
      let atWork = 0
      let mostAtWork = 0
      const finished = new Set<string>()
      const receiver = await receive(async ({ headers }: ReceivedRequest) => {
        atWork++
        mostAtWork = Math.max(mostAtWork, atWork)
        await new Promise((resolve) => setImmediate(resolve))
        atWork--
        finished.add(headers['webhook-id'] as string)
        return 200
      })
      await posthorn.endpoint('five', receiver.url, { concurrency: CONCURRENCY })
      const ids = await enqueue(
        Array.from({ length: jobCount }, (_, n) => ({ endpoint: 'five', payload: n })),
      )
      await withKills(
        () => isAllDone('five'),
        () => finished.size,
      )
      expect(finished.size).toBe(jobCount)
      expect(mostAtWork).toBeGreaterThan(1)
      expect(mostAtWork).toBeLessThanOrEqual(CONCURRENCY)
      const { body } = await posthorn.request('GET', `/jobs/${ids.at(-1)}`)
      expect(body.state).toBe('succeeded')
    },
    2 * DEADLINE_MS,
  )

  it(
    'orderingKey: one at a time and in order of enqueue, while workers are killed',
    async () => {
      const atWork = new Map<string, number>()
      const arrivals = new Map<string, { n: number; attempt: number }[]>()
      let overlaps = 0
      const receiver = await receive(async ({ headers, body }: ReceivedRequest) => {
        const { key, n } = JSON.parse(body.toString())
        if ((atWork.get(key) ?? 0) > 0) overlaps++
        atWork.set(key, (atWork.get(key) ?? 0) + 1)
        const list = arrivals.get(key) ?? []
        list.push({ n, attempt: Number(headers['posthorn-attempt']) })
        arrivals.set(key, list)
        await new Promise((resolve) => setImmediate(resolve))
        atWork.set(key, (atWork.get(key) ?? 1) - 1)
        return 200
      })
      await posthorn.endpoint('ordered', receiver.url)
      await enqueue(
        Array.from({ length: jobCount }, (_, n) => {
          const key = `key-${n % ORDERING_KEYS}`
          return { endpoint: 'ordered', orderingKey: key, payload: { key, n } }
        }),
      )
      const total = () => [...arrivals.values()].reduce((sum, list) => sum + list.length, 0)
      await withKills(() => isAllDone('ordered'), total)
      expect(overlaps).toBe(0)
      expect(arrivals.size).toBe(ORDERING_KEYS)
      for (const list of arrivals.values()) {
        const first = list.filter(({ attempt }) => attempt === 1).map(({ n }) => n)
        expect(first).toEqual([...first].sort((a, b) => a - b))
        expect(new Set(list.map(({ n }) => n)).size).toBe(jobCount / ORDERING_KEYS)
      }
    },
    2 * DEADLINE_MS,
  )
})
