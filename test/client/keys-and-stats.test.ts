// The client's calls about keys, statistics and workers, against the API and a worker.
import { afterAll, beforeAll, expect, it } from 'vitest'
import { Posthorn, PosthornError } from '../../src/client/client.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { until } from '../support/until.ts'

const ADMIN_KEY = 'a-key-of-the-keys-and-stats-tests'

let deployment: Deployment
let posthorn: Posthorn
beforeAll(async () => {
  deployment = deploy('sqlite', { API_KEYS: ADMIN_KEY })
  await deployment.startApi()
  await deployment.startWorker({ WORKER_ID: 'worker-of-this-test' })
  posthorn = new Posthorn({ url: deployment.url(), key: ADMIN_KEY })
})
afterAll(() => deployment.close())

it('a key is made, opens what its scope says, is listed, and ends', async () => {
  const { key, ...made } = await posthorn.keys.create({ name: 'web shop', scope: 'enqueue' })
  const shop = new Posthorn({ url: deployment.url(), key })
  expect((await shop.page()).items).toEqual([])
  await expect(shop.keys.list()).rejects.toMatchObject({ code: 'forbidden' })
  expect(await posthorn.keys.list()).toEqual([made])
  await posthorn.keys.remove(made.id)
  await until(() =>
    shop.page().then(
      () => false,
      (error) => error instanceof PosthornError && error.code === 'unauthorized',
    ),
  )
  expect(await posthorn.keys.list()).toEqual([])
})

it('stats count what waits, and workers says who works', async () => {
  await posthorn.endpoints.put('thumbnails', { url: null })
  await posthorn.enqueue({ endpoint: 'thumbnails', payload: 1 })
  await until(async () => (await posthorn.stats()).endpoints[0]?.queued === 1)
  const stats = await posthorn.stats({ window: '1h', endpoint: 'thumbnails' })
  expect(stats).toMatchObject({ liveWorkers: 1, minutes: [], durationBounds: expect.any(Array) })
  expect(stats.endpoints).toMatchObject([{ name: 'thumbnails', due: 1, running: 0, dead: 0 }])
  expect((await posthorn.stats({ endpoint: 'nothing' })).endpoints).toEqual([])
  expect(await posthorn.workers()).toMatchObject([{ id: 'worker-of-this-test', isLive: true }])
})
