// 2,500 dead jobs of one ordering key are retried in bulk, in each possible way. They are delivered
// in their old order, although each page of a retry is committed alone and a worker claims its jobs
// at once.
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { Posthorn } from '../../src/client/client.ts'
import { openShell, type Shell } from '../cli/command-line.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { ENGINES } from '../support/engines.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'

const MINUTE_MS = 60_000
const BATCH = 100
/** A pause is in effect within a second: until then a worker may still deliver what is due. */
const AFTER_PAUSE = '2s'

describe.each(ENGINES)('on %s', (engine) => {
  // The stand-in for MongoDB is slow with a backlog.
  const count = engine === 'sqlite' ? 2_500 : 500
  const filter = { endpoint: 'account' }
  let posthorn: Deployment
  let receiver: Receiver
  let shell: Shell
  let client: Posthorn

  beforeAll(async () => {
    receiver = await startReceiver()
    posthorn = deploy(engine, { POLL_INTERVAL: '20ms', SWEEP_INTERVAL: '50ms' })
    await posthorn.startApi()
    await posthorn.startWorker()
    shell = openShell({ POSTHORN_URL: posthorn.url() })
    client = new Posthorn({ url: posthorn.url() })
    await posthorn.endpoint('account', receiver.url)
  })
  afterAll(async () => {
    await shell.close()
    await posthorn.close()
    await receiver.close()
  })

  /** Jobs that expire while their endpoint is paused. */
  beforeEach(async () => {
    receiver.requests.length = 0
    await client.endpoints.pause('account')
    for (let from = 0; from < count; from += BATCH) {
      const jobs = Array.from({ length: BATCH }, (_, i) => {
        const times = { delay: AFTER_PAUSE, expiresIn: '1s' }
        return { ...filter, payload: from + i, orderingKey: '7', ...times }
      })
      await client.enqueueBatch(jobs)
    }
    await until(async () => (await left()) === count, 5 * MINUTE_MS)
    await client.endpoints.resume('account')
  }, 10 * MINUTE_MS)

  async function left(): Promise<number> {
    return (await client.retryMany({ ...filter, state: 'dead' }, { dryRun: true, limit: 10_000 }))
      .matched
  }

  /** Sends the requests of dashboard/bulk.js: it retries no more jobs than were counted. */
  async function byDashboard(): Promise<void> {
    const dead = { filter: { ...filter, state: 'dead' } }
    const counted = { ...dead, limit: 10_000, dryRun: true }
    const { matched } = (await posthorn.request('POST', '/jobs/retry', counted)).body
    await posthorn.request('POST', '/jobs/retry', { ...dead, limit: matched })
  }

  const whole = { limit: 10_000 }
  const ways: [string, () => Promise<unknown>][] = [
    ['the API', () => posthorn.request('POST', '/jobs/retry', { filter, ...whole })],
    ['the client', () => client.retryMany(filter, whole)],
    ['posthorn retry', () => shell.run(['retry', '--endpoint', 'account'])],
    ['the dashboard', byDashboard],
    ['two requests at once', () => Promise.all([1, 2].map(() => client.retryMany(filter, whole)))],
  ]

  test.each(ways)(
    'an ordering key that is retried by %s runs in its old order',
    async (_, retry) => {
      // A busy store leads to a 503 in the middle. The same request continues.
      await until(async () => {
        await retry().catch(() => {})
        return (await left()) === 0
      }, 5 * MINUTE_MS)
      await receiver.waitFor(({ length }) => length >= count, 5 * MINUTE_MS)
      const order = receiver.requests.map(({ body }) => Number(body))
      expect(order).toEqual(Array.from({ length: count }, (_, i) => i))
    },
  )
})
