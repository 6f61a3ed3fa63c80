// The promise of an outage: while the store is away, clients get a clear 503, and nothing is lost.
import { DatabaseSync } from 'node:sqlite'
import { afterEach, beforeEach, describe, expect, inject, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { ENGINES, type Engine } from '../support/engines.ts'
import { databaseUrl } from '../support/mongo.ts'
import { startMongoProxy } from '../support/mongo-proxy.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'

/** Every operation of the store has a deadline of 3 s. A machine at full load may add NOISE_MS. */
const ANSWERED_MS = 3_000
const NOISE_MS = 1_500
const LOCKED_WITHIN_MS = 5_000
const JOBS = 20
const LEASE_MS = 1_500

/** How a store of this engine is made unavailable and available again. */
interface Outage {
  storeUrl: string | null
  begin(deployment: Deployment): void
  end(): void
  close(): Promise<void>
}

/** Another program holds the write lock of the file. */
function lockedFile(): Outage {
  let writer: DatabaseSync | null = null
  return {
    storeUrl: null,
    begin({ env }) {
      const path = (env.STORE_URL as string).replace('sqlite:', '')
      // A process may be in the middle of a write.
      writer = new DatabaseSync(path, { timeout: LOCKED_WITHIN_MS })
      writer.exec('begin immediate')
    },
    end() {
      writer?.close()
      writer = null
    },
    close: async () => undefined,
  }
}

/** The network accepts everything that is sent to the server, and returns nothing. */
async function cutNetwork(): Promise<Outage> {
  const database = `test-${Date.now().toString(36)}`
  const proxy = await startMongoProxy(databaseUrl(inject('mongoUrl'), database))
  return {
    storeUrl: proxy.url,
    begin: () => proxy.stall(),
    end: () => proxy.restore(),
    close: () => proxy.stop(),
  }
}

const OUTAGES: Record<Engine, () => Outage | Promise<Outage>> = {
  sqlite: lockedFile,
  mongo: cutNetwork,
}

describe.each(ENGINES)('on %s', (engine) => {
  let outage: Outage
  let posthorn: Deployment
  let receiver: Receiver
  beforeEach(async () => {
    outage = await OUTAGES[engine]()
    posthorn = deploy(engine, outage.storeUrl === null ? {} : { STORE_URL: outage.storeUrl })
    receiver = await startReceiver()
    await posthorn.startApi()
    await posthorn.endpoint('work', receiver.url)
  })
  afterEach(async () => {
    outage.end()
    await posthorn.close()
    await outage.close()
    await receiver.close()
  })
  const post = (key: string) =>
    posthorn.request(
      'POST',
      '/jobs',
      { endpoint: 'work', payload: key },
      { 'idempotency-key': key },
    )

  it('a write gets a 503 in time, and repeated with its key it happens once', async () => {
    outage.begin(posthorn)
    const askedAtMs = performance.now()
    const refused = await post('k')
    expect(performance.now() - askedAtMs).toBeLessThan(ANSWERED_MS + NOISE_MS)
    expect(refused.status).toBe(503)
    expect(refused.body).toMatchObject({ code: 'store_unavailable' })
    expect(refused.headers.get('retry-after')).toBe('1')
    expect(JSON.stringify(refused.body)).not.toMatch(/sqlite|mongo|\.db/i)
    outage.end()
    let accepted = refused
    await until(async () => {
      accepted = await post('k')
      return accepted.status < 300
    })
    const again = await post('k')
    expect(again.body.id).toBe(accepted.body.id)
    const { body } = await posthorn.request('GET', '/jobs?endpoint=work')
    expect(body.items).toHaveLength(1)
  })

  it('results in hand are kept, and stored once the store is back', async () => {
    await posthorn.startWorker()
    const held = Promise.withResolvers<number>()
    receiver.answerWith(() => held.promise)
    const posted = await Promise.all(Array.from({ length: JOBS }, (_, i) => post(`k${i}`)))
    await receiver.waitFor((requests) => requests.length === JOBS)
    outage.begin(posthorn)
    held.resolve(200)
    expect((await post('away')).status).toBe(503)
    outage.end()
    const jobs = await Promise.all(posted.map(({ body }) => posthorn.job(body.id, 'succeeded')))
    expect(jobs.map((job) => job.attemptCount)).toEqual(Array(JOBS).fill(1))
  })

  it('a worker that cannot renew aborts its requests before the leases expire', async () => {
    const worker = await posthorn.startWorker({ LEASE_DURATION: `${LEASE_MS}ms` })
    receiver.answerWith(['hang', 200])
    const { body } = await post('k')
    await receiver.waitFor((requests) => requests.length === 1)
    outage.begin(posthorn)
    await worker.logged('lease.lapsing')
    outage.end()
    const job = await posthorn.job(body.id, 'succeeded')
    expect(job.attempts).toMatchObject([{ outcome: 'lost' }, { outcome: 'succeeded' }])
  })
})
