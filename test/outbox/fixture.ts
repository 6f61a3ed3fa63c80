// The fixture of the tests of the outbox: a deployment with an outbox, and an application's own
// client of the same MongoDB.
import { randomBytes } from 'node:crypto'
import { type Collection, type Db, MongoClient } from 'mongodb'
import { afterAll, beforeAll, inject } from 'vitest'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import type { Answer } from '../support/request.ts'
import { until } from '../support/until.ts'

/** Of a machine that has much else to do. */
export const SLOW_MS = 60_000

export interface Fixture {
  posthorn: Deployment
  receiver: Receiver
  client: MongoClient
  /** Of the application: its orders, and the outbox. */
  shop: Db
  // biome-ignore lint/suspicious/noExplicitAny: documents of any shape are inserted here
  outbox: Collection<any>
  /** Where the store of Posthorn is. */
  store: Db
  /** The job once it is in this state. */
  job(id: string, state: string): Promise<Answer['body']>
  /** Once the workers alone move documents: an API does while it sees no worker. */
  untilApiRests(): Promise<void>
  /** Once there is no document left. */
  untilMoved(): Promise<void>
  /** How many jobs there are, by any state. */
  jobCount(): Promise<number>
  stats(): Promise<{ waiting: number; setAside: number; oldestAge: string | null }>
}

/** One for all tests of a file: an API and an endpoint `work`, workers as the test starts them. */
export function useOutbox(settings: Record<string, string> = {}): Fixture {
  const fixture = {} as Fixture
  beforeAll(async () => {
    const database = `shop-${randomBytes(6).toString('hex')}`
    const posthorn = deploy('mongo', { OUTBOX: `${database}.posthorn_outbox`, ...settings })
    const client = await new MongoClient(inject('mongoUrl'), {
      writeConcern: { w: 'majority' },
    }).connect()
    const shop = client.db(database)
    // Not every version of MongoDB can create a collection within a transaction.
    await shop.createCollection('posthorn_outbox')
    await shop.createCollection('orders')
    const store = client.db(new URL(posthorn.env.STORE_URL as string).pathname.slice(1))
    Object.assign(fixture, {
      ...{ posthorn, client, shop, store, outbox: shop.collection('posthorn_outbox') },
      receiver: await startReceiver(),
      async job(id: string, state: string) {
        let found: Answer | undefined
        await until(async () => {
          found = await posthorn.request('GET', `/jobs/${id}`)
          return found.body.state === state
        }, SLOW_MS)
        return found?.body
      },
      untilApiRests: () =>
        until(async () => {
          const { items } = (await posthorn.request('GET', '/workers')).body
          const lines = (msg: string) => api.log.filter((line) => line.msg === msg).length
          return items.length > 0 && lines('upkeep.begun') === lines('upkeep.ended')
        }, SLOW_MS),
      untilMoved: () => until(async () => (await fixture.outbox.countDocuments()) === 0, SLOW_MS),
      jobCount: () => store.collection(COLLECTIONS.jobs).countDocuments(),
      stats: async () => (await posthorn.request('GET', '/stats')).body.outbox,
    })
    const api = await posthorn.startApi()
    await posthorn.endpoint('work', fixture.receiver.url)
  })
  afterAll(async () => {
    await fixture.posthorn.close()
    await fixture.receiver.close()
    await fixture.shop.dropDatabase()
    await fixture.store.dropDatabase()
    await fixture.client.close()
  })
  return fixture
}
