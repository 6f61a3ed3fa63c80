// A process ends between two writes of the finish effects of a job. Whichever write was the last
// one that reached the server, another process completes the effects, once.
import { randomBytes } from 'node:crypto'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { openMongoStore } from '../../src/store/mongo/store.ts'
import type { Store } from '../../src/store/store.ts'
import {
  addEndpoint,
  burial,
  claimFrom,
  claimOne,
  enqueueMany,
  enqueueOne,
  jobOf,
  newJob,
  success,
  sweep,
  sweepClean,
} from '../contract/fixtures.ts'
import { needOf } from '../contract/lifecycle-cases/needs-cases.ts'
import { type MongoProxy, startMongoProxy } from '../support/mongo-proxy.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'

const DAY_MS = 86_400_000
const encryptionKeys = [randomBytes(32)]

const ORDERING_KEY = 'a key that nothing else has'

/** A text of each request that a finish sends, in order. */
const WRITES = {
  'the final state': 'finishes',
  'the notice': 'originKey',
  'what is no longer waited for': '$pull',
  'that the dependent may go on': 'waitingFor.0',
  'nothing more, and had only looked for the next': ORDERING_KEY,
}

describe('a process that ends right after it wrote', () => {
  const place = useStore('mongo', { encryptionKeys })
  let proxy: MongoProxy
  /** This store uses the proxy. place.store does not. */
  let store: Store

  beforeAll(async () => {
    proxy = await startMongoProxy(place.url)
    const settings = { retentionMs: DAY_MS, retentionDeadMs: DAY_MS, encryptionKeys }
    store = await openMongoStore(proxy.url, { ...settings, warn: () => {} })
  })
  afterEach(async () => {
    proxy.restore()
    await until(() =>
      store.ready().then(
        () => true,
        () => false,
      ),
    )
  })
  afterAll(async () => {
    await store.close()
    await proxy.stop()
  })

  /**
   * Makes a job with a notice and a dependent. It is the first of its ordering key, and the process
   * that will be killed holds it.
   */
  async function arrange() {
    const told = await addEndpoint(place.store)
    const endpoint = await addEndpoint(place.store)
    const onFinish = { endpoint: told, states: ['succeeded' as const, 'dead' as const] }
    await enqueueOne(place.store, endpoint, { orderingKey: ORDERING_KEY, onFinish })
    const next = await enqueueOne(place.store, endpoint, { orderingKey: ORDERING_KEY })
    const claimed = await claimOne(store, endpoint)
    const waiting = await addEndpoint(place.store)
    const dependent = await enqueueOne(place.store, waiting, { dependsOn: [claimed.jobId] })
    // The process that will be killed does not know the dependent, which is the more difficult
    // case.
    return { told, claimed, next, dependent }
  }

  it.each(Object.entries(WRITES))(
    '%s leaves nothing undone and does nothing twice',
    async (_, text) => {
      const { told, claimed, next, dependent } = await arrange()
      const lostBefore = proxy.lostAnswers()
      proxy.cutAfter(text)
      await store.settle([success(store, claimed)]).catch(() => {})
      expect(proxy.lostAnswers()).toBe(lostBefore + 1)
      expect(await jobOf(place.store, claimed.jobId)).toMatchObject({ state: 'succeeded' })

      await sweepClean(place.store)

      const { items } = await place.store.listJobs({ endpoint: told, limit: 10 })
      expect(items).toHaveLength(1)
      expect(await jobOf(place.store, dependent.id)).toMatchObject({
        isBlocked: false,
        waitingFor: [],
      })
      expect((await claimFrom(place.store, next.endpoint, 5)).map(({ jobId }) => jobId)).toEqual([
        next.id,
      ])
      expect(await place.store.deleteJob(claimed.jobId)).toEqual({ kind: 'applied' })
    },
  )

  it('a death brings down what depends on it, and so on, though its writer ends', async () => {
    const { told, claimed, dependent } = await arrange()
    const last = await enqueueOne(place.store, dependent.endpoint, { dependsOn: [dependent.id] })
    proxy.cutAfter('dependency_failed')
    await store.settle([burial(store, claimed)]).catch(() => {})
    await sweepClean(place.store)
    for (const id of [dependent.id, last.id]) {
      expect(await jobOf(place.store, id)).toMatchObject({
        state: 'dead',
        failure: { reason: 'dependency_failed' },
      })
    }
    expect((await place.store.listJobs({ endpoint: told, limit: 10 })).items).toHaveLength(1)
  })

  /** The inputs of a job, which it has if and only if it waits no longer. */
  async function inputsOf(id: string): Promise<string | null> {
    const { isBlocked } = await jobOf(place.store, id)
    const inputs = await place.store.getInputs(id)
    expect(inputs === null).toBe(isBlocked)
    return inputs === null ? null : Buffer.from(inputs).toString()
  }

  /** More than a job holds itself, so that it is stored apart. */
  const LARGE = `"${'x'.repeat(10_000)}"`

  it.each([
    ['the final state', 'finishes'],
    ['what is no longer waited for', '$pull'],
    ['inputs that no job names yet', '{"inputs":{"a":'],
    ['the inputs', 'inputsBytes'],
  ])('%s: the job that needs them waits, or has them', async (_, text) => {
    const needed = await addEndpoint(place.store)
    const first = await enqueueOne(place.store, needed)
    const waiting = await addEndpoint(place.store)
    const needs = [needOf(first.id, { name: 'a' })]
    const { id } = await enqueueOne(place.store, waiting, { needs })
    const claimed = await claimOne(store, needed)
    const lostBefore = proxy.lostAnswers()
    proxy.cutAfter(text)
    await store.settle([{ ...success(store, claimed), result: LARGE }]).catch(() => {})
    expect(proxy.lostAnswers()).toBe(lostBefore + 1)
    await inputsOf(id)
    await sweepClean(place.store)
    expect(await inputsOf(id)).toBe(`{"inputs":{"a":${LARGE}}}`)
    expect(await claimFrom(place.store, waiting, 5)).toHaveLength(1)
    expect(await place.store.deleteJob(claimed.jobId)).toEqual({ kind: 'applied' })
  })

  it.each([
    ['what it will need', 'neededCount', false],
    ['a job that needs another', 'awaitsInputs', true],
    ['the inputs of a new job', 'inputsBytes', true],
  ])('%s: the job is not stored, or gets its inputs', async (_, text, isStored) => {
    const needed = await addEndpoint(place.store)
    await enqueueOne(place.store, needed)
    const claimed = await claimOne(place.store, needed)
    await place.store.settle([success(place.store, claimed)])
    const waiting = await addEndpoint(place.store)
    const job = newJob(store, waiting, { needs: [needOf(claimed.jobId)] })
    proxy.cutAfter(text)
    await expect(store.enqueue([job])).rejects.toThrow()
    const stored = await place.store.getJob(job.id)
    expect(stored !== null).toBe(isStored)
    if (isStored) await inputsOf(job.id)
    if (stored?.isBlocked) {
      expect((await place.store.deleteJob(claimed.jobId)).kind).toBe('needed')
    }
    await sweepClean(place.store)
    const found = await claimFrom(place.store, waiting, 5)
    expect(found.map(({ inputs }) => inputs && Buffer.from(inputs).toString())).toEqual(
      isStored ? ['{"inputs":{"input":{"ok":1}}}'] : [],
    )
  })

  it('an enqueue leaves none held that could go on', async () => {
    const endpoint = await addEndpoint(place.store)
    const [first = ''] = await enqueueMany(place.store, endpoint, 1)
    const waiting = await addEndpoint(place.store)
    const job = newJob(store, waiting, { dependsOn: [first], orderingKey: 'k' })
    proxy.cutAfter('waitingFor')
    await store.enqueue([job]).catch(() => {})
    await place.store.settle([success(place.store, await claimOne(place.store, endpoint))])
    await until(async () => {
      await sweep(place.store)
      return !(await jobOf(place.store, job.id)).isBlocked
    })
    expect((await claimOne(place.store, waiting)).jobId).toBe(job.id)
  })

  it('a claim within a limit keeps the gate for seconds, and what it took comes back', async () => {
    const endpoint = await addEndpoint(place.store, { concurrency: 2 })
    const ids = await enqueueMany(place.store, endpoint, 3)
    proxy.cutAfter('leaseWorkerId')
    await expect(claimFrom(store, endpoint, 2, 1_000)).rejects.toThrow()
    const running = await place.store.countJobs([endpoint])
    expect(running).toMatchObject([{ running: 2 }])
    const seen = new Set<string>()
    await until(async () => {
      await sweep(place.store)
      const claimed = await claimFrom(place.store, endpoint, 2)
      for (const { jobId } of claimed) seen.add(jobId)
      expect(seen.size).toBeLessThanOrEqual(2)
      return seen.size === 2
    })
    expect(ids).toEqual(expect.arrayContaining([...seen]))
  })
})
